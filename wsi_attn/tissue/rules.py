"""Pixel rules, *measure > threshold*: their measures, and fitting a rule to a view or a mask."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from wsi_attn.slide import UInt8Array
from wsi_attn.tissue.mask import BoolArray

MEASURES = ("chroma", "brightness", "darkness")
"""Measures of a pixel: max(R, G, B) - min(R, G, B); max(R, G, B); 255 - max(R, G, B)."""

CHROMA_RANGE = (14, 30)
"""Allowed threshold on chroma. Smoothed glass and its JPEG noise stay below 14; the palest stroma of a slide without
glass is above 30, where Otsu would otherwise separate nuclei from the rest.
"""

SMOOTHING = 5
"""Side of the averaging box, in pixels of the view, applied before the rule."""


class Rule(NamedTuple):
    """A pixel is tissue if its `measure` exceeds `threshold`."""

    measure: str
    threshold: int


def measure_of(pixels: UInt8Array, measure: str) -> UInt8Array:
    """Compute a measure of `MEASURES` for each pixel; uint8 (..., 3) to uint8 (...)."""
    if not pixels.size:
        return np.zeros(pixels.shape[:-1], np.uint8)
    red, green, blue = cv2.split(pixels.reshape(-1, 1, 3))  # ten times faster than reducing the last axis
    found = cv2.max(cv2.max(red, green), blue)
    if measure == "chroma":
        found = found - cv2.min(cv2.min(red, green), blue)
    elif measure == "darkness":
        found = 255 - found
    return np.asarray(found, np.uint8).reshape(pixels.shape[:-1])


def apply_rule(pixels: UInt8Array, rule: Rule) -> BoolArray:
    """Evaluate the rule for each pixel; uint8 (..., 3) to bool (...)."""
    if rule.threshold < 0:
        return np.ones(pixels.shape[:-1], np.bool_)
    return np.asarray(measure_of(pixels, rule.measure) > rule.threshold)


def fit_rule(pixels: UInt8Array, mask: BoolArray, known: BoolArray) -> Rule:
    """Fit the rule to a mask by maximising the mean of sensitivity and specificity.

    Parameters
    ----------
    pixels
        uint8 (rows, columns, 3), smoothed.
    mask
        bool (rows, columns), True for tissue.
    known
        bool (rows, columns), True for pixels to compare.

    Returns
    -------
    The rule; the lower bound of `CHROMA_RANGE` if the mask has only one class.
    """
    inside, outside = pixels[mask & known], pixels[~mask & known]
    if not len(inside) or not len(outside):
        return Rule("chroma", CHROMA_RANGE[0])
    best, found = -1.0, Rule("chroma", CHROMA_RANGE[0])
    for measure in MEASURES:
        above_in, above_out = (_share_above(measure_of(part, measure)) for part in (inside, outside))
        merit = above_in - above_out  # Youden's index
        peak = float(merit.max())
        if peak > best + 1e-9:
            among = np.flatnonzero(merit >= peak - 1e-12)
            best, found = peak, Rule(measure, int(among[len(among) // 2]))
    return found


def otsu_within(values: UInt8Array, low: int, high: int) -> int:
    """Otsu's threshold of the values, clipped to the range."""
    threshold, _ = cv2.threshold(
        np.ascontiguousarray(values.reshape(-1, 1)), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU
    )
    return int(np.clip(round(threshold), low, min(high, 254)))


def smooth(pixels: UInt8Array, readable: BoolArray) -> UInt8Array:
    """Average readable pixels over `SMOOTHING` squared pixels.

    Unreadable pixels contain the fill value; averaging them in would make adjacent tissue paler.
    """
    box = (SMOOTHING, SMOOTHING)
    if readable.all():
        return np.asarray(cv2.blur(pixels, box, borderType=cv2.BORDER_REPLICATE))
    source = np.where(readable[..., None], pixels, 0).astype(np.uint8)
    weight = cv2.blur(readable.astype(np.float32), box, borderType=cv2.BORDER_REPLICATE)
    total = cv2.blur(source.astype(np.float32), box, borderType=cv2.BORDER_REPLICATE)
    mean = np.rint(total / np.maximum(weight, 1e-6)[..., None]).clip(0, 255)
    return np.asarray(mean, np.uint8)


def _share_above(values: UInt8Array) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Share of the values above each threshold 0 to 254."""
    counts = np.bincount(values, minlength=256)
    return np.asarray(1 - np.cumsum(counts)[:255] / len(values))
