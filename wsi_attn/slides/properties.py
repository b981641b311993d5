"""Interpretation of slide metadata: a plausible pixel size is accepted; it is never derived from a magnification."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import openslide

from wsi_attn.geometry import Mpp, Region

PLAUSIBLE_MPP = (0.01, 100.0)
"""Range in µm per pixel, from below the resolution of light to above that of microscope images."""

TYPOGRAPHIC_DPI = (72, 75, 96, 100, 150, 200, 240, 300, 400, 600, 1200, 2400)
"""Default resolutions of image editors, which as TIFF resolution tags do not describe the specimen."""

MAX_ANISOTROPY = 4.0
MICRONS_PER_UNIT = {2: 25400.0, 3: 10000.0}


@dataclass(frozen=True)
class PixelSize:
    """Pixel size with its source, or a note on why there is none; the fields of `SlideInfo`."""

    mpp: Mpp | None
    mpp_source: str
    mpp_note: str = ""


NOT_STATED = PixelSize(None, "none", "the file gives no pixel size")


def pixel_size_or_note(mpp: Mpp, *, from_resolution_tag: bool = False) -> PixelSize:
    """Return the pixel size stated by a file, or a note on why it is rejected."""
    reason = implausible(mpp, from_resolution_tag=from_resolution_tag)
    return PixelSize(None, "none", reason) if reason else PixelSize(mpp, "file")


def pixel_size_from(properties: Mapping[str, str], vendor: str) -> PixelSize:
    """Return the pixel size from OpenSlide properties, or a note on why it is rejected."""
    x = _number(properties.get(openslide.PROPERTY_NAME_MPP_X))
    y = _number(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    if x is None or y is None:
        return NOT_STATED
    return pixel_size_or_note(Mpp(x, y), from_resolution_tag=vendor == "generic-tiff")


def pixel_size_from_tags(x: float, y: float, unit: int) -> PixelSize:
    """Return the pixel size from TIFF resolution tags: pixels per unit on both axes; unit 2 is inch, 3 is
    centimetre.
    """
    microns = MICRONS_PER_UNIT.get(unit)
    if microns is None or not (x > 0 and y > 0):
        return NOT_STATED
    return pixel_size_or_note(Mpp(microns / x, microns / y), from_resolution_tag=True)


def implausible(mpp: Mpp, *, from_resolution_tag: bool = False) -> str:
    """Return why a pixel size is rejected; empty if it is plausible."""
    said = f"the file states {mpp.x:g} x {mpp.y:g} µm/px"
    low, high = PLAUSIBLE_MPP
    if 0 in mpp:  # Scanners and converters write 0 for unknown values.
        return "the file gives no pixel size: it states 0"
    if from_resolution_tag and any(
        math.isclose(axis, 25400 / dpi, rel_tol=1e-3) for axis in mpp for dpi in TYPOGRAPHIC_DPI
    ):
        return f"{said}, a print resolution ({25400 / mpp.x:.0f} dpi) and not a measured one"
    if not all(low <= axis <= high for axis in mpp):
        return f"{said}, outside the plausible {low:g} to {high:g}"
    if max(mpp) / min(mpp) > MAX_ANISOTROPY:
        return f"{said}, with implausibly different axes"
    return ""


def objective_power_from(properties: Mapping[str, str]) -> float | None:
    """Return the nominal magnification, for display only."""
    return _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))


def bounds_from(properties: Mapping[str, str]) -> Region | None:
    """Return the scanned area in level-0 pixels if the vendor states it."""
    values = [_number(properties.get(f"openslide.bounds-{name}")) for name in Region._fields]
    return None if None in values else Region(*(int(value) for value in values if value is not None))


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
