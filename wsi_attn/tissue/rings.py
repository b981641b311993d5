"""Outlines of a mask along the edges of its pixels, and the way back, in level-0 pixels.

Nothing is lost: an outline runs on the pixel edges themselves, so its area is that of the mask, and what it encloses
is the mask again. Pixels that touch at a corner only are two pieces; every ring is simple, and where rings of a piece
meet they meet in single points, as GeoJSON and the geometry library of QuPath want it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.geometry import Frame, Size
from wsi_attn.tissue.mask import BoolArray

Ring = NDArray[np.float64]
"""(N, 2), columns x, y, level-0 pixels; N >= 3 corners, the first one not repeated."""

RIGHT, DOWN, LEFT, UP = range(4)


class Polygon(NamedTuple):
    """One connected piece: its outer ring, counted positive in (x, y), and the rings of its holes, negative."""

    exterior: Ring
    holes: tuple[Ring, ...] = ()

    @property
    def area(self) -> float:
        """Level-0 pixels squared."""
        return ring_area(self.exterior) + sum(ring_area(hole) for hole in self.holes)


def ring_area(ring: Ring) -> float:
    """Signed area of a ring; positive from the top left by way of the top right."""
    x, y = ring[:, 0], ring[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def trace_polygons(mask: BoolArray, frame: Frame, size0: Size) -> list[Polygon]:
    """Outlines of a mask, top to bottom; a mask pixel that reaches past the slide is cut off there.

    Parameters
    ----------
    mask
        bool (rows, columns) over `frame`.
    size0
        Extent of the slide.
    """
    _, labels = cv2.connectedComponents(np.ascontiguousarray(mask, np.uint8), connectivity=4)
    exteriors: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for corners, (row, column) in _rings(mask):
        ring = np.asarray(corners, np.float64)
        label = int(labels[row, column])
        if ring_area(ring) > 0:
            exteriors[label] = _scaled(ring, frame, size0)
        else:
            holes.setdefault(label, []).append(_scaled(ring, frame, size0))
    return [Polygon(exteriors[label], tuple(holes.get(label, ()))) for label in sorted(exteriors)]


def fill_polygons(polygons: Iterable[Polygon], frame: Frame, size0: Size) -> BoolArray:
    """Which pixels of a frame have the middle of the part inside the slide inside a polygon.

    What lies inside is decided for each polygon by counting crossings of all its rings; polygons add up.

    Returns
    -------
    bool (rows, columns). `trace_polygons` of it gives the outlines back, wherever they run on pixel edges.
    """
    mask = np.zeros((frame.size.height, frame.size.width), np.bool_)
    xs = _middles(frame.size.width, frame.downsample_x, size0.width)
    ys = _middles(frame.size.height, frame.downsample_y, size0.height)
    for polygon in polygons:
        _fill(mask, (polygon.exterior, *polygon.holes), xs, ys)
    return mask


def simplified(polygon: Polygon, tolerance: float) -> Polygon:
    """A polygon with fewer corners, none of whose edges is further than `tolerance` level-0 pixels from the old one
    (Douglas and Peucker). A ring that would lose its area stays as it is; narrow parts may come to touch.
    """
    return Polygon(
        _simplified(polygon.exterior, tolerance), tuple(_simplified(hole, tolerance) for hole in polygon.holes)
    )


def _simplified(ring: Ring, tolerance: float) -> Ring:
    origin = ring.min(axis=0)  # float32 of OpenCV is exact enough near zero
    fewer = cv2.approxPolyDP((ring - origin).astype(np.float32).reshape(-1, 1, 2), tolerance, closed=True)
    kept: Ring = np.asarray(np.asarray(fewer, np.float64).reshape(-1, 2) + origin)
    if len(kept) < 3 or ring_area(kept) * ring_area(ring) <= 0:
        return ring
    return kept


def _scaled(ring: Ring, frame: Frame, size0: Size) -> Ring:
    return np.asarray(np.minimum(ring * (frame.downsample_x, frame.downsample_y), size0))


def _middles(count: int, downsample: float, extent: int) -> NDArray[np.float64]:
    edges = np.minimum(np.arange(count + 1) * downsample, extent)
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _fill(mask: BoolArray, rings: Sequence[Ring], xs: NDArray[np.float64], ys: NDArray[np.float64]) -> None:
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    top, bottom = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first, last = np.searchsorted(ys, top), np.searchsorted(ys, bottom)  # rows first to last - 1 are crossed
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
    """Simple rings of pixel corners (x, y) with tissue on their right hand, and (row, column) of a pixel beside each.

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
    """For each step the next one, and the corner it starts at with its direction; and corners in a row."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    width = mask.shape[1] + 1
    sides = (
        (~padded[:-2, 1:-1], 0, 0, 1),  # above: from the top left corner to the right
        (~padded[1:-1, 2:], 0, 1, width),  # right of it: from the top right corner down
        (~padded[2:, 1:-1], 1, 1, -1),  # below
        (~padded[1:-1, :-2], 1, 0, -width),  # left of it
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
    following = np.where(turns, turning, np.searchsorted(key, end * 4))  # else the only step that starts there
    starts = list(zip((key // 4).tolist(), direction.tolist(), strict=True))
    return following.tolist(), starts, width


def _split(
    corners: list[tuple[int, int]], beside: list[tuple[int, int]]
) -> Iterable[tuple[list[tuple[int, int]], tuple[int, int]]]:
    """A closed walk as simple rings: cut where it comes by a corner again."""
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
