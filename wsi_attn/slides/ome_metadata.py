"""What the OME-XML of an OME-TIFF says of pixel size and objective."""

from __future__ import annotations

from typing import Any

import tifffile

from wsi_attn.geometry import Mpp
from wsi_attn.slides.properties import PixelSize, implausible

MICRONS = {
    "pm": 1e-6,
    "Å": 1e-4,
    "nm": 1e-3,
    "µm": 1.0,  # micro sign, as the schema has it
    "μm": 1.0,  # Greek mu, as some writers have it
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25400.0,
}
DEFAULT_UNIT = "µm"


def ome_pixel_size(xml: str) -> PixelSize:
    """Pixel size of the first image, or a note on why it is not believed."""
    pixels = _first(_first(_root(xml).get("Image")).get("Pixels"))
    found = [_microns(pixels, axis) for axis in "XY"]
    if found[0] is None or found[1] is None:
        return PixelSize(None, "none", "the file gives no pixel size")
    mpp = Mpp(found[0], found[1])
    reason = implausible(mpp)
    return PixelSize(None, "none", reason) if reason else PixelSize(mpp, "file")


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


def _microns(pixels: dict[str, Any], axis: str) -> float | None:
    factor = MICRONS.get(str(pixels.get(f"PhysicalSize{axis}Unit", DEFAULT_UNIT)))
    value = pixels.get(f"PhysicalSize{axis}")
    if factor is None or not isinstance(value, int | float) or isinstance(value, bool):
        return None  # "pixel" and "reference frame" are units without a length
    return value * factor
