"""Finding tissue on a low-resolution view of a slide, by methods with a name.

Every method reduces to one rule on single pixels, *measure > threshold*, and then cleans the raster: small
specks are dropped and small holes filled. The rule is kept with the mask, so that full-resolution pixels can be
judged by it too. Coloured pen marks count as tissue: they are as colourful as stain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from wsi_attn.contract import UInt8Array
from wsi_attn.geometry import Frame, Mpp, Size
from wsi_attn.registry import Registry
from wsi_attn.tissue.mask import BoolArray, TissueMask

MEASURES = ("chroma", "brightness", "darkness")
"""What a rule looks at: max(R, G, B) - min(R, G, B); max(R, G, B); 255 - max(R, G, B)."""

CHROMA_RANGE = (14, 30)
"""Allowed threshold on chroma. Glass and its JPEG noise stay below 14 once smoothed; the palest stroma of a slide
without any glass lies above 30, where Otsu would otherwise part nuclei from the rest."""

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

SMOOTHING = 5
"""Side of the box, in pixels of the view, that pixels are averaged over before the rule."""


class Rule(NamedTuple):
    """A pixel is tissue where `measure` of it exceeds `threshold`."""

    measure: str
    threshold: int


METHODS: Registry[Callable[[UInt8Array, BoolArray], Rule]] = Registry("tissue method")
"""Methods: smoothed uint8 (rows, columns, 3) and which of it is readable, to the rule to apply."""


@METHODS.register("otsu")
def otsu_rule(pixels: UInt8Array, readable: BoolArray) -> Rule:
    """Otsu's threshold on the measure that suits the picture, within the range documented for it.

    Stained tissue is more colourful than glass; a grey picture is darker than glass; fluorescence is brighter
    than a black background.
    """
    seen = pixels[readable]
    brightest, chroma = measure_of(seen, "brightness"), measure_of(seen, "chroma")
    glass = np.mean(seen.min(axis=-1) > GLASS_GREY - 20)
    darkest = float(np.percentile(brightest, 10))
    if darkest < BLACK and glass < 0.05:
        low = max(BRIGHTNESS_RANGE[0], round(darkest) + 12)
        return Rule("brightness", _otsu_within(brightest, low, max(BRIGHTNESS_RANGE[1], low)))
    if np.percentile(chroma, 99.9) <= GREY_CHROMA:
        reference = 255 - max(GLASS_GREY, round(float(np.percentile(brightest, 99))))
        low, high = reference + DARKNESS_RANGE[0], reference + DARKNESS_RANGE[1]
        return Rule("darkness", _otsu_within(255 - brightest, low, high))
    return Rule("chroma", _otsu_within(chroma, *CHROMA_RANGE))


@METHODS.register("none")
def everything_rule(_pixels: UInt8Array, _readable: BoolArray) -> Rule:
    """The whole picture is tissue."""
    return Rule("chroma", -1)


def measure_of(pixels: UInt8Array, measure: str) -> UInt8Array:
    """One of `MEASURES` for each pixel; uint8 (..., 3) to uint8 (...)."""
    brightest = pixels.max(axis=-1)
    if measure == "chroma":
        return np.asarray(brightest - pixels.min(axis=-1))
    return np.asarray(brightest if measure == "brightness" else 255 - brightest)


def detect_tissue(
    pixels: UInt8Array,
    frame: Frame,
    mpp: Mpp | None,
    readable: BoolArray | None = None,
    method: str = "otsu",
    *,
    size0: Size | None = None,
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

    Raises
    ------
    UnknownNameError : no such method.
    """
    find = METHODS.get(method)
    seen = np.ones(pixels.shape[:2], np.bool_) if readable is None else readable
    extent0 = size0 or Size(round(frame.size.width * frame.downsample_x), round(frame.size.height * frame.downsample_y))
    if not seen.any():
        return TissueMask(np.zeros_like(seen), frame, method, "chroma", CHROMA_RANGE[1], seen, extent0)
    smoothed = _smooth(pixels, seen)
    rule = find(smoothed, seen)
    mask = (measure_of(smoothed, rule.measure).astype(np.int16) > rule.threshold) & seen
    if method != "none":
        specks, holes = _areas(frame, mpp)
        mask = fill_holes(drop_specks(_close(mask), specks), holes) & seen
    return TissueMask(mask, frame, method, rule.measure, rule.threshold, seen, extent0)


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


def _otsu_within(values: UInt8Array, low: int, high: int) -> int:
    threshold, _ = cv2.threshold(
        np.ascontiguousarray(values.reshape(-1, 1)), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU
    )
    return int(np.clip(round(threshold), low, min(high, 254)))


def _smooth(pixels: UInt8Array, readable: BoolArray) -> UInt8Array:
    # Unreadable pixels carry the fill value; averaging them in would pale the tissue beside them.
    weight = cv2.blur(readable.astype(np.float32), (SMOOTHING, SMOOTHING), borderType=cv2.BORDER_REPLICATE)
    source = np.where(readable[..., None], pixels, 0).astype(np.uint8)
    if readable.all():
        return np.asarray(cv2.blur(source, (SMOOTHING, SMOOTHING), borderType=cv2.BORDER_REPLICATE))
    total = cv2.blur(source.astype(np.float32), (SMOOTHING, SMOOTHING), borderType=cv2.BORDER_REPLICATE)
    mean = np.rint(total / np.maximum(weight, 1e-6)[..., None]).clip(0, 255)
    return np.asarray(mean, np.uint8)


def _close(mask: BoolArray) -> BoolArray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel), np.bool_)


def _areas(frame: Frame, mpp: Mpp | None) -> tuple[float, float]:
    """Areas of specks and holes in pixels of the frame."""
    total = math.prod(frame.size)
    if mpp is None:
        return total * SPECK_SHARE, total * HOLE_SHARE
    pixel_um2 = mpp.x * frame.downsample_x * mpp.y * frame.downsample_y
    return min(SPECK_UM2 / pixel_um2, total * MAX_SHARE), min(HOLE_UM2 / pixel_um2, total * MAX_SHARE)
