"""Finding tissue on a low-resolution view of a slide, by methods with a name, and cleaning what they find.

A method says where tissue is, and which rule on single pixels, *measure > threshold*, comes nearest to that: the rule
is kept with the mask, so that full-resolution pixels can be judged by it too. Then small specks are dropped and small
holes filled. `otsu` is nothing but its rule, and takes coloured pen marks for tissue; `robust` leaves ink, padding and
dust out of the mask, which its rule alone could not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from wsi_attn.errors import MissingMppError
from wsi_attn.geometry import Frame, Mpp, Size
from wsi_attn.registry import Registry
from wsi_attn.slide import UInt8Array
from wsi_attn.tissue.mask import BoolArray, TissueMask
from wsi_attn.tissue.robust import Detection, find_robustly
from wsi_attn.tissue.rules import (
    CHROMA_RANGE,
    MEASURES,
    SMOOTHING,
    Rule,
    apply_rule,
    measure_of,
    otsu_within,
    smooth,
)

__all__ = [
    "CHROMA_RANGE",
    "MEASURES",
    "METHODS",
    "SMOOTHING",
    "Detection",
    "Rule",
    "detect_tissue",
    "drop_specks",
    "fill_holes",
    "measure_of",
    "view_downsamples",
]

GREY_CHROMA = 8
"""A view with practically no pixel more colourful than this is a grey picture, or empty."""

DARKNESS_RANGE = (20, 40)
"""Allowed threshold of grey pictures, in grey values darker than glass."""

GLASS_GREY = 200
"""Glass is at least this bright; a picture without glass is judged against it."""

BRIGHTNESS_RANGE = (20, 50)
"""Allowed threshold of fluorescence, in grey values; camera noise of a black background stays below 20."""

BLACK = 40
"""A dark background: the darkest tenth of the view is below this while next to nothing of it looks like glass."""

SPECK_UM2, HOLE_UM2 = 2_500.0, 10_000.0
"""Areas, 50 µm and 100 µm squared, below which specks are dropped and holes are filled."""

SPECK_SHARE, HOLE_SHARE = 2e-5, 1e-4
"""The same as shares of the picture, where the pixel size is not known."""

MAX_SHARE = 5e-3
"""Neither a speck nor a hole may be a larger share of the picture than this, whatever its size in microns."""

EDGE_SHARE = 0.9
"""A pixel of the view of which the slide covers less than this shows fill as much as slide."""

VIEW_MPP = 8.0
"""µm per pixel at which tissue is looked for: 16 pixels along a tile of 256 at 0.5."""

VIEW_SIDE, VIEW_SIDE_UNKNOWN = 2560, 2048
"""Longer side of that view at most, and where the pixel size is not known; bounds its memory to some 200 MB."""

METHODS: Registry[Callable[[UInt8Array, BoolArray], Detection]] = Registry("tissue method")
"""Methods: smoothed uint8 (rows, columns, 3) and which of it is readable, to what is tissue before cleaning."""

METHODS.register("robust")(find_robustly)


@METHODS.register("otsu")
def find_by_otsu(pixels: UInt8Array, readable: BoolArray) -> Detection:
    """Where the rule of `otsu_rule` holds."""
    rule = otsu_rule(pixels, readable)
    return Detection(apply_rule(pixels, rule), rule, np.zeros_like(readable))


@METHODS.register("none")
def find_everything(_pixels: UInt8Array, readable: BoolArray) -> Detection:
    """The whole picture is tissue."""
    return Detection(np.ones_like(readable), Rule("chroma", -1), np.zeros_like(readable))


def otsu_rule(pixels: UInt8Array, readable: BoolArray) -> Rule:
    """Otsu's threshold on the measure that suits the picture, within the range documented for it.

    Stained tissue is more colourful than glass; a grey picture is darker than glass; fluorescence is brighter
    than a black background.
    """
    seen = pixels if readable.all() else pixels[readable]
    brightest, chroma = measure_of(seen, "brightness"), measure_of(seen, "chroma")
    glass = np.mean(brightest - chroma > GLASS_GREY - 20)
    darkest = float(np.percentile(brightest, 10))
    if darkest < BLACK and glass < 0.05:
        low = max(BRIGHTNESS_RANGE[0], round(darkest) + 12)
        return Rule("brightness", otsu_within(brightest, low, max(BRIGHTNESS_RANGE[1], low)))
    if np.percentile(chroma, 99.9) <= GREY_CHROMA:
        reference = 255 - max(GLASS_GREY, round(float(np.percentile(brightest, 99))))
        low, high = reference + DARKNESS_RANGE[0], reference + DARKNESS_RANGE[1]
        return Rule("darkness", otsu_within(255 - brightest, low, high))
    return Rule("chroma", otsu_within(chroma, *CHROMA_RANGE))


def detect_tissue(
    pixels: UInt8Array,
    frame: Frame,
    mpp: Mpp | None,
    readable: BoolArray | None = None,
    method: str = "otsu",
    *,
    size0: Size | None = None,
    min_area_um2: float | None = None,
    max_hole_um2: float | None = None,
) -> TissueMask:
    """Tissue of a slide from a low-resolution view of it.

    Parameters
    ----------
    pixels
        uint8 (rows, columns, 3), RGB, the whole slide.
    frame
        How the view lies over level 0.
    mpp
        Level-0 pixel size, for the areas of specks and holes; without it they are shares of the picture.
    readable
        bool (rows, columns), False where the view could not be read; all of it by default.
    method
        A name in `METHODS`.
    size0
        Extent of the slide; by default that of the frame.
    min_area_um2
        Pieces of tissue smaller than this, µm², are dropped; by default `SPECK_UM2`, or less on a small picture.
    max_hole_um2
        Holes smaller than this, µm², are filled, but for those at the edge of the slide, which may go on outside
        it; by default `HOLE_UM2`, or less on a small picture.

    Returns
    -------
    A mask without tissue where nothing is readable. A pixel at the right or bottom edge of which the slide covers
    less than `EDGE_SHARE` is taken from its neighbour: the rest of it is fill, not glass.

    Raises
    ------
    UnknownNameError : no such method.
    MissingMppError : an area is given in µm² and the pixel size is not.
    """
    find = METHODS.get(method)
    seen = np.ones(pixels.shape[:2], np.bool_) if readable is None else readable
    extent0 = size0 or Size(round(frame.size.width * frame.downsample_x), round(frame.size.height * frame.downsample_y))
    specks, holes = _areas(frame, mpp, min_area_um2, max_hole_um2)
    if not seen.any():
        return TissueMask(np.zeros_like(seen), frame, method, "chroma", CHROMA_RANGE[1], seen, extent0)
    found = find(smooth(_to_the_edge(pixels, seen, frame, extent0), seen), seen)
    mask = found.mask & seen
    if method != "none":
        mask = fill_holes(drop_specks(_close(mask & ~found.excluded), specks), holes) & seen
        if found.excluded.any():
            mask = drop_specks(mask & ~found.excluded, specks)
    return TissueMask(mask, frame, method, found.rule.measure, found.rule.threshold, seen, extent0)


def view_downsamples(mpp: Mpp | None, wanted: float) -> tuple[float, float]:
    """Level-0 pixels per pixel, along x and y, of a view of `wanted` µm per pixel; never finer than level 0.

    Raises
    ------
    MissingMppError : the slide's pixel size is not known.
    """
    if mpp is None:
        raise MissingMppError(
            f"Cannot look for tissue at {wanted:g} µm/px: the slide's pixel size is not known; say it with "
            "--slide-mpp X[,Y]"
        )
    return max(1.0, wanted / mpp.x), max(1.0, wanted / mpp.y)


def drop_specks(mask: BoolArray, area: float) -> BoolArray:
    """Without the 8-connected components of fewer than `area` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False  # label 0 is what is not in the mask
    return np.asarray(keep[labels])


def fill_holes(mask: BoolArray, area: float) -> BoolArray:
    """With the 4-connected gaps of fewer than `area` pixels, edge ones excepted, filled."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    fill = stats[:, cv2.CC_STAT_AREA] < area
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        fill[edge] = False  # the gap may go on outside the picture
    return np.asarray(mask | fill[labels])


def _to_the_edge(pixels: UInt8Array, readable: BoolArray, frame: Frame, size0: Size) -> UInt8Array:
    """The view with its last column and row taken from their neighbours where hardly any of them is slide."""
    rows, columns = readable.shape
    covered_x, covered_y = size0.width / frame.downsample_x % 1 or 1.0, size0.height / frame.downsample_y % 1 or 1.0
    if columns > 1 and covered_x < EDGE_SHARE and size0.width < columns * frame.downsample_x:
        pixels = pixels.copy()
        pixels[:, -1] = np.where(readable[:, -2, None], pixels[:, -2], pixels[:, -1])
    if rows > 1 and covered_y < EDGE_SHARE and size0.height < rows * frame.downsample_y:
        pixels = pixels.copy()
        pixels[-1] = np.where(readable[-2, :, None], pixels[-2], pixels[-1])
    return pixels


def _close(mask: BoolArray) -> BoolArray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel), np.bool_)


def _areas(
    frame: Frame, mpp: Mpp | None, min_area_um2: float | None, max_hole_um2: float | None
) -> tuple[float, float]:
    """Areas of specks and holes in pixels of the frame."""
    total = math.prod(frame.size)
    if mpp is None:
        if min_area_um2 is not None or max_hole_um2 is not None:
            raise MissingMppError(
                "Areas in µm² need the slide's pixel size, which is not known; say it with --slide-mpp X[,Y]"
            )
        return total * SPECK_SHARE, total * HOLE_SHARE
    pixel_um2 = mpp.x * frame.downsample_x * mpp.y * frame.downsample_y
    specks = min(SPECK_UM2 / pixel_um2, total * MAX_SHARE) if min_area_um2 is None else min_area_um2 / pixel_um2
    holes = min(HOLE_UM2 / pixel_um2, total * MAX_SHARE) if max_hole_um2 is None else max_hole_um2 / pixel_um2
    return specks, holes
