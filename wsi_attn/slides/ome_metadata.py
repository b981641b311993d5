"""Pixel size and objective from the OME-XML of an OME-TIFF."""

from __future__ import annotations

from typing import Any

import tifffile

from wsi_attn.geometry import Mpp, Size
from wsi_attn.slides.properties import NOT_STATED, PixelSize, pixel_size_or_note

MICRONS = {
    "pm": 1e-6,
    "å": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "μm": 1.0,  # Greek mu; casefolding maps the micro sign to it.
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}
"""Length units in µm, normalised as by `microns_per_unit`."""

DEFAULT_UNIT = "µm"
ESCAPED_MICRO = "\\u00b5"
"""The micro sign as written by ImageJ."""


def microns_per_unit(unit: object) -> float | None:
    """Return the length of a unit in µm, in any usual spelling; None for other units, such as "pixel"."""
    text = str(unit or "").strip().casefold().replace(ESCAPED_MICRO, "μ").replace("metre", "meter")
    return MICRONS.get(text, MICRONS.get(text.removesuffix("s")))


def ome_pixel_size(xml: str, index: int = 0, size: Size | None = None) -> PixelSize:
    """Return the pixel size of one image, or a note on why it is rejected.

    Parameters
    ----------
    index, size
        Number and size of the image; if they disagree, the first image of this size is used.
    """
    pixels = [_first(image.get("Pixels")) for image in _listed(_root(xml).get("Image"))]
    same = [each for each in pixels if size is None or (each.get("SizeX"), each.get("SizeY")) == tuple(size)]
    chosen = pixels[index] if index < len(pixels) and (pixels[index] in same or not same) else {}
    chosen = chosen or (same or [{}])[0]
    found = [_microns(chosen, axis) for axis in "XY"]
    if found[0] is None or found[1] is None:
        return NOT_STATED
    return pixel_size_or_note(Mpp(found[0], found[1]))


def ome_objective_power(xml: str) -> float | None:
    """Return the nominal magnification if the file has a single objective; for display only."""
    objectives = _first(_root(xml).get("Instrument")).get("Objective")
    power = objectives.get("NominalMagnification") if isinstance(objectives, dict) else None
    return float(power) if isinstance(power, int | float) and power > 0 else None


def _root(xml: str) -> dict[str, Any]:
    try:
        found = tifffile.xml2dict(xml)
    except Exception:  # Parser errors; a description that is not XML is ignored.
        return {}
    return _first(found.get("OME"))


def _first(value: object) -> dict[str, Any]:
    """Return the element, or the first of several with the same name; empty if there is none."""
    element = value[0] if isinstance(value, list) and value else value
    return element if isinstance(element, dict) else {}


def _listed(value: object) -> list[dict[str, Any]]:
    """Return the elements of one name as a list."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]


def _microns(pixels: dict[str, Any], axis: str) -> float | None:
    factor = microns_per_unit(pixels.get(f"PhysicalSize{axis}Unit", DEFAULT_UNIT))
    value = pixels.get(f"PhysicalSize{axis}")
    if factor is None or not isinstance(value, int | float) or isinstance(value, bool):
        return None  # "pixel" and "reference frame" are not length units.
    return value * factor
