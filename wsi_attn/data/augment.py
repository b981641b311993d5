"""Augmentation shared by a coarse view and its patches: crop, one of eight symmetries, colour change."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.models.base import PatchSource
from wsi_attn.slide import UInt8Array


@dataclass(frozen=True)
class Symmetry:
    """One of the eight symmetries of a square: optional transpose, then column flip, then row flip."""

    transpose: bool
    flip_x: bool
    flip_y: bool

    def apply(self, pixels: UInt8Array) -> UInt8Array:
        """Apply the symmetry to an image (..., rows, columns, channels)."""
        if self.transpose:
            pixels = pixels.swapaxes(-3, -2)
        if self.flip_x:
            pixels = pixels[..., :, ::-1, :]
        if self.flip_y:
            pixels = pixels[..., ::-1, :, :]
        return np.ascontiguousarray(pixels)

    def extent(self, extent: tuple[int, int]) -> tuple[int, int]:
        """Return width and height after the symmetry."""
        return (extent[1], extent[0]) if self.transpose else extent

    def source_xy(self, xy: NDArray[np.int64], size: int, extent: tuple[int, int]) -> NDArray[np.int64]:
        """Map corners `xy` of squares in the transformed image to the original, whose size is `extent`."""
        width, height = self.extent(extent)
        x = width - size - xy[:, 0] if self.flip_x else xy[:, 0]
        y = height - size - xy[:, 1] if self.flip_y else xy[:, 1]
        return np.stack((y, x) if self.transpose else (x, y), axis=1)


SYMMETRIES = tuple(Symmetry(*bits) for bits in product((False, True), repeat=3))
"""All eight; the first is the identity."""


@dataclass(frozen=True)
class ColourChange:
    """An affine change of colour around white: 255 - p' = matrix (255 - p) - offset, clipped to 0..255."""

    matrix: NDArray[np.float32]
    offset: NDArray[np.float32]

    def apply(self, pixels: UInt8Array) -> UInt8Array:
        """Apply the change to uint8 (..., 3) pixels; the shape is kept."""
        if pixels.size == 0:
            return pixels
        shift = 255 - self.matrix @ np.full(3, 255, np.float32) + self.offset
        affine = np.concatenate([self.matrix, shift[:, None]], axis=1)
        flat = np.ascontiguousarray(pixels).reshape(1, -1, 3)
        return np.asarray(cv2.transform(flat, affine), np.uint8).reshape(pixels.shape)


def random_symmetry(generator: np.random.Generator) -> Symmetry:
    """Draw one of the eight symmetries uniformly."""
    transpose, flip_x, flip_y = (bool(bit) for bit in generator.integers(0, 2, 3))
    return Symmetry(transpose, flip_x, flip_y)


def random_colour(generator: np.random.Generator, strength: float) -> ColourChange:
    """Draw a random change; `strength` 0 is the identity, 1 varies the density of each channel by about a third."""
    gains = np.exp(generator.normal(0, 0.15 * strength, 3) + generator.normal(0, 0.2 * strength))
    mixing = generator.normal(0, 0.05 * strength, (3, 3))
    np.fill_diagonal(mixing, 0)
    saturation = np.exp(generator.normal(0, 0.2 * strength))
    grey = np.full((3, 3), 1 / 3)
    matrix = (np.diag(gains) + mixing) @ (grey + saturation * (np.eye(3) - grey))
    offset = generator.normal(0, 8 * strength, 3)
    return ColourChange(matrix.astype(np.float32), offset.astype(np.float32))


def random_span(extent: int, most: float, generator: np.random.Generator) -> slice:
    """Draw a random span of `extent` that omits at most the share `most` and keeps at least one pixel."""
    kept = max(1, round(extent * (1 - generator.uniform(0, most))))
    start = int(generator.integers(0, extent - kept + 1))
    return slice(start, start + kept)


class CroppedPatches:
    """Patch source restricted to a window whose top-left corner is `xy`."""

    def __init__(self, source: PatchSource, xy: tuple[int, int]) -> None:
        self.source = source
        self.xy = np.array(xy, np.int64)

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[UInt8Array, NDArray[np.bool_]]:
        """See `PatchSource.read_patches`."""
        return self.source.read_patches(xy + self.xy, size)


class AugmentedPatches:
    """Patch source with one symmetry and one colour change applied."""

    def __init__(
        self, source: PatchSource, extent: tuple[int, int], symmetry: Symmetry, colour: ColourChange | None
    ) -> None:
        self.source = source
        self.source_extent = extent
        self.symmetry = symmetry
        self.colour = colour
        self.extent = symmetry.extent(extent)

    def view(self, pixels: UInt8Array) -> UInt8Array:
        """Return the transformed coarse view."""
        seen = self.symmetry.apply(pixels)
        return self.colour.apply(seen) if self.colour else seen

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[UInt8Array, NDArray[np.bool_]]:
        """See `PatchSource.read_patches`."""
        corners = self.symmetry.source_xy(xy, size, self.source_extent)
        patches, readable = self.source.read_patches(corners, size)
        return self.view(patches), readable
