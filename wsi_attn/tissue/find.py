"""`find_tissue`: the tissue mask of a slide, the same for every command.

`TissueSettings` decide everything: at which resolution the slide is viewed and how tissue is detected on that view. The
mask depends on the slide and the settings only, never on a model, a tile size or a command. A store keeps the mask of
its slide and returns it where its settings match, so that a slide and its store have the same mask.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from wsi_attn.errors import MissingMppError, TissueError
from wsi_attn.geometry import Frame
from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.slides.view import View, best_level, read_view
from wsi_attn.store.schema import TISSUE_VALUE, UNREADABLE_LABEL
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tissue.detect import detect_tissue
from wsi_attn.tissue.mask import TissueMask
from wsi_attn.tissue.settings import TissueSettings

VIEW_MPP = 8.0
"""µm per pixel of the view: 16 pixels along a tile of 256 at 0.5."""

LEAST_SIDE = 128
"""Minimum longer side of the view, as far as level 0 has the pixels: fields of view of less than 1 mm are viewed finer
than at `VIEW_MPP`.
"""

VIEW_SIDE, VIEW_SIDE_UNKNOWN = 2560, 2048
"""Maximum longer side of the view, and the longer side if the pixel size is unknown; limits its memory to about 200 MB.
"""

LARGEST_SIDE = 20_000
"""Maximum longer side of a view at a requested resolution, pixels: 1.2 GB for a square slide."""

TOLERANCE = 0.02
"""Relative excess over `VIEW_SIDE` that does not yet require the next multiple of a level."""


DEFAULT = TissueSettings()


def find_tissue(
    slide: Slide,
    settings: TissueSettings = DEFAULT,
    *,
    workers: int | None = None,
    progress: Progress = no_progress,
    view: View | None = None,
) -> TissueMask:
    """Find the tissue of a slide: the mask that its store keeps, otherwise detected on a view.

    Parameters
    ----------
    workers
        Number of reader threads; `thread_limit` by default.
    view
        The view that `tissue_view` returned for this slide and these settings; read here by default.

    Raises
    ------
    MissingMppError : the settings state µm or µm² and the pixel size of the slide is unknown.
    TissueError : the view at `settings.mpp` would be too large.
    StoreDamagedError : the mask of the store is damaged.
    """
    if (store := _keeps(slide, settings)) is not None:
        return stored_tissue(store)
    if view is None:
        view = tissue_view(slide, settings, workers=workers, progress=progress)
    progress(0, 1, "finding tissue")
    return detect_tissue(
        view.pixels,
        view.frame,
        slide.info.mpp,
        view.readable,
        settings.method,
        size0=slide.info.size0,
        min_area_um2=settings.min_area,
        max_hole_um2=settings.max_hole,
    )


def tissue_view(
    slide: Slide,
    settings: TissueSettings = DEFAULT,
    *,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> View:
    """Read the view of a slide on which its tissue is found; raises like `tissue_frame`."""
    frame = tissue_frame(slide, settings)
    return read_view(slide, frame.downsample_x, frame.downsample_y, workers=workers, progress=progress)


def tissue_frame(slide: Slide, settings: TissueSettings = DEFAULT) -> Frame:
    """Position of the tissue mask of a slide in level-0 coordinates.

    Without a resolution in the settings it has about `VIEW_MPP`: an integer multiple of the downsample of a level, so
    that the pixels of the level are used directly or averaged in squares. The longer side is at least `LEAST_SIDE` and
    at most `VIEW_SIDE` pixels, or about `VIEW_SIDE_UNKNOWN` if the pixel size is unknown.

    Raises
    ------
    MissingMppError : the settings state a resolution and the pixel size of the slide is unknown.
    TissueError : a view at the stated resolution would be longer than `LARGEST_SIDE`.
    """
    info = slide.info
    if (store := _keeps(slide, settings)) is not None:
        return store.tissue_label()[1]
    if settings.mpp is not None:
        return _stated_frame(slide, settings.mpp)
    longest = max(info.size0)
    if info.mpp is None:
        wanted_x = wanted_y = max(1.0, longest / VIEW_SIDE_UNKNOWN)
    else:
        wanted_x, wanted_y = (max(1.0, min(VIEW_MPP / own, longest / LEAST_SIDE)) for own in info.mpp)
    finest = longest / VIEW_SIDE
    level = info.levels[best_level(slide, max(wanted_x, finest), max(wanted_y, finest))]

    def multiple(wanted: float, own: float) -> float:
        return own * max(1, round(wanted / own), math.ceil(finest / own - TOLERANCE))

    return Frame.covering(info.size0, multiple(wanted_x, level.downsample_x), multiple(wanted_y, level.downsample_y))


def stored_tissue(store: TileStore) -> TissueMask:
    """Return the tissue mask that a store keeps, whatever its settings; raises like `TileStore.tissue_label`."""
    label, frame = store.tissue_label()
    rule = store.meta.tissue
    return TissueMask(
        np.asarray(label == TISSUE_VALUE),
        frame,
        rule.method,
        rule.measure,
        rule.threshold,
        np.asarray(label != UNREADABLE_LABEL),
        store.info.size0,
    )


def _keeps(slide: Slide, settings: TissueSettings) -> TileStore | None:
    """Return a store that keeps the mask of these settings and its pixel size; None for any other slide."""
    if not isinstance(slide, TileStore) or slide.meta.mpp != slide.info.mpp:
        return None
    kept = slide.meta.tissue.method
    return slide if settings == replace(DEFAULT, method=settings.method) and settings.method == kept else None


def _stated_frame(slide: Slide, mpp: float) -> Frame:
    own, size0 = slide.info.mpp, slide.info.size0
    if own is None:
        raise MissingMppError(
            f"Cannot detect tissue at {mpp:g} µm/px: the slide's pixel size is unknown; set it with --slide-mpp X[,Y]"
        )
    downsample_x, downsample_y = max(1.0, mpp / own.x), max(1.0, mpp / own.y)
    side = max(size0.width / downsample_x, size0.height / downsample_y)
    if side > LARGEST_SIDE:
        raise TissueError(
            f"Cannot read {slide.info.path} at {mpp:g} µm/px: {side:.0f} px on the longer side exceed the limit of "
            f"{LARGEST_SIDE} px; use a larger --mpp"
        )
    return Frame.covering(size0, downsample_x, downsample_y)
