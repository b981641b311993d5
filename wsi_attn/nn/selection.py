"""Selection of instances: the most attended cells of a map with non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wsi_attn.nn.attention import masked_softmax


def top_cells(scores: Tensor, mask: Tensor, count: int, radius: float) -> Tensor:
    """Greedy top-k with non-maximum suppression on a grid.

    Select the strongest valid cell, suppress cells closer than `radius` along both axes, and repeat.
    Ties go to the first cell in reading order, so the result is deterministic.

    Parameters
    ----------
    scores
        float (h, w), any scale.
    mask
        bool (h, w), selectable cells.
    count
        Maximum number of cells.
    radius
        Cells whose distance along x and along y is below it are suppressed; 1 suppresses the cell only.

    Returns
    -------
    int64 (k, 2), row and column, k <= count, by decreasing score; (0, 2) if no cell is valid.
    """
    height, width = scores.shape
    remaining = scores.detach().double().masked_fill(~mask, -torch.inf).clone()
    rows = torch.arange(height, device=scores.device)[:, None]
    columns = torch.arange(width, device=scores.device)[None]
    taken = []
    for _ in range(count):
        best = int(remaining.argmax())
        row, column = divmod(best, width)
        if remaining[row, column] == -torch.inf:
            break
        taken.append((row, column))
        near = ((rows - row).abs() < radius) & ((columns - column).abs() < radius)
        remaining[near] = -torch.inf
    return torch.tensor(taken, dtype=torch.int64, device=scores.device).reshape(-1, 2)


@dataclass(frozen=True)
class TopCells:
    """The strongest positions so far of J maps over B slides.

    Attributes
    ----------
    logits
        float (B, J, m), -inf for empty slots.
    features
        float (B, J, m, D).
    """

    logits: Tensor
    features: Tensor

    @staticmethod
    def empty(maps: Tensor, channels: int) -> TopCells:
        """Return empty slots for maps (B, J, ...) and D features."""
        nothing = maps.new_zeros((*maps.shape[:2], 0))
        return TopCells(nothing, nothing[..., None].expand(*nothing.shape, channels))

    def mean(self) -> Tensor:
        """Mean of the features weighted by the softmax of the logits: float (B, J, D)."""
        weights = masked_softmax(self.logits, self.logits.isfinite())
        return torch.einsum("bjm,bjmd->bjd", weights, self.features)

    def merged(self, logits: Tensor, features: Tensor, count: int) -> TopCells:
        """Merge further positions and keep the `count` strongest; differentiable in both.

        Parameters
        ----------
        logits
            float (B, J, n), -inf where invalid.
        features
            float (B, n, D).
        """
        top, places = logits.topk(min(count, logits.shape[2]), dim=2)
        index = places[..., None].expand(*places.shape, features.shape[2])  # (B, J, k, D)
        found = features[:, None].expand(-1, logits.shape[1], -1, -1).gather(2, index)
        top, found = torch.cat([self.logits, top], dim=2), torch.cat([self.features, found], dim=2)
        top, places = top.topk(min(count, top.shape[2]), dim=2)
        return TopCells(top, found.gather(2, places[..., None].expand(*places.shape, found.shape[3])))
