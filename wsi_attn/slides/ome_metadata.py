"""What the OME-XML of an OME-TIFF says of pixel size and objective."""

from __future__ import annotations

from typing import Any

import tifffile

from wsi_attn.geometry import Mpp, Size
from wsi_attn.slides.properties import PixelSize, pixel_size_or_note

MICRONS = {
    "pm": 1e-6,
    "å": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "μm": 1.0,  # Greek mu, which the micro sign becomes too
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
"""Microns of the units of length, as `microns_per_unit` writes them."""

DEFAULT_UNIT = "µm"
ESCAPED_MICRO = "\\u00b5"
"""How ImageJ writes the micro sign."""


def microns_per_unit(unit: object) -> float | None:
    """Length of a unit in µm, by any of its usual spellings; None for what is no unit of length, such as "pixel"."""
    text = str(unit or "").strip().casefold().replace(ESCAPED_MICRO, "μ").replace("metre", "meter")
    return MICRONS.get(text, MICRONS.get(text.removesuffix("s")))


def ome_pixel_size(xml: str, index: int = 0, size: Size | None = None) -> PixelSize:
    """Pixel size of one image, or a note on why it is not believed.

    Parameters
    ----------
    index, size
        Number and extent of the image; where the extents say otherwise, the first image of this extent counts.
    """
    pixels = [_first(image.get("Pixels")) for image in _listed(_root(xml).get("Image"))]
    same = [each for each in pixels if size is None or (each.get("SizeX"), each.get("SizeY")) == tuple(size)]
    chosen = pixels[index] if index < len(pixels) and (pixels[index] in same or not same) else {}
    chosen = chosen or (same or [{}])[0]
    found = [_microns(chosen, axis) for axis in "XY"]
    if found[0] is None or found[1] is None:
        return PixelSize(None, "none", "the file gives no pixel size")
    return pixel_size_or_note(Mpp(found[0], found[1]))


def ome_objective_power(xml: str) -> float | None:
    """Nominal magnification where the file names one objective; for display only."""
    objectives = _first(_root(xml).get("Instrument")).get("Objective")
    power = objectives.get("NominalMagnification") if isinstance(objectives, dict) else None
    return float(power) if isinstance(power, int | float) and power > 0 else None


def _root(xml: str) -> dict[str, Any]:
    try:
        found = tifffile.xml2dict(xml)
    except Exception:  # its parser's errors; a description that is no XML says nothing
        return {}
    return _first(found.get("OME"))


def _first(value: object) -> dict[str, Any]:
    """The element, or the first of several of one name; empty where there is none."""
    element = value[0] if isinstance(value, list) and value else value
    return element if isinstance(element, dict) else {}


def _listed(value: object) -> list[dict[str, Any]]:
    """The elements of one name, of which there may be one or several."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]


def _microns(pixels: dict[str, Any], axis: str) -> float | None:
    factor = microns_per_unit(pixels.get(f"PhysicalSize{axis}Unit", DEFAULT_UNIT))
    value = pixels.get(f"PhysicalSize{axis}")
    if factor is None or not isinstance(value, int | float) or isinstance(value, bool):
        return None  # "pixel" and "reference frame" are units without a length
    return value * factor
