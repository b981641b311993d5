"""GeoJSON files and the origin of their coordinates.

QuPath crops a slide to the bounds stated by OpenSlide, so the origin of its coordinates is the corner of the bounds,
not that of level 0. GeoJSON written by this package is shifted by that corner and states it in the top-level member
`wsi_attn`; GeoJSON that is read is shifted back, by the stated offset or otherwise by the corner of the slide's bounds.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from pathlib import Path
from typing import Any

from wsi_attn.geometry import Point

MEMBER = "wsi_attn"
"""Foreign member of a FeatureCollection, which GeoJSON allows and QuPath ignores."""

RULE = "level-0 pixels of the whole slide minus offset, as QuPath counts them; add offset to get those of the slide"

GZIP_MAGIC = b"\x1f\x8b"
MAX_BYTES = 2 << 30
"""Maximum size of a document after decompression."""

DECIMALS = 3
"""Decimals of coordinates that are not integers of level-0 pixels."""


def member(offset: Point, **more: Any) -> dict[str, Any]:
    """The value of `MEMBER` for a file with the origin `offset`, together with `more`."""
    return {"offset": list(offset), "coordinates": RULE, **more}


def shifted(feature: dict[str, Any], offset: Point) -> dict[str, Any]:
    """A Feature in level-0 pixels of the whole slide, shifted for writing: its coordinates minus `offset`.

    Parameters
    ----------
    feature
        Has a geometry with `coordinates`.
    offset
        Corner of the slide's bounds, level-0 pixels.
    """
    if offset == (0, 0):
        return feature
    geometry = feature["geometry"]
    return {**feature, "geometry": {**geometry, "coordinates": _minus(geometry["coordinates"], offset)}}


def read_document(path: Path) -> Any:
    """The JSON document of a file, gzip-compressed or not.

    Raises
    ------
    OSError : the file cannot be read.
    ValueError, RecursionError : not JSON, or a damaged or huge gzip stream.
    """
    with path.open("rb") as file:
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    if not compressed:
        return json.loads(path.read_bytes())
    try:
        with gzip.open(path) as unfolded:
            data = unfolded.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"damaged gzip: {error}") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 30} GiB when decompressed")
    return json.loads(data)


def offset_of(document: Any, origin: Point) -> tuple[float, float]:
    """Offset to add to a document's coordinates to obtain level-0 pixels of the whole slide.

    Parameters
    ----------
    document
        The parsed document. If it has a member `MEMBER`, the `offset` in it applies, or (0, 0) if it has none.
    origin
        Corner of the slide's bounds, which applies to all other files.

    Raises
    ------
    ValueError : the offset is not two finite numbers.
    """
    if not isinstance(document, dict) or MEMBER not in document:
        return float(origin.x), float(origin.y)
    said = document[MEMBER]
    offset = said.get("offset", [0, 0]) if isinstance(said, dict) else [0, 0]
    if not isinstance(offset, list) or len(offset) != 2 or not all(map(_is_number, offset)):
        raise ValueError(f"the offset in its member {MEMBER!r} is not two numbers [x, y] but {json.dumps(offset)[:60]}")
    return float(offset[0]), float(offset[1])


def _minus(coordinates: Any, offset: Point) -> Any:
    if coordinates and not isinstance(coordinates[0], list):
        x, y, *more = coordinates
        return [_short(x - offset.x), _short(y - offset.y), *more]
    return [_minus(part, offset) for part in coordinates]


def _short(value: float) -> float:
    return value if isinstance(value, int) else round(value, DECIMALS)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
