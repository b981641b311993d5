"""Boxes from saliency or masks, their overlap with annotated boxes, and images to check them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.data.annotations import box_mask, region_mask
from wsi_attn.data.manifest import Row
from wsi_attn.data.saliency import saliency, salient_mask
from wsi_attn.geometry import ORIGIN, Point, Size
from wsi_attn.slide import Slide, UInt8Array
from wsi_attn.slides.view import View, read_view

VIEW_SIDE = 256
"""Maximum longer side of the view on which boxes are found, pixels."""

PADDING = 0.05
"""Padding on each side as a share of the side of the box."""

LEAST_WEIGHT = 0.5
"""Components of a mask below this share of the largest weight are treated as noise."""

LEAST_AREA, MOST_AREA = 0.01, 0.9
"""Limits of the image share covered by all boxes; outside them the image gets no boxes."""

PICTURE_SIDE = 800
"""Maximum longer side of a drawn image, pixels."""

GIVEN_COLOUR, FOUND_COLOUR = (0, 158, 115), (213, 94, 0)
"""Green and orange of the colour-blind-safe palette of Okabe and Ito."""


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


def overview(slide: Slide) -> View:
    """Read the whole slide, at most `VIEW_SIDE` pixels wide and high."""
    factor = max(1.0, max(slide.info.size0) / VIEW_SIDE)
    return read_view(slide, factor, factor, workers=1)


def salient_boxes(slide: Slide) -> FoundBoxes:
    """Return boxes around salient regions of a view of the whole slide (see `data.saliency`)."""
    salience = saliency(overview(slide).pixels)
    return boxes_from(salience, salient_mask(salience), slide.info.size0)


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


def given_boxes(row: Row, size0: Size, shape: tuple[int, ...], origin: Point = ORIGIN) -> NDArray[np.bool_] | None:
    """Return the boxes of a manifest row on a raster (rows, columns); for outlines and masks, boxes around their
    components.

    None if the row has no annotation; raises like `region_mask`.
    """
    region = region_mask(row, size0, (shape[0], shape[1]), origin)
    if region is None or (row.boxes and not row.boxes.lower().endswith((".json", ".geojson"))):
        return region  # Already boxes.
    return box_mask(boxes_of_mask(region, size0, padding=0, least=0), size0, shape)


def overlap(found: NDArray[np.bool_], given: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two regions; 0 if both are empty."""
    union = int((found | given).sum())
    return int((found & given).sum()) / union if union else 0.0


def as_text(boxes: Sequence[Box]) -> str:
    """Format boxes for the `boxes` column of a manifest."""
    return "; ".join(" ".join(map(str, box)) for box in boxes)


def draw_boxes(slide: Slide, boxes: Sequence[Box], given: NDArray[np.bool_] | None) -> bytes:
    """Draw a PNG of the slide with found boxes in orange and annotated regions, bool (rows, columns), in green."""
    factor = max(max(slide.info.size0) / PICTURE_SIDE, 1e-3)
    view = read_view(slide, max(1.0, factor), max(1.0, factor), workers=1)
    enlarged = max(1, math.ceil(PICTURE_SIDE / 2 / max(view.pixels.shape)))  # Small images are enlarged.
    picture: UInt8Array = np.ascontiguousarray(view.pixels.repeat(enlarged, axis=0).repeat(enlarged, axis=1))
    height, width = picture.shape[:2]
    if given is not None:
        region = cv2.resize(given.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(picture, contours, -1, GIVEN_COLOUR, 2)
    size0 = slide.info.size0
    for x1, y1, x2, y2 in boxes:
        first = (x1 * width // size0.width, y1 * height // size0.height)
        last = (x2 * width // size0.width - 1, y2 * height // size0.height - 1)
        cv2.rectangle(picture, first, last, FOUND_COLOUR, 2)
    _, encoded = cv2.imencode(".png", picture[..., ::-1])
    return bytes(encoded)
