"""Opening what a path holds, slide file or store, and reading it at a model's two resolutions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_attn.data.manifest import Row
from wsi_attn.errors import MissingMppError, ModelMismatchError, SlideReadError, WsiAttnError
from wsi_attn.geometry import Mpp
from wsi_attn.slide import BACKGROUND, Progress, Slide, UInt8Array, no_progress
from wsi_attn.slides.mosaic import Mosaic
from wsi_attn.slides.open import open_slide, slide_exists
from wsi_attn.slides.tile_cache import TileCache
from wsi_attn.slides.view import View, read_region_at, read_view
from wsi_attn.store.tile_store import TileStore
from wsi_attn.threads import thread_limit

UPSAMPLING_LIMIT = 1.5
"""A slide this much coarser than a model's resolution is still read, by interpolation; beyond, detail is missing."""


def open_source(path: Path, slide_mpp: Mpp | None = None) -> Slide:
    """A store if the path is a Zarr group, else a slide or image file; errors as `open_slide` and `TileStore.open`."""
    if (path / "zarr.json").is_file() or path.suffix == ".zarr":
        return TileStore.open(path, slide_mpp)
    return open_slide(path, slide_mpp)


def find_slide(places: Sequence[Path], fingerprint: str) -> Path | None:
    """The first place that holds the slide with this fingerprint, else the first one that exists.

    Slides are opened only where several of the places exist. None where none of them does.
    """
    there = list({place.resolve(): place for place in places if slide_exists(place)}.values())
    for place in there if len(there) > 1 else ():
        try:
            with open_source(place) as slide:
                if slide.info.fingerprint == fingerprint:
                    return place
        except WsiAttnError:
            continue
    return there[0] if there else None


def open_row(row: Row, cache: TileCache | None = None) -> Slide:
    """Open the slide, store, image or field of several images of a manifest's row.

    Parameters
    ----------
    cache
        Cache of decoded images of a field; a field has its own by default.
    """
    return open_images(row.paths, row.mpp, cache) if len(row.paths) > 1 else open_source(row.path, row.mpp)


def open_images(paths: Sequence[Path], mpp: Mpp | None = None, cache: TileCache | None = None) -> Slide:
    """Open several images as one field; errors as `Mosaic`."""
    return Mosaic(paths, mpp, cache)


LEVEL_TOLERANCE = 0.02
"""A level whose pixel size is this near the wanted one is read as it is: resampling by so little only blurs."""


class SlidePatches:
    """A slide at a model's high resolution and its coarse view; a `PatchSource`.

    Parameters
    ----------
    slide
        Read from, never closed.
    mpp
        Microns per pixel of the high resolution; None takes the slide's own pixels.
    coarse_factor
        High-resolution pixels per coarse pixel.
    workers
        Threads that read; `thread_limit` by default.
    pool
        Reads patches in place of threads of its own, which would be started anew for every few patches.

    Raises
    ------
    MissingMppError : a resolution is wanted and the slide's is not known, or contradicts its objective.
    ModelMismatchError : the slide is far coarser than wanted.
    """

    def __init__(
        self,
        slide: Slide,
        mpp: float | None,
        coarse_factor: int,
        *,
        workers: int | None = None,
        pool: Executor | None = None,
    ) -> None:
        self.slide = slide
        self.downsample_x, self.downsample_y = _downsamples(slide, mpp)
        self.coarse_factor = coarse_factor
        self.workers = workers
        self.pool = pool

    @property
    def extent(self) -> tuple[int, int]:
        """Width and height of the slide in high-resolution pixels."""
        size0 = self.slide.info.size0
        return max(1, round(size0.width / self.downsample_x)), max(1, round(size0.height / self.downsample_y))

    def rescaled(self, factor: float) -> SlidePatches:
        """The same slide with everything `factor` times larger, as augmentation."""
        other = copy.copy(self)
        other.downsample_x, other.downsample_y = self.downsample_x / factor, self.downsample_y / factor
        return other

    def coarse_view(self, progress: Progress = no_progress) -> View:
        """The whole slide at the coarse resolution."""
        factor = self.coarse_factor
        return read_view(
            self.slide, self.downsample_x * factor, self.downsample_y * factor, workers=self.workers, progress=progress
        )

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[UInt8Array, NDArray[np.bool_]]:
        """Patches at high resolution; see `PatchSource.read_patches`."""
        patches = np.full((len(xy), size, size, 3), BACKGROUND, np.uint8)
        readable = np.ones(len(xy), np.bool_)

        def read(index: int) -> None:
            x, y = (xy[index] * (self.downsample_x, self.downsample_y)).tolist()
            try:
                patches[index] = read_region_at(self.slide, (x, y), self.downsample_x, self.downsample_y, (size, size))
            except SlideReadError:
                readable[index] = False

        if self.pool is not None and len(xy) > 1:
            list(self.pool.map(read, range(len(xy))))
        elif len(xy) < 2 or self.workers == 1:
            for index in range(len(xy)):
                read(index)
        else:
            with ThreadPoolExecutor(self.workers or thread_limit()) as pool:
                list(pool.map(read, range(len(xy))))
        return patches, readable


def _downsamples(slide: Slide, mpp: float | None) -> tuple[float, float]:
    """Level-0 pixels per high-resolution pixel, along x and y."""
    if mpp is None:
        return 1.0, 1.0
    own = slide.info.mpp
    path = slide.info.path
    if own is None:
        raise MissingMppError(
            f"Cannot read {path} at {mpp:g} µm/px: {slide.info.mpp_note}; say it with --slide-mpp X[,Y] "
            "or a manifest column `mpp`"
        )
    if contradiction := slide.info.mpp_contradiction:
        raise MissingMppError(
            f"Cannot read {path} at {mpp:g} µm/px: {contradiction}; state the right pixel size with --slide-mpp X[,Y] "
            "or a manifest column `mpp`"
        )
    if max(own) > mpp * UPSAMPLING_LIMIT:
        raise ModelMismatchError(
            f"Cannot read {path} at {mpp:g} µm/px: its finest pixels are {own.x:g} x {own.y:g} µm, the detail the "
            "model was trained on is not in the file"
        )
    wanted_x, wanted_y = mpp / own.x, mpp / own.y
    for level in slide.info.levels:
        if max(abs(level.downsample_x / wanted_x - 1), abs(level.downsample_y / wanted_y - 1)) <= LEVEL_TOLERANCE:
            return level.downsample_x, level.downsample_y
    return wanted_x, wanted_y
