"""Label image in OME-Zarr 0.5, written block by block; writing is resumable and the result appears atomically.

An incomplete image has a hidden name beside its final path and a journal of finished blocks, from which an
interrupted run resumes. A block is one chunk of the finest level; blocks without tissue have no chunk and
read as 0. Coarser levels take every second pixel, like those of the tissue label.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from wsi_attn.file_bytes import read_regular
from wsi_attn.geometry import Frame, Mpp, Region, Size
from wsi_attn.json_types import Json, JsonObject
from wsi_attn.outputs import files
from wsi_attn.outputs.journal import Journal
from wsi_attn.outputs.policy import same
from wsi_attn.slide import UInt8Array
from wsi_attn.store import ome
from wsi_attn.store.additions import adding, retired_name
from wsi_attn.store.arrays import DOCUMENT
from wsi_attn.store.checked_files import scan
from wsi_attn.store.schema import FileInfo
from wsi_attn.store.sharding import crc32c

BLOCK = 2048
"""Side of a block in pixels: 4 MB of labels, a few thousand files for the largest slide."""

SMALLEST = 512
"""Maximum sides of the coarsest level, pixels."""

ATTRIBUTE = "wsi_attn_segmentation"
JOURNAL = "journal.jsonl"
COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75))
"""RGB colours of the foreground classes, repeated if there are more classes."""

OPACITY = 144


class BlockRecord(msgspec.Struct, frozen=True, array_like=True):
    """Journal entry: row and column of a block, its number of unreadable regions, and the checksum of its chunk.

    `crc32c` is -1 for a block without a chunk. A power failure may remove chunks that the journal names.
    """

    row: int
    column: int
    unreadable: int
    crc32c: int


class LabelImage:
    """Writer of a label image.

    Parameters
    ----------
    path
        Path of the finished image.
    frame
        Placement of its finest level on the slide.
    mpp
        Pixel size of level 0 of the slide in µm, if known.
    names
        Class names, background first.
    settings
        Settings of the run; an incomplete image at the same path is resumed only if its settings are equal.
    levels
        Number of levels; None adds levels until the coarsest is small.
    image
        Relative path from the label to the labelled image; None for a standalone label.
    """

    def __init__(
        self,
        path: Path,
        frame: Frame,
        mpp: Mpp | None,
        names: Sequence[str],
        settings: Mapping[str, Json],
        levels: int | None = None,
        image: str | None = None,
    ) -> None:
        self.path, self.frame = path, frame
        self._part = _part_of(path)
        self._journal = Journal(self._part / JOURNAL, BlockRecord)
        self._frames = _frames(frame, levels)
        values = {index: (name, (*colour_of(index), OPACITY)) for index, name in enumerate(names) if index > 0}
        self._attributes: dict[str, object] = {
            "ome": ome.label_attributes(path.name.removesuffix(".zarr"), self._frames, mpp, values, image),
            ATTRIBUTE: {**settings, "downsample": [frame.downsample_x, frame.downsample_y]},
        }
        self.done: dict[tuple[int, int], int] = {}

    def open(self) -> None:
        """Start a new image, or resume an incomplete one with the same settings."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self._resume()
        if not self.done:
            files.remove(self._part)
            self._part.mkdir(parents=True)
            self._levels = self._create()

    def _resume(self) -> None:
        """Take over the intact blocks of the incomplete image, and delete all other chunks."""
        if not same(json.loads(read_regular(self._part / DOCUMENT))["attributes"], self._attributes):
            return
        self._levels = [zarr.open_array(self._part / str(index), mode="r+") for index in range(len(self._frames))]
        kept = {(block.row, block.column): block for block in self._journal.read()}
        kept = {place: block for place, block in kept.items() if self._chunk_checksum(*place) == block.crc32c}
        for chunk in self._part.glob("*/c/*/*"):
            if chunk.parts[-4] != "0" or (int(chunk.parent.name), int(chunk.name)) not in kept:
                files.remove(chunk)
        files.remove_leftovers(self._part)
        self.done = {place: block.unreadable for place, block in kept.items()}

    def _chunk_checksum(self, row: int, column: int) -> int:
        chunk = self._part / "0" / "c" / str(row) / str(column)
        return crc32c(read_regular(chunk)) if chunk.exists() else -1

    def blocks(self) -> list[Region]:
        """Return all blocks, in pixels of the finest level, row by row."""
        return list(Region(0, 0, *self.frame.size).split(BLOCK, BLOCK))

    def is_done(self, block: Region) -> bool:
        """Return whether a block is written."""
        return (block.y // BLOCK, block.x // BLOCK) in self.done

    def write(self, block: Region, classes: UInt8Array | None, unreadable: int = 0) -> None:
        """Write the classes of a block (None if it has no tissue) and its number of unreadable regions."""
        if classes is not None:
            self._levels[0][block.y : block.y1, block.x : block.x1] = classes
        row, column = block.y // BLOCK, block.x // BLOCK
        self._journal.append(BlockRecord(row, column, unreadable, self._chunk_checksum(row, column)))
        self.done[row, column] = unreadable

    def read(self, region: Region, level: int = 0) -> UInt8Array:
        """Read the classes of a region in pixels of a level."""
        return np.asarray(self._levels[level][region.y : region.y1, region.x : region.x1], np.uint8)

    def downsample(self) -> None:
        """Write the coarser levels."""
        for index in range(1, len(self._frames)):
            for block in Region(0, 0, *self._frames[index].size).split(BLOCK, BLOCK):
                finer = self.read(Region(*(2 * side for side in block)), index - 1)[::2, ::2]
                if finer.any():
                    self._levels[index][block.y : block.y1, block.x : block.x1] = finer

    def level_sizes(self) -> list[Size]:
        """Return the sizes of the levels, finest first."""
        return [frame.size for frame in self._frames]

    def finish(self, store: Path | None = None) -> None:
        """Move the image to its final path, replacing an existing one.

        Parameters
        ----------
        store
            The labelled store, if any; the label is added to its metadata.
        """
        self._journal.remove()
        if store is None:
            self._move()
            shutil.rmtree(retired_name(self.path), ignore_errors=True)
            return
        key = self.path.relative_to(store).as_posix()
        with adding(store, key) as announce:
            document = _labels_document(store, self.path.name)
            names = {f"labels/{DOCUMENT}": FileInfo(len(document), crc32c(document))}
            announce({**scan(self._part, key), **names})
            self._move()
            files.write_bytes(store / "labels" / DOCUMENT, document)

    def _move(self) -> None:
        retired = retired_name(self.path)
        files.remove(retired)
        files.swap_in(self._part, self.path, retired)

    def discard(self) -> None:
        """Delete the incomplete image."""
        shutil.rmtree(self._part, ignore_errors=True)

    def _create(self) -> list[zarr.Array[Any]]:
        group = zarr.create_group(self._part, zarr_format=3, attributes=self._attributes)
        return [
            group.create_array(
                str(index),
                shape=(frame.size.height, frame.size.width),
                chunks=(min(BLOCK, frame.size.height), min(BLOCK, frame.size.width)),
                dtype="uint8",
                fill_value=0,
                compressors=ZstdCodec(level=3, checksum=True),
                dimension_names=("y", "x"),
            )
            for index, frame in enumerate(self._frames)
        ]


def settings_of(path: Path, *, under_way: bool = False) -> JsonObject | None:
    """Return the settings of the complete or incomplete label image at a path; None if wsi-attn wrote none there."""
    try:
        document = json.loads(((_part_of(path) if under_way else path) / DOCUMENT).read_text(encoding="utf-8"))
        settings = dict(document["attributes"][ATTRIBUTE])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    settings.pop("downsample", None)
    return settings


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def colour_of(index: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class."""
    return COLOURS[(index - 1) % len(COLOURS)]


def _labels_document(store: Path, name: str) -> bytes:
    """Return the `zarr.json` of the `labels` group of a store with a label added, where OME-Zarr readers find it."""
    document = json.loads((store / "labels" / DOCUMENT).read_text(encoding="utf-8"))
    names = document["attributes"]["ome"]["labels"]
    if name not in names:
        names.append(name)
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def _frames(frame: Frame, levels: int | None) -> list[Frame]:
    frames = [frame]
    while len(frames) < levels if levels else max(frames[-1].size) > SMALLEST:
        last = frames[-1]
        size = Size(-(-last.size.width // 2), -(-last.size.height // 2))
        frames.append(Frame(size, last.downsample_x * 2, last.downsample_y * 2))
    return frames
