"""Crops of pixels and labels: random augmented crops for training, fixed crops for validation.

Crops are flipped, rotated, deformed and scaled together with their labels; colours change only in the pixels. Beyond
the edge of a slide, training crops are mirrored with their labels; fixed crops are mirrored without
labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.annotations.masks import UNLABELLED, Mask, Window
from wsi_attn.data.augment import random_colour, random_symmetry
from wsi_attn.data.sources import SlidePatches
from wsi_attn.geometry import Region, tile_origins
from wsi_attn.slide import UInt8Array

MOST_CROPS = 16
"""Maximum crops per row and epoch; a row gets as many as cover it once."""

AT_OBJECTS = 0.5
"""Share of the training crops that are centred on a labelled foreground location."""

LARGEST_CHANGE = 0.7
"""Limit of the log of a random scale factor."""

ROTATION = np.pi / 4
"""Maximum rotation, radians; with the symmetries every angle occurs."""

BEND_POINTS, BEND = 4, 0.03
"""Grid points along a side that are displaced at random, and the standard deviation at strength 1 as a share of the
side; smooth in between, after Simard et al., ICDAR 2003."""

TRIES = 8
"""Attempts to find a location with a label before one without is accepted."""

PROBE = 16
"""Side in pixels of the raster that checks a location for labels."""


@dataclass(frozen=True)
class Crop:
    """Square crop of pixels with labels.

    `pixels` is uint8 (side, side, 3), `labels` uint8 (side, side), `UNLABELLED` without a label; `valid` bool of
    the same shape, False beyond the edge of the slide.
    """

    pixels: UInt8Array
    labels: UInt8Array
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the augmentation of training crops; 0 disables it. See `TrainConfig`."""

    colour: float = 0.0
    scale: float = 0.0
    warp: float = 0.0


def crops_of(extent: tuple[int, int], side: int) -> int:
    """Return the number of crops per epoch of a row with this width and height, 1 to `MOST_CROPS`."""
    return min(MOST_CROPS, max(1, round(extent[0] * extent[1] / side**2)))


def fixed_crops(patches: SlidePatches, mask: Mask, side: int, seed: int) -> list[tuple[int, int]]:
    """Return the corners, in high-resolution pixels, of the validation crops of a row.

    They cover the slide, with the last ones moved inside; if that takes more than `MOST_CROPS`, that many are
    drawn at random from the seed, like training crops.
    """
    columns, rows = (
        sorted({max(0, min(origin, length - side)) for origin in tile_origins(length, side, side)})
        for length in patches.extent
    )
    if len(rows) * len(columns) <= MOST_CROPS:
        return [(x, y) for y in rows for x in columns]
    generator = np.random.default_rng(seed)
    return [_corner(patches, mask, side, generator) for _ in range(MOST_CROPS)]


def fixed_crop(patches: SlidePatches, mask: Mask, corner: tuple[int, int], side: int) -> Crop:
    """Read the crop at a corner in high-resolution pixels, without augmentation."""
    width, height = patches.extent
    valid = np.zeros((side, side), np.bool_)
    valid[: height - corner[1], : width - corner[0]] = True
    labels = np.where(valid, mask.read(window_of(patches, Region(*corner, side, side))), UNLABELLED)
    inside = Region(*corner, min(side, width - corner[0]), min(side, height - corner[1]))
    pixels = cv2.copyMakeBorder(
        patches.read(inside), 0, side - inside.height, 0, side - inside.width, cv2.BORDER_REFLECT_101
    )
    return Crop(np.asarray(pixels, np.uint8), labels.astype(np.uint8), valid)


def random_crop(
    patches: SlidePatches, mask: Mask, side: int, generator: np.random.Generator, change: Augmentation
) -> Crop:
    """Draw an augmented crop at a random location."""
    if change.scale > 0:
        log = np.clip(generator.normal(0, change.scale), -LARGEST_CHANGE, LARGEST_CHANGE)
        patches = patches.rescaled(float(np.exp(log)))
    left, top = _corner(patches, mask, side, generator)
    middle = (side - 1) / 2
    lines = np.arange(side) - middle
    where = np.stack(np.meshgrid(lines, lines), axis=2)  # (side, side, 2), x and y from the centre
    if change.warp > 0:
        where = _warped(where, generator, change.warp)
    source = where + np.array((left + middle, top + middle))
    pixels, labels = _sampled(patches, mask, source)
    symmetry = random_symmetry(generator)
    pixels, labels = symmetry.apply(pixels), symmetry.apply(labels[..., None])[..., 0]
    if change.colour > 0:
        pixels = random_colour(generator, change.colour).apply(pixels)
    return Crop(pixels, labels, np.ones(labels.shape, np.bool_))


def window_of(patches: SlidePatches, region: Region) -> Window:
    """Return the raster of a region in high-resolution pixels."""
    x0, y0 = region.x * patches.downsample_x, region.y * patches.downsample_y
    return Window(x0, y0, region.width, region.height, patches.downsample_x, patches.downsample_y)


def _corner(patches: SlidePatches, mask: Mask, side: int, generator: np.random.Generator) -> tuple[int, int]:
    """Draw the corner of a crop in high-resolution pixels, inside the slide if it is large enough."""
    width, height = patches.extent
    for _ in range(TRIES):
        x, y = generator.uniform(0, width), generator.uniform(0, height)
        place = mask.place(generator) if generator.random() < AT_OBJECTS else None
        if place is not None:
            x = place[0] / patches.downsample_x + generator.uniform(-side / 4, side / 4)
            y = place[1] / patches.downsample_y + generator.uniform(-side / 4, side / 4)
        left, top = (
            int(np.clip(middle - side / 2, 0, max(0, length - side))) for middle, length in ((x, width), (y, height))
        )
        probe = window_of(patches, Region(left, top, side, side))
        step = side / PROBE
        coarse = probe._replace(
            width=PROBE, height=PROBE, downsample_x=probe.downsample_x * step, downsample_y=probe.downsample_y * step
        )
        if (mask.read(coarse) != UNLABELLED).any():
            break
    return left, top


def _warped(where: NDArray[np.float64], generator: np.random.Generator, strength: float) -> NDArray[np.float64]:
    """Apply a random rotation and a smooth random displacement to points."""
    side = where.shape[0]
    angle = generator.uniform(-ROTATION, ROTATION) * min(1.0, strength)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    bend = generator.normal(0, BEND * strength * side, (BEND_POINTS, BEND_POINTS, 2)).astype(np.float32)
    return np.asarray(where @ turn.T + cv2.resize(bend, (side, side), interpolation=cv2.INTER_CUBIC))


def _sampled(patches: SlidePatches, mask: Mask, source: NDArray[np.float64]) -> tuple[UInt8Array, UInt8Array]:
    """Sample pixels and labels at points (rows, columns, 2), mirrored at the edges of the slide."""
    width, height = patches.extent
    low = np.floor(source.min(axis=(0, 1))).astype(int) - 1
    high = np.ceil(source.max(axis=(0, 1))).astype(int) + 2
    (left, top), (right, bottom) = np.maximum(low, 0).tolist(), np.minimum(high, (width, height)).tolist()
    region = Region(left, top, right - left, bottom - top)
    at = (source - (left, top)).astype(np.float32)
    pixels = cv2.remap(
        patches.read(region), at, None, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    labels = cv2.remap(
        mask.read(window_of(patches, region)),
        at,
        None,
        interpolation=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(pixels, np.uint8), np.asarray(labels, np.uint8)
