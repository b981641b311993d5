"""`NAME.prediction.zarr`: the dense maps of a prediction, and values that its JSON is too small for.

A Zarr v3 group that plain zarr reads::

    zarr.json        attribute `wsi_attn_prediction`: schema_version, fingerprint, size, maps (name, array, shape,
                     downsample, crc32c of each), regions, complete
    attention, ...   float32 (rows, columns), NaN for invalid cells; a cell spans `downsample` level-0 pixels
    regions          float64 (N, 5): x, y, width, height, weight of all regions, if the JSON contains only some

The JSON contains the SHA-256 of the attribute (`maps_id`), and the attribute contains a checksum of each array, so
groups of another run, missing chunks and changed values are detected.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import google_crc32c
import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from wsi_attn.errors import PredictionError
from wsi_attn.geometry import Frame, Size
from wsi_attn.json_types import Json
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import check_protected
from wsi_attn.store.arrays import DOCUMENT, put_array, put_group
from wsi_attn.store.backend import FolderBackend
from wsi_attn.store.records import SCHEMA_VERSION, Pixels, Positive

Scalar = TypeVar("Scalar", bound=np.generic)

ATTRIBUTE = "wsi_attn_prediction"
REGIONS = "regions"
CHUNK = 512
"""Side of a chunk in cells: 1 MB before compression."""

NAME_LENGTH = 60


@dataclass(frozen=True)
class AttentionMap:
    """A quantity over the whole slide.

    `values` is float32 (rows, columns), NaN for invalid cells; one cell spans `frame.downsample_x` by
    `frame.downsample_y` level-0 pixels. Attention is nonnegative and sums to 1 over valid cells.
    """

    frame: Frame
    values: NDArray[np.float32]


class MapEntry(Struct, frozen=True):
    """One array of the group: its quantity, key, shape, cells and checksum."""

    name: str
    array: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    shape: tuple[Pixels, Pixels]
    downsample: tuple[Positive, Positive]
    crc32c: int


class MapsAttributes(Struct, frozen=True, kw_only=True):
    """The attribute of the group; `complete` contains the full values of fields truncated in the JSON."""

    schema_version: int
    fingerprint: str
    size: tuple[Pixels, Pixels]
    maps: list[MapEntry]
    regions: MapEntry | None = None
    complete: dict[str, object] = {}

    @property
    def id(self) -> str:
        """SHA-256 of the content, independent of the layout of the JSON."""
        text = json.dumps(msgspec.to_builtins(self), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


class StoredMaps(Mapping[str, AttentionMap]):
    """The maps of a group by name; each is read and checked on access.

    Raises
    ------
    PredictionError : on reading a missing or damaged map.
    """

    def __init__(self, folder: Path, entries: Mapping[str, MapEntry]) -> None:
        self.folder = folder
        self._entries = entries

    def __getitem__(self, name: str) -> AttentionMap:
        entry = self._entries[name]
        values = read_array(self.folder, entry, np.dtype(np.float32))
        rows, columns = entry.shape
        return AttentionMap(Frame(Size(columns, rows), *entry.downsample), values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def write_maps(
    folder: Path,
    maps: Mapping[str, AttentionMap],
    size0: Size,
    fingerprint: str,
    regions: NDArray[np.float64] | None,
    complete: Mapping[str, Json],
) -> str:
    """Write the group atomically, replacing an existing one; returns its id.

    Parameters
    ----------
    regions
        float64 (N, 5) x, y, width, height, weight, if the JSON cannot hold all of them.
    complete
        Full values of fields truncated in the JSON.

    Raises
    ------
    OutputExistsError : the path exists and is not the maps of a prediction.
    """
    check_protected({folder: foreign_maps})
    taken: set[str] = {REGIONS}
    with files.new_folder(folder) as temporary:
        place = FolderBackend(temporary)
        entries = [_put(place, name, _key(name, taken), value) for name, value in maps.items()]
        region_entry = None
        if regions is not None:
            columns = ["x", "y", "width", "height", "weight"]
            put_array(place, REGIONS, regions, attributes={"columns": columns})
            region_entry = MapEntry(REGIONS, REGIONS, (len(regions), 5), (1.0, 1.0), _checksum(regions))
        attributes = MapsAttributes(
            schema_version=SCHEMA_VERSION,
            fingerprint=fingerprint,
            size=(size0.width, size0.height),
            maps=entries,
            regions=region_entry,
            complete=dict(complete),
        )
        put_group(place, "", {ATTRIBUTE: msgspec.to_builtins(attributes)})
    return attributes.id


def foreign_maps(folder: Path) -> str:
    """Why a path must not be replaced by maps; empty if it is the maps of a prediction."""
    try:
        document = json.loads((folder / DOCUMENT).read_bytes())
        ours = ATTRIBUTE in document["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    return "" if ours else "exists and is not the maps of a prediction"


def read_attributes(folder: Path, record: Path, maps_id: str) -> MapsAttributes:
    """Read the attribute of a group and check that it belongs to the same run as the record.

    Raises
    ------
    PredictionError : the group is missing, is damaged, or belongs to another run.
    """
    cure = "rerun `wsi-attn predict`"
    try:
        document = json.loads((folder / DOCUMENT).read_bytes())
        found = msgspec.convert(document["attributes"][ATTRIBUTE], MapsAttributes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PredictionError(
            f"Cannot read {record}: its maps {folder} are missing; keep both files together, or {cure}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PredictionError(f"Cannot read {record}: its maps {folder} are damaged ({error}); {cure}") from error
    if found.id != maps_id:
        raise PredictionError(f"Cannot read {record}: the maps in {folder} belong to another run; {cure}")
    return found


def read_array(folder: Path, entry: MapEntry, dtype: np.dtype[Scalar]) -> NDArray[Scalar]:
    """Read and check one array; raises `PredictionError` if it is missing or damaged."""
    import zarr

    try:
        array = zarr.open_array(folder / entry.array, mode="r", zarr_format=3)
        if array.shape != tuple(entry.shape) or array.dtype != dtype:
            raise ValueError(f"{array.dtype} {array.shape}, not {dtype} {tuple(entry.shape)}")
        values = np.ascontiguousarray(array[...])
        if _checksum(values) != entry.crc32c:
            raise ValueError("the checksum differs; a chunk is missing or changed")
    except Exception as error:  # zarr and its codecs raise errors of many types
        raise PredictionError(
            f"Cannot read the map {entry.name!r} in {folder}: {error}; rerun `wsi-attn predict --overwrite`"
        ) from error
    return values


def _put(place: FolderBackend, name: str, key: str, value: AttentionMap) -> MapEntry:
    values = np.ascontiguousarray(value.values, np.float32)
    downsample = (float(value.frame.downsample_x), float(value.frame.downsample_y))
    put_array(
        place,
        key,
        values,
        chunk=CHUNK,
        attributes={"quantity": name, "downsample": list(downsample), "unit": "level-0 pixels per cell (x, y)"},
        dimension_names=("y", "x"),
    )
    rows, columns = values.shape
    return MapEntry(name, key, (rows, columns), downsample, _checksum(values))


def _key(name: str, taken: set[str]) -> str:
    """Key of an array that is a valid file name on every system; keys that differ only in case count as equal."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:NAME_LENGTH].strip("-.") or "map"
    key, number = stem, 1
    while key.lower() in taken or key.lower() in (DOCUMENT, "c"):
        number += 1
        key = f"{stem}-{number}"
    taken.add(key.lower())
    return key


def _checksum(values: NDArray[np.generic]) -> int:
    return int(google_crc32c.value(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()))
