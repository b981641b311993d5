"""Tissue as GeoJSON in the format of QuPath: to inspect, to correct by hand and to read back."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsi_attn import geojson
from wsi_attn.errors import TissueError
from wsi_attn.geojson import DECIMALS
from wsi_attn.geometry import ORIGIN, Frame, Mpp, Point, Size
from wsi_attn.slide import Progress, Slide, UInt8Array, no_progress
from wsi_attn.tissue.find import find_tissue, tissue_view
from wsi_attn.tissue.mask import BoolArray, TissueMask
from wsi_attn.tissue.rings import Polygon, Ring, fill_polygons, ring_area, simplified, trace_polygons
from wsi_attn.tissue.rules import CHROMA_RANGE, Rule, fit_rule, smooth
from wsi_attn.tissue.settings import TissueSettings, tissue_file

NAMESPACE = uuid.UUID("0f6a4a53-5e0c-5b0e-9a0e-6d1c1d9ad7c4")
CLASS_NAME, CLASS_COLOUR = "Tissue", (27, 120, 55)

NOT_TISSUE = ("ignore", "background", "glass")
"""Prefixes, in any case, of class names whose regions are excluded from tissue; QuPath's `Ignore*` is one."""

POLYGONS = ("Polygon", "MultiPolygon")
OTHERS = ("Point", "MultiPoint", "LineString", "MultiLineString")


@dataclass(frozen=True)
class Regions:
    """Regions in a GeoJSON file."""

    tissue: tuple[Polygon, ...]
    background: tuple[Polygon, ...]
    """Excluded regions, whatever contains them."""

    ignored: int
    """Number of features without area: points, lines and empty geometries."""


def tissue_polygons(mask: TissueMask, tolerance: float = 0.0) -> list[Polygon]:
    """Outline the pieces of a mask along pixel edges.

    Parameters
    ----------
    tolerance
        Maximum displacement of an outline in level-0 pixels to reduce its corners; 0 keeps every corner.
    """
    polygons = trace_polygons(mask.mask, mask.frame, mask.size0)
    return [simplified(polygon, tolerance) for polygon in polygons] if tolerance > 0 else polygons


def tissue_to_geojson(mask: TissueMask, fingerprint: str, mpp: Mpp | None, tolerance: float = 0.0) -> dict[str, Any]:
    """Return a FeatureCollection of QuPath annotations, one per piece of tissue, with holes, largest first.

    Coordinates are level-0 pixels of the whole slide; see `geojson.shifted` for the coordinates in files.
    `measurements` contains the area in µm² if the pixel size is known, otherwise in level-0 pixels squared. An `id`
    depends only on the slide's fingerprint and the outline.
    """
    unit, factor = ("area µm²", mpp.x * mpp.y) if mpp else ("area px²", 1.0)
    polygons = sorted(tissue_polygons(mask, tolerance), key=lambda polygon: -polygon.area)
    features = []
    for rank, polygon in enumerate(polygons, start=1):
        coordinates = [_closed(ring) for ring in (polygon.exterior, *polygon.holes)]
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(NAMESPACE, f"{fingerprint}:{json.dumps(coordinates)}")),
                "geometry": {"type": "Polygon", "coordinates": coordinates},
                "properties": {
                    "objectType": "annotation",
                    "name": f"{CLASS_NAME} {rank}",
                    "classification": {"name": CLASS_NAME, "color": list(CLASS_COLOUR)},
                    "measurements": {unit: round(polygon.area * factor, 3)},
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def features_digest(collection: dict[str, Any]) -> str:
    """SHA-256 of the features, to detect manual changes to a file."""
    return hashlib.sha256(json.dumps(collection["features"], sort_keys=True).encode()).hexdigest()


def read_tissue(
    slide: Slide, tissue: str, *, workers: int | None = None, progress: Progress = no_progress
) -> TissueMask:
    """Find the tissue of a slide, or read it from a file on the same view.

    Parameters
    ----------
    tissue
        A method of `detect.METHODS`, or a GeoJSON file.

    Raises
    ------
    As `find_tissue` and `tissue_from_geojson`.
    """
    if (file := tissue_file(tissue)) is None:
        return find_tissue(slide, TissueSettings(tissue), workers=workers, progress=progress)
    view = tissue_view(slide, workers=workers, progress=progress)
    info = slide.info
    return tissue_from_geojson(
        file, view.frame, info.size0, origin=info.origin, pixels=view.pixels, readable=view.readable
    )


def tissue_from_geojson(
    path: Path,
    frame: Frame,
    size0: Size,
    *,
    origin: Point = ORIGIN,
    pixels: UInt8Array | None = None,
    readable: BoolArray | None = None,
) -> TissueMask:
    """Read a tissue mask from a GeoJSON file drawn or corrected in QuPath; its method is "file".

    Parameters
    ----------
    frame, size0
        Position of the mask in level-0 coordinates, and the size of the slide.
    origin
        Corner of the slide's bounds, the origin of coordinates in a file that does not state another.
    pixels
        uint8 (rows, columns, 3), the view of the slide in that frame; the rule of the mask is then fitted to the
        regions. Without it, or if all or nothing is tissue, the rule is chroma above the lower bound of
        `CHROMA_RANGE`.
    readable
        bool (rows, columns), False where the view could not be read; such pixels are never tissue.

    Raises
    ------
    TissueError : the file is unreadable or malformed, contains no tissue, or lies outside the slide.
    """
    regions = read_regions(path, origin)
    if regions.background and not regions.tissue:
        raise TissueError(f"{path}: no region is classified as tissue; draw the tissue too")
    if regions.tissue and not any(_meets(polygon, size0) for polygon in regions.tissue):
        raise TissueError(
            f"{path}: no region lies on the slide, which is {size0.width} x {size0.height} px; coordinates must be "
            "level-0 pixels of this slide relative to the corner of its bounds, as in QuPath"
        )
    seen = np.ones((frame.size.height, frame.size.width), np.bool_) if readable is None else readable
    mask = fill_polygons(regions.tissue, frame, size0) & ~fill_polygons(regions.background, frame, size0) & seen
    rule = Rule("chroma", CHROMA_RANGE[0])
    if pixels is not None and seen.any():
        rule = fit_rule(smooth(pixels, seen), mask, seen)
    return TissueMask(mask, frame, "file", rule.measure, rule.threshold, seen, size0)


def read_regions(path: Path, origin: Point = ORIGIN) -> Regions:
    """Read the polygons of a GeoJSON file: a FeatureCollection, a list of Features, or one Feature, including
    nested ones.

    Every polygon is tissue unless its class matches `NOT_TISSUE`. Coordinates are as in `classified_polygons`.

    Raises
    ------
    TissueError : the file is not JSON or GeoJSON, a feature is malformed (the message names it), or no feature is a
        polygon.
    """
    tissue: list[Polygon] = []
    background: list[Polygon] = []
    ignored = 0
    found = classified_polygons(path, origin)
    for name, polygons in found:
        if not polygons:
            ignored += 1
        (background if name.casefold().startswith(NOT_TISSUE) else tissue).extend(polygons)
    if found and ignored == len(found):
        raise TissueError(f"{path}: none of its {ignored} features is a polygon; draw tissue as areas, not as lines")
    return Regions(tuple(tissue), tuple(background), ignored)


def classified_polygons(
    path: Path,
    origin: Point = ORIGIN,
) -> list[tuple[str, list[Polygon]]]:
    """Return the class name (empty if none) and the polygons of every feature of a file.

    Points and lines are features without polygons.

    Parameters
    ----------
    origin
        Corner of the slide's bounds, the origin of coordinates in a file that does not state another.

    Returns
    -------
    Polygons in level-0 pixels of the whole slide.

    Raises
    ------
    TissueError : the file is not JSON or GeoJSON, or a feature is malformed; the message names it.
    """
    try:
        document = geojson.read_document(path)
    except OSError as error:
        raise TissueError(f"Cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise TissueError(f"{path} is not JSON: {error}") from error
    try:
        offset = geojson.offset_of(document, origin)
    except ValueError as error:
        raise TissueError(f"{path}: {error}") from error
    found = []
    for where, feature in _features(document, path):
        try:
            found.append((_class_name(feature.get("properties")), _moved(_polygons(feature.get("geometry")), offset)))
        except (ValueError, TypeError) as error:
            raise TissueError(f"{path}: {where}: {error}") from error
    return found


def _moved(polygons: list[Polygon], offset: tuple[float, float]) -> list[Polygon]:
    if offset == (0, 0):
        return polygons
    return [Polygon(each.exterior + offset, tuple(hole + offset for hole in each.holes)) for each in polygons]


def _features(document: Any, path: Path) -> list[tuple[str, dict[str, Any]]]:
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


def _walk(members: Sequence[Any], prefix: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, feature in enumerate(members, start=1):
        where = f"{prefix}{number}"
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise TissueError(f"{path}: {where}: expected an object of type Feature")
        yield where, feature
        properties = feature.get("properties")
        children = properties.get("childObjects") if isinstance(properties, dict) else None
        children = children or feature.get("childObjects")
        if children is not None:
            if not isinstance(children, list):
                raise TissueError(f"{path}: {where}: childObjects is not a list")
            yield from _walk(children, f"{where}.", path)


def _polygons(geometry: Any) -> list[Polygon]:
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


def _polygon(rings: Any) -> Polygon:
    if not isinstance(rings, list):
        raise ValueError("a polygon must be a list of rings")
    exterior, *holes = [_ring(ring) for ring in rings]
    return Polygon(_turned(exterior, 1), tuple(_turned(hole, -1) for hole in holes))


def _ring(positions: Any) -> Ring:
    """Corners of a ring without the repeated last one."""
    if not isinstance(positions, list):
        raise ValueError("a ring must be a list of positions")
    corners = []
    for position in positions:
        numbers = position[:2] if isinstance(position, list) else []
        if len(numbers) != 2 or not all(_is_number(number) for number in numbers):
            raise ValueError(f"a position must be two finite numbers, not {json.dumps(position)[:60]}")
        corners.append((float(numbers[0]), float(numbers[1])))
    if len(corners) > 1 and corners[0] == corners[-1]:
        corners.pop()
    if len(corners) < 3:
        raise ValueError(f"a ring needs at least 3 corners and has {len(corners)}")
    return np.asarray(corners, np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _turned(ring: Ring, sign: int) -> Ring:
    return ring if ring_area(ring) * sign >= 0 else ring[::-1]


def _class_name(properties: Any) -> str:
    """Class name of a feature, empty if none; for a derived class, `A: B`, the first part."""
    if properties is None:
        return ""
    if not isinstance(properties, dict):
        raise ValueError("its properties are not an object")
    found = properties.get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        found = found.get("name") or (names[0] if isinstance(names, list) and names else None)
    return found.strip() if isinstance(found, str) else ""


def _meets(polygon: Polygon, size0: Size) -> bool:
    low, high = polygon.exterior.min(axis=0), polygon.exterior.max(axis=0)
    return bool((low < size0).all() and (high > 0).all())


def _closed(ring: Ring) -> list[list[float]]:
    """Positions of a ring with the first one repeated; integral values become integers."""
    corners = [[_short(x), _short(y)] for x, y in ring.tolist()]
    return [*corners, corners[0]]


def _short(value: float) -> float:
    rounded = round(value, DECIMALS)
    return int(rounded) if rounded == int(rounded) else rounded
