"""Contact sheets: the regions of highest weight side by side, with rank, weight and position on the slide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from wsi_attn.errors import SlideReadError
from wsi_attn.heatmaps.legend import NOTICE, scale_bar
from wsi_attn.heatmaps.text import INK, PAPER, QUIET, Line, text_block
from wsi_attn.slide import Slide, UInt8Array
from wsi_attn.slides.view import read_region_at
from wsi_attn.store.records import AttendedRegion

UNREADABLE = 128
"""Grey of a patch that cannot be decoded: never white, the colour of glass."""


@dataclass(frozen=True)
class Patch:
    """Pixels of a region, uint8 (rows, columns, 3), and level-0 pixels per pixel."""

    region: AttendedRegion
    pixels: UInt8Array
    downsample: float
    readable: bool = True


def read_patches(slide: Slide, regions: Sequence[AttendedRegion], side: int) -> list[Patch]:
    """Read regions one by one, downsampled to at most `side` pixels per side, never enlarged."""
    patches = []
    for region in regions:
        factor = max(1.0, max(region.width, region.height) / side)
        size = max(1, round(region.width / factor)), max(1, round(region.height / factor))
        try:
            pixels = read_region_at(slide, (region.x, region.y), factor, factor, size)
            patches.append(Patch(region, pixels, factor))
        except SlideReadError:
            patches.append(Patch(region, np.full((size[1], size[0], 3), UNREADABLE, np.uint8), factor, readable=False))
    return patches


def contact_sheet(
    patches: Sequence[Patch], lines: Sequence[str], mpp: tuple[float, float] | None, *, side: int, quantity: str
) -> Image.Image:
    """Patches in rows by rank, each with its rank, weight and level-0 position below it.

    Parameters
    ----------
    patches
        Highest weight first.
    lines
        Heading: slide, label and so on.
    mpp
        Pixel size at level 0; a scale bar is drawn if all patches have the same scale.
    side
        Space for a patch, pixels.
    quantity
        Name of the weight.

    Returns
    -------
    RGB image; only a heading without patches.
    """
    unit = max(13, side // 14)
    gap = unit
    patches = [_enlarged(patch, side) for patch in patches]
    columns = max(1, min(len(patches), math.ceil(math.sqrt(len(patches) * 1.5))))
    width = max(columns * (side + gap) + gap, unit * 24)
    heading: list[Line] = [(line, round(unit * 1.2) if i == 0 else unit, INK) for i, line in enumerate(lines)]
    top = text_block([*heading, (NOTICE, unit, QUIET)], width - 2 * gap)
    cells = [_cell(patch, rank, side, unit, quantity) for rank, patch in enumerate(patches, start=1)]
    height = max((cell.height for cell in cells), default=0)
    bar = _bar(patches, mpp, unit, width - 2 * gap)
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (width, gap + top.height + gap + rows * (height + gap) + bar.height + gap), PAPER)
    sheet.paste(top, (gap, gap))
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        sheet.paste(cell, (gap + column * (side + gap), gap + top.height + gap + row * (height + gap)))
    sheet.paste(bar, (gap, sheet.height - bar.height - gap))
    return sheet


def _enlarged(patch: Patch, side: int) -> Patch:
    """Enlarge a small patch by an integer factor, so that cells of the sheet have similar sizes."""
    rows, columns = patch.pixels.shape[:2]
    factor = max(1, side // max(rows, columns))
    image = Image.fromarray(patch.pixels).resize((columns * factor, rows * factor), Image.Resampling.BICUBIC)
    return replace(patch, pixels=np.asarray(image), downsample=patch.downsample / factor)


def _cell(patch: Patch, rank: int, side: int, unit: int, quantity: str) -> Image.Image:
    region = patch.region
    state = f"{quantity} {region.weight:.3g}" if patch.readable else "unreadable"
    words: list[Line] = [
        (f"{rank} · {state}", unit, INK),
        (f"x {region.x}, y {region.y}, {region.width} x {region.height} px", max(11, round(unit * 0.8)), QUIET),
    ]
    block = text_block(words, side)
    cell = Image.new("RGB", (side, side + block.height), PAPER)
    cell.paste(Image.fromarray(patch.pixels), (0, side - patch.pixels.shape[0]))
    cell.paste(block, (0, side))
    return cell


def _bar(patches: Sequence[Patch], mpp: tuple[float, float] | None, unit: int, width: int) -> Image.Image:
    factors = {patch.downsample for patch in patches}
    if len(factors) != 1:
        return Image.new("RGB", (1, 1), PAPER)
    return scale_bar(mpp[0] * factors.pop() if mpp else None, unit, width, "")
