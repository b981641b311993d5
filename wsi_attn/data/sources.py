"""Open slides and stores and read them at the two resolutions of a model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_attn.data.features import FeatureSlide, is_features
from wsi_attn.data.manifest import Row
from wsi_attn.errors import MissingMppError, ModelMismatchError, SlideReadError, WsiAttnError
from wsi_attn.geometry import Frame, Mpp, Region, Size
from wsi_attn.lru import LruCache
from wsi_attn.slide import BACKGROUND, Progress, Slide, UInt8Array, no_progress
from wsi_attn.slides.mosaic import Mosaic
from wsi_attn.slides.open import open_slide, slide_exists
from wsi_attn.slides.view import View, read_region_at, read_view
from wsi_attn.store.tile_store import TileStore
from wsi_attn.threads import thread_limit

UPSAMPLING_LIMIT = 1.5
"""Maximum factor by which a slide may be coarser than the model's resolution; it is interpolated."""


def open_source(path: Path, slide_mpp: Mpp | None = None) -> Slide:
    """Open a store if the path is a Zarr group, a file of features by its suffix, otherwise a slide or image; raises
    like `open_slide`, `FeatureSlide` and `TileStore.open`.
    """
    if is_features(path):
        return FeatureSlide([path], slide_mpp)
    if (path / "zarr.json").is_file() or path.suffix == ".zarr":
        return TileStore.open(path, slide_mpp)
    return open_slide(path, slide_mpp)


def find_slide(places: Sequence[Path], fingerprint: str) -> Path | None:
    """Return the first path whose slide has this fingerprint, otherwise the first path that exists.

    Slides are opened only if several paths exist. None if no path exists.
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


def open_row(row: Row, cache: LruCache[UInt8Array] | None = None) -> Slide:
    """Open the slide, store, image, field of several images or features of a manifest row.

    Parameters
    ----------
    cache
        Cache for the decoded images of a field; each field has its own by default.
    """
    if all(map(is_features, row.paths)):
        return FeatureSlide(row.paths, row.mpp, row.number)
    return open_images(row.paths, row.mpp, cache)


def open_images(paths: Sequence[Path], mpp: Mpp | None = None, cache: LruCache[UInt8Array] | None = None) -> Slide:
    """Open a slide, store or image, several images as one field, or the features of a bag; raises like `open_source`
    and `Mosaic`.
    """
    if all(map(is_features, paths)):
        return FeatureSlide(paths, mpp)
    return Mosaic(paths, mpp, cache) if len(paths) > 1 else open_source(paths[0], mpp)


LEVEL_TOLERANCE = 0.02
"""Relative tolerance within which a level is read without resampling, which would only blur it."""


class SlidePatches:
    """`PatchSource` of a slide at a model's high resolution, with its coarse view.

    Parameters
    ----------
    slide
        Slide to read; it is not closed.
    mpp
        Pixel size of the high resolution, µm; None uses level 0 of the slide.
    coarse_factor
        High-resolution pixels per coarse pixel.
    workers
        Number of reader threads; `thread_limit` by default.
    pool
        Thread pool for reading patches, which avoids starting threads for every few patches.
    progress
        Follows views of the whole slide.

    Raises
    ------
    MissingMppError : `mpp` is set and the pixel size of the slide is unknown or contradicts its objective.
    ModelMismatchError : the slide is much coarser than `mpp`.
    SlideUnsupportedError : it has features instead of pixels.
    """

    def __init__(
        self,
        slide: Slide,
        mpp: float | None,
        coarse_factor: int,
        *,
        workers: int | None = None,
        pool: Executor | None = None,
        progress: Progress = no_progress,
    ) -> None:
        if isinstance(slide, FeatureSlide):
            raise slide.no_pixels()
        self.slide = slide
        self.downsample_x, self.downsample_y = _downsamples(slide, mpp)
        self.coarse_factor = coarse_factor
        self.workers = workers
        self.pool = pool
        self.progress = progress

    @property
    def extent(self) -> tuple[int, int]:
        """Return width and height of the slide in high-resolution pixels."""
        size0 = self.slide.info.size0
        return max(1, round(size0.width / self.downsample_x)), max(1, round(size0.height / self.downsample_y))

    @property
    def frame(self) -> Frame:
        """Return the raster of the high-resolution pixels."""
        return Frame(Size(*self.extent), self.downsample_x, self.downsample_y)

    @property
    def coarse_frame(self) -> Frame:
        """Return the raster of the coarse view."""
        factor = self.coarse_factor
        return Frame.covering(self.slide.info.size0, self.downsample_x * factor, self.downsample_y * factor)

    def rescaled(self, factor: float) -> SlidePatches:
        """Return the slide magnified by `factor`, as augmentation."""
        other = copy.copy(self)
        other.downsample_x, other.downsample_y = self.downsample_x / factor, self.downsample_y / factor
        return other

    def coarse_view(self) -> View:
        """Read the whole slide at the coarse resolution."""
        frame = self.coarse_frame
        return read_view(
            self.slide, frame.downsample_x, frame.downsample_y, workers=self.workers, progress=self.progress
        )

    def read(self, region: Region) -> UInt8Array:
        """Read the pixels of a region at high resolution, uint8 (height, width, 3); see `Slide.read_region`."""
        x, y = self.downsample_x, self.downsample_y
        return read_region_at(self.slide, (region.x * x, region.y * y), x, y, (region.width, region.height))

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[UInt8Array, NDArray[np.bool_]]:
        """Read patches at high resolution; see `PatchSource.read_patches`."""
        patches = np.full((len(xy), size, size, 3), BACKGROUND, np.uint8)
        readable = np.ones(len(xy), np.bool_)

        def read(index: int) -> None:
            try:
                x, y = xy[index].tolist()
                patches[index] = self.read(Region(x, y, size, size))
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
    """Return level-0 pixels per high-resolution pixel along x and y."""
    if mpp is None:
        return 1.0, 1.0
    own, path, contradiction = slide.info.mpp, slide.info.path, slide.info.mpp_contradiction
    if own is None or contradiction:
        problem = f"{contradiction}; set the correct pixel size" if contradiction else f"{slide.info.mpp_note}; set it"
        raise MissingMppError(
            f"Cannot read {path} at {mpp:g} µm/px: {problem} with a manifest column `mpp`, or with --slide-mpp X[,Y] "
            "where the command has it"
        )
    if max(own) > mpp * UPSAMPLING_LIMIT:
        raise ModelMismatchError(
            f"Cannot read {path} at {mpp:g} µm/px: its finest pixels are {own.x:g} x {own.y:g} µm, too coarse for "
            "the detail on which the model was trained"
        )
    wanted_x, wanted_y = mpp / own.x, mpp / own.y
    for level in slide.info.levels:
        if max(abs(level.downsample_x / wanted_x - 1), abs(level.downsample_y / wanted_y - 1)) <= LEVEL_TOLERANCE:
            return level.downsample_x, level.downsample_y
    return wanted_x, wanted_y
