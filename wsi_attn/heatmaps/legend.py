"""Legend of a heatmap: quantity and slide, colour bar, scale bar, and the research-use notice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from wsi_attn.heatmaps.colour import UInt8Array
from wsi_attn.heatmaps.text import INK, LEADING, PAPER, QUIET, Line, draw_text, text_block, text_width

NOTICE = "Research use only"


@dataclass(frozen=True)
class PlacedBlock:
    """A block and the position of its top-left corner."""

    block: Image.Image
    x: int
    y: int


def colour_bar(table: UInt8Array, caption: Sequence[Line], ticks: Sequence[str], unit: int, width: int) -> Image.Image:
    """Draw the colours from low to high below a caption, with evenly spaced ticks below them.

    `table` is uint8 (256, 3) as seen on white; `unit` is the letter size and `width` the available width, in pixels.
    """
    size = max(12, round(unit * 0.85))
    heading = text_block(list(caption), width)
    length, thickness = min(width, max(heading.width, unit * 11)), unit
    top = heading.height + round(unit * 0.25)
    block = Image.new("RGB", (length, top + thickness + round(size * LEADING) + 2), PAPER)
    block.paste(heading, (0, 0))
    ramp = table[np.arange(length) * 256 // length]
    block.paste(Image.fromarray(np.ascontiguousarray(np.broadcast_to(ramp, (thickness, length, 3)))), (0, top))
    draw = ImageDraw.Draw(block)
    draw.rectangle((0, top, length - 1, top + thickness - 1), outline=QUIET)
    for index, text in enumerate(ticks):
        share = index / (len(ticks) - 1)
        x = share * (length - 1) - share * text_width(text, size)
        draw_text(block, x, top + thickness + size + 1, text, size, INK)
    return block


def scale_bar(microns_per_pixel: float | None, unit: int, width: int, note: str) -> Image.Image:
    """Draw a bar of a round length in the image's own pixels, its length as text, and a note below."""
    notes: list[Line] = [(note, max(12, round(unit * 0.85)), QUIET)] if note else []
    if microns_per_pixel is None:
        return text_block([("Pixel size unknown", unit, INK), *notes], width)
    length = scale_length(microns_per_pixel * min(width, unit * 10))
    pixels = max(1, round(length / microns_per_pixel))
    heading = text_block([(length_words(length), unit, INK)], width)
    below = text_block(notes, width) if notes else Image.new("RGB", (1, 1), PAPER)
    thickness, tick, gap = max(2, round(unit / 6)), round(unit * 0.7), round(unit * 0.35)
    top = heading.height + gap
    block = Image.new("RGB", (max(pixels, heading.width, below.width), top + tick + gap + below.height), PAPER)
    draw, middle = ImageDraw.Draw(block), top + (tick - thickness) // 2
    draw.rectangle((0, middle, pixels - 1, middle + thickness - 1), fill=INK)
    for x in (0, max(0, pixels - thickness)):
        draw.rectangle((x, top, x + thickness - 1, top + tick - 1), fill=INK)
    block.paste(heading, (0, 0))
    block.paste(below, (0, top + tick + gap))
    return block


def scale_length(longest: float) -> float:
    """The largest of 1, 2 or 5 times a power of ten that is not longer than `longest`, both in microns."""
    power: float = 10.0 ** math.floor(math.log10(longest))
    return max(step * power for step in (1, 2, 5) if step == 1 or step * power <= longest)


def length_words(microns: float) -> str:
    """A length with its unit: µm below a millimetre, then mm, then cm."""
    if microns < 1000:
        return f"{microns:g} µm"
    return f"{microns / 1000:g} mm" if microns < 10_000 else f"{microns / 10_000:g} cm"


def in_rows(blocks: Sequence[Image.Image], width: int, gap: int) -> tuple[list[PlacedBlock], int]:
    """Arrange blocks from left to right in rows up to `width`, and return the total height."""
    places: list[PlacedBlock] = []
    x, y, row = gap, gap, 0
    for block in blocks:
        if x > gap and x + block.width + gap > width:
            x, y, row = gap, y + row + gap, 0
        places.append(PlacedBlock(block, x, y))
        x, row = x + block.width + 2 * gap, max(row, block.height)
    return places, y + row + gap


def in_column(blocks: Sequence[Image.Image], gap: int) -> tuple[list[PlacedBlock], int]:
    """Arrange blocks in a column, and return the total height."""
    places, y = [], gap
    for block in blocks:
        places.append(PlacedBlock(block, gap, y))
        y += block.height + 2 * gap
    return places, y
