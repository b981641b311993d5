"""Preview image of a tissue mask: its outlines over the view of the slide."""

from __future__ import annotations

import cv2
import numpy as np

from wsi_attn.slide import UInt8Array
from wsi_attn.tissue.mask import TissueMask
from wsi_attn.tissue.polygons import CLASS_COLOUR
from wsi_attn.tissue.rings import Ring, trace_polygons

SIDE = 1600
"""Maximum longer side of the image, pixels."""

UNREADABLE = (128, 128, 128)
"""Grey of unreadable areas."""

FRACTION_BITS = 4
"""OpenCV draws corners at sixteenths of a pixel."""


def draw_tissue(pixels: UInt8Array, mask: TissueMask) -> bytes:
    """Draw the outlines of a mask over its view, as PNG.

    Parameters
    ----------
    pixels
        uint8 (rows, columns, 3), RGB, of the mask's frame.
    """
    seen = np.where(mask.readable[..., None], pixels, np.array(UNREADABLE, np.uint8))
    scale = min(1.0, SIDE / max(seen.shape[:2]))
    size = (max(1, round(seen.shape[1] * scale)), max(1, round(seen.shape[0] * scale)))
    picture = cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
    factors = (size[0] / seen.shape[1] / mask.frame.downsample_x, size[1] / seen.shape[0] / mask.frame.downsample_y)
    rings = [
        _drawn(ring, factors)
        for polygon in trace_polygons(mask.mask, mask.frame, mask.size0)
        for ring in (polygon.exterior, *polygon.holes)
    ]
    for colour, width in (((255, 255, 255), 3), (CLASS_COLOUR, 1)):  # light beside dark: visible on glass and on tissue
        cv2.polylines(picture, rings, True, colour, width, cv2.LINE_AA, FRACTION_BITS)
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    return bytes(encoded)


def _drawn(ring: Ring, factors: tuple[float, float]) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    # OpenCV puts pixel centres at integers.
    return np.rint((ring * factors - 0.5) * (1 << FRACTION_BITS)).astype(np.int32)
