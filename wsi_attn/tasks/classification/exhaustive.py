"""Exhaustive scoring: the patch network scores every tissue tile at high resolution, for complete heatmaps.

The label does not change. Tiles have the size of key instances and do not overlap. Threads read blocks of tiles ahead
of the network, which scores them in batches, so that memory does not depend on the slide except for a few numbers per
tile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import SlideReadError
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.slide import UInt8Array
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.threads import thread_limit

BLOCK_TILES = 8
"""Tiles along a side of the block that one read decodes."""

MIN_TISSUE = 0.1
"""Minimum tissue share of a scored tile."""

ATTENTION, EVIDENCE = "exhaustive:attention", "exhaustive:evidence:"
"""Names of the maps; the second is followed by a label."""


@runtime_checkable
class PatchScorer(Protocol):
    """Network that scores single patches."""

    def patch_side(self) -> int:
        """Side of a patch in high-resolution pixels; 0 if the network reads no patches."""
        ...

    def score_patches(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return attention logits (N,) and evidence (N, C) of uint8 patches (N, 3, side, side)."""
        ...


@torch.inference_mode()
def score_tiles(
    patches: SlidePatches,
    network: PatchScorer,
    labels: Sequence[str],
    coverage: Callable[[NDArray[np.float64]], NDArray[np.float32]],
) -> tuple[dict[str, AttentionMap], int]:
    """Score every tissue tile.

    Parameters
    ----------
    coverage
        Tissue share of level-0 regions (N, 4), x, y, width, height; see `TissueMask.coverage`.

    Returns
    -------
    Maps by name, and the number of unreadable tiles. "exhaustive:attention" is the patch gate's logit, any real,
    comparable within one model; "exhaustive:evidence:LABEL" the logit of the instance branch for the tile alone,
    relative to the mean over labels. NaN for tiles without tissue and for unreadable tiles.
    """
    side = network.patch_side()
    columns, rows = (-(-extent // side) for extent in patches.extent)
    frame = Frame(Size(columns, rows), side * patches.downsample_x, side * patches.downsample_y)
    wanted = coverage(_regions0(frame)).reshape(rows, columns) >= MIN_TISSUE
    values = np.full((1 + len(labels), rows, columns), np.nan, np.float32)
    readable, done, total = 0, 0, int(wanted.sum())
    patches.progress(0, total, "scoring tiles")
    for cells, pixels in _read_blocks(patches, wanted, side):
        done += len(cells)
        decoded = np.array([tile is not None for tile in pixels])
        found = [tile for tile in pixels if tile is not None]
        if found:
            stacked = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)
            logits, evidence = network.score_patches(stacked)
            at = cells[decoded]
            values[:, at[:, 0], at[:, 1]] = torch.cat([logits[:, None], evidence], dim=1).T.float().cpu().numpy()
            readable += len(found)
        patches.progress(done, total, "scoring tiles")
    names = [ATTENTION, *(EVIDENCE + label for label in labels)]
    maps = {name: AttentionMap(frame, layer) for name, layer in zip(names, values, strict=True)}
    return maps, total - readable


def _regions0(frame: Frame) -> NDArray[np.float64]:
    """Return the tiles in row-major order as level-0 regions, (N, 4)."""
    rows, columns = np.mgrid[: frame.size.height, : frame.size.width].reshape(2, -1)
    width, height = frame.downsample_x, frame.downsample_y
    return np.stack([columns * width, rows * height, np.full(len(rows), width), np.full(len(rows), height)], axis=1)


def _read_blocks(
    patches: SlidePatches, wanted: NDArray[np.bool_], side: int
) -> Iterator[tuple[NDArray[np.int64], list[UInt8Array | None]]]:
    """Yield cells (n, 2), row and column, and pixels of the requested tiles, block by block; None for unreadable
    tiles.
    """
    blocks = []
    for top in range(0, wanted.shape[0], BLOCK_TILES):
        for left in range(0, wanted.shape[1], BLOCK_TILES):
            cells = np.argwhere(wanted[top : top + BLOCK_TILES, left : left + BLOCK_TILES]) + np.array([top, left])
            if len(cells):
                blocks.append(cells)
    threads = patches.workers or thread_limit()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[list[UInt8Array | None]]] = deque()
        for index, cells in enumerate(blocks):
            while len(waiting) <= threads and index + len(waiting) < len(blocks):
                waiting.append(pool.submit(_read_tiles, patches, blocks[index + len(waiting)], side))
            yield cells, waiting.popleft().result()


def _read_tiles(patches: SlidePatches, cells: NDArray[np.int64], side: int) -> list[UInt8Array | None]:
    """Read tiles in one region, or one by one if that region cannot be decoded."""
    tiles = [Region(column * side, row * side, side, side) for row, column in cells.tolist()]
    (top, left), (bottom, right) = (cells.min(axis=0) * side).tolist(), ((cells.max(axis=0) + 1) * side).tolist()
    try:
        block = patches.read(Region(left, top, right - left, bottom - top))
    except SlideReadError:
        return [_read_or_none(patches, tile) for tile in tiles]
    return [block[tile.y - top : tile.y1 - top, tile.x - left : tile.x1 - left] for tile in tiles]


def _read_or_none(patches: SlidePatches, tile: Region) -> UInt8Array | None:
    try:
        return patches.read(tile)
    except SlideReadError:
        return None
