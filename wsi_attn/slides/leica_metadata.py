"""What the XML of a Leica SCN says of where the scanned area lies on the glass.

OpenSlide shows the whole glass, and on it the area that was scanned at high resolution; a page of the file holds the
area alone. Where there is one area its pages are found here, and the pixel that they begin at.
"""

from __future__ import annotations

from typing import Any

import tifffile


def scanned_area(xml: str) -> dict[int, tuple[int, int]]:
    """Pages that hold the one scanned area of a slide, and the pixel (x, y) of their level where it begins.

    Returns
    -------
    Nothing where there are several areas, focal planes or channels, or where the XML is not as expected.
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
    except (KeyError, TypeError, ValueError, ZeroDivisionError, SyntaxError):  # the last is of XML
        return {}


def _listed(found: Any) -> list[dict[str, Any]]:
    return found if isinstance(found, list) else [found]


def _is_macro(view: dict[str, Any], collection: dict[str, Any]) -> bool:
    """An image of all of the glass."""
    return all(view[f"size{axis}"] == collection[f"size{axis}"] and view[f"offset{axis}"] == 0 for axis in "XY")


def _begin(view: dict[str, Any], page: dict[str, Any], axis: str) -> int:
    """Nanometres to whole pixels of a page, cut off as OpenSlide does."""
    return int(view[f"offset{axis}"] / (view[f"size{axis}"] / page[f"size{axis}"]))
