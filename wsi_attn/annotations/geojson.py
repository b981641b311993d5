"""GeoJSON as QuPath reads and writes it: the one reader, the one writer, and the origin of coordinates.

QuPath crops a slide to the bounds stated by OpenSlide, so the origin of its coordinates is the corner of the bounds,
not that of level 0. GeoJSON written by this package is shifted by that corner and states it in the top-level member
`wsi_attn`; GeoJSON that is read is shifted back, by the stated offset or otherwise by the corner of the slide's bounds.
"""

from __future__ import annotations

import gzip
import json
import math
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict

import shapely
from shapely import Polygon

from wsi_attn.errors import TissueError
from wsi_attn.geometry import ORIGIN, Point
from wsi_attn.json_types import Json, JsonObject
from wsi_attn.outputs import files

MEMBER = "wsi_attn"
"""Foreign member of a FeatureCollection, which GeoJSON allows and QuPath ignores."""

RULE = "level-0 pixels of the whole slide minus offset, as QuPath counts them; add offset to get those of the slide"

GZIP_MAGIC = b"\x1f\x8b"
MAX_BYTES = 2 << 30
"""Maximum size of a document after decompression."""

DECIMALS = 3
"""Decimals of coordinates that are not integers of level-0 pixels."""

POLYGONS = ("Polygon", "MultiPolygon")
OTHERS = ("Point", "MultiPoint", "LineString", "MultiLineString")

Rings: TypeAlias = list[list[list[float]]]
"""Closed rings of one polygon: positions [x, y], exterior first."""

Colour: TypeAlias = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

ObjectType = Literal["annotation", "detection"]
"""QuPath shows both; annotations can be edited, detections are light enough to be many."""


class OnePolygon(TypedDict):
    """Geometry of a written feature."""

    type: Literal["Polygon"]
    coordinates: Rings


class SeveralPolygons(TypedDict):
    """Geometry of a written feature of several parts."""

    type: Literal["MultiPolygon"]
    coordinates: list[Rings]


Geometry: TypeAlias = OnePolygon | SeveralPolygons


class Feature(TypedDict):
    """A written object of QuPath."""

    type: str
    id: str
    geometry: Geometry
    properties: JsonObject


@dataclass(frozen=True)
class PathClass:
    """Classification of an object in QuPath, which stores a single colour per name."""

    name: str
    colour: Colour


@dataclass(frozen=True)
class Annotation:
    """A feature that was read.

    Attributes
    ----------
    class_name
        Empty if there is none; the first of several names.
    name
        Name of the object, empty if it has none.
    colour
        Of the class or the object; None if the file states none.
    polygons
        Valid, in level-0 pixels of the whole slide, exteriors from the top left to the top right; empty for points,
        lines and missing geometries.
    """

    class_name: str
    name: str
    colour: Colour | None
    polygons: tuple[Polygon, ...]


def feature(
    polygons: Sequence[Polygon],
    identity: uuid.UUID,
    kind: ObjectType,
    path_class: PathClass,
    measurements: Mapping[str, float],
    *,
    name: str = "",
    colour: Colour | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Feature:
    """Return one or several polygons in level-0 pixels as one object of QuPath.

    Parameters
    ----------
    colour
        Of the object; by default that of its class.
    """
    properties: JsonObject = {"objectType": kind}
    if name:
        properties["name"] = name
    if colour is not None:
        properties["color"] = list(colour)
    properties["classification"] = {"name": path_class.name, "color": list(path_class.colour)}
    properties["measurements"] = measurements
    if metadata is not None:
        properties["metadata"] = metadata
    return {
        "type": "Feature",
        "id": str(identity),
        "geometry": _geometry([positions(polygon) for polygon in polygons]),
        "properties": properties,
    }


def _geometry(polygons: list[Rings]) -> Geometry:
    if len(polygons) > 1:
        return {"type": "MultiPolygon", "coordinates": polygons}
    return {"type": "Polygon", "coordinates": polygons[0]}


def positions(polygon: Polygon) -> Rings:
    """Rings of a polygon as GeoJSON positions, closed, exterior first; integral values become integers."""
    return [
        [[_short(x), _short(y)] for x, y in shapely.get_coordinates(ring).tolist()]
        for ring in (polygon.exterior, *polygon.interiors)
    ]


def member(offset: Point, said: Mapping[str, Json]) -> JsonObject:
    """The value of `MEMBER` for a file with the origin `offset`, together with what else the file says."""
    return {"offset": list(offset), "coordinates": RULE, **said}


def shifted(each: Feature, offset: Point) -> Feature:
    """A feature in level-0 pixels of the whole slide, shifted for writing: its coordinates minus `offset`."""
    if offset == (0, 0):
        return each
    geometry = each["geometry"]
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    return {**each, "geometry": _geometry([_minus(part, offset) for part in parts])}


def write_features(
    path: Path, features: Iterable[Feature], origin: Point, said: Mapping[str, Json] | None = None
) -> int:
    """Write a FeatureCollection, one feature per line, atomically.

    Parameters
    ----------
    features
        In level-0 pixels of the whole slide.
    origin
        Corner of the slide's bounds: coordinates are shifted by it, and the file states it.
    said
        What else the member `MEMBER` contains.

    Returns
    -------
    The number of features.
    """
    head = json.dumps(member(origin, said or {}), ensure_ascii=False)
    count = 0
    with files.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"type": "FeatureCollection", "{MEMBER}": {head}, "features": [')
        for each in (shifted(each, origin) for each in features):
            file.write(("\n" if count == 0 else ",\n") + json.dumps(each, ensure_ascii=False, allow_nan=False))
            count += 1
        file.write("\n]}\n")
    return count


def read_annotations(path: Path, origin: Point = ORIGIN) -> list[Annotation]:
    """Read a GeoJSON file: a FeatureCollection, a list of Features, or one Feature, including nested ones.

    Parameters
    ----------
    origin
        Corner of the slide's bounds, the origin of coordinates in a file that does not state another.

    Raises
    ------
    TissueError : the file is not JSON or GeoJSON, or a feature is malformed; the message names it.
    """
    try:
        document = read_document(path)
    except OSError as error:
        raise TissueError(f"Cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise TissueError(f"{path} is not JSON: {error}") from error
    try:
        offset = _offset_of(document, origin)
    except ValueError as error:
        raise TissueError(f"{path}: {error}") from error
    found = []
    for where, each in _features(document, path):
        try:
            found.append(_annotation(each, offset))
        except (ValueError, TypeError) as error:
            raise TissueError(f"{path}: {where}: {error}") from error
    return found


def read_document(path: Path) -> Json:
    """The JSON document of a file, gzip-compressed or not.

    Raises
    ------
    OSError : the file cannot be read.
    ValueError, RecursionError : not JSON, or a damaged or huge gzip stream.
    """
    with path.open("rb") as file:
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    if not compressed:
        plain: Json = json.loads(path.read_bytes())
        return plain
    try:
        with gzip.open(path) as unfolded:
            data = unfolded.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"damaged gzip: {error}") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 30} GiB when decompressed")
    unpacked: Json = json.loads(data)
    return unpacked


def _offset_of(document: Json, origin: Point) -> tuple[float, float]:
    """Offset to add to a document's coordinates: that in its member `MEMBER`, (0, 0) if it has none; else `origin`."""
    if not isinstance(document, dict) or MEMBER not in document:
        return float(origin.x), float(origin.y)
    said = document[MEMBER]
    offset = said.get("offset", [0, 0]) if isinstance(said, dict) else [0, 0]
    if not isinstance(offset, list) or len(offset) != 2 or not all(map(_is_number, offset)):
        raise ValueError(f"the offset in its member {MEMBER!r} is not two numbers [x, y] but {json.dumps(offset)[:60]}")
    return float(offset[0]), float(offset[1])


def _annotation(each: Mapping[str, Json], offset: tuple[float, float]) -> Annotation:
    properties = each.get("properties")
    if properties is None:
        properties = {}
    if not isinstance(properties, dict):
        raise ValueError("its properties are not an object")
    classification, name = properties.get("classification"), properties.get("name")
    given = classification.get("color") if isinstance(classification, dict) else None
    polygons = [part for polygon in _polygons(each.get("geometry")) for part in _valid(polygon, offset)]
    return Annotation(
        _class_name(classification),
        name if isinstance(name, str) else "",
        _colour(given or properties.get("color")),
        tuple(polygons),
    )


def _features(document: Json, path: Path) -> list[tuple[str, JsonObject]]:
    """Yield features with their location in the file, counted from 1, children after their parents."""
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        members = document.get("features")
    elif isinstance(document, dict) and document.get("type") == "Feature":
        members = [document]
    else:
        members = document
    if not isinstance(members, list):
        raise TissueError(f"{path} is not GeoJSON: expected a FeatureCollection, a list of Features, or one Feature")
    return list(_walk(members, "feature ", path))


def _walk(members: Sequence[Json], prefix: str, path: Path) -> Iterator[tuple[str, JsonObject]]:
    for number, each in enumerate(members, start=1):
        where = f"{prefix}{number}"
        if not isinstance(each, dict) or each.get("type") != "Feature":
            raise TissueError(f"{path}: {where}: expected an object of type Feature")
        yield where, each
        properties = each.get("properties")
        children = properties.get("childObjects") if isinstance(properties, dict) else None
        children = children or each.get("childObjects")
        if children is not None:
            if not isinstance(children, list):
                raise TissueError(f"{path}: {where}: childObjects is not a list")
            yield from _walk(children, f"{where}.", path)


def _polygons(geometry: Json) -> list[Polygon]:
    """Polygons of a geometry; empty for points, lines and missing geometries."""
    if geometry is None:
        return []
    if not isinstance(geometry, dict):
        raise ValueError("its geometry is not an object")
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind in OTHERS:
        return []
    if kind == "GeometryCollection":
        members = geometry.get("geometries")
        if not isinstance(members, list):
            raise ValueError("a GeometryCollection has no geometries")
        return [polygon for member in members for polygon in _polygons(member)]
    if kind not in POLYGONS:
        raise ValueError(f"unknown geometry {kind!r}; expected {' or '.join(POLYGONS)}")
    if not isinstance(coordinates, list):
        raise ValueError(f"a {kind} has no coordinates")
    return [_polygon(rings) for rings in ([coordinates] if kind == "Polygon" else coordinates) if rings != []]


def _polygon(rings: Json) -> Polygon:
    if not isinstance(rings, list):
        raise ValueError("a polygon must be a list of rings")
    exterior, *holes = [_ring(ring) for ring in rings]
    return Polygon(exterior, holes)


def _ring(found: Json) -> list[tuple[float, float]]:
    """Corners of a ring without the repeated last one."""
    if not isinstance(found, list):
        raise ValueError("a ring must be a list of positions")
    corners = []
    for position in found:
        numbers = position[:2] if isinstance(position, list) else []
        if len(numbers) != 2 or not all(_is_number(number) for number in numbers):
            raise ValueError(f"a position must be two finite numbers, not {json.dumps(position)[:60]}")
        corners.append((float(numbers[0]), float(numbers[1])))
    if len(corners) > 1 and corners[0] == corners[-1]:
        corners.pop()
    if len(corners) < 3:
        raise ValueError(f"a ring needs at least 3 corners and has {len(corners)}")
    return corners


def _valid(polygon: Polygon, offset: tuple[float, float]) -> Iterator[Polygon]:
    """Polygon in level-0 pixels; one whose lines cross becomes the parts that the even-odd rule fills."""
    moved = polygon if offset == (0, 0) else shapely.transform(polygon, lambda corners: corners + offset)
    for part in shapely.get_parts(moved if moved.is_valid else shapely.make_valid(moved)):
        if isinstance(part, Polygon):  # and not a line that has no area
            yield shapely.orient_polygons(part)


def _class_name(found: Json) -> str:
    if isinstance(found, dict):
        names = found.get("names")
        found = found.get("name") or (names[0] if isinstance(names, list) and names else None)
    return found.strip() if isinstance(found, str) else ""


def _colour(found: Json) -> Colour | None:
    if not isinstance(found, list) or len(found) != 3 or not all(map(_is_number, found)):
        return None
    red, green, blue = (int(part) & 255 for part in found)
    return red, green, blue


def _minus(rings: Rings, offset: Point) -> Rings:
    return [[[_short(x - offset.x), _short(y - offset.y)] for x, y in ring] for ring in rings]


def _short(value: float) -> float:
    rounded = round(value, DECIMALS)
    return int(rounded) if rounded == int(rounded) else rounded


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
