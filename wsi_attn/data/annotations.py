"""Annotated regions of a manifest row (boxes, polygons or a mask) as a raster of the whole slide.

Training only validates them, unless attention guidance uses them; evaluation compares attention with them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.data.manifest import Row, parse_boxes
from wsi_attn.errors import ManifestError, SlideError, TissueError
from wsi_attn.geojson import read_document
from wsi_attn.geometry import ORIGIN, Frame, Point, Size
from wsi_attn.slides.mosaic import image_size
from wsi_attn.slides.open import open_slide
from wsi_attn.tissue.polygons import Regions, read_regions
from wsi_attn.tissue.rings import Polygon, fill_polygons

MAX_XML_BYTES = 4 << 20
"""Maximum size of a VOC file; the annotations of one image take kilobytes."""

XML_DECLARATIONS = re.compile(rb"<!\s*(DOCTYPE|ENTITY)|\x00", re.IGNORECASE)
"""Markup that VOC files do not need but attacks use: entities, and encodings that would hide them."""

VOC_SIDES = ("xmin", "ymin", "xmax", "ymax")

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in level-0 pixels."""


def region_mask(
    row: Row,
    size0: Size,
    shape: tuple[int, int],
    origin: Point = ORIGIN,
) -> NDArray[np.bool_] | None:
    """Return the annotated regions of a row on a raster of the whole slide.

    Parameters
    ----------
    row
        Its `boxes` are used if present, otherwise its `mask`.
    size0
        Width and height of the slide, level-0 pixels.
    shape
        Rows and columns of the raster; pixels need not be square or an integral number of level-0 pixels.
    origin
        Corner of the slide's bounds, the origin of GeoJSON coordinates.

    Returns
    -------
    bool (rows, columns), True for pixels that overlap a box or a nonzero pixel of the mask, and for pixels whose centre
    lies in a polygon or that contain a vertex of its outline. None if the row has no annotation.

    Raises
    ------
    ManifestError : boxes that are empty, inverted, or outside the image; a file that cannot be read or has no
        annotation of this image; a mask whose shape differs from the image. The message names the row and the file.
    """
    if row.boxes:
        if row.boxes.lower().endswith((".json", ".geojson")) and not _is_coco(row):
            return _polygon_mask(row, size0, shape, origin)
        return box_mask(_boxes(row, size0), size0, shape)
    if row.mask is None:
        return None
    if row.mask.suffix.lower() in (".json", ".geojson"):  # Polygons, as for segmentation.
        return _polygon_mask(replace(row, boxes=str(row.mask)), size0, shape, origin)
    return _image_mask(row, row.mask, size0, shape)


def check_regions(row: Row, size0: Size, origin: Point = ORIGIN) -> None:
    """Check that the boxes of a row, if any, lie on the slide; raises like `region_mask`."""
    if row.boxes:
        region_mask(row, size0, (1, 1), origin)


def _boxes(row: Row, size0: Size) -> list[Box]:
    where = f"row {row.number}"
    name = row.boxes.lower()
    if name.endswith(".xml"):
        found, where = _voc_boxes(row, size0), f"{where}, {row.boxes}"
    elif name.endswith((".json", ".geojson")):
        found, where = _coco_boxes(row, size0), f"{where}, {row.boxes}"
    else:
        found = parse_boxes(where, row.boxes)
    for number, (x1, y1, x2, y2) in enumerate(found, 1):
        said = f"{where}: box {number} ({x1:g} {y1:g} {x2:g} {y2:g})"
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            raise ManifestError(f"{said} is not four finite numbers")
        if x2 <= x1 or y2 <= y1:
            raise ManifestError(f"{said} is empty or inverted; a box is x1 y1 x2 y2 with x1 < x2 and y1 < y2")
        if min(x1, y1) < 0 or x2 > size0.width or y2 > size0.height:
            raise ManifestError(f"{said} reaches outside {row.path}, which is {size0.width} x {size0.height} px")
    return found


def box_mask(boxes: Sequence[Box], size0: Size, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the union of boxes on a raster (rows, columns) of the whole slide; pixels that a box touches count."""
    mask = np.zeros(shape, np.bool_)
    scale_y, scale_x = shape[0] / size0.height, shape[1] / size0.width
    for x1, y1, x2, y2 in boxes:
        rows = slice(math.floor(y1 * scale_y), math.ceil(y2 * scale_y))
        columns = slice(math.floor(x1 * scale_x), math.ceil(x2 * scale_x))
        mask[rows, columns] = True
    return mask


def _polygon_mask(row: Row, size0: Size, shape: tuple[int, int], origin: Point) -> NDArray[np.bool_]:
    try:
        regions: Regions = read_regions(Path(row.boxes), origin)
    except TissueError as error:
        raise ManifestError(f"row {row.number}: {error}") from error
    corners = [polygon.exterior for polygon in regions.tissue]
    if any((ring < 0).any() or (ring > size0).any() for ring in corners):
        raise ManifestError(
            f"row {row.number}: {row.boxes} reaches outside {row.path}, which is {size0.width} x {size0.height} px"
        )
    downsample = (size0.width / shape[1], size0.height / shape[0])
    frame = Frame(Size(shape[1], shape[0]), *downsample)
    mask = fill_polygons(regions.tissue, frame, size0) | _corner_mask(regions.tissue, downsample, shape)
    return np.asarray(mask & ~fill_polygons(regions.background, frame, size0))


def _corner_mask(
    polygons: tuple[Polygon, ...], downsample: tuple[float, float], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return the pixels that contain a vertex of an outline, so that regions smaller than a pixel are kept."""
    mask = np.zeros(shape, np.bool_)
    for polygon in polygons:
        columns, rows = np.floor(polygon.exterior / downsample).astype(np.int64).T
        mask[rows.clip(0, shape[0] - 1), columns.clip(0, shape[1] - 1)] = True
    return mask


def _image_mask(row: Row, path: Path, size0: Size, shape: tuple[int, int]) -> NDArray[np.bool_]:
    where = f"row {row.number}: mask {path}"
    try:
        marked = _mask_pixels(path)
    except (SlideError, OSError) as error:
        raise ManifestError(f"{where} cannot be read: {error}") from error
    rows, columns = marked.shape
    if abs(rows * size0.width - columns * size0.height) > max(size0):  # Same aspect ratio to within a pixel.
        raise ManifestError(
            f"{where} is {columns} x {rows} px but the image is {size0.width} x {size0.height}"
            ": a mask must cover the whole image"
        )
    ys, xs = np.nonzero(marked)
    mask = np.zeros(shape, np.bool_)
    first = (ys * shape[0] // rows, xs * shape[1] // columns)
    last = (((ys + 1) * shape[0] - 1) // rows, ((xs + 1) * shape[1] - 1) // columns)
    for y in (first[0], last[0]):
        for x in (first[1], last[1]):
            mask[y, x] = True
    if shape[0] > 2 * rows or shape[1] > 2 * columns:  # A raster finer than the mask has pixels between the corners.
        enlarged = cv2.resize(marked.view(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
        mask |= enlarged.view(np.bool_)
    return mask


def _mask_pixels(path: Path) -> NDArray[np.bool_]:
    """Return the nonzero pixels of a mask of any bit depth, because instance masks exceed 255."""
    image_size(path)  # Raises a readable error for files that are not images.
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        with open_slide(path) as slide:
            pixels = slide.read_region((0, 0), 0, slide.info.size0)
    return np.asarray((pixels[..., :3] if pixels.ndim == 3 else pixels[..., None]).any(axis=2))


def _voc_boxes(row: Row, size0: Size) -> list[Box]:
    """Read the boxes of a Pascal VOC file.

    The standard library's parser reads the file after a check that it cannot expand: no document type, no
    entities, no encoding that could hide them, and at most `MAX_XML_BYTES` bytes.
    """
    where = f"row {row.number}, {row.boxes}"
    data = Path(row.boxes).read_bytes()
    if len(data) > MAX_XML_BYTES or XML_DECLARATIONS.search(data):
        raise ManifestError(f"{where}: not an accepted VOC file: larger than 4 MB, not UTF-8, or with a document type")
    try:
        root = ElementTree.fromstring(data)  # noqa: S314 - checked above
    except ElementTree.ParseError as error:
        raise ManifestError(f"{where}: not XML: {error}") from error
    except (LookupError, ValueError) as error:  # Unknown encoding.
        raise ManifestError(f"{where}, line 1: not XML in UTF-8: {error}") from error
    lines = [data.count(b"\n", 0, found.start()) + 1 for found in re.finditer(rb"<bndbox\b", data)]
    _check_frame(where, row, root.findtext("size/width"), root.findtext("size/height"), size0)
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


def _json(row: Row) -> Any:
    try:
        return read_document(Path(row.boxes))
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"row {row.number}, {row.boxes}: cannot be read as JSON: {error}") from error


def _is_coco(row: Row) -> bool:
    document = _json(row)
    return isinstance(document, dict) and "annotations" in document and "images" in document


def _coco_boxes(row: Row, size0: Size) -> list[Box]:
    """Read the boxes of an image, found by file name, in a COCO file; `bbox` is x, y, width, height."""
    where = f"row {row.number}, {row.boxes}"
    document = _json(row)
    try:
        named = [image for image in document["images"] if Path(image["file_name"]).name == row.path.name]
        if not named:
            raise ManifestError(f"{where}: has no entry for the image {row.path.name}")
        for image in named:
            _check_frame(where, row, image.get("width"), image.get("height"), size0)
        wanted = [image["id"] for image in named]
        boxes = [found["bbox"] for found in document["annotations"] if found["image_id"] in wanted]
        return [(float(x), float(y), float(x) + float(w), float(y) + float(h)) for x, y, w, h in boxes]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{where}: not COCO: {error!r}") from error


def _check_frame(where: str, row: Row, width: Any, height: Any, size0: Size) -> None:
    """Refuse boxes drawn on a copy of another size; annotations without a size, or with size 0, are accepted."""
    try:
        said = round(float(width or 0)), round(float(height or 0))
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{where}: {width!r} x {height!r} is not a valid image size") from error
    if min(said) > 0 and said != tuple(size0):
        raise ManifestError(
            f"{where}: the boxes belong to an image of {said[0]} x {said[1]} px, but {row.path} is {size0.width} x "
            f"{size0.height} px: convert them to its level-0 pixels"
        )
