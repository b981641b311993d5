"""CARE: attention to the lesions of rare classes during training; inference is unchanged.

Zhuang, Cai, Wang, Zhang, Zheng, "CARE: Class Attention to Regions of Lesion for Classification on Imbalanced Data",
MIDL 2019; Zhuang, Cai, Zhang, Zheng, Wang, "Class Attention to Regions of Lesion for Imbalanced Medical Image
Recognition", Neurocomputing 2023. The terms are those of the authors' code.

(1)  alpha_k = mean_t d y_c / d A_kt                  A the features of T cells, y_c the logit of the true class
(2)  m_t = sum_k alpha_k A_kt                         its Grad-CAM, without ReLU
(3)  m <- (m - min m) / (max m - min m)
(4)  L_in = - min( sum_t in_t m_t, tau )              attend to the lesion, up to tau
     L_out = sum_t out_t m_t                          and not to the rest
(5)  L_att = sum over the images with a lesion of (L_in + L_out)
(6)  L = a L_att + (1 - a) L_classification

in_t and out_t each sum to 1 and come from `train.lesions`. alpha is a constant for the gradient of (5), unless
`second_order`. For systems with learned attention, m_t = a_t replaces (1) and (2).

Differences from the authors' code. The map keeps its own cells, weighted by the area that the lesion covers; the
authors upsample it to the input, where even a perfect single cell reaches only 0.56 inside its own box. Minimum
and maximum are taken over valid cells. A map without contrast is ignored, because (3) would
divide 0 by 0. Several boxes are their union, not their hull. (1) asks for the gradient of A alone: the authors' trainer
lets that call leave its gradient in the weights too, which pushes the true logits down.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from wsi_attn.errors import UsageError
from wsi_attn.models.base import SlideOutput

TERM = "care"
"""What the log calls a L_att."""


@dataclass(frozen=True)
class LesionCells:
    """Location of the lesions of B images on the cells of the map.

    Attributes
    ----------
    inner, outer
        float (B, h, w), the weights in_t and out_t; both 0 everywhere for an image without a lesion.
    valid
        bool (B, h, w), cells that may be looked at.
    grids
        Rows and columns of cells of each image, without the padding.
    """

    inner: Tensor
    outer: Tensor
    valid: Tensor
    grids: tuple[tuple[int, int], ...]

    def to(self, device: torch.device) -> LesionCells:
        """The same on another device."""
        return LesionCells(self.inner.to(device), self.outer.to(device), self.valid.to(device), self.grids)


def care_terms(
    terms: dict[str, Tensor],
    output: SlideOutput,
    labels: Tensor,
    cells: LesionCells,
    *,
    weight: float,
    tau: float,
    reduction: str,
    second_order: bool,
) -> dict[str, Tensor]:
    """Equation (6): return the classification terms times 1 - a, and the term "care".

    Parameters
    ----------
    labels
        int64 (B,).
    weight, tau
        a and tau.
    reduction
        "sum", or "mean" over the images with a lesion, which makes the loss independent of their number.
    second_order
        Propagate gradients through alpha as well.

    Raises
    ------
    UsageError : the system has no differentiable map.
    """
    cells = cells.to(output.logits.device)
    marked = cells.inner.flatten(1).any(dim=1)  # (B,)
    maps = training_map(output, labels, second_order=second_order)
    scaled, contrast = unit_scaled(on_cells(maps, cells), cells.valid)
    each = attention_loss(scaled, cells.inner, cells.outer, tau) * contrast  # (B,), 0 without a lesion
    total = each.sum()
    if reduction == "mean":
        total = total / marked.sum().clamp(min=1)
    return {**{name: (1 - weight) * term for name, term in terms.items()}, TERM: weight * total}


def training_map(output: SlideOutput, labels: Tensor, *, second_order: bool = False) -> Tensor:
    """Return the guided map, float (B, h, w), with its gradient; raises like `care_terms`."""
    if output.features is not None:
        return grad_cam(output.logits, output.features, labels, second_order=second_order)
    if output.attention.requires_grad:
        return output.attention.float()
    raise UsageError("This system has no map that --care can guide; remove --care or choose another --model")


def grad_cam(logits: Tensor, features: Tensor, labels: Tensor, *, second_order: bool = False) -> Tensor:
    """Equations (1) and (2).

    Parameters
    ----------
    logits
        float (B, C), computed from `features`; the answer to an image must not depend on the others beyond them.
    features
        float (B, D, h, w).
    labels
        int64 (B,), whose logit is explained.

    Returns
    -------
    float32 (B, h, w).
    """
    explained = logits.gather(1, labels[:, None]).sum()
    (gradient,) = torch.autograd.grad(explained, features, retain_graph=True, create_graph=second_order)
    alpha = gradient.float().mean(dim=(2, 3), keepdim=True)
    return (alpha * features.float()).sum(dim=1)


def on_cells(maps: Tensor, cells: LesionCells) -> Tensor:
    """Resample the maps of a system with a fixed input size to the cells of each image: float (B, h, w)."""
    if maps.shape == cells.valid.shape:
        return maps
    placed = maps.new_zeros(cells.valid.shape)
    for index, (height, width) in enumerate(cells.grids):
        image = maps[index][None, None]
        placed[index, :height, :width] = functional.interpolate(image, (height, width), mode="bilinear", antialias=True)
    return placed


def unit_scaled(maps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Equation (3) over the valid cells; 0 elsewhere, and everywhere on a map that has no contrast.

    Parameters
    ----------
    maps
        float (B, h, w).
    valid
        bool (B, h, w).

    Returns
    -------
    float (B, h, w) from 0 to 1, and bool (B,), which maps have contrast.
    """
    lowest = maps.masked_fill(~valid, torch.inf).amin(dim=(1, 2), keepdim=True)
    highest = maps.masked_fill(~valid, -torch.inf).amax(dim=(1, 2), keepdim=True)
    rounding = 8 * torch.finfo(maps.dtype).eps * torch.maximum(lowest.abs(), highest.abs())
    spread = highest - lowest
    contrast = (spread > rounding) & spread.isfinite()
    usable = valid & contrast
    # Both branches of `where` are differentiated, so the unused one must be finite as well.
    shifted = torch.where(usable, maps - torch.where(contrast, lowest, 0.0), 0.0)
    return shifted / torch.where(contrast, spread, 1.0), contrast[:, 0, 0]


def attention_loss(scaled: Tensor, inner: Tensor, outer: Tensor, tau: float) -> Tensor:
    """Equation (4): L_in + L_out of each image, float (B,), from -tau to 1; 0 where both weights are.

    Parameters
    ----------
    scaled, inner, outer
        float (B, h, w).
    """
    inside = (inner * scaled).sum(dim=(1, 2))
    outside = (outer * scaled).sum(dim=(1, 2))
    return outside - inside.clamp(max=tau)
