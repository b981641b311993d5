"""Frames around the regions of highest weight, with their rank numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw

from wsi_attn.geometry import Frame, Region
from wsi_attn.heatmaps.text import INK, PAPER, Colour, draw_text, text_width
from wsi_attn.store.records import AttendedRegion

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two are the first pixel that is not in it."""

OUTLINE: Colour = PAPER
HALO: Colour = INK


def draw_outlines(picture: Image.Image, frame: Frame, regions: Sequence[AttendedRegion], unit: int) -> None:
    """Draw each region's frame and its rank, from 1, onto `picture`.

    Parameters
    ----------
    picture
        RGB, of `frame.size`; changed in place.
    frame
        The image's frame in level-0 coordinates.
    regions
        Most attended first. A region smaller than half a letter gets a larger, visible frame.
    unit
        Letter size of the image, pixels.
    """
    draw = ImageDraw.Draw(picture)
    boxes = [outline_box(frame, region, smallest=max(5, unit // 2)) for region in regions]
    line = max(1, round(unit / 9))
    for box in reversed(boxes):  # the first rank is drawn last and is on top
        _draw_frame(draw, box, line)
    size = max(11, round(unit * 0.8))
    taken: list[Box] = []
    for rank, box in enumerate(boxes, start=1):
        tag = _tag_box(box, str(rank), size, picture.size, [*taken, *boxes])
        taken.append(tag)
        _draw_tag(picture, tag, str(rank), size)


def outline_box(frame: Frame, region: AttendedRegion, smallest: int = 1) -> Box:
    """Pixels of `frame` that cover the region, widened about their centre to at least `smallest` pixels a side."""
    covered = frame.region_from0(Region(region.x, region.y, region.width, region.height))
    grow_x, grow_y = max(0, smallest - covered.width), max(0, smallest - covered.height)
    x, y = covered.x - grow_x // 2, covered.y - grow_y // 2
    return x, y, x + covered.width + grow_x, y + covered.height + grow_y


def _draw_frame(draw: ImageDraw.ImageDraw, box: Box, line: int) -> None:
    left, top, right, bottom = box
    for distance in range(line + 2):  # dark, light, dark: visible on any tissue and any colour
        colour = HALO if distance in (0, line + 1) else OUTLINE
        draw.rectangle((left - distance, top - distance, right - 1 + distance, bottom - 1 + distance), outline=colour)


def _tag_box(box: Box, text: str, size: int, picture: tuple[int, int], obstacles: Sequence[Box]) -> Box:
    """The first position beside the region that lies in the image without overlap, otherwise the one with least
    overlap.
    """
    width = math.ceil(text_width(text, size)) + max(6, size // 2)
    height = math.ceil(size * 1.25)
    inside = []
    for x, y in _places(box, width, height):
        x, y = min(max(x, 0), picture[0] - width), min(max(y, 0), picture[1] - height)
        inside.append((x, y, x + width, y + height))
    return min(inside, key=lambda place: sum(_shared_area(place, other) for other in obstacles))


def _places(box: Box, width: int, height: int) -> Iterator[tuple[int, int]]:
    left, top, right, bottom = box
    gap = 3
    for y in (top - height - gap, bottom + gap):
        yield left, y
        yield right - width, y
    for x in (right + gap, left - width - gap):
        yield x, top
        yield x, bottom - height
    yield left, top
    for ring in (1, 2, 3):  # crowded: further out
        for y in (top - (1 + ring) * (height + gap), bottom + ring * (height + gap) + gap):
            yield left, y
            yield right + ring * gap, y
            yield left - width - ring * gap, y


def _shared_area(a: Box, b: Box) -> int:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


def _draw_tag(picture: Image.Image, tag: Box, text: str, size: int) -> None:
    left, top, right, bottom = tag
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle((left, top, right - 1, bottom - 1), radius=size // 4, fill=HALO, outline=OUTLINE)
    x = left + (right - left - text_width(text, size)) / 2
    draw_text(picture, x, top + round((bottom - top + size * 0.72) / 2), text, size, PAPER)
