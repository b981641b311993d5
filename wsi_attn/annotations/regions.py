"""Annotated regions of an image (boxes, polygons or a mask) as a raster of the whole slide.

Training only validates them, unless attention guidance uses them; evaluation compares attention with them.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from shapely import box

from wsi_attn.annotations.boxes import box_mask, boxes_of_mask, is_coco, read_boxes
from wsi_attn.annotations.masks import AnnotatedImage, read_mask_image
from wsi_attn.annotations.polygons import Polygon, fill_polygons, rings_of
from wsi_attn.annotations.tissue import read_regions
from wsi_attn.errors import ManifestError, TissueError
from wsi_attn.geometry import ORIGIN, Frame, Point, Size
from wsi_attn.tissue.settings import GEOJSON_SUFFIXES


def region_mask(
    row: AnnotatedImage,
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
    where = f"row {row.number}"
    if row.boxes:
        if row.boxes.lower().endswith(GEOJSON_SUFFIXES) and not is_coco(where, Path(row.boxes)):
            return _polygon_mask(row, Path(row.boxes), size0, shape, origin)
        return box_mask(read_boxes(where, row.boxes, row.path, size0), size0, shape)
    if row.mask is None:
        return None
    if row.mask.name.lower().endswith(GEOJSON_SUFFIXES):  # Polygons, as for segmentation.
        return _polygon_mask(row, row.mask, size0, shape, origin)
    return _image_mask(row, row.mask, size0, shape)


def check_regions(row: AnnotatedImage, size0: Size, origin: Point = ORIGIN) -> None:
    """Check that the boxes of a row, if any, lie on the slide; raises like `region_mask`."""
    if row.boxes:
        region_mask(row, size0, (1, 1), origin)


def given_boxes(
    row: AnnotatedImage, size0: Size, shape: tuple[int, ...], origin: Point = ORIGIN
) -> NDArray[np.bool_] | None:
    """Return the boxes of a manifest row on a raster (rows, columns); for outlines and masks, boxes around their
    components.

    None if the row has no annotation; raises like `region_mask`.
    """
    region = region_mask(row, size0, (shape[0], shape[1]), origin)
    if region is None or (row.boxes and not row.boxes.lower().endswith(GEOJSON_SUFFIXES)):
        return region  # Already boxes.
    return box_mask(boxes_of_mask(region, size0, padding=0, least=0), size0, shape)


def _polygon_mask(
    row: AnnotatedImage, path: Path, size0: Size, shape: tuple[int, int], origin: Point
) -> NDArray[np.bool_]:
    try:
        regions = read_regions(path, origin)
    except TissueError as error:
        raise ManifestError(f"row {row.number}: {error}") from error
    slide = box(0, 0, *size0)
    if not all(slide.covers(polygon) for polygon in regions.tissue):
        raise ManifestError(
            f"row {row.number}: {path} reaches outside {row.path}, which is {size0.width} x {size0.height} px"
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
        columns, rows = np.floor(rings_of(polygon)[0] / downsample).astype(np.int64).T
        mask[rows.clip(0, shape[0] - 1), columns.clip(0, shape[1] - 1)] = True
    return mask


def _image_mask(row: AnnotatedImage, path: Path, size0: Size, shape: tuple[int, int]) -> NDArray[np.bool_]:
    where = f"row {row.number}: mask {path}"
    values = read_mask_image(path, where, size0)
    channels = np.atleast_3d(values)
    marked = np.asarray(channels[..., : 3 if channels.shape[2] > 2 else 1].any(axis=2))  # alpha marks nothing
    rows, columns = marked.shape
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
