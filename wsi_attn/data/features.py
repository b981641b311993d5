"""Stored features of tiles as slides without pixels: HDF5, `.npz`, `.npy` and weights-only `.pt`.

HDF5 layouts of CLAM, TRIDENT, STAMP and AtlasPatch are read: `features` (N, D) or `feats`, and optionally `coords` with
the top-left corner of each tile in its first two columns. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import FeatureError, SlideNotFoundError, SlideUnsupportedError
from wsi_attn.geometry import Mpp, Size
from wsi_attn.provenance import fingerprint_of
from wsi_attn.slide import Level, Slide, SlideBase, SlideInfo, UInt8Array

SUFFIXES = (".h5", ".hdf5", ".npz", ".npy", ".pt")
"""Suffixes of feature files."""

NAMES, COORDINATES = ("features", "feats"), "coords"
"""Names of the arrays in a file."""

WIDTHS = (2, 5)
"""Columns of coordinates: x and y; or with width, height and level, as AtlasPatch writes them."""

MOST_PIXELS = 2**31 - 1
"""Largest coordinate; records of predictions hold 32-bit integers."""

ROWS = 8192
"""Instances that are checked at once."""


UNKNOWN = Size(0, 0)

FeatureArray: TypeAlias = NDArray[np.float16] | NDArray[np.float32]
"""Features (N, D)."""


@dataclass(frozen=True)
class _Stored:
    """The arrays of a file.

    `shape` and `kind` are those of the features, which `load` reads; `coords` is float64 (N, 2 or 5) or None, `side`
    the side of a tile in its unit, 0 if the file does not state it, `unit` "px" or "um", and `extent` width and height
    of the slide in level-0 pixels, 0 if unknown.
    """

    shape: tuple[int, ...]
    kind: np.dtype[np.generic]
    load: Callable[[], NDArray[np.generic]]
    coords: NDArray[np.float64] | None = None
    side: float = 0.0
    unit: str = "px"
    extent: Size = UNKNOWN


def is_features(path: Path) -> bool:
    """Return whether a path names a file of features."""
    return path.suffix.lower() in SUFFIXES


class FeatureSlide(SlideBase):
    """The features of one bag: of one file, or of several slides of a patient, which lie side by side.

    Parameters
    ----------
    paths
        At least one file.
    mpp
        Pixel size of level 0, µm, which coordinates in µm need.
    row
        Number of the row in its manifest, for messages; 0 for none.

    Attributes
    ----------
    regions
        int64 (N, 4), x, y, width and height of each tile in level-0 pixels. Of a file without coordinates, tile n lies
        at (n, 0) and is 1 px wide.
    width
        D.

    Raises
    ------
    SlideNotFoundError : a file does not exist.
    FeatureError : a file cannot be read, has no features, or its coordinates do not fit them.
    """

    not_encoded = "features have no pixels"

    def __init__(self, paths: Sequence[Path], mpp: Mpp | None = None, row: int = 0) -> None:
        self.paths, self._where = tuple(paths), f"row {row}: " if row else ""
        notes: list[str] = []
        parts, right, bottom = [], 0, 1
        self._stored = [self._open(path) for path in self.paths]
        self.width = self._stored[0].shape[1]
        for path, stored in zip(self.paths, self._stored, strict=True):
            if stored.shape[1] != self.width:
                raise self._error(
                    path, f"has {stored.shape[1]} features a tile, but {self.paths[0].name} has {self.width}"
                )
            regions, size = self._regions(path, stored, mpp, notes)
            parts.append(regions + np.array([right, 0, 0, 0]))
            right, bottom = right + size.width, max(bottom, size.height)
        self.regions = np.concatenate(parts)
        if not len(self.regions):
            raise self._error(self.paths[0], "contains no tiles")
        size0 = Size(max(right, 1), bottom)
        marks = [fingerprint_of(path) for path in self.paths]
        self.info = SlideInfo(
            path=self.paths[0],
            vendor="features",
            reader="features",
            size0=size0,
            levels=(Level(size0, 1.0, 1.0, size0),),
            mpp=mpp,
            mpp_source="user" if mpp else "none",
            mpp_note="" if mpp else "a file of features states no pixel size",
            compression="none",
            fingerprint=marks[0] if len(marks) == 1 else hashlib.sha256("".join(marks).encode()).hexdigest(),
            notes=tuple(dict.fromkeys(notes)),
        )

    def read(self, width: int = 0) -> FeatureArray:
        """Read all features, (N, D), as float16 if all files have that, otherwise float32.

        Parameters
        ----------
        width
            D that is expected; 0 accepts any.

        Raises
        ------
        FeatureError : another D, or a value that is not finite.
        """
        if width and self.width != width:
            raise self._error(
                self.paths[0],
                f"has {self.width} features a tile, but the model reads {width}; use features of the same encoder",
            )
        parts = [self._finite(path, stored) for path, stored in zip(self.paths, self._stored, strict=True)]
        return parts[0] if len(parts) == 1 else _as_features(np.concatenate(parts))

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Refuse; see `Slide.read_region`."""
        raise self.no_pixels()

    def no_pixels(self) -> SlideUnsupportedError:
        """Return the error of code that needs pixels."""
        return SlideUnsupportedError(
            f"Cannot read pixels of {self.info.path}: it contains features of tiles, which models of "
            "`train --model gated-mil` read; pixels and pictures need the slide"
        )

    def _finite(self, path: Path, stored: _Stored) -> FeatureArray:
        try:
            found = stored.load()
        except Exception as error:  # a damaged chunk, or a file that has changed
            raise self._unreadable(path, error) from error
        values = _as_features(found)
        for first in range(0, len(values), ROWS):
            bad = ~np.isfinite(values[first : first + ROWS]).all(axis=1)
            if bad.any():
                raise self._error(
                    path, f"tile {first + int(bad.argmax())} has a feature that is NaN or infinite; encode it again"
                )
        return values

    def _open(self, path: Path) -> _Stored:
        if not path.exists():
            raise SlideNotFoundError(f"{self._where}file not found: {path}")
        if not path.is_file():  # a pipe would be waited for
            raise self._error(path, "it is not a file")
        try:
            stored = _OPENERS[path.suffix.lower()](path)
        except Exception as error:  # what the parsers of four formats raise for damaged files is not documented
            raise self._unreadable(path, error) from error
        shape, coords = stored.shape, stored.coords
        if len(shape) != 2 or not shape[1] or stored.kind.kind not in "fiu":
            raise self._error(path, f"its features are {stored.kind} {shape}, not numbers (N, D)")
        if coords is not None and (coords.ndim != 2 or coords.shape[1] not in WIDTHS or len(coords) != shape[0]):
            raise self._error(path, f"its coordinates are {coords.shape}, but {shape[0]} tiles need ({shape[0]}, 2)")
        return stored

    def _regions(
        self, path: Path, stored: _Stored, mpp: Mpp | None, notes: list[str]
    ) -> tuple[NDArray[np.int64], Size]:
        """Return the tiles of a file in level-0 pixels, and the size of its slide."""
        count = stored.shape[0]
        if stored.coords is None:
            notes.append("the file has no coordinates: x of a region is the number of the tile")
            regions = np.tile(np.array([0, 0, 1, 1]), (count, 1))
            regions[:, 0] = np.arange(count)
            return regions, Size(count, 1)
        xy, scale = stored.coords[:, :2], 1.0
        if not ((xy >= 0) & (xy <= MOST_PIXELS)).all():
            raise self._error(path, f"a coordinate is not a number from 0 to {MOST_PIXELS}")
        side = stored.side or _spacing(xy)
        if stored.unit == "um":
            scale = 1.0 if mpp is None else 1 / mpp.x
            if mpp is None:
                notes.append("its coordinates are in µm, and so are the regions; state the pixel size for pixels")
        elif not stored.side:
            notes.append(f"the file states no tile size; the spacing of its tiles, {side:g} px, is taken")
        corners, length = np.floor(xy * scale).astype(np.int64), max(1, round(side * scale))
        regions = np.concatenate([corners, np.full((count, 2), length)], axis=1)
        width, height = (corners.max(axis=0) + length).tolist() if count else (1, 1)
        if stored.extent != UNKNOWN and count and (corners >= np.array(stored.extent)).any():
            raise self._error(path, f"a tile lies outside the slide of {stored.extent[0]} x {stored.extent[1]} px")
        return regions, Size(max(width, stored.extent.width), max(height, stored.extent.height))

    def _unreadable(self, path: Path, error: Exception) -> FeatureError:
        """Return the error for a file that a library cannot read, with the first line of its reason."""
        reason = str(error).partition("\n")[0].strip("'\"") or type(error).__name__
        return self._error(path, f"{reason}; the file is damaged or has another layout")

    def _error(self, path: Path, problem: str) -> FeatureError:
        return FeatureError(f"{self._where}Cannot use the features of {path}: {problem}")


def feature_slide(slide: Slide) -> FeatureSlide:
    """Return the input of a model that reads features.

    Raises
    ------
    FeatureError : it is a slide or an image.
    """
    if not isinstance(slide, FeatureSlide):
        raise FeatureError(
            f"Cannot use {slide.info.path}: it has pixels, but the model reads features of tiles; give a file "
            f"{', '.join(SUFFIXES)}"
        )
    return slide


def _as_features(found: NDArray[np.generic]) -> FeatureArray:
    if found.dtype == np.float16:
        return np.asarray(found, np.float16)
    return np.asarray(found, np.float32)


def _spacing(xy: NDArray[np.float64]) -> float:
    """The most frequent distance of neighbours along a row or column; 1 if there are none."""
    gaps = []
    for along, across in ((0, 1), (1, 0)):
        ordered = xy[np.lexsort((xy[:, along], xy[:, across]))]
        steps = np.diff(ordered[:, along])[np.diff(ordered[:, across]) == 0]
        gaps.append(steps[steps > 0])
    values, counts = np.unique(np.concatenate(gaps), return_counts=True)
    return float(values[counts.argmax()]) if len(values) else 1.0


def _read_hdf5(path: Path) -> _Stored:
    import h5py

    with h5py.File(path, "r") as file:
        found = next((file[name] for name in NAMES if name in file), None)
        if isinstance(found, h5py.Group):
            encoders = list(found)
            if len(encoders) != 1:
                raise ValueError(f"it has features of {len(encoders)} encoders: {', '.join(encoders) or 'none'}")
            found = found[encoders[0]]
        if not isinstance(found, h5py.Dataset):
            raise KeyError(f"it has no array {' or '.join(NAMES)}; found {', '.join(file) or 'nothing'}")
        name, shape, kind = found.name, found.shape, found.dtype
        coords = np.asarray(file[COORDINATES], np.float64) if COORDINATES in file else None
        facts = {**file.attrs, **(file[COORDINATES].attrs if COORDINATES in file else {})}
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape  # some have a batch axis

    def load() -> NDArray[np.generic]:
        with h5py.File(path, "r") as file:
            return np.asarray(file[name]).reshape(shape)

    in_um = facts.get("unit") == "um"
    extent = Size(int(facts.get("level0_width", 0)), int(facts.get("level0_height", 0)))
    return _Stored(shape, kind, load, coords, _side(facts, in_um=in_um), "um" if in_um else "px", extent)


def _side(facts: Mapping[str, object], *, in_um: bool) -> float:
    """The side of a tile in the unit of the coordinates, 0 if it is not stated."""

    def number(name: str) -> float:
        value = np.ravel(np.asarray(facts.get(name, 0), np.float64))
        return float(value[0]) if len(value) and math.isfinite(value[0]) else 0.0

    if in_um:
        return number("tile_size_um") or number("tile_size")
    return number("patch_size_level0") or number("patch_size") * number("downsample")


def _read_npz(path: Path) -> _Stored:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # np.load leaks its own if damaged
        return _from_arrays({name: file[name] for name in file.files if name in (*NAMES, COORDINATES)})


def _read_npy(path: Path) -> _Stored:
    mapped = np.load(path, allow_pickle=False, mmap_mode="r")
    return _Stored(mapped.shape, mapped.dtype, lambda: np.array(mapped))


def _read_pt(path: Path) -> _Stored:
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("it contains something else than tensors, which is not unpickled") from error
    named = found if isinstance(found, dict) else {NAMES[0]: found}
    arrays = {
        name: (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        for name, value in named.items()
        if isinstance(value, torch.Tensor) and name in (*NAMES, COORDINATES)
    }
    return _from_arrays(arrays)


def _from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> _Stored:
    values = next((arrays[name] for name in NAMES if name in arrays), None)
    if values is None:
        raise KeyError(f"it has no array {' or '.join(NAMES)}")
    coords = arrays.get(COORDINATES)
    return _Stored(values.shape, values.dtype, lambda: values, None if coords is None else coords.astype(np.float64))


_OPENERS: Mapping[str, Callable[[Path], _Stored]] = {
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".pt": _read_pt,
}
