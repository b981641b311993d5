"""The slide protocol implemented by every reader and by the store; the modules beside it decode and check its tiles.

A `Slide` returns RGB pixels of any region of any level, and their size in microns if known. Coordinates are level-0
pixels `(x, y)` unless a name states otherwise. Regions may extend beyond the edge: pixels outside are background. A
region that cannot be decoded raises `SlideReadError` and is never white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import NotEncodedError, RegionError
from wsi_attn.geometry import ORIGIN, Frame, Mpp, Point, Region, Size
from wsi_attn.slide.encoding import TileEncoding

MPP_AT_1X = 10.0
"""Pixel size of a scan at a nominal objective power of 1, µm/px: about 0.5 at 20x and 0.25 at 40x."""

MAX_CONTRADICTION = 3.0
"""Factor by which a pixel size may differ from the value implied by the objective."""

BACKGROUND = 255
"""Grey value of pixels outside the scanned area (glass)."""

UInt8Array = NDArray[np.uint8]


class Progress(Protocol):
    """Progress callback of library code; the command line draws it, tests ignore it."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Report that `done` of `total` steps of a phase are finished.

        `what` names the phase, "tiling"; details that change from step to step follow a colon, "training: epoch 3/40".
        Called with 0 before a phase whose first step may take long.
        """
        ...


class Item(Progress, Protocol):
    """Progress within one input of a batch."""

    state: str
    """Result for the input in one word; "done" unless the code that processes it sets another."""


class BatchProgress(Progress, Protocol):
    """Progress of code that processes many inputs."""

    def item(self, number: int, count: int, name: str) -> AbstractContextManager[Item]:
        """Context manager around the work on input `number` of `count`, counted from 1."""
        ...


class NoProgress:
    """Progress that is not reported."""

    state = "done"

    def __call__(self, done: int, total: int, what: str) -> None:
        """See `Progress`."""

    def item(self, number: int, count: int, name: str) -> AbstractContextManager[Item]:
        """See `BatchProgress`."""
        return nullcontext(NoProgress())


no_progress = NoProgress()


class ItemsAsSteps(NoProgress):
    """Reports the items of a batch as the steps of one phase of a larger task."""

    def __init__(self, progress: Progress, phase: str) -> None:
        self._progress = progress
        self._phase = phase

    def item(self, number: int, count: int, name: str) -> AbstractContextManager[Item]:
        """See `BatchProgress`."""
        self._progress(number - 1, count, f"{self._phase}: {name}")
        return nullcontext(NoProgress())


class OneInput(NoProgress):
    """Reports the work on a single input as that of a batch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, done: int, total: int, what: str) -> None:
        """See `Progress`."""
        self._progress(done, total, what)

    def item(self, number: int, count: int, name: str) -> AbstractContextManager[Item]:
        """See `BatchProgress`."""
        return nullcontext(self)


@dataclass(frozen=True)
class Level(Frame):
    """One stored resolution of a slide; index 0 is the finest."""

    tile_size: Size


@dataclass(frozen=True)
class SlideInfo:
    """Metadata of a slide, without its pixels.

    `mpp` is None if the file states none or an implausible one; `mpp_note` then states which. `bounds` is the scanned
    area in level-0 pixels, if OpenSlide states one: QuPath shows only this part of the slide.
    """

    path: Path
    vendor: str
    reader: str
    size0: Size
    levels: tuple[Level, ...]
    mpp: Mpp | None = None
    mpp_source: str = "none"
    mpp_note: str = ""
    objective_power: float | None = None
    compression: str = ""
    bounds: Region | None = None
    associated: tuple[str, ...] = ()
    icc_profile: bytes | None = None
    fingerprint: str = field(kw_only=True)
    properties: Mapping[str, str] = field(default_factory=dict)
    given_name: str = ""
    """Base name of outputs if it is not the stem of the file: a DICOM series, or one image of several."""
    other_images: tuple[str, ...] = ()
    """Other images in the file: number after a `#`, name and extent."""
    notes: tuple[str, ...] = ()
    """Notes for people on ignored or uncertain content."""

    @property
    def mpp_contradiction(self) -> str:
        """Contradiction between the file's pixel size and its objective; empty if none, or if the user set a
        pixel size.
        """
        if self.mpp is None or self.mpp_source != "file" or not self.objective_power:
            return ""
        expected = MPP_AT_1X / self.objective_power
        if all(1 / MAX_CONTRADICTION <= axis / expected <= MAX_CONTRADICTION for axis in self.mpp):
            return ""
        return (
            f"the file states {self.mpp.x:g} x {self.mpp.y:g} µm/px at an objective of {self.objective_power:g}x, "
            f"where about {expected:g} µm/px is expected"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """`notes`, and a pixel size that contradicts the objective."""
        contradiction = self.mpp_contradiction
        return (*self.notes, *([f"{contradiction}; set the correct one with --slide-mpp"] if contradiction else []))

    @property
    def origin(self) -> Point:
        """Origin of QuPath's coordinates, level-0 pixels: the corner of `bounds`, (0, 0) without bounds."""
        return Point(self.bounds.x, self.bounds.y) if self.bounds else ORIGIN

    @property
    def name(self) -> str:
        """Base name of outputs: `given_name`, otherwise `name_of` the path."""
        return self.given_name or name_of(self.path)


def name_of(path: Path) -> str:
    """File name of a slide or store without folder and suffix, the base name of its outputs."""
    for suffix in (".ome.tiff", ".ome.tif", ".zarr"):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


class EncodedTiles(Protocol):
    """Compressed tiles of one level as stored in the file. Thread-safe.

    They form a regular grid from the level's top left corner without overlap; tiles at the right and bottom are padded
    to full size.
    """

    @property
    def recoded(self) -> int:
        """Number of tiles read so far that are not the file's bytes because their streams state other colours than
        `encoding`.
        """
        ...

    @property
    def encoding(self) -> TileEncoding:
        """Encoding of the tiles."""
        ...

    @property
    def tile_size(self) -> Size:
        """Extent of every tile in pixels of the level."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows, columns): bytes of each tile; 0 for missing tiles, which read as background."""
        ...

    def read(self, cells: Sequence[tuple[int, int]]) -> Sequence[bytes | memoryview]:
        """Bytes of tiles given as (row, column), empty for missing ones; neighbours are read together.

        Raises
        ------
        SlideReadError : the file is unreadable there.
        """
        ...


class Slide(Protocol):
    """A readable slide; a thread-safe context manager."""

    @property
    def info(self) -> SlideInfo:
        """Metadata; reading it decodes no pixels."""
        ...

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Read the pixels of one region of one level.

        Parameters
        ----------
        xy0
            Top-left corner in level-0 pixels; may lie outside the slide.
        level
            Index into `info.levels`.
        size
            Width and height in pixels of that level.

        Returns
        -------
        uint8 (height, width, 3), RGB; `BACKGROUND` outside the slide.

        Raises
        ------
        RegionError : no such level, or a size that is not positive.
        SlideReadError : the region cannot be decoded.
        """
        ...

    def encoded_tiles(self, level: int) -> EncodedTiles:
        """The level's compressed tiles, verified to decode to the pixels of `read_region`.

        Raises
        ------
        RegionError : there is no such level.
        NotEncodedError : they are not available; the message states why.
        """
        ...

    def close(self) -> None:
        """Release the file; later reads raise an error."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class SlideBase:
    """What slides have in common: checks of their arguments, and closing at the end of a block.

    Attributes
    ----------
    not_encoded
        Why there are no compressed tiles, for slides that inherit `encoded_tiles`.
    """

    info: SlideInfo
    not_encoded = ""

    def check_region(self, level: int, size: tuple[int, int]) -> None:
        """Raise `RegionError` for a level that does not exist or a size that is not positive."""
        if not 0 <= level < len(self.info.levels) or min(size) <= 0:
            raise RegionError(f"{self.info.path} has no region of size {size} on level {level}")

    def check_level(self, level: int) -> None:
        """Raise `RegionError` for a level that does not exist."""
        if not 0 <= level < len(self.info.levels):
            raise RegionError(f"{self.info.path} has no level {level}")

    def encoded_tiles(self, level: int) -> EncodedTiles:
        """Raise, because there are only pixels; see `Slide.encoded_tiles`."""
        self.check_level(level)
        raise NotEncodedError(self.not_encoded)

    def close(self) -> None:
        """Release nothing; see `Slide.close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def background(size: tuple[int, int]) -> UInt8Array:
    """Pixels (height, width, 3) of glass; `size` is width and height."""
    return np.full((size[1], size[0], 3), BACKGROUND, np.uint8)


def paste(pixels: UInt8Array, region: Region, found: UInt8Array, place: Region) -> None:
    """Copy the part of `found`, the pixels of `place`, that lies in `region` into its `pixels`."""
    if shared := region.intersection(place):
        pixels[shared.within(region)] = found[shared.within(place)]
