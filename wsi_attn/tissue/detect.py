"""Tissue detection on a low-resolution view of a slide.

Each named method returns a tissue mask and the pixel rule, *measure > threshold*, that approximates it best. The rule
is stored with the mask so that full-resolution pixels can be classified too. Detection then removes small specks and
fills small holes. `otsu` equals its rule and classifies coloured pen marks as tissue; `robust` excludes ink, padding
and dust, which its rule alone cannot.
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
from wsi_attn.tissue.mask import BoolArray, TissueMask, drop_specks
from wsi_attn.tissue.robust import Detection, find_robustly
from wsi_attn.tissue.rules import CHROMA_RANGE, Rule, apply_rule, measure_of, otsu_within, smooth

GREY_CHROMA = 8
"""A view with practically no pixel more colourful than this is grey or empty."""

DARKNESS_RANGE = (20, 40)
"""Allowed threshold of grey images, in grey values darker than glass."""

GLASS_GREY = 200
"""Minimum brightness of glass; an image without glass is compared with this value."""

BRIGHTNESS_RANGE = (20, 50)
"""Allowed threshold of fluorescence, in grey values; camera noise of a black background stays below 20."""

BLACK = 40
"""Dark background: the darkest tenth of the view is below this value and almost nothing looks like glass."""

SPECK_UM2, HOLE_UM2 = 2_500.0, 10_000.0
"""Areas, 50 µm and 100 µm squared, below which specks are removed and holes are filled."""

SPECK_SHARE, HOLE_SHARE = 2e-5, 1e-4
"""The same as shares of the view, used if the pixel size is unknown."""

MAX_SHARE = 5e-3
"""Upper limit of the area of specks and holes as a share of the view, whatever their size in microns."""

EDGE_SHARE = 0.9
"""A pixel of the view that the slide covers by less than this share is mostly fill."""

METHODS: Registry[Callable[[UInt8Array, BoolArray], Detection]] = Registry("tissue method")
"""Methods by name: from a smoothed uint8 (rows, columns, 3) view and its readable mask to tissue before cleaning."""

METHODS.register("robust")(find_robustly)


@METHODS.register("otsu")
def find_by_otsu(pixels: UInt8Array, readable: BoolArray) -> Detection:
    """Return the pixels that satisfy the rule of `otsu_rule`."""
    rule = otsu_rule(pixels, readable)
    return Detection(apply_rule(pixels, rule), rule, np.zeros_like(readable))


@METHODS.register("none")
def find_everything(_pixels: UInt8Array, readable: BoolArray) -> Detection:
    """Classify the whole view as tissue."""
    return Detection(np.ones_like(readable), Rule("chroma", -1), np.zeros_like(readable))


def otsu_rule(pixels: UInt8Array, readable: BoolArray) -> Rule:
    """Return Otsu's threshold on the measure that suits the view, limited to its documented range.

    Stained tissue is more colourful than glass; tissue in a grey image is darker than glass; fluorescence is
    brighter than a black background.
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
    """Detect tissue on a low-resolution view of a slide.

    Parameters
    ----------
    pixels
        uint8 (rows, columns, 3), RGB, the whole slide.
    frame
        Position of the view in level-0 coordinates.
    mpp
        Level-0 pixel size, for the areas of specks and holes; without it, areas are shares of the view.
    readable
        bool (rows, columns), False where the view could not be read; all True by default.
    method
        A key of `METHODS`.
    size0
        Size of the slide in level-0 pixels; by default that of the frame.
    min_area_um2
        Pieces of tissue below this area, µm², are removed; by default `SPECK_UM2`, or less on a small view.
    max_hole_um2
        Holes below this area, µm², are filled unless they touch the border of the slide, where they may continue
        outside; by default `HOLE_UM2`, or less on a small view.

    Returns
    -------
    The mask, empty if nothing is readable. A pixel at the right or bottom border that the slide covers by less than
    `EDGE_SHARE` is copied from its neighbour, since the rest of it is fill, not glass.

    Raises
    ------
    UnknownNameError : `method` is unknown.
    MissingMppError : an area is given in µm² and the pixel size is unknown.
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


def fill_holes(mask: BoolArray, area: float) -> BoolArray:
    """Fill 4-connected gaps of fewer than `area` pixels, except those that touch the border."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    fill = stats[:, cv2.CC_STAT_AREA] < area
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        fill[edge] = False  # the gap may continue outside the view
    return np.asarray(mask | fill[labels])


def _to_the_edge(pixels: UInt8Array, readable: BoolArray, frame: Frame, size0: Size) -> UInt8Array:
    """Copy the last column and row from their neighbours if the slide covers too little of them."""
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
                "Areas in µm² need the slide's pixel size, which is unknown; set it with --slide-mpp X[,Y]"
            )
        return total * SPECK_SHARE, total * HOLE_SHARE
    pixel_um2 = mpp.x * frame.downsample_x * mpp.y * frame.downsample_y
    specks = min(SPECK_UM2 / pixel_um2, total * MAX_SHARE) if min_area_um2 is None else min_area_um2 / pixel_um2
    holes = min(HOLE_UM2 / pixel_um2, total * MAX_SHARE) if max_hole_um2 is None else max_hole_um2 / pixel_um2
    return specks, holes
