"""`TileStore`: a finished store, read as a slide, with its tissue, tile coordinates and scores.

Fulfils `contract.Slide`, in coordinates of the slide that it was made of, without knowing slide files. Read-only:
stores are written by `tiling`. Zarr is loaded when pixels or arrays are first asked for.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import NotEncodedError, RegionError, SlideReadError, StoreIncompleteError, StoreSchemaError
from wsi_attn.geometry import Frame, Mpp, Region, Size
from wsi_attn.registry import unknown_name
from wsi_attn.slide import BACKGROUND, EncodedTiles, Level, SlideInfo, UInt8Array
from wsi_attn.store import sharding
from wsi_attn.store.level_chunks import LevelChunks
from wsi_attn.store.schema import (
    ATTRIBUTE,
    COMPLETE,
    TISSUE_LABEL,
    TISSUE_VALUE,
    GridInfo,
    StoreMeta,
    Unreadable,
    read_meta,
)

if TYPE_CHECKING:
    import zarr


class TileStore:
    """A finished store; a context manager that may be read from several threads.

    Attributes
    ----------
    path
        The `.zarr` folder.
    meta
        All that the store says of itself: parameters, tissue rule, unreadable regions, software.
    chunks
        Of each level, the compressed chunks and what they decode to.
    info
        The same as any slide says it. `size0` and `mpp` are those of the original slide's level 0, also where
        the store's first level is coarser; `fingerprint` is the original file's.
    """

    def __init__(self, path: Path, meta: StoreMeta, slide_mpp: Mpp | None = None) -> None:
        self.path = path
        self.meta = meta
        self.info = _info_from(path, meta, slide_mpp)
        self._lock = threading.Lock()
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._closed = False
        self._damage = _damage_by_level(meta.levels, (*meta.unreadable, *_gone(path, meta)))
        self.chunks = tuple(LevelChunks(path, index, level) for index, level in enumerate(meta.levels))

    @classmethod
    def open(cls, path: Path, slide_mpp: Mpp | None = None) -> Self:
        """Open a finished store.

        Parameters
        ----------
        slide_mpp
            Pixel size of the original slide's level 0, where the store does not know it or is wrong.

        Raises
        ------
        SlideNotFoundError : there is nothing at the path.
        StoreSchemaError : it is not a store of ours, or of a version that we do not know.
        StoreIncompleteError : it was never finished.
        """
        meta = read_meta(path)
        if meta.state != COMPLETE:
            raise StoreIncompleteError(
                f"{path} was never finished: run `wsi-attn tile` on {meta.source.name} again with the same options, "
                "it goes on where it stopped"
            )
        return cls(path, meta, slide_mpp)

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Pixels of one region; see `Slide.read_region`."""
        if not 0 <= level < len(self.meta.levels) or min(size) <= 0:
            raise RegionError(f"{self.path} has no region of size {size} on level {level}")
        frame = self.meta.levels[level]
        # To nearest: the origin of a pixel, rounded to level 0 by whoever asks, must find that pixel again.
        x, y = round(xy0[0] / frame.downsample_x), round(xy0[1] / frame.downsample_y)
        wanted = Region(x, y, *size)
        inside = wanted.intersection(Region(0, 0, *frame.size))
        pixels = np.full((size[1], size[0], 3), BACKGROUND, np.uint8)
        if inside is None:
            return pixels
        if self.is_damaged(inside, level):
            raise SlideReadError(
                f"{self.path}: level {level}, region at {xy0}, size {size} was unreadable in the slide"
            )
        found = self.read_level(level, inside)
        if inside == wanted:
            return found
        pixels[inside.y - y : inside.y1 - y, inside.x - x : inside.x1 - x] = found
        return pixels

    def read_level(self, level: int, region: Region) -> UInt8Array:
        """Stored pixels of a region in pixels of a level, that must lie inside it; fill where they are damaged."""
        if self._closed:
            raise SlideReadError(f"{self.path} is closed")
        return self.chunks[level].pixels(region)

    def encoded_tiles(self, level: int) -> EncodedTiles:
        """The chunks of a level, where they are JPEG or JPEG 2000; see `Slide.encoded_tiles`."""
        if not 0 <= level < len(self.chunks):
            raise RegionError(f"{self.path} has no level {level}")
        chunks = self.chunks[level]
        if chunks.codec.encoding is None:
            raise NotEncodedError(f"its chunks are {chunks.codec.name}, not JPEG")
        return chunks

    def is_damaged(self, region: Region, level: int) -> bool:
        """Whether a region, in pixels of a level, touches what could not be read there."""
        boxes = self._damage[level]  # (M, 4) x, y, x1, y1
        if not len(boxes):  # asked for every tile, and nearly always so
            return False
        apart = (boxes[:, 0] >= region.x1) | (boxes[:, 1] >= region.y1)
        return bool((~(apart | (boxes[:, 2] <= region.x) | (boxes[:, 3] <= region.y))).any())

    def tissue(self) -> tuple[NDArray[np.bool_], Frame]:
        """The tissue mask, bool (rows, columns), and how it lies over level 0."""
        values, frame = self.tissue_label()
        return np.asarray(values == TISSUE_VALUE), frame

    def tissue_label(self) -> tuple[UInt8Array, Frame]:
        """The stored label, uint8 (rows, columns): 0 background, 1 tissue, 2 could not be read."""
        values = np.asarray(self.array(f"labels/{TISSUE_LABEL}/0")[...], np.uint8)
        factors: Any = self._group(f"labels/{TISSUE_LABEL}").attrs[ATTRIBUTE]
        return values, Frame(Size(values.shape[1], values.shape[0]), *factors["downsample"])

    def grids(self) -> tuple[str, ...]:
        """Names of the grids, sorted."""
        folders = (folder for folder in (self.path / "tiles").iterdir() if (folder / "coords").is_dir())
        return tuple(sorted(folder.name for folder in folders if not folder.name.startswith(".")))

    def grid(self, grid: str = "default") -> GridInfo:
        """How the tiles of a grid lie."""
        return GridInfo.from_json(grid, dict(self._grid_array(grid, "coords").attrs))

    def coords(self, grid: str = "default") -> NDArray[np.int64]:
        """int64 (N, 2): x, y of each tile's top-left corner in level-0 pixels, in read order."""
        return np.asarray(self._grid_array(grid, "coords")[...], np.int64)

    def readable(self, grid: str = "default") -> NDArray[np.bool_]:
        """Whether each tile's pixels could be read, bool (N,)."""
        return np.asarray(self._grid_array(grid, "readable")[...], np.bool_)

    def scores(self, grid: str = "default", name: str = "tissue") -> NDArray[np.float32]:
        """float32 (N,): one score of each tile, NaN where it could not be read."""
        known = [folder.name for folder in (self.path / "tiles" / grid / "scores").glob("*") if folder.is_dir()]
        if grid in self.grids() and name not in known:
            raise unknown_name(f"score of {self.path}", name, known)
        return np.asarray(self._grid_array(grid, f"scores/{name}")[...], np.float32)

    def array(self, name: str) -> zarr.Array[Any]:
        """An array of the store by its path, opened once."""
        import zarr

        if self._closed:
            raise SlideReadError(f"{self.path} is closed")
        with self._lock:
            if name not in self._arrays:
                try:
                    self._arrays[name] = zarr.open_array(self.path / name, mode="r", zarr_format=3)
                except (OSError, ValueError, KeyError) as error:
                    raise StoreSchemaError(f"{self.path} is damaged: array {name} cannot be opened") from error
            return self._arrays[name]

    def _grid_array(self, grid: str, name: str) -> zarr.Array[Any]:
        if grid not in self.grids():
            raise unknown_name(f"grid of {self.path}", grid, self.grids())
        return self.array(f"tiles/{grid}/{name}")

    def _group(self, name: str) -> zarr.Group:
        import zarr

        return zarr.open_group(self.path / name, mode="r", zarr_format=3)

    def close(self) -> None:
        """Forget the open arrays; reading afterwards is an error."""
        with self._lock:
            self._closed = True
            self._arrays.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


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
        associated=(),
        icc_profile=source.icc_profile,
        fingerprint=source.fingerprint,
    )


def _gone(path: Path, meta: StoreMeta) -> list[Unreadable]:
    """Shards that were written and are not there any more, or not whole: Zarr would read them as background."""
    gone = []
    for name, file in (meta.files or {}).items():
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

    Recorded rectangles are rounded outwards to level 0; rounding to nearest undoes that exactly where a level
    pixel is at least two level-0 pixels, and otherwise errs outwards.
    """
    damage = []
    for index, level in enumerate(levels):
        found = [box for box in unreadable if box.level == index]
        corners = [(box.x, box.y, box.x + box.width, box.y + box.height) for box in found]
        factors = (level.downsample_x, level.downsample_y) * 2
        damage.append(np.rint(np.array(corners, np.float64).reshape(-1, 4) / factors).astype(np.int64))
    return damage
