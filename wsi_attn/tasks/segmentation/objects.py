"""Polygons of the connected objects of a label image, found block by block.

An object inside one block is outlined there. The parts of an object that spans several blocks are joined by their
pixels along the block borders, and the object is outlined at the end on its bounding box, at the finest level at which
that box has at most `MAX_TRACED` pixels; at a coarser level the outline is coarser. Memory is bounded by one block, a
few numbers per part at a border, and one such box.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.annotations.geojson import Feature, ObjectType, PathClass, feature, positions
from wsi_attn.annotations.polygons import Polygon, simplified, trace_polygons
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.slide import SlideInfo
from wsi_attn.tasks.segmentation.labels import LabelImage, colour_of

MAX_TRACED = 16_000_000
"""Pixels of the largest box that is outlined at full resolution; this takes about 200 MB."""

NAMESPACE = uuid.UUID("4c1c2f1e-8a1b-5c0f-9b52-2f2a6f6f2a0d")


@dataclass(frozen=True)
class SegmentedObject:
    """One object: class, polygons in level-0 pixels (several if a coarse outline splits), and area
    in pixels of the label.
    """

    label: int
    polygons: tuple[Polygon, ...]
    pixels: int


@dataclass
class _Part:
    """Part of an object at a block border; `parent` links to the representative part (union-find)."""

    label: int
    pixels: int
    box: Region
    seeds: list[tuple[int, int]]
    parent: _Part | None = None

    def root(self) -> _Part:
        part = self
        while part.parent is not None:
            part = part.parent
        if part is not self:
            self.parent = part  # Path compression.
        return part

    def join(self, other: _Part) -> None:
        one, two = self.root(), other.root()
        if one is two:
            return
        x, y = min(one.box.x, two.box.x), min(one.box.y, two.box.y)
        one.box = Region(x, y, max(one.box.x1, two.box.x1) - x, max(one.box.y1, two.box.y1) - y)
        one.pixels += two.pixels
        one.seeds += two.seeds
        two.parent, two.seeds = one, []


class AreaCounts:
    """Objects and label pixels of each of some classes, int64 (C,)."""

    def __init__(self, classes: int) -> None:
        self.objects, self.pixels = np.zeros(classes, np.int64), np.zeros(classes, np.int64)


def find_objects(labels: LabelImage, size0: Size, counts: AreaCounts) -> Iterator[SegmentedObject]:
    """Yield the 4-connected objects of every foreground class and update `counts`.

    Parameters
    ----------
    labels
        Complete label image with its coarser levels.
    size0
        Size of the slide in level-0 pixels; polygons are clipped to it.
    """
    above: dict[int, _Part] = {}  # Parts along the last row of the blocks above, by label column.
    parts: list[_Part] = []
    left: dict[int, _Part] = {}  # Parts along the last column of the block to the left, by row.
    for block in labels.blocks():
        values = labels.read(block)
        counts.pixels += np.bincount(values.ravel(), minlength=len(counts.pixels))
        if block.x == 0:
            left = {}
            above_before, above = above, {}
        right: dict[int, _Part] = {}
        for label in np.unique(values[values > 0]).tolist():
            inner, borders = _split(values == label, block, labels.frame.size)
            yield from _traced(inner, labels.frame, block, size0, label, counts)
            parts += _connect(borders, block, label, above_before, left, above, right)
        left = right
    for part in parts:
        if part.parent is None:
            yield _whole(part, labels, size0, counts)


def features(
    found: Iterator[SegmentedObject],
    names: Sequence[str],
    info: SlideInfo,
    pixel0: float,
    kind: ObjectType,
    simplify: float,
) -> Iterator[Feature]:
    """Yield QuPath objects in level-0 pixels with classification, holes, and area in µm² or level-0 px².

    Parameters
    ----------
    pixel0
        Area of a pixel of the label in level-0 pixels squared.
    kind
        "detection" or "annotation".
    simplify
        Tolerance of outline simplification in level-0 pixels.
    """
    unit, factor = ("area µm²", info.mpp.x * info.mpp.y) if info.mpp else ("area px²", 1.0)
    for each in found:
        if not each.polygons:  # A thin object that falls between the pixels of the coarser level.
            continue
        polygons = [simplified(polygon, simplify) if simplify > 0 else polygon for polygon in each.polygons]
        yield feature(
            polygons,
            uuid.uuid5(NAMESPACE, f"{info.fingerprint}:{names[each.label]}:{positions(polygons[0])[0]}"),
            kind,
            PathClass(names[each.label], colour_of(each.label)),
            {unit: round(each.pixels * pixel0 * factor, 3)},
        )


@dataclass(frozen=True)
class _Borders:
    """Components of one class that touch a border to another block: component numbers (rows, columns), 0 elsewhere, and
    pixel count, box in the block, and first pixel of each.
    """

    numbers: NDArray[np.int32]
    parts: dict[int, tuple[int, Region, tuple[int, int]]]


def _split(mask: NDArray[np.bool_], block: Region, size: Size) -> tuple[NDArray[np.bool_], _Borders]:
    """Separate the objects of a class inside a block from those that may continue in another."""
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    edges = [
        numbers[0] if block.y > 0 else [],
        numbers[-1] if block.y1 < size.height else [],
        numbers[:, 0] if block.x > 0 else [],
        numbers[:, -1] if block.x1 < size.width else [],
    ]
    touching = np.unique(np.concatenate([np.asarray(edge, np.int32) for edge in edges]))
    touching = touching[touching > 0]
    on_border = np.zeros(len(stats), np.bool_)
    on_border[touching] = True
    parts = {}
    for number in touching.tolist():
        x, y, width, height, area = stats[number].tolist()
        first = x + int((numbers[y, x : x + width] == number).argmax())
        parts[number] = area, Region(x, y, width, height), (y, first)
    outer = on_border[numbers]
    return mask & ~outer, _Borders(np.where(outer, numbers, 0).astype(np.int32), parts)


def _connect(
    borders: _Borders,
    block: Region,
    label: int,
    above: dict[int, _Part],
    left: dict[int, _Part],
    below: dict[int, _Part],
    right: dict[int, _Part],
) -> list[_Part]:
    """Join the parts of one class to those above and to the left, and remember them for the next blocks."""
    parts = {
        number: _Part(
            label,
            pixels,
            Region(block.x + box.x, block.y + box.y, box.width, box.height),
            [(block.y + seed[0], block.x + seed[1])],
        )
        for number, (pixels, box, seed) in borders.parts.items()
    }
    numbers = borders.numbers
    for here, near, there in ((numbers[0], above, block.x), (numbers[:, 0], left, block.y)):
        for place in here.nonzero()[0].tolist():
            neighbour = near.get(there + place)
            if neighbour is not None and neighbour.label == label:
                neighbour.join(parts[int(here[place])])
    for place in numbers[-1].nonzero()[0].tolist():
        below[block.x + place] = parts[int(numbers[-1, place])]
    for place in numbers[:, -1].nonzero()[0].tolist():
        right[block.y + place] = parts[int(numbers[place, -1])]
    return list(parts.values())


def _traced(
    mask: NDArray[np.bool_], frame: Frame, at: Region, size0: Size, label: int, counts: AreaCounts
) -> Iterator[SegmentedObject]:
    """Outline every component of a mask whose top-left corner is `at`."""
    if not mask.any():
        return
    for polygon in trace_polygons(mask, frame, size0, (at.x, at.y)):
        counts.objects[label] += 1
        pixels = round(polygon.area / (frame.downsample_x * frame.downsample_y))
        yield SegmentedObject(label, (polygon,), pixels)


def _whole(part: _Part, labels: LabelImage, size0: Size, counts: AreaCounts) -> SegmentedObject:
    """Outline an object that spans several blocks."""
    level, box = 0, part.box
    while box.width * box.height > MAX_TRACED and level + 1 < len(labels.level_sizes()):
        level += 1
        x, y = box.x // 2, box.y // 2
        box = Region(x, y, -(-box.x1 // 2) - x, -(-box.y1 // 2) - y)
    mask = labels.read(box, level) == part.label
    _, numbers = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    ours = {
        int(numbers[min(row >> level, box.y1 - 1) - box.y, min(column >> level, box.x1 - 1) - box.x])
        for row, column in part.seeds
    } - {0}
    counts.objects[part.label] += 1
    frame = Frame(
        Size(box.width, box.height), labels.frame.downsample_x * 2**level, labels.frame.downsample_y * 2**level
    )
    # Every seed may fall between the pixels of the coarser level.
    chosen = np.isin(numbers, list(ours)) if ours else mask
    polygons = tuple(trace_polygons(np.asarray(chosen), frame, size0, (box.x, box.y)))
    return SegmentedObject(part.label, polygons, part.pixels)
