"""Tiled inference over any part of a slide: prefetched tiles, batched predictions, smooth blending.

Memory is bounded by one block of predictions and the tiles around it, for any slide size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import UsageError
from wsi_attn.geometry import Region
from wsi_attn.models.base import BagBatch, SlideModel
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.joint_segmentation import JointSegmentation
from wsi_attn.slide import UInt8Array
from wsi_attn.slides.view import read_block
from wsi_attn.tasks.segmentation.windows import Windows
from wsi_attn.threads import thread_limit

BATCH_PIXELS, BATCH_PIXELS_GPU = 1 << 18, 1 << 24
"""Pixels per batch. On a CPU only as many as keep it busy, because each new batch size takes its own memory."""

Wanted = Callable[[list[Region]], NDArray[np.bool_]]
"""Selects the regions, in high-resolution pixels, that are processed."""


@dataclass(frozen=True)
class Blended:
    """Predictions of one block.

    `classes` is uint8 (rows, columns), the most likely class, 0 outside attended tiles; `probabilities` float32
    (C, rows, columns), 0 there; `unreadable` is the number of regions that could not be decoded.
    """

    classes: UInt8Array
    probabilities: NDArray[np.float32]
    unreadable: int


class TiledInference:
    """Tiled inference of a segmentation network on a slide.

    Parameters
    ----------
    network
        Network in evaluation mode.
    patches
        The slide at the network's resolution.
    tile, overlap
        See `Windows`.
    wanted
        Tiles to process; all by default.
    workers
        Number of reader threads; `thread_limit` by default.
    """

    def __init__(
        self,
        network: SlideModel,
        patches: SlidePatches,
        tile: int,
        overlap: int,
        wanted: Wanted | None = None,
        workers: int | None = None,
    ) -> None:
        self.network, self.patches = network, patches
        width, height = patches.extent
        self.columns, self.rows = Windows(width, tile, overlap), Windows(height, tile, overlap)
        self._wanted = wanted
        self._workers = workers or thread_limit()
        self._device = next(network.parameters()).device

    def looks_at(self, block: Region) -> bool:
        """Return whether any tile of a block is processed."""
        return bool(self._tiles(block))

    @torch.inference_mode()
    def answer(self, block: Region) -> Blended:
        """Return the blended predictions of a block in high-resolution pixels, inside the slide."""
        classes = self.network.config.classes
        sums = np.zeros((classes, block.height, block.width), np.float32)
        total = np.zeros((block.height, block.width), np.float32)
        unreadable = 0
        with ThreadPoolExecutor(self._workers) as pool:
            for tiles, pixels, damaged in self._batches(self._tiles(block), pool):
                unreadable += damaged
                for (row, column), answer in zip(tiles, self._probabilities(pixels), strict=True):
                    weights = np.outer(self.rows.weights(row), self.columns.weights(column))
                    _add(sums, answer * weights, block, self._region(row, column))
                    _add(total[None], weights[None], block, self._region(row, column))
        probabilities = np.divide(sums, total, out=sums, where=total > 0)
        return Blended(probabilities.argmax(axis=0).astype(np.uint8), probabilities, unreadable)

    def _tiles(self, block: Region) -> list[tuple[int, int]]:
        """Return row and column of each processed tile that contributes to a block, grouped by tile size."""
        places = [
            (row, column)
            for row in self.rows.touching(block.y, block.y1)
            for column in self.columns.touching(block.x, block.x1)
        ]
        if self._wanted is not None:
            keep = self._wanted([self._counting(row, column) for row, column in places])
            places = [place for place, kept in zip(places, keep.tolist(), strict=True) if kept]
        return sorted(places, key=lambda place: (self._region(*place)[2:], place))

    def _region(self, row: int, column: int) -> Region:
        across, down = self.columns.span(column), self.rows.span(row)
        return Region(across.start, down.start, across.stop - across.start, down.stop - down.start)

    def _counting(self, row: int, column: int) -> Region:
        """Return the contributing part of a tile."""
        across, down = self.columns.span(column), self.rows.span(row)
        return Region(across.first, down.first, across.last - across.first, down.last - down.first)

    def _batches(
        self, tiles: list[tuple[int, int]], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[list[tuple[int, int]], UInt8Array, int]]:
        """Yield tiles of one size, their pixels (n, height, width, 3), and their number of unreadable regions."""
        read = pool.map(self._read, tiles)
        most = BATCH_PIXELS_GPU if self._device.type == "cuda" else BATCH_PIXELS
        for size, alike in groupby(tiles, key=lambda place: self._region(*place)[2:]):
            together = max(1, most // math.prod(size))
            rest = list(alike)
            for start in range(0, len(rest), together):
                part = rest[start : start + together]
                found = [next(read) for _ in part]
                yield part, np.stack([pixels for pixels, _ in found]), sum(damaged for _, damaged in found)

    def _read(self, place: tuple[int, int]) -> tuple[UInt8Array, int]:
        patches = self.patches
        pixels, damaged = read_block(patches.slide, patches.downsample_x, patches.downsample_y, self._region(*place))
        return pixels, len(damaged)

    def _probabilities(self, pixels: UInt8Array) -> NDArray[np.float32]:
        """Return class probabilities, float32 (n, C, height, width)."""
        count, height, width = pixels.shape[:3]
        batch = BagBatch(
            coarse=torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self._device),
            valid=torch.ones(count, height, width, dtype=torch.bool),
            extent=torch.tensor([[width, height]] * count),
            sources=(),
        )
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            logits = self.network(batch).segmentation
        assert logits is not None  # noqa: S101 - of a segmentation network
        return np.asarray(logits.float().softmax(dim=1).cpu().numpy(), np.float32)


def _add(sums: NDArray[np.float32], values: NDArray[np.float32], block: Region, tile: Region) -> None:
    """Add the part of a tile that lies in a block; both (n, rows, columns)."""
    shared = block.intersection(tile)
    if shared is None:
        return
    sums[:, *shared.within(block)] += values[:, *shared.within(tile)]


def segmenter(checkpoint: Checkpoint) -> JointSegmentation:
    """Return the segmentation network of a checkpoint.

    Raises
    ------
    UsageError : the checkpoint classifies whole slides.
    """
    if not isinstance(checkpoint.network, JointSegmentation):
        raise UsageError(
            f"{checkpoint.name} ({checkpoint.system}) classifies whole slides and does not segment; train a model with "
            "--model joint-segmentation"
        )
    return checkpoint.network
