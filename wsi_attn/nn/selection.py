"""Which instances are read at high resolution: the strongest cells of an attention map that do not crowd."""

from __future__ import annotations

import torch
from torch import Tensor


def top_cells(scores: Tensor, mask: Tensor, count: int, radius: float) -> Tensor:
    """Greedy top-k with non-maximum suppression on a grid.

    The strongest valid cell is taken, cells closer than `radius` along both axes are struck out, and so on.
    Ties go to the first in reading order, so the answer is deterministic.

    Parameters
    ----------
    scores
        float (h, w), any scale.
    mask
        bool (h, w), cells that may be taken.
    count
        Most cells to take.
    radius
        Cells whose distance along x and along y is below it count as the same place; 1 strikes out the cell alone.

    Returns
    -------
    int64 (k, 2), row and column, k <= count, by falling score; (0, 2) where nothing is valid.
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


def strongest(logits: Tensor, mask: Tensor, count: int) -> Tensor:
    """Mask of the `count` largest valid entries of each row.

    Parameters
    ----------
    logits
        float (B, T).
    mask
        bool (B, T).

    Returns
    -------
    bool (B, T); all valid entries where there are at most `count`.
    """
    if logits.shape[1] <= count:
        return mask
    kept = logits.detach().masked_fill(~mask, -torch.inf).topk(count, dim=1).indices
    return torch.zeros_like(mask).scatter_(1, kept, True) & mask
