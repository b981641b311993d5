"""Rendering of tiles that are not stored: read, scale and encode, with memory bounded by the tile size."""

from __future__ import annotations

import cv2
import numpy as np

from wsi_attn.errors import SlideReadError
from wsi_attn.geometry import Frame, Region
from wsi_attn.slide import Slide, UInt8Array, paste
from wsi_attn.slides.view import best_level, read_region_at

QUALITY = 85
"""JPEG quality, at least that of slide scanners; artefacts are invisible at screen distance."""

LARGEST_READ = 2048
"""Maximum side of source pixels decoded at once, 12 MB; larger regions are read in quarters."""

SMALLEST_PIECE = 64
"""Side of the pieces in which damaged regions are marked; each smaller piece would cost a failed read."""

DAMAGED, DAMAGED_STRIPE = (208, 204, 198), (150, 60, 48)
STRIPE = 16
"""Distance between stripes in unreadable areas, pixels."""


def render_region(slide: Slide, frame: Frame, region: Region) -> tuple[UInt8Array, bool]:
    """Pixels of a region of `frame`, and whether all of it is readable; the rest is hatched, never white.

    Returns
    -------
    uint8 (region.height, region.width, 3), and True if nothing is missing.
    """
    level = slide.info.levels[best_level(slide, frame.downsample_x, frame.downsample_y)]
    ratio = max(frame.downsample_x / level.downsample_x, frame.downsample_y / level.downsample_y)
    return _render(slide, frame, region, ratio)


def _render(slide: Slide, frame: Frame, region: Region, ratio: float) -> tuple[UInt8Array, bool]:
    side = max(region.width, region.height)
    if side * ratio <= LARGEST_READ or side == 1:
        try:
            corner0 = (region.x * frame.downsample_x, region.y * frame.downsample_y)
            size = (region.width, region.height)
            return read_region_at(slide, corner0, frame.downsample_x, frame.downsample_y, size), True
        except SlideReadError:
            if side <= SMALLEST_PIECE:
                return hatched(region), False
    pixels = np.empty((region.height, region.width, 3), np.uint8)
    whole = True
    for piece in region.quarters():
        found, readable = _render(slide, frame, piece, ratio)
        paste(pixels, region, found, piece)
        whole = whole and readable
    return pixels, whole


def hatched(region: Region) -> UInt8Array:
    """Hatching for unreadable areas; stripes continue across tiles."""
    x, y = np.arange(region.x, region.x1), np.arange(region.y, region.y1)
    stripe = (x[None, :] + y[:, None]) % STRIPE < STRIPE // 4
    return np.where(stripe[..., None], np.array(DAMAGED_STRIPE, np.uint8), np.array(DAMAGED, np.uint8))


def to_jpeg(pixels: UInt8Array) -> bytes:
    """RGB pixels as JPEG."""
    done, encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done  # noqa: S101 - only fails for arrays that are not images
    return encoded.tobytes()
