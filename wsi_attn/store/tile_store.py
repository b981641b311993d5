"""`TileStore`: read a complete store as a slide, with its tissue, tile coordinates and scores.

Implements `slide.Slide` in coordinates of the original slide without access to slide files. Read-only; `tiling` writes
stores. A missing or changed file raises an error; it never reads as a fill value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import NotEncodedError, SlideReadError, StoreDamagedError, StoreIncompleteError
from wsi_attn.geometry import Frame, Mpp, Region, Size
from wsi_attn.paths import printable
from wsi_attn.registry import unknown_name
from wsi_attn.slide import EncodedTiles, Level, SlideBase, SlideInfo, UInt8Array, background, paste
from wsi_attn.store import sharding
from wsi_attn.store.arrays import DOCUMENT, chunk_key, read_array, read_document
from wsi_attn.store.checked_files import CheckedFiles, essential_files
from wsi_attn.store.level_chunks import LevelChunks
from wsi_attn.store.notebook import store_html
from wsi_attn.store.schema import (
    COMPLETE,
    TISSUE_LABEL,
    TISSUE_VALUE,
    Factor,
    GridInfo,
    StoreMeta,
    Unreadable,
    named_field,
    read_meta,
)


class _Factors(msgspec.Struct, frozen=True):
    downsample: tuple[Factor, Factor]


class _LabelAttributes(msgspec.Struct, frozen=True):
    wsi_attn: _Factors


class _LabelGroup(msgspec.Struct, frozen=True):
    attributes: _LabelAttributes


class TileStore(SlideBase):
    """A complete store; a context manager that several threads may read.

    Attributes
    ----------
    path
        The `.zarr` folder.
    meta
        The metadata of the store: parameters, tissue rule, unreadable regions, software, checksums.
    files
        The files of labels, grids and array metadata, checked on reading.
    chunks
        The chunks of each level, compressed and decoded.
    info
        As for any slide. `size0` and `mpp` are those of the original slide's level 0, even if the store's first
        level is coarser; `fingerprint` is that of the original file.
    """

    def __init__(self, path: Path, meta: StoreMeta, slide_mpp: Mpp | None = None) -> None:
        self.path = path
        self.meta = meta
        self.info = _info_from(path, meta, slide_mpp)
        self.files = CheckedFiles.of(path, meta)
        self._closed = False
        self._damage = _damage_by_level(meta.levels, (*meta.unreadable, *_gone(path, meta)))
        self.chunks = tuple(LevelChunks(self.files, index, level) for index, level in enumerate(meta.levels))

    def __repr__(self) -> str:
        size = self.info.size0
        return (
            f"TileStore({printable(self.path.name)!r}: {size.width} x {size.height} px, {len(self.info.levels)} levels)"
        )

    def _repr_html_(self) -> str | None:
        """HTML for notebooks: a thumbnail, size, pixel size and grids; None on failure."""
        return store_html(self)

    @classmethod
    def open(cls, path: Path, slide_mpp: Mpp | None = None) -> Self:
        """Open a complete store.

        Parameters
        ----------
        slide_mpp
            Pixel size of the original slide's level 0, if it is missing or wrong in the store.

        Raises
        ------
        SlideNotFoundError : the path does not exist.
        StoreSchemaError : it is not a store of wsi-attn, or has an unknown schema version.
        StoreIncompleteError : it is unfinished.
        StoreDamagedError : its metadata is damaged, or a file of its labels or grids is missing or has another size.
            Contents are checked on reading.
        """
        meta = read_meta(path)
        if meta.state != COMPLETE:
            raise StoreIncompleteError(
                f"{path} is unfinished: rerun `wsi-attn tile` on {meta.source.name} with the same options; it resumes"
            )
        store = cls(path, meta, slide_mpp)
        store._require_files()
        return store

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Pixels of one region; see `Slide.read_region`."""
        self.check_region(level, size)
        frame = self.meta.levels[level]
        # To nearest: an origin in pixels, rounded to level 0 by the caller, must map to the same pixel again.
        x, y = round(xy0[0] / frame.downsample_x), round(xy0[1] / frame.downsample_y)
        wanted = Region(x, y, *size)
        inside = wanted.intersection(Region(0, 0, *frame.size))
        if inside is None:
            return background(size)
        if self.is_damaged(inside, level):
            raise SlideReadError(
                f"{self.path}: level {level}, region at {xy0}, size {size} was unreadable in the slide"
            )
        found = self.read_level(level, inside)
        if inside == wanted:
            return found
        pixels = background(size)
        paste(pixels, wanted, found, inside)
        return pixels

    def read_level(self, level: int, region: Region) -> UInt8Array:
        """Stored pixels of a region in pixels of a level, which must lie inside it; fill values where damaged."""
        self._check_open()
        return self.chunks[level].pixels(region)

    def encoded_tiles(self, level: int) -> EncodedTiles:
        """The chunks of a level if they are JPEG or JPEG 2000; see `Slide.encoded_tiles`."""
        self.check_level(level)
        chunks = self.chunks[level]
        if chunks.codec.encoding is None:
            raise NotEncodedError(f"its chunks are {chunks.codec.name}, not JPEG")
        return chunks

    def is_damaged(self, region: Region, level: int) -> bool:
        """Whether a region, in pixels of a level, overlaps an unreadable area."""
        boxes = self._damage[level]  # (M, 4) x, y, x1, y1
        if not len(boxes):  # called for every tile, and usually true
            return False
        apart = (boxes[:, 0] >= region.x1) | (boxes[:, 1] >= region.y1)
        return bool((~(apart | (boxes[:, 2] <= region.x) | (boxes[:, 3] <= region.y))).any())

    def tissue(self) -> tuple[NDArray[np.bool_], Frame]:
        """The tissue mask, bool (rows, columns), and its position in level-0 coordinates."""
        values, frame = self.tissue_label()
        return np.asarray(values == TISSUE_VALUE), frame

    def tissue_label(self) -> tuple[UInt8Array, Frame]:
        """The stored label, uint8 (rows, columns): 0 background, 1 tissue, 2 unreadable; raises the same errors
        as `coords`.
        """
        key = f"labels/{TISSUE_LABEL}"
        values = self._array(f"{key}/0", "uint8", 2)
        file = f"{key}/{DOCUMENT}"
        try:
            document = msgspec.json.decode(self.files.read(file), type=_LabelGroup)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StoreDamagedError(f"{self.path / file} is damaged: {named_field(error, '')}") from error
        factors = document.attributes.wsi_attn.downsample
        return np.asarray(values, np.uint8), Frame(Size(values.shape[1], values.shape[0]), *factors)

    def grids(self) -> tuple[str, ...]:
        """Names of the grids, sorted."""
        if self.meta.records_all_files and self.meta.state == COMPLETE:
            return tuple(sorted(self.meta.recorded_grids))
        folder = self.path / "tiles"
        found = {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else set()
        first = self.meta.parameters.get("grid")
        if self.meta.state == COMPLETE and isinstance(first, str):
            found.add(first)  # it existed when the store was completed, so its absence is damage
        return tuple(sorted(name for name in found if not name.startswith(".")))

    def grid(self, grid: str = "default") -> GridInfo:
        """Layout of a grid; raises the same errors as `coords`."""
        key = self._grid_key(grid, "coords")
        document = read_document(self.files.read, key, self.path)
        try:
            return GridInfo.from_json(grid, document.attributes)
        except msgspec.ValidationError as error:
            file = self.path / key / DOCUMENT
            raise StoreDamagedError(f"{file} is damaged: {named_field(error, 'attributes')}") from error

    def coords(self, grid: str = "default") -> NDArray[np.int64]:
        """Coordinates of the tiles of a grid.

        Returns
        -------
        int64 (N, 2): x, y of each tile's top-left corner in level-0 pixels, in read order.

        Raises
        ------
        UnknownNameError : there is no such grid.
        StoreDamagedError : a file is missing, has changed, or is invalid.
        """
        key = self._grid_key(grid, "coords")
        values = self._array(key, "int64", 2)
        if values.shape[1] != 2:
            raise StoreDamagedError(
                f"{self.path / key / DOCUMENT} is damaged: shape {list(values.shape)} is not (N, 2)"
            )
        return np.asarray(values, np.int64)

    def readable(self, grid: str = "default") -> NDArray[np.bool_]:
        """Whether each tile is readable, bool (N,); raises the same errors as `coords`."""
        return np.asarray(self._array(self._grid_key(grid, "readable"), "bool", 1), np.bool_)

    def scores(self, grid: str = "default", name: str = "tissue") -> NDArray[np.float32]:
        """One score of each tile, float32 (N,), NaN for unreadable tiles; raises the same errors as `coords`."""
        known = self.grid(grid).scores
        if name not in known:
            raise unknown_name(f"score of {self.path}", name, known)
        return np.asarray(self._array(self._grid_key(grid, f"scores/{name}"), "float32", 1), np.float32)

    def _array(self, key: str, dtype: str, axes: int) -> NDArray[np.generic]:
        self._check_open()
        values, _ = read_array(self.files.read, key, self.path)
        if (values.dtype, values.ndim) != (np.dtype(dtype), axes):
            raise StoreDamagedError(
                f"{self.path / key / DOCUMENT} is damaged: {values.dtype} with {values.ndim} axes instead of {dtype} "
                f"with {axes}"
            )
        return values

    def _grid_key(self, grid: str, name: str) -> str:
        self._check_open()
        if grid not in self.grids():
            raise unknown_name(f"grid of {self.path}", grid, self.grids())
        return f"tiles/{grid}/{name}"

    def _check_open(self) -> None:
        if self._closed:
            raise SlideReadError(f"{self.path} is closed")

    def _require_files(self) -> None:
        """Raise `StoreDamagedError` if a file of labels or grids is missing; contents are not read."""
        if self.meta.records_all_files:
            for key in essential_files(self.meta):
                self.files.require(key)
            return
        arrays = [f"labels/{TISSUE_LABEL}/0"]
        for grid in self.grids():
            names = ("coords", "readable", *(f"scores/{name}" for name in self.grid(grid).scores))
            arrays += [f"tiles/{grid}/{name}" for name in names]
        for key in arrays:
            for index in read_document(self.files.read, key, self.path).chunks():
                self.files.require(chunk_key(key, index))

    def close(self) -> None:
        """Close the store; later reads raise an error."""
        self._closed = True


def _info_from(path: Path, meta: StoreMeta, slide_mpp: Mpp | None) -> SlideInfo:
    source = meta.source
    return SlideInfo(
        path=path,
        vendor=source.vendor,
        reader="store",
        size0=source.size0,
        levels=meta.levels,
        mpp=slide_mpp or meta.mpp,
        mpp_source="user" if slide_mpp else meta.mpp_source,
        mpp_note="" if slide_mpp else meta.mpp_note,
        objective_power=meta.objective_power,
        compression=meta.pixels[0].codec,
        bounds=source.bounds,
        icc_profile=source.icc_profile,
        fingerprint=source.fingerprint,
    )


def _gone(path: Path, meta: StoreMeta) -> list[Unreadable]:
    """Regions of shards that are missing or have another size, which Zarr would read as background."""
    gone = []
    for name, file in meta.shards.items():
        try:
            if (path / name).stat().st_size == file.bytes:
                continue
        except OSError:
            pass
        level, row, column = sharding.shard_of(name)
        frame = meta.levels[level]
        rows, columns = sharding.shard_chunks(frame.size, frame.tile_size)
        width, height = columns * frame.tile_size.width, rows * frame.tile_size.height
        gone.append(Unreadable(level, *frame.region0_from(column * width, row * height, width, height)))
    return gone


def _damage_by_level(levels: tuple[Level, ...], unreadable: tuple[Unreadable, ...]) -> list[NDArray[np.int64]]:
    """For each level (M, 4): x, y, x1, y1 in its pixels.

    Recorded rectangles are rounded outwards to level 0; rounding to nearest inverts that exactly if a level pixel
    spans at least two level-0 pixels, and otherwise errs outwards.
    """
    damage = []
    for index, level in enumerate(levels):
        found = [box for box in unreadable if box.level == index]
        corners = [(box.x, box.y, box.x + box.width, box.y + box.height) for box in found]
        factors = (level.downsample_x, level.downsample_y) * 2
        damage.append(np.rint(np.array(corners, np.float64).reshape(-1, 4) / factors).astype(np.int64))
    return damage
