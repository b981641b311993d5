"""What a slide is: the protocol that every reader and the store fulfil, in the words of the field.

A `Slide` hands out RGB pixels of any region of any level, and says what is known of their size in microns.
Coordinates are level-0 pixels `(x, y)` unless a name says otherwise. Regions may reach past the edge: what
lies outside is background. A region that cannot be decoded raises `SlideReadError` and is never white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsi_attn.encoding import TileEncoding
from wsi_attn.geometry import ORIGIN, Frame, Mpp, Point, Region, Size

MPP_AT_1X = 10.0
"""Pixel size of a scan at a nominal objective power of 1, µm/px: scanners give about 0.5 at 20x and 0.25 at 40x."""

MAX_CONTRADICTION = 3.0
"""Factor by which a pixel size may differ from what the objective suggests."""

BACKGROUND = 255
"""Grey value of what lies outside the scanned area (glass)."""

UInt8Array = NDArray[np.uint8]


class Progress(Protocol):
    """How library code reports its progress; the command line draws it, tests ignore it."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """`done` of `total` steps of a phase are finished.

        `what` names the phase, "tiling"; details that change from step to step follow a colon, "training: epoch 3/40".
        Called with 0 before a phase whose first step may take long.
        """
        ...


class Item(Progress, Protocol):
    """Progress within one input of a batch."""

    state: str
    """What became of the input, in one word; "done" unless the code that works on it says more."""


class BatchProgress(Progress, Protocol):
    """Progress of code that works on many inputs."""

    def item(self, number: int, count: int, name: str) -> AbstractContextManager[Item]:
        """Work on input `number` of `count`, counted from 1, happens inside."""
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
    """Reports the items of a batch as the steps of one phase of something larger."""

    def __init__(self, progress: Progress, phase: str) -> None:
        self._progress = progress
        self._phase = phase

    def item(self, number: int, count: int, name: str) -> AbstractContextManager[Item]:
        """See `BatchProgress`."""
        self._progress(number - 1, count, f"{self._phase}: {name}")
        return nullcontext(NoProgress())


@dataclass(frozen=True)
class Level(Frame):
    """One stored resolution of a slide; index 0 is the finest."""

    tile_size: Size


@dataclass(frozen=True)
class SlideInfo:
    """What a slide says of itself, without its pixels.

    `mpp` is None where the file gives none or an implausible one; `mpp_note` then says which. `bounds` is the scanned
    area in level-0 pixels, where OpenSlide states one: QuPath shows this part of the slide and nothing else.
    """

    path: Path
    vendor: str
    reader: str
    size0: Size
    levels: tuple[Level, ...]
    mpp: Mpp | None
    mpp_source: str
    mpp_note: str
    objective_power: float | None
    compression: str
    bounds: Region | None
    associated: tuple[str, ...]
    icc_profile: bytes | None
    fingerprint: str
    properties: Mapping[str, str] = field(default_factory=dict)
    given_name: str = ""
    """What outputs are named after where that is not the stem of the file: a DICOM series, an image of several."""
    other_images: tuple[str, ...] = ()
    """Images of the file that are not this slide: number behind a `#`, name and extent."""
    notes: tuple[str, ...] = ()
    """What was left out or is doubtful, for people."""

    @property
    def mpp_contradiction(self) -> str:
        """How the file's pixel size contradicts its objective; empty where it does not, or where the user gave one."""
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
        return (*self.notes, *([f"{contradiction}; --slide-mpp states the right one"] if contradiction else []))

    @property
    def origin(self) -> Point:
        """Where QuPath's coordinates begin, level-0 pixels: the corner of `bounds`, (0, 0) without bounds."""
        return Point(self.bounds.x, self.bounds.y) if self.bounds else ORIGIN

    @property
    def name(self) -> str:
        """The name that outputs are given: `given_name`, else `name_of` the path."""
        return self.given_name or name_of(self.path)


def name_of(path: Path) -> str:
    """File name of a slide or store without folder and suffix: what outputs are named after."""
    for suffix in (".ome.tiff", ".ome.tif", ".zarr"):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


class EncodedTiles(Protocol):
    """Compressed tiles of one level as they lie in the file: a regular grid from the level's top left corner, without
    overlap, tiles at the right and bottom padded to full size. May be read from several threads.
    """

    @property
    def recoded(self) -> int:
        """Tiles read so far that are not the file's bytes: their streams state other colours than `encoding`."""
        ...

    @property
    def encoding(self) -> TileEncoding:
        """How they are decoded."""
        ...

    @property
    def tile_size(self) -> Size:
        """Extent of every tile in pixels of the level."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows, columns): bytes of each tile; 0 where the file has none, which reads as background."""
        ...

    def read(self, cells: Sequence[tuple[int, int]]) -> list[bytes | memoryview]:
        """Bytes of tiles given as (row, column), empty for those the file does not have; neighbours are read at once.

        Raises
        ------
        SlideReadError : the file cannot be read there.
        """
        ...


class Slide(Protocol):
    """A readable slide; a context manager that may be read from several threads."""

    @property
    def info(self) -> SlideInfo:
        """Metadata; reading it decodes no pixels."""
        ...

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Pixels of one region of one level.

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
        """The level's own compressed tiles, made sure to decode to the pixels that `read_region` gives.

        Raises
        ------
        RegionError : no such level.
        NotEncodedError : they cannot be had; the message says why.
        """
        ...

    def close(self) -> None:
        """Release the file; reading afterwards is an error."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
