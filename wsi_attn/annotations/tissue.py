"""Tissue masks as annotations of QuPath: to inspect, to correct by hand and to read back."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_attn.annotations.geojson import Feature, PathClass, feature, positions, read_annotations
from wsi_attn.annotations.polygons import Polygon, fill_polygons, simplified, trace_polygons
from wsi_attn.errors import TissueError
from wsi_attn.geometry import ORIGIN, Frame, Mpp, Point, Size
from wsi_attn.slide import UInt8Array
from wsi_attn.tissue.mask import BoolArray, TissueMask
from wsi_attn.tissue.rules import CHROMA_RANGE, Rule, fit_rule, smooth

NAMESPACE = uuid.UUID("0f6a4a53-5e0c-5b0e-9a0e-6d1c1d9ad7c4")
TISSUE = PathClass("Tissue", (27, 120, 55))

NOT_TISSUE = ("ignore", "background", "glass")
"""Prefixes, in any case, of class names whose regions are excluded from tissue; QuPath's `Ignore*` is one."""


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


def tissue_features(mask: TissueMask, fingerprint: str, mpp: Mpp | None, tolerance: float = 0.0) -> list[Feature]:
    """Return QuPath annotations, one per piece of tissue, with holes, largest first.

    Coordinates are level-0 pixels of the whole slide. `measurements` contains the area in µm² if the pixel size is
    known, otherwise in level-0 pixels squared. An `id` depends only on the slide's fingerprint and the outline.
    """
    unit, factor = ("area µm²", mpp.x * mpp.y) if mpp else ("area px²", 1.0)
    polygons = sorted(tissue_polygons(mask, tolerance), key=lambda polygon: -polygon.area)
    return [
        feature(
            [polygon],
            uuid.uuid5(NAMESPACE, f"{fingerprint}:{json.dumps(positions(polygon))}"),
            "annotation",
            TISSUE,
            {unit: round(polygon.area * factor, 3)},
            name=f"{TISSUE.name} {rank}",
        )
        for rank, polygon in enumerate(polygons, start=1)
    ]


def features_digest(features: Sequence[object]) -> str:
    """SHA-256 of the features of a file, to detect manual changes to it."""
    return hashlib.sha256(json.dumps(features, sort_keys=True).encode()).hexdigest()


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
    """Read the polygons of a file; every polygon is tissue unless its class matches `NOT_TISSUE`.

    Raises
    ------
    TissueError : as `read_annotations`, or no feature is a polygon.
    """
    found = read_annotations(path, origin)
    tissue: list[Polygon] = []
    background: list[Polygon] = []
    for each in found:
        (background if each.class_name.casefold().startswith(NOT_TISSUE) else tissue).extend(each.polygons)
    ignored = sum(not each.polygons for each in found)
    if found and ignored == len(found):
        raise TissueError(f"{path}: none of its {ignored} features is a polygon; draw tissue as areas, not as lines")
    return Regions(tuple(tissue), tuple(background), ignored)


def _meets(polygon: Polygon, size0: Size) -> bool:
    left, top, right, bottom = polygon.bounds
    return left < size0.width and top < size0.height and right > 0 and bottom > 0
