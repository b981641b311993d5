"""Pictures to check annotations: the outlines of tissue, and boxes, over a view of the slide."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.annotations.boxes import Box
from wsi_attn.annotations.polygons import Ring, rings_of, trace_polygons
from wsi_attn.annotations.tissue import TISSUE
from wsi_attn.slide import Slide, UInt8Array
from wsi_attn.slides.view import read_view
from wsi_attn.tissue.mask import TissueMask

TISSUE_SIDE = 1600
"""Maximum longer side of the picture of tissue, pixels."""

UNREADABLE = (128, 128, 128)
"""Grey of unreadable areas."""

FRACTION_BITS = 4
"""OpenCV draws corners at sixteenths of a pixel."""


PICTURE_SIDE = 800
"""Maximum longer side of the picture of boxes, pixels."""

GIVEN_COLOUR, FOUND_COLOUR = (0, 158, 115), (213, 94, 0)
"""Green and orange of the colour-blind-safe palette of Okabe and Ito."""


def draw_tissue(pixels: UInt8Array, mask: TissueMask) -> bytes:
    """Draw the outlines of a mask over its view, as PNG.

    Parameters
    ----------
    pixels
        uint8 (rows, columns, 3), RGB, of the mask's frame.
    """
    seen = np.where(mask.readable[..., None], pixels, np.array(UNREADABLE, np.uint8))
    scale = min(1.0, TISSUE_SIDE / max(seen.shape[:2]))
    size = (max(1, round(seen.shape[1] * scale)), max(1, round(seen.shape[0] * scale)))
    picture = cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
    factors = (size[0] / seen.shape[1] / mask.frame.downsample_x, size[1] / seen.shape[0] / mask.frame.downsample_y)
    rings = [
        _drawn(ring, factors)
        for polygon in trace_polygons(mask.mask, mask.frame, mask.size0)
        for ring in rings_of(polygon)
    ]
    for colour, width in (
        ((255, 255, 255), 3),
        (TISSUE.colour, 1),
    ):  # light beside dark: visible on glass and on tissue
        cv2.polylines(picture, rings, True, colour, width, cv2.LINE_AA, FRACTION_BITS)
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    return bytes(encoded)


def draw_boxes(slide: Slide, boxes: Sequence[Box], given: NDArray[np.bool_] | None) -> bytes:
    """Draw a PNG of the slide with found boxes in orange and annotated regions, bool (rows, columns), in green."""
    factor = max(max(slide.info.size0) / PICTURE_SIDE, 1e-3)
    view = read_view(slide, max(1.0, factor), max(1.0, factor), workers=1)
    enlarged = max(1, math.ceil(PICTURE_SIDE / 2 / max(view.pixels.shape)))  # Small images are enlarged.
    picture: UInt8Array = np.ascontiguousarray(view.pixels.repeat(enlarged, axis=0).repeat(enlarged, axis=1))
    height, width = picture.shape[:2]
    if given is not None:
        region = cv2.resize(given.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(picture, contours, -1, GIVEN_COLOUR, 2)
    size0 = slide.info.size0
    for x1, y1, x2, y2 in boxes:
        first = (x1 * width // size0.width, y1 * height // size0.height)
        last = (x2 * width // size0.width - 1, y2 * height // size0.height - 1)
        cv2.rectangle(picture, first, last, FOUND_COLOUR, 2)
    _, encoded = cv2.imencode(".png", picture[..., ::-1])
    return bytes(encoded)


def _drawn(ring: Ring, factors: tuple[float, float]) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    # OpenCV puts pixel centres at integers.
    return np.rint((ring * factors - 0.5) * (1 << FRACTION_BITS)).astype(np.int32)
