"""Reading at any resolution: single regions and low-resolution views, from the coarsest sufficient level.

Memory is bounded by the output and a few blocks, not by the slide. Unreadable pixels are masked and
reported, never returned as white tissue-free background.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import SlideReadError
from wsi_attn.geometry import Frame, Region
from wsi_attn.slide import Progress, Slide, UInt8Array, background, no_progress, paste
from wsi_attn.slides.resample import resample_area
from wsi_attn.threads import blas_libraries, thread_limit

BLOCK = 1024
"""Side of the block that one read decodes, in source pixels: 3 MB per thread, with few tiles decoded twice at borders.
"""

LEVEL_TOLERANCE = 1.01
"""Maximum factor by which a level may be coarser than requested."""


@dataclass(frozen=True)
class View:
    """Whole slide at one resolution.

    `pixels` is uint8 (rows, columns, 3); `readable` is bool (rows, columns), False where decoding
    failed; `unreadable` are the same pixels as level-0 regions.
    """

    pixels: UInt8Array
    frame: Frame
    readable: NDArray[np.bool_]
    unreadable: tuple[Region, ...]


def best_level(slide: Slide, downsample_x: float, downsample_y: float) -> int:
    """Return the index of the coarsest level that is not coarser than requested along either axis."""
    sufficient = [
        index
        for index, level in enumerate(slide.info.levels)
        if level.downsample_x <= downsample_x * LEVEL_TOLERANCE and level.downsample_y <= downsample_y * LEVEL_TOLERANCE
    ]
    return max(sufficient, default=0)


def read_region_at(
    slide: Slide, xy0: tuple[float, float], downsample_x: float, downsample_y: float, size: tuple[int, int]
) -> UInt8Array:
    """Read a region at any downsample.

    Parameters
    ----------
    xy0
        Top-left corner in level-0 pixels; may lie outside the slide, where pixels are background.
    downsample_x, downsample_y
        Level-0 pixels per output pixel; values below 1 interpolate.
    size
        Width and height of the output.

    Returns
    -------
    uint8 (height, width, 3).

    Raises
    ------
    SlideReadError : part of it cannot be decoded.
    """
    index = best_level(slide, downsample_x, downsample_y)
    level = slide.info.levels[index]
    scale = (downsample_x / level.downsample_x, downsample_y / level.downsample_y)
    x, y = xy0[0] / level.downsample_x, xy0[1] / level.downsample_y
    left, top = math.floor(x + 1e-6), math.floor(y + 1e-6)
    right, bottom = math.ceil(x + size[0] * scale[0] - 1e-6), math.ceil(y + size[1] * scale[1] - 1e-6)
    corner0 = (round(left * level.downsample_x), round(top * level.downsample_y))
    pixels = slide.read_region(corner0, index, (right - left, bottom - top))
    if scale == (1.0, 1.0) and (right - left, bottom - top) == size:
        return pixels
    return resample_area(pixels, (max(0.0, x - left), max(0.0, y - top)), scale, size)


def read_view(
    slide: Slide,
    downsample_x: float,
    downsample_y: float,
    *,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> View:
    """Read the whole slide at a low resolution, block by block in parallel.

    Parameters
    ----------
    downsample_x, downsample_y
        Level-0 pixels per pixel of the view.
    workers
        Number of reader threads; `thread_limit` by default.
    """
    frame = Frame.covering(slide.info.size0, downsample_x, downsample_y)
    whole, pixels = Region(0, 0, *frame.size), background(frame.size)
    readable = np.ones(pixels.shape[:2], np.bool_)
    unreadable: list[Region] = []

    def read(block: Region) -> list[Region]:
        found, damaged = read_block(slide, downsample_x, downsample_y, block)
        pixels[block.within(whole)] = found
        return damaged

    side = max(1, int(BLOCK / max(1.0, _ratio(slide, downsample_x, downsample_y))))
    blocks = list(whole.split(side, side))
    threads = min(workers or thread_limit(), len(blocks))
    single = blas_libraries().limit(limits=1)  # Otherwise the matrix products of each reader start their own threads.
    with single, ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        for done, damaged in enumerate(pool.map(read, blocks) if pool else map(read, blocks), 1):
            for block in damaged:
                readable[block.within(whole)] = False
                unreadable.append(frame.region0_from(*block))
            progress(done, len(blocks), "reading")
    return View(pixels, frame, readable, tuple(unreadable))


def read_block(
    slide: Slide, downsample_x: float, downsample_y: float, block: Region
) -> tuple[UInt8Array, list[Region]]:
    """Read one block of the view at a low resolution and its unreadable parts.

    Parameters
    ----------
    block
        Block in pixels of the view.

    Returns
    -------
    uint8 (height, width, 3), background where decoding failed; the unreadable parts in pixels of the view, as small as
    the tiles of the level that is read.
    """
    corner0 = (block.x * downsample_x, block.y * downsample_y)
    size = (block.width, block.height)
    try:
        return read_region_at(slide, corner0, downsample_x, downsample_y, size), []
    except SlideReadError:
        pixels = background(size)
        level = slide.info.levels[best_level(slide, downsample_x, downsample_y)]
        smallest = max(1, math.ceil(min(level.tile_size) / _ratio(slide, downsample_x, downsample_y)))
        if max(size) <= smallest:
            return pixels, [block]
        damaged = []
        for part in block.quarters():
            found, unreadable = read_block(slide, downsample_x, downsample_y, part)
            paste(pixels, block, found, part)
            damaged += unreadable
        return pixels, damaged


def _ratio(slide: Slide, downsample_x: float, downsample_y: float) -> float:
    """Return the larger ratio over both axes of level pixels to view pixels."""
    level = slide.info.levels[best_level(slide, downsample_x, downsample_y)]
    return max(downsample_x / level.downsample_x, downsample_y / level.downsample_y)
