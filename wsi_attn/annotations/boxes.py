"""Boxes: written as text, in VOC and COCO files and around the pieces of a mask, and as a raster."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.annotations.geojson import read_document
from wsi_attn.errors import ManifestError
from wsi_attn.geometry import Size
from wsi_attn.json_types import Json
from wsi_attn.tissue.settings import GEOJSON_SUFFIXES

MAX_XML_BYTES = 4 << 20
"""Maximum size of a VOC file; the annotations of one image take kilobytes."""

XML_DECLARATIONS = re.compile(rb"<!\s*(DOCTYPE|ENTITY)|\x00", re.IGNORECASE)
"""Markup that VOC files do not need but attacks use: entities, and encodings that would hide them."""

VOC_SIDES = ("xmin", "ymin", "xmax", "ymax")

PADDING = 0.05
"""Padding on each side as a share of the side of the box."""

LEAST_WEIGHT = 0.5
"""Components of a mask below this share of the largest weight are treated as noise."""

LEAST_AREA, MOST_AREA = 0.01, 0.9
"""Limits of the image share covered by all boxes; outside them the image gets no boxes."""

Sides: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in level-0 pixels."""


class Box(NamedTuple):
    """Left, top, right, bottom in integer level-0 pixels, right and bottom excluded."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True)
class FoundBoxes:
    """Boxes found on one image.

    Attributes
    ----------
    boxes
        Sorted by decreasing weight; empty if no box passes the limits.
    scores
        Mean saliency, or probability of an object, inside each box minus that outside all boxes, -1 to 1.
    """

    boxes: tuple[Box, ...]
    scores: tuple[float, ...]


def boxes_from(
    salience: NDArray[np.float32], mask: NDArray[np.bool_], size0: Size, least: float = LEAST_AREA
) -> FoundBoxes:
    """Return boxes around the heavy components of a mask, unless they cover too little or too much of the image.

    Parameters
    ----------
    salience
        float32 (rows, columns), 0 to 1, a raster of the whole slide; weights the components and scores the boxes.
    mask
        bool (rows, columns), object pixels.
    size0
        Width and height of the slide.
    least
        Minimum share of the image that the boxes must cover together.
    """
    boxes = boxes_of_mask(mask, size0, salience)
    inside = box_mask(boxes, size0, salience.shape)
    if not boxes or not least <= inside.mean() <= MOST_AREA:
        return FoundBoxes((), ())
    outside = float(salience[~inside].mean())
    scores = [float(salience[box_mask([box], size0, salience.shape)].mean()) - outside for box in boxes]
    return FoundBoxes(tuple(boxes), tuple(scores))


def boxes_of_mask(
    mask: NDArray[np.bool_],
    size0: Size,
    weight: NDArray[np.float32] | None = None,
    padding: float = PADDING,
    least: float = LEAST_WEIGHT,
) -> list[Box]:
    """Return a box around each 8-connected component of a mask with enough weight, by decreasing weight.

    Parameters
    ----------
    mask
        bool (rows, columns), a raster of the whole slide.
    size0
        Width and height of the slide.
    weight
        float32 (rows, columns), weight of each pixel; equal by default.
    padding
        Padding on each side as a share of the side of the box; boxes are clipped to the slide.
    least
        Minimum weight of a component as a share of the largest.
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    weights = np.bincount(labels.ravel(), None if weight is None else weight.ravel(), count)[1:]
    kept = [part for part in np.argsort(-weights, kind="stable").tolist() if weights[part] >= least * weights.max()]
    scale_x, scale_y = size0.width / mask.shape[1], size0.height / mask.shape[0]
    boxes = []
    for x, y, width, height, _ in statistics[1:][kept].tolist():
        more_x, more_y = padding * width, padding * height
        boxes.append(
            Box(
                max(0, math.floor((x - more_x) * scale_x)),
                max(0, math.floor((y - more_y) * scale_y)),
                min(size0.width, math.ceil((x + width + more_x) * scale_x)),
                min(size0.height, math.ceil((y + height + more_y) * scale_y)),
            )
        )
    return boxes


def overlap(found: NDArray[np.bool_], given: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two regions; 0 if both are empty."""
    union = int((found | given).sum())
    return int((found & given).sum()) / union if union else 0.0


def as_text(boxes: Sequence[Box]) -> str:
    """Format boxes for the `boxes` column of a manifest."""
    return "; ".join(" ".join(map(str, box)) for box in boxes)


def box_mask(boxes: Sequence[Sides], size0: Size, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the union of boxes on a raster (rows, columns) of the whole slide; pixels that a box touches count."""
    mask = np.zeros(shape, np.bool_)
    scale_y, scale_x = shape[0] / size0.height, shape[1] / size0.width
    for x1, y1, x2, y2 in boxes:
        rows = slice(math.floor(y1 * scale_y), math.ceil(y2 * scale_y))
        columns = slice(math.floor(x1 * scale_x), math.ceil(x2 * scale_x))
        mask[rows, columns] = True
    return mask


def parse_boxes(where: str, text: str) -> list[Sides]:
    """Parse boxes `x1 y1 x2 y2`, several separated by `;`.

    Raises
    ------
    ManifestError : not four finite numbers, or an empty or inverted box; the message starts with `where`.
    """
    boxes = []
    for number, part in enumerate(filter(None, map(str.strip, text.split(";"))), 1):
        try:
            sides = [float(side) for side in part.split()]
        except ValueError:
            sides = []
        if len(sides) != 4 or not all(map(math.isfinite, sides)):
            raise ManifestError(f"{where}: box {number} ({part}) is not four numbers x1 y1 x2 y2 in pixels")
        x1, y1, x2, y2 = sides
        if x1 >= x2 or y1 >= y2:
            raise ManifestError(f"{where}: box {number} ({part}) is empty or inverted; a box needs x1 < x2 and y1 < y2")
        boxes.append((x1, y1, x2, y2))
    return boxes


def read_boxes(where: str, text: str, image: Path, size0: Size) -> list[Sides]:
    """Read the boxes of an image from text, or from the VOC or COCO file that it names.

    Parameters
    ----------
    where
        Start of messages, such as "row 3".
    image
        Path of the image, which COCO files identify by name.
    size0
        Width and height of the image; boxes must lie inside.

    Raises
    ------
    ManifestError : boxes that are empty, inverted, or outside the image; a file that cannot be read or has no
        annotation of this image.
    """
    name = text.lower()
    if name.endswith(".xml"):
        where = f"{where}, {text}"
        found = _voc_boxes(where, Path(text), image, size0)
    elif name.endswith(GEOJSON_SUFFIXES):
        where = f"{where}, {text}"
        found = _coco_boxes(where, Path(text), image, size0)
    else:
        found = parse_boxes(where, text)
    for number, (x1, y1, x2, y2) in enumerate(found, 1):
        said = f"{where}: box {number} ({x1:g} {y1:g} {x2:g} {y2:g})"
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            raise ManifestError(f"{said} is not four finite numbers")
        if x2 <= x1 or y2 <= y1:
            raise ManifestError(f"{said} is empty or inverted; a box is x1 y1 x2 y2 with x1 < x2 and y1 < y2")
        if min(x1, y1) < 0 or x2 > size0.width or y2 > size0.height:
            raise ManifestError(f"{said} reaches outside {image}, which is {size0.width} x {size0.height} px")
    return found


def _voc_boxes(where: str, path: Path, image: Path, size0: Size) -> list[Sides]:
    """Read the boxes of a Pascal VOC file.

    The standard library's parser reads the file after a check that it cannot expand: no document type, no
    entities, no encoding that could hide them, and at most `MAX_XML_BYTES` bytes.
    """
    data = path.read_bytes()
    if len(data) > MAX_XML_BYTES or XML_DECLARATIONS.search(data):
        raise ManifestError(f"{where}: not an accepted VOC file: larger than 4 MB, not UTF-8, or with a document type")
    try:
        root = ElementTree.fromstring(data)  # noqa: S314 - checked above
    except ElementTree.ParseError as error:
        raise ManifestError(f"{where}: not XML: {error}") from error
    except (LookupError, ValueError) as error:  # Unknown encoding.
        raise ManifestError(f"{where}, line 1: not XML in UTF-8: {error}") from error
    lines = [data.count(b"\n", 0, found.start()) + 1 for found in re.finditer(rb"<bndbox\b", data)]
    _check_frame(where, image, root.findtext("size/width"), root.findtext("size/height"), size0)
    boxes = []
    for number, found in enumerate(root.iter("bndbox"), 1):
        try:
            x1, y1, x2, y2 = (float(found.findtext(side, "")) for side in VOC_SIDES)
        except ValueError as error:
            raise ManifestError(
                f"{where}, line {lines[number - 1]}: box {number} lacks one of {', '.join(VOC_SIDES)} as a number"
            ) from error
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            raise ManifestError(f"{where}, line {lines[number - 1]}: box {number} is not four finite numbers")
        boxes.append((x1, y1, x2, y2))
    return boxes


def is_coco(where: str, path: Path) -> bool:
    """Return whether a JSON file is COCO rather than GeoJSON.

    Raises
    ------
    ManifestError : it is not JSON.
    """
    document = _json(f"{where}, {path}", path)
    return isinstance(document, dict) and "annotations" in document and "images" in document


def _json(where: str, path: Path) -> Json:
    try:
        return read_document(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: cannot be read as JSON: {error}") from error


def _coco_boxes(where: str, path: Path, image: Path, size0: Size) -> list[Sides]:
    """Read the boxes of an image, found by file name, in a COCO file; `bbox` is x, y, width, height."""
    document: Any = _json(where, path)  # its structure is checked by use
    try:
        named = [each for each in document["images"] if Path(each["file_name"]).name == image.name]
        if not named:
            raise ManifestError(f"{where}: has no entry for the image {image.name}")
        for each in named:
            _check_frame(where, image, each.get("width"), each.get("height"), size0)
        wanted = [each["id"] for each in named]
        boxes = [found["bbox"] for found in document["annotations"] if found["image_id"] in wanted]
        return [(float(x), float(y), float(x) + float(w), float(y) + float(h)) for x, y, w, h in boxes]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{where}: not COCO: {error!r}") from error


def _check_frame(where: str, image: Path, width: str | float | None, height: str | float | None, size0: Size) -> None:
    """Refuse boxes drawn on a copy of another size; annotations without a size, or with size 0, are accepted."""
    try:
        said = round(float(width or 0)), round(float(height or 0))
    except (TypeError, ValueError, OverflowError) as error:
        raise ManifestError(f"{where}: {width!r} x {height!r} is not a valid image size") from error
    if min(said) > 0 and said != tuple(size0):
        raise ManifestError(
            f"{where}: the boxes belong to an image of {said[0]} x {said[1]} px, but {image} is {size0.width} x "
            f"{size0.height} px: convert them to its level-0 pixels"
        )
