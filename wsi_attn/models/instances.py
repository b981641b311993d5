"""Key instances: where a slide is read at high resolution, and how the patches are pooled into one local feature.

Each of the three selections chooses locations from the attention map and pools the features read there. Equations are
numbered as in `models.deep_attention`.

Letters: B slides, T cells, K instances, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsi_attn.models.base import PatchSource
from wsi_attn.nn.attention import masked_log_softmax, masked_softmax
from wsi_attn.nn.components import components, crop_around, heaviest, hot_mask
from wsi_attn.nn.sampling import draw, perturbed, sampled_expectation, smoothed
from wsi_attn.nn.selection import top_cells
from wsi_attn.slide import UInt8Array

EVALUATION_SEED = 20101124
"""Seed of the draws where no generator is given, so that a prediction repeats; the same for every slide."""

LARGEST_CROP = 16
"""Side of the largest crop of a component in patch sides, so that no map asks for a slide's every pixel."""


class AttentionGrid(NamedTuple):
    """Attention of the coarse view: float64 (B, T) log attention, bool (B, h, w) valid cells, int64 (B, 2) extent."""

    log_attention: Tensor
    valid: Tensor
    extent: Tensor
    cell: int


@dataclass(frozen=True)
class Instances:
    """Key instances of B slides.

    Attributes
    ----------
    xy
        int64 (B, K, 2), top-left corners in high-resolution pixels.
    size
        int64 (B, K), sides in high-resolution pixels.
    mask
        bool (B, K), False for padding.
    cells
        int64 (B, K), flat index of the cell that each was chosen for.
    mass
        float64 (B, K), attention of the instance.
    """

    xy: Tensor
    size: Tensor
    mask: Tensor
    cells: Tensor
    mass: Tensor


class Pooled(NamedTuple):
    """Local feature (B, E) for the fusion, its part for the instance head, and weights (B, K)."""

    local: Tensor
    summary: Tensor
    weights: Tensor


class Selection(Protocol):
    """A rule that chooses instances and pools them."""

    def widths(self, features: int) -> tuple[int, int]:
        """Widths of `Pooled.local` and `Pooled.summary` for D features of an instance."""
        ...

    def choose(self, grid: AttentionGrid, generator: torch.Generator | None) -> Instances:
        """Instances of B slides; `generator` is given during training."""
        ...

    def pool(self, grid: AttentionGrid, instances: Instances, r: Tensor, readable: Tensor, gate: Tensor) -> Pooled:
        """Pool features float (B, K, D).

        `readable` is bool (B, K), False for unreadable patches; `gate` is float (B, K), the gate of (7).
        """
        ...

    def alone(self, r: Tensor) -> Tensor:
        """`Pooled.summary` of slides with a single instance: features float (n, D)."""
        ...


@dataclass(frozen=True)
class TopK:
    """The most attended cells that do not overlap: equations (5a), (7a), (8a).

    Attributes
    ----------
    count
        K, maximum number of instances.
    patch_size
        Side of an instance in high-resolution pixels.
    spacing
        Distance between two instances, as a share of the patch side.
    exploration
        Scale of the Gumbel noise on the log attention while training.
    uniform
        Sample locations uniformly over the valid cells instead of by attention.
    """

    count: int
    patch_size: int
    spacing: float
    exploration: float
    uniform: bool

    def widths(self, features: int) -> tuple[int, int]:
        """See `Selection.widths`."""
        return features, features

    def choose(self, grid: AttentionGrid, generator: torch.Generator | None) -> Instances:
        """See `Selection.choose`."""
        scores = self._scores(grid, generator)
        radius = max(1.0, self.spacing * self.patch_size / grid.cell)
        width = grid.valid.shape[2]
        chosen = []
        for index, valid in enumerate(grid.valid):
            places = top_cells(scores[index], valid, self.count, radius)
            chosen.append(places[:, 0] * width + places[:, 1])
        return _squares(grid, chosen, self.count, self.patch_size)

    def _scores(self, grid: AttentionGrid, generator: torch.Generator | None) -> Tensor:
        """What cells are ranked by, float64 (B, h, w)."""
        scores = grid.log_attention.detach().view(grid.valid.shape)
        if self.uniform:
            even = torch.zeros_like(scores[0].flatten())
            rows = [perturbed(even, valid, _draws(generator)) for valid in grid.valid.flatten(1)]
            return torch.stack(rows).view(scores.shape)
        if generator is not None and self.exploration > 0:
            uniform = torch.rand(scores.shape, generator=generator).clamp_(1e-9, 1 - 1e-9).to(scores.device)
            return scores - self.exploration * torch.log(-torch.log(uniform))
        return scores

    def pool(self, grid: AttentionGrid, instances: Instances, r: Tensor, readable: Tensor, gate: Tensor) -> Pooled:
        """See `Selection.pool`."""
        log_mass = grid.log_attention.gather(1, instances.cells).to(r.dtype)
        weights = masked_softmax(gate + log_mass, readable)  # (B, K), equation (7a)
        local = torch.einsum("bk,bkd->bd", weights, r)  # equation (8a)
        return Pooled(local, local, weights)

    def alone(self, r: Tensor) -> Tensor:
        """See `Selection.alone`."""
        return r


@dataclass(frozen=True)
class Sample:
    """Cells drawn from the attention without replacement: equations (5b), (7b), (8b).

    Attributes
    ----------
    count
        K, maximum number of draws.
    patch_size
        Side of an instance in high-resolution pixels.
    smoothing
        s, share of the attention spread evenly over the valid cells before drawing.
    uniform
        Use the uniform distribution instead of the attention, for sampling and in the estimate.
    """

    count: int
    patch_size: int
    smoothing: float
    uniform: bool

    def widths(self, features: int) -> tuple[int, int]:
        """See `Selection.widths`."""
        return 2 * features, 2 * features

    def choose(self, grid: AttentionGrid, generator: torch.Generator | None) -> Instances:
        """See `Selection.choose`."""
        weights, valid = self._distribution(grid), grid.valid.flatten(1)
        chosen = [draw(weights[index], valid[index], self.count, _draws(generator)) for index in range(len(valid))]
        return _squares(grid, chosen, self.count, self.patch_size)

    def _distribution(self, grid: AttentionGrid) -> Tensor:
        """Log of what is drawn from, float64 (B, T)."""
        return smoothed(grid.log_attention, grid.valid.flatten(1), 1.0 if self.uniform else self.smoothing)

    def pool(self, grid: AttentionGrid, instances: Instances, r: Tensor, readable: Tensor, gate: Tensor) -> Pooled:
        """See `Selection.pool`.

        An unreadable draw is removed from the population, as if its cell were not tissue: the remaining draws are
        draws without replacement from the rest, in order.
        """
        lost = torch.zeros_like(grid.log_attention).scatter_add_(
            1, instances.cells, (instances.mask & ~readable).to(grid.log_attention.dtype)
        )
        population = grid.valid.flatten(1) & (lost == 0)
        log_attention = masked_log_softmax(self._distribution(grid), population)
        f = functional.normalize(r, dim=-1)  # (B, K, D), for least variance
        phi = sampled_expectation(log_attention, instances.cells, readable, f)  # equation (8b)
        weights = masked_softmax(gate, readable)  # (B, K), equation (7b)
        local = torch.cat([phi, torch.einsum("bk,bkd->bd", weights, r)], dim=1)
        return Pooled(local, local, weights)

    def alone(self, r: Tensor) -> Tensor:
        """See `Selection.alone`."""
        return torch.cat([functional.normalize(r, dim=-1), r], dim=-1)


@dataclass(frozen=True)
class Threshold:
    """Components of the thresholded map, as published: equations (5c), (7c), (8c).

    Deterministic, also during training.

    Attributes
    ----------
    count
        K, maximum number of instances; the heaviest components are kept.
    patch_size
        S, side in pixels that crops are resized to; a crop is at least half of it wide.
    threshold
        tau, on the map scaled to 0 to 1.
    coupling
        Multiply an instance's features by its attention, so that the fused loss reaches the map through it.
    """

    count: int
    patch_size: int
    threshold: float
    coupling: bool

    def widths(self, features: int) -> tuple[int, int]:
        """See `Selection.widths`."""
        return self.count * features, features

    def choose(self, grid: AttentionGrid, generator: torch.Generator | None) -> Instances:
        """See `Selection.choose`."""
        size = len(grid.valid)
        attention = grid.log_attention.exp()  # (B, T)
        xy, sides = torch.zeros((size, self.count, 2), dtype=torch.int64), torch.zeros((size, self.count)).long()
        cells = torch.zeros((size, self.count), dtype=torch.int64)
        mask = torch.zeros((size, self.count), dtype=torch.bool)
        mass = attention.new_zeros((size, self.count))
        maps = attention.detach().view(grid.valid.shape).cpu().numpy()
        for index, valid in enumerate(grid.valid.cpu().numpy()):
            found = components(hot_mask(maps[index], valid, self.threshold))
            width, height = grid.extent[index].tolist()
            for place, component in enumerate(heaviest(found, maps[index], self.count)):
                members = torch.from_numpy(component.cells)
                x, y, side = crop_around(
                    component, grid.cell, (width, height), self.patch_size // 2, LARGEST_CROP * self.patch_size
                )
                xy[index, place], sides[index, place] = torch.tensor([x, y]), side
                cells[index, place] = members[maps[index].reshape(-1)[component.cells].argmax()]
                mask[index, place] = True
                mass[index, place] = attention[index, members.to(attention.device)].sum()
        device = attention.device
        return Instances(xy.to(device), sides.to(device), mask.to(device), cells.to(device), mass)

    def pool(self, grid: AttentionGrid, instances: Instances, r: Tensor, readable: Tensor, gate: Tensor) -> Pooled:
        """See `Selection.pool`; absent or unreadable instances are zero vectors; the gate is not used."""
        mass = (instances.mass * readable).to(r.dtype)
        weights = mass.detach() / mass.detach().sum(dim=1, keepdim=True).clamp(min=torch.finfo(r.dtype).tiny)
        present = r * readable[..., None]
        summary = present.sum(dim=1) / readable.sum(dim=1, keepdim=True).clamp(min=1)
        coupled = present * mass[..., None] if self.coupling else present  # equation (7c)
        return Pooled(coupled.flatten(1), summary, weights)  # equation (8c)

    def alone(self, r: Tensor) -> Tensor:
        """See `Selection.alone`."""
        return r


def _draws(generator: torch.Generator | None) -> torch.Generator:
    """Return the generator of a training step, or a fresh one per slide."""
    return generator or torch.Generator().manual_seed(EVALUATION_SEED)


def _squares(grid: AttentionGrid, chosen: Sequence[Tensor], count: int, patch_size: int) -> Instances:
    """Squares of one size around the centres of chosen cells, shifted into the slide and never shrunk.

    Parameters
    ----------
    chosen
        For each slide int64 (k,), flat indices of cells, k <= count.
    """
    size, width = len(chosen), grid.valid.shape[2]
    cells = torch.zeros((size, count), dtype=torch.int64)
    xy = torch.zeros((size, count, 2), dtype=torch.int64)
    mask = torch.zeros((size, count), dtype=torch.bool)
    for index, flat in enumerate(chosen):
        places = flat.cpu()
        centre = torch.stack((places % width, places // width), dim=1) * grid.cell + grid.cell // 2  # (k, 2), x and y
        limit = (grid.extent[index].cpu() - patch_size).clamp(min=0)
        cells[index, : len(places)] = places
        xy[index, : len(places)] = torch.minimum((centre - patch_size // 2).clamp(min=0), limit)
        mask[index, : len(places)] = True
    device = grid.log_attention.device
    cells, mask = cells.to(device), mask.to(device)
    mass = grid.log_attention.detach().gather(1, cells).exp() * mask
    return Instances(xy.to(device), torch.full_like(cells, patch_size), mask, cells, mass)


def read_instances(sources: Sequence[PatchSource], instances: Instances, patch_size: int) -> tuple[Tensor, Tensor]:
    """Read the pixels of the instances, the input of equation (6).

    Returns
    -------
    uint8 (n, 3, patch_size, patch_size), those that could be decoded, in order of slide and instance, and bool (B, K),
    which they are.
    """
    readable = instances.mask.clone()
    pixels = [torch.zeros((0, patch_size, patch_size, 3), dtype=torch.uint8)]
    for index, source in enumerate(sources):
        mask = instances.mask[index]
        corners, sides = instances.xy[index][mask].cpu().numpy(), instances.size[index][mask].cpu().numpy()
        patches = np.zeros((len(corners), patch_size, patch_size, 3), np.uint8)
        decoded = np.zeros(len(corners), np.bool_)
        for side in np.unique(sides).tolist():
            alike = sides == side
            crops, decoded[alike] = source.read_patches(corners[alike], side)
            patches[alike] = _resized(crops, patch_size)
        readable[index, mask] = torch.from_numpy(decoded).to(readable.device)
        pixels.append(torch.from_numpy(patches[decoded]))
    return torch.cat(pixels).permute(0, 3, 1, 2), readable


def _resized(crops: UInt8Array, size: int) -> UInt8Array:
    """Squares (n, side, side, 3) at another side: averaged over areas where smaller, interpolated where larger."""
    side = crops.shape[1]
    if side == size:
        return crops
    method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.stack([np.asarray(cv2.resize(crop, (size, size), interpolation=method), np.uint8) for crop in crops])
