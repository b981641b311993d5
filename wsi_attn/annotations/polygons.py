"""Polygons: traced from masks along pixel edges, filled into masks, simplified; in level-0 pixels.

A polygon is one of shapely, which validates, repairs, simplifies and measures it. Tracing and filling are our own:
outlines follow pixel edges, so their area equals that of the mask, and filling them restores the mask exactly. Pixels
that touch only at a corner are separate pieces. Every ring is simple, and rings of one piece meet only in single
points, as GeoJSON and the geometry library of QuPath require.

No light library does this. OpenCV traces through the centres of pixels and scikit-image halfway between two centres, so
that the area differs from that of the mask; rasterio follows the edges, but brings all of GDAL. To fill, shapely tests
points one by one, which takes seconds where filling row by row takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from wsi_attn.geometry import Frame, Size

__all__ = ["Polygon", "fill_polygons", "rings_of", "simplified", "trace_polygons"]

BoolArray = NDArray[np.bool_]

Ring = NDArray[np.float64]
"""(N, 2), columns x, y, level-0 pixels; N >= 3 corners, the first one not repeated."""

RIGHT, DOWN, LEFT, UP = range(4)


def trace_polygons(mask: BoolArray, frame: Frame, size0: Size, corner: tuple[int, int] = (0, 0)) -> list[Polygon]:
    """Outline a mask from top to bottom; mask pixels that extend beyond the slide are clipped.

    Parameters
    ----------
    mask
        bool (rows, columns), pixels of `frame`.
    size0
        Size of the slide.
    corner
        x, y of the top left pixel of the mask in the frame.

    Returns
    -------
    The 4-connected pieces; exterior rings run from the top left to the top right, holes the other way.
    """
    _, labels = cv2.connectedComponents(np.ascontiguousarray(mask, np.uint8), connectivity=4)
    exteriors: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for corners, (row, column) in _rings(mask):
        ring = np.asarray(corners, np.float64)
        placed = np.minimum((ring + corner) * (frame.downsample_x, frame.downsample_y), size0)
        label = int(labels[row, column])
        if shapely.is_ccw(shapely.linearrings(ring)):  # as seen with y upwards
            exteriors[label] = placed
        else:
            holes.setdefault(label, []).append(placed)
    return [Polygon(exteriors[label], holes.get(label, ())) for label in sorted(exteriors)]


def fill_polygons(polygons: Iterable[Polygon], frame: Frame, size0: Size) -> BoolArray:
    """Rasterise polygons: True where the centre of a pixel's part inside the slide lies inside a polygon.

    Each polygon uses the even-odd rule over all its rings; the result is the union of the polygons.

    Returns
    -------
    bool (rows, columns). `trace_polygons` restores the outlines if they follow pixel edges.
    """
    mask = np.zeros((frame.size.height, frame.size.width), np.bool_)
    xs = _middles(frame.size.width, frame.downsample_x, size0.width)
    ys = _middles(frame.size.height, frame.downsample_y, size0.height)
    for polygon in polygons:
        _fill(mask, rings_of(polygon), xs, ys)
    return mask


def simplified(polygon: Polygon, tolerance: float) -> Polygon:
    """Simplify a polygon (Douglas and Peucker); it stays valid and within `tolerance` level-0 pixels."""
    # GEOS may also remove the first corner of a ring, which moves the outline by up to the tolerance a second time.
    for step in (tolerance, tolerance / 2):
        fewer = polygon.simplify(step, preserve_topology=True)
        if isinstance(fewer, Polygon) and not fewer.is_empty and _deviation(polygon, fewer) <= tolerance:
            return fewer
    return polygon


def _deviation(polygon: Polygon, fewer: Polygon) -> float:
    """Greatest distance of a corner from the simplified ring, in pixels; both have the same rings."""
    rings = [fewer.exterior, *fewer.interiors]
    shapely.prepare(rings)
    corners = [shapely.points(ring) for ring in rings_of(polygon)]
    return max(float(shapely.distance(points, ring).max()) for points, ring in zip(corners, rings, strict=True))


def rings_of(polygon: Polygon) -> list[Ring]:
    """Corners of the exterior and of the holes of a polygon, the first corner of each not repeated."""
    return [shapely.get_coordinates(ring)[:-1] for ring in (polygon.exterior, *polygon.interiors)]


def _middles(count: int, downsample: float, extent: int) -> NDArray[np.float64]:
    edges = np.minimum(np.arange(count + 1) * downsample, extent)
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _fill(mask: BoolArray, rings: Sequence[Ring], xs: NDArray[np.float64], ys: NDArray[np.float64]) -> None:
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    top, bottom = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first, last = np.searchsorted(ys, top), np.searchsorted(ys, bottom)  # crosses rows first to last - 1
    crossed = last - first
    if not crossed.any():
        return
    edge = np.repeat(np.arange(len(start)), crossed)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + (ys[row] - start[edge, 1]) * slope
    column = np.searchsorted(xs, x)
    y0, y1 = int(row.min()), int(row.max()) + 1
    x0, x1 = int(column.min()), int(column.max())
    crossings = np.zeros((y1 - y0, x1 - x0 + 1), np.int64)
    np.add.at(crossings, (row - y0, column - x0), 1)
    mask[y0:y1, x0:x1] |= (np.cumsum(crossings, axis=1) % 2 == 1)[:, : x1 - x0]


def _rings(mask: BoolArray) -> Iterable[tuple[list[tuple[int, int]], tuple[int, int]]]:
    """Trace simple rings of pixel corners (x, y) with tissue on the right, and one adjacent pixel (row, column) each.

    Each side of a tissue pixel that borders on no tissue is a step of length 1 around it, clockwise. Where four steps
    meet, at pixels that touch at a corner, the one around the same pixel follows: that keeps the two apart.
    """
    following, starts, width = _steps(mask)
    done = bytearray(len(following))
    for first in range(len(following)):
        if done[first]:
            continue
        corners: list[tuple[int, int]] = []
        beside: list[tuple[int, int]] = []
        step, ring = first, []
        while not done[step]:
            done[step] = 1
            ring.append(step)
            step = following[step]
        before = starts[ring[-1]][1]
        for step in ring:
            vertex, direction = starts[step]
            if direction != before:
                x, y = vertex % width, vertex // width
                corners.append((x, y))
                beside.append((y - (direction in (LEFT, UP)), x - (direction in (DOWN, LEFT))))
            before = direction
        yield from _split(corners, beside)


def _steps(mask: BoolArray) -> tuple[list[int], list[tuple[int, int]], int]:
    """For each step, the next step and its start corner with direction; and the number of corners per row."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    width = mask.shape[1] + 1
    sides = (
        (~padded[:-2, 1:-1], 0, 0, 1),  # top side: from the top left corner to the right
        (~padded[1:-1, 2:], 0, 1, width),  # right side: from the top right corner down
        (~padded[2:, 1:-1], 1, 1, -1),  # bottom side
        (~padded[1:-1, :-2], 1, 0, -width),  # left side
    )
    vertices, directions, ends = [], [], []
    for towards, (open_side, down, right, to) in enumerate(sides):
        row, column = np.nonzero(inside & open_side)
        start = (row + down) * width + column + right
        vertices.append(start)
        directions.append(np.full(len(start), towards))
        ends.append(start + to)
    vertex, direction, end = np.concatenate(vertices), np.concatenate(directions), np.concatenate(ends)
    key = vertex * 4 + direction
    order = np.argsort(key)
    key, direction, end = key[order], direction[order], end[order]
    turning = np.searchsorted(key, end * 4 + (direction + 1) % 4)
    turns = key[np.minimum(turning, len(key) - 1)] == end * 4 + (direction + 1) % 4 if len(key) else np.zeros(0, bool)
    following = np.where(turns, turning, np.searchsorted(key, end * 4))  # otherwise the only step that starts there
    starts = list(zip((key // 4).tolist(), direction.tolist(), strict=True))
    return following.tolist(), starts, width


def _split(
    corners: list[tuple[int, int]], beside: list[tuple[int, int]]
) -> Iterable[tuple[list[tuple[int, int]], tuple[int, int]]]:
    """Split a closed walk into simple rings at repeated corners."""
    path: list[tuple[tuple[int, int], tuple[int, int]]] = []
    position: dict[tuple[int, int], int] = {}
    for corner, pixel in zip(corners, beside, strict=True):
        if corner in position:
            loop = path[position[corner] :]
            del path[position[corner] :]
            for visited, _ in loop:
                del position[visited]
            yield [visited for visited, _ in loop], loop[0][1]
        position[corner] = len(path)
        path.append((corner, pixel))
    yield [visited for visited, _ in path], path[0][1]
