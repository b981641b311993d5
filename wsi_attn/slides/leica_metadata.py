"""Position of the scanned area on the glass from the XML of a Leica SCN file.

OpenSlide shows the whole glass with the area scanned at high resolution; a page of the file contains only the
area. If there is a single area, this module finds its pages and the pixel where they begin.
"""

from __future__ import annotations

from typing import Any

import tifffile


def scanned_area(xml: str) -> dict[int, tuple[int, int]]:
    """Return the pages of the single scanned area of a slide, and the pixel (x, y) of their level where it begins.

    Returns
    -------
    Empty if there are several areas, focal planes or channels, or if the XML is not as expected.
    """
    try:
        collection = tifffile.xml2dict(xml)["scn"]["collection"]
        areas = [image for image in _listed(collection["image"]) if not _is_macro(image["view"], collection)]
        if len(areas) != 1:
            return {}
        view, pages = areas[0]["view"], _listed(areas[0]["pixels"]["dimension"])
        if any({"z", "c"} & set(page) for page in pages):
            return {}
        return {page["ifd"]: (_begin(view, page, "X"), _begin(view, page, "Y")) for page in pages}
    except (
        KeyError,
        TypeError,
        ValueError,
        ZeroDivisionError,
        SyntaxError,
    ):  # The last one is raised by the XML parser.
        return {}


def _listed(found: Any) -> list[dict[str, Any]]:
    return found if isinstance(found, list) else [found]


def _is_macro(view: dict[str, Any], collection: dict[str, Any]) -> bool:
    """Return whether an image shows the whole glass."""
    return all(view[f"size{axis}"] == collection[f"size{axis}"] and view[f"offset{axis}"] == 0 for axis in "XY")


def _begin(view: dict[str, Any], page: dict[str, Any], axis: str) -> int:
    """Convert nanometres to integer pixels of a page, truncated as in OpenSlide."""
    return int(view[f"offset{axis}"] / (view[f"size{axis}"] / page[f"size{axis}"]))
