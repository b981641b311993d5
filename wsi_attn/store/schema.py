"""The published schema of a store: names, attributes, and their encoding and validation.

`NAME.zarr` is one Zarr v3 group that is also an OME-Zarr 0.5 image::

    zarr.json                 attributes `ome` (`ome.py`) and `wsi_attn` (`StoreMeta`, below)
    0, 1, 2 ...               uint8 (3, rows, columns), axes c, y, x, in shards (`sharding.py`) of chunks that are
                              tiles copied from the slide, or recompressed (`chunk_codec.py`)
    labels/tissue/0, 1 ...    uint8 (rows, columns): 0 background, 1 tissue, 2 unreadable
    labels/NAME/0, 1 ...      uint8 (rows, columns): classes predicted by `segment`
    tiles/GRID/coords         int64 (N, 2), see `COORDS_SENTENCE`; attributes are those of `GridInfo`
    tiles/GRID/readable       bool (N,)
    tiles/GRID/scores/NAME    float32 (N,), NaN where the tile is unreadable; attributes give range and unit
    journal.jsonl             only while `state` is "writing" (`journal_of`)

The root `zarr.json` records the size and CRC-32C of every other file of the store, and its own CRC-32C. Stores of
schema 2 record only their shards.

Free-text properties of the slide file are omitted on purpose: vendors store patient names in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from wsi_attn.errors import SlideNotFoundError, StoreDamagedError, StoreSchemaError
from wsi_attn.file_bytes import read_regular
from wsi_attn.geometry import Mpp, Region, Size
from wsi_attn.json_types import Json, JsonObject
from wsi_attn.outputs.journal import Journal
from wsi_attn.slide import Level
from wsi_attn.store import sharding

SCHEMA_VERSION = 3
OLDEST_SCHEMA = 2
"""Oldest schema that is still readable; it has checksums of shards only."""

ATTRIBUTE = "wsi_attn"
GROUP_FILE = "zarr.json"
JOURNAL_FILE = "journal.jsonl"
JOURNAL_PATIENCE = 0.5
"""Seconds between two writes of the journal; writing more often would cost more than redoing the shards of that time.
"""

TISSUE_LABEL = "tissue"
WRITING, COMPLETE = "writing", "complete"

BACKGROUND_LABEL, TISSUE_VALUE, UNREADABLE_LABEL = 0, 1, 2

COORDS_SENTENCE = "x, y of the tile's top-left corner in level-0 pixels of the slide, row by row from the top left"

SEAL = "metadata_crc32c"
_SEAL_PATTERN = re.compile(rb'"metadata_crc32c": "([0-9a-f]{8})"')
_UNSEALED = b'"metadata_crc32c": "00000000"'
_SHARD = re.compile(r"\d+/c/0/\d+/\d+")

Side = Annotated[int, Meta(ge=1, lt=2**31)]
Coordinate = Annotated[int, Meta(gt=-(2**40), lt=2**40)]
Factor = Annotated[float, Meta(gt=0, lt=1e9)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, lt=2**62)]
Checksum = Annotated[int, Meta(ge=0, lt=2**32)]


class ShardRecord(msgspec.Struct, frozen=True):
    """Journal entry: a shard in units of shards, its file (0 bytes if all background) and its unreadable chunks."""

    level: int
    row: int
    column: int
    unreadable: list[tuple[int, int]]
    bytes: int
    crc32c: int


def journal_of(store: Path) -> Journal[ShardRecord]:
    """Return the journal of finished shards, an entry appended after each is written."""
    return Journal(store / JOURNAL_FILE, ShardRecord, JOURNAL_PATIENCE)


class StoredSize(Size):
    """`Size` within the limits of files."""

    width: Side
    height: Side


class StoredRegion(Region):
    """`Region` within the limits of files."""

    x: Coordinate
    y: Coordinate
    width: Side
    height: Side


class StoredMpp(Mpp):
    """`Mpp` within the limits of files."""

    x: Factor
    y: Factor


class Unreadable(NamedTuple):
    """A rectangle of one level that could not be decoded, in level-0 pixels; the store contains fill values there."""

    level: Annotated[int, Meta(ge=0)]
    x: Coordinate
    y: Coordinate
    width: Side
    height: Side


@dataclass(frozen=True)
class SourceInfo:
    """The slide from which a store was made."""

    name: str
    fingerprint: str
    vendor: str
    compression: str
    size0: StoredSize
    bounds: StoredRegion | None
    icc_profile: bytes | None


class PixelsInfo(NamedTuple):
    """Source and compression of the pixels of a level.

    `origin` is `passthrough` (the slide's compressed tiles, byte for byte), `copied` (decoded and recompressed),
    `resampled` or `halved` (from the next finer level of the store); `reason` states why it is not, or not entirely,
    `passthrough`.
    """

    origin: str
    codec: str
    reason: str


@dataclass(frozen=True)
class FileInfo:
    """Size and CRC-32C of a file of the store."""

    bytes: Count
    crc32c: Checksum


@dataclass(frozen=True)
class Addition:
    """A grid, label or other group being added to a complete store.

    The metadata names it before any of its files is written. If the writer is killed, the group counts as absent,
    and the next writer completes or undoes the addition.

    Attributes
    ----------
    group
        Path of the added group in the store.
    files
        Every file of the group, and every other file that the addition changes.
    """

    group: str
    files: Mapping[str, FileInfo]

    def covers(self, key: str) -> bool:
        """Whether a file lies in the added group."""
        return key.startswith(f"{self.group}/")


@dataclass(frozen=True)
class TissueInfo:
    """The tissue detection, and the resulting share of the slide's area."""

    method: str
    measure: str
    threshold: int
    fraction: float


@dataclass(frozen=True)
class GridInfo:
    """Layout of a grid: sizes in pixels at the grid's resolution, factors to the slide's level 0.

    `mpp` is the requested resolution, None for that of the store's level 0.
    """

    name: str
    tile_size: int
    overlap: int
    downsample_x: float
    downsample_y: float
    min_tissue: float
    mpp: float | None = None
    scores: tuple[str, ...] = ()

    @property
    def extent0(self) -> tuple[float, float]:
        """Width and height of a tile in level-0 pixels."""
        return self.tile_size * self.downsample_x, self.tile_size * self.downsample_y

    def to_json(self) -> JsonObject:
        """Attributes of `tiles/GRID/coords`."""
        return {
            "columns": COORDS_SENTENCE,
            "tile_size": self.tile_size,
            "overlap": self.overlap,
            "downsample": [self.downsample_x, self.downsample_y],
            "tile_extent0": list(self.extent0),
            "min_tissue": self.min_tissue,
            "mpp": self.mpp,
            "scores": list(self.scores),
        }

    @classmethod
    def from_json(cls, name: str, value: object) -> GridInfo:
        """Inverse of `to_json`; raises msgspec.ValidationError if a field is missing or of the wrong type."""
        found = msgspec.convert(value, _GridDocument)
        sizes = found.tile_size, found.overlap
        return cls(name, *sizes, *found.downsample, found.min_tissue, found.mpp, found.scores)


class _GridDocument(msgspec.Struct, frozen=True):
    tile_size: Side
    overlap: Annotated[int, Meta(ge=0, lt=2**31)]
    downsample: tuple[Factor, Factor]
    min_tissue: Fraction
    mpp: Factor | None
    scores: tuple[str, ...]


@dataclass(frozen=True)
class StoreMeta:
    """Content of the attribute `wsi_attn` of a store.

    Attributes
    ----------
    mpp
        Pixel size of the slide's level 0 in µm; all coordinates are in its pixels.
    levels, pixels
        The store's levels, the first of which may be coarser than the slide's, and the source of their pixels.
    files
        Size and checksum of every file except the root's `zarr.json`, by path in the store. A shard that is not
        listed is background; a listed file that is missing is damage. For schema 2 only the shards, and None while
        such a store is being written.
    addition
        The addition in progress, if any.
    """

    source: SourceInfo
    mpp: Mpp | None
    mpp_source: str
    mpp_note: str
    objective_power: float | None
    parameters: Mapping[str, Json]
    software: Mapping[str, str]
    state: str
    levels: tuple[Level, ...]
    pixels: tuple[PixelsInfo, ...]
    tissue: TissueInfo
    unreadable: tuple[Unreadable, ...] = ()
    files: Mapping[str, FileInfo] | None = None
    addition: Addition | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def records_all_files(self) -> bool:
        """Whether `files` lists every file; not in schema 2."""
        return self.schema_version > OLDEST_SCHEMA

    @property
    def shards(self) -> dict[str, FileInfo]:
        """The entries of `files` that contain pixels."""
        return {key: file for key, file in (self.files or {}).items() if is_shard(key)}

    @property
    def recorded_grids(self) -> set[str]:
        """Names of the grids in `files`."""
        parts = (key.split("/") for key in self.files or {} if key.startswith("tiles/"))
        return {names[1] for names in parts if len(names) > 2}

    def to_json(self) -> JsonObject:
        """The attribute `wsi_attn`."""
        added = self.addition and {"group": self.addition.group, "files": _files_to_json(self.addition.files)}
        return {
            "schema_version": self.schema_version,
            "state": self.state,
            "source": msgspec.to_builtins(self.source),
            "mpp": list(self.mpp) if self.mpp else None,
            "mpp_source": self.mpp_source,
            "mpp_note": self.mpp_note,
            "objective_power": self.objective_power,
            "parameters": dict(self.parameters),
            "software": dict(self.software),
            "levels": [
                {**_level_to_json(level), **pixels._asdict()}
                for level, pixels in zip(self.levels, self.pixels, strict=True)
            ],
            "tissue": msgspec.to_builtins(self.tissue),
            "unreadable_columns": "level, then x, y, width, height in level-0 pixels",
            "unreadable": [list(region) for region in self.unreadable],
            "files": _files_to_json(self.files) if self.files is not None else None,
            **({"addition": added} if added else {}),
            **({SEAL: "00000000"} if self.records_all_files else {}),
        }

    @classmethod
    def from_json(cls, value: object) -> StoreMeta:
        """Inverse of `to_json`; raises msgspec.ValidationError if a field is missing or of the wrong type."""
        found = msgspec.convert(value, _MetaDocument)
        for field, files in (("files", found.files), ("addition.files", found.addition and found.addition.files)):
            _check_names(files or {}, len(found.levels), field)
        levels = tuple(
            Level(Size(level.width, level.height), level.downsample_x, level.downsample_y, Size(*level.tile_size))
            for level in found.levels
        )
        pixels = tuple(PixelsInfo(level.origin, level.codec, level.reason) for level in found.levels)
        return cls(**{**msgspec.structs.asdict(found), "levels": levels, "pixels": pixels})


class _LevelDocument(msgspec.Struct, frozen=True):
    width: Side
    height: Side
    downsample_x: Factor
    downsample_y: Factor
    tile_size: tuple[Annotated[int, Meta(ge=1, le=2**16)], Annotated[int, Meta(ge=1, le=2**16)]]
    origin: str
    codec: str
    reason: str


class _MetaDocument(msgspec.Struct, frozen=True):
    schema_version: int
    state: Literal["writing", "complete"]
    source: SourceInfo
    mpp: StoredMpp | None
    mpp_source: str
    mpp_note: str
    objective_power: float | None
    parameters: dict[str, object]
    software: dict[str, str]
    levels: Annotated[list[_LevelDocument], Meta(min_length=1)]
    tissue: TissueInfo
    unreadable: tuple[Unreadable, ...]
    files: dict[str, FileInfo] | None
    addition: Addition | None = None


def _files_to_json(files: Mapping[str, FileInfo]) -> dict[str, dict[str, int]]:
    return {key: vars(files[key]) for key in _in_order(files)}


def _check_names(files: Iterable[str], levels: int, field: str) -> None:
    for key in files:
        outside = PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts or not key
        if outside or (is_shard(key) and sharding.shard_of(key)[0] >= levels):
            raise msgspec.ValidationError(f"Not a file of this store: {key!r} - at `$.{field}`")


def _in_order(files: Mapping[str, FileInfo]) -> Iterator[str]:
    yield from sorted(key for key in files if not is_shard(key))
    yield from sorted((key for key in files if is_shard(key)), key=sharding.shard_of)


def is_shard(key: str) -> bool:
    """Whether a file of a store contains pixels."""
    return _SHARD.fullmatch(key) is not None


def _level_to_json(level: Level) -> JsonObject:
    return {
        "width": level.size.width,
        "height": level.size.height,
        "downsample_x": level.downsample_x,
        "downsample_y": level.downsample_y,
        "tile_size": list(level.tile_size),
    }


def encode_root(attributes: Mapping[str, Json], meta: StoreMeta) -> bytes:
    """Encode the root `zarr.json` with its own CRC-32C.

    The checksum is that of the whole file with its eight digits set to zero.

    Parameters
    ----------
    attributes
        Further attributes of the group, besides that of `meta`.
    """
    document = {"attributes": {**attributes, ATTRIBUTE: meta.to_json()}, "zarr_format": 3, "node_type": "group"}
    data = (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    if not meta.records_all_files:
        return data
    return data.replace(_UNSEALED, _UNSEALED.replace(b"00000000", f"{sharding.crc32c(data):08x}".encode()))


def _is_sealed(data: bytes) -> bool:
    found = _SEAL_PATTERN.findall(data)
    unsealed = _SEAL_PATTERN.sub(_UNSEALED, data)
    return len(found) == 1 and f"{sharding.crc32c(unsealed):08x}".encode() == found[0]


def read_meta(path: Path) -> StoreMeta:
    """Read the metadata of a store, complete or not, from the root `zarr.json` only.

    Raises
    ------
    SlideNotFoundError : the path does not exist.
    StoreSchemaError : the path is not a wsi-attn store, or has an unknown schema version.
    StoreDamagedError : a field of the metadata is missing or invalid, or the file has changed since it was written.
    """
    return read_root(path)[0]


def read_root(path: Path) -> tuple[StoreMeta, JsonObject]:
    """`read_meta`, and the other attributes of the root group."""
    if not path.exists():
        raise SlideNotFoundError(f"There is no store {path}")
    file = path / GROUP_FILE
    try:
        data = read_regular(file)
        attributes = msgspec.json.decode(data)["attributes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreSchemaError(
            f"{path} is not a store of wsi-attn, or it is damaged: {file} is not a readable Zarr v3 group "
            f"({_reason(error)})"
        ) from error
    if not isinstance(attributes, dict) or not isinstance(own := attributes.pop(ATTRIBUTE, None), dict):
        raise StoreSchemaError(
            f"{path} is a Zarr group, but not a store of wsi-attn: {file} has no `attributes` object with "
            f"a `{ATTRIBUTE}` object in it"
        )
    version = own.get("schema_version")
    if version not in range(OLDEST_SCHEMA, SCHEMA_VERSION + 1):
        raise StoreSchemaError(
            f"{path} has store schema {version}; this version of wsi-attn reads schemas {OLDEST_SCHEMA} to "
            f"{SCHEMA_VERSION}: update wsi-attn, or tile the slide again"
        )
    try:
        meta = StoreMeta.from_json(own)
    except msgspec.ValidationError as error:
        raise StoreDamagedError(f"{file} is damaged: {named_field(error, ATTRIBUTE)}") from error
    if meta.records_all_files and not _is_sealed(data):
        raise StoreDamagedError(f"{file} has changed since it was written: its checksum differs. {REMEDY}")
    return meta, attributes


REMEDY = "Restore it from a copy, or rewrite the store with `wsi-attn tile SLIDE --overwrite`"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    return "its group attributes are missing" if isinstance(error, KeyError | TypeError) else str(error)


def named_field(error: Exception, root: str) -> str:
    """The message of a msgspec error, prefixed with its field."""
    message, _, path = str(error).partition(" - at `$")
    field = f"{root}{path.rstrip('`')}".lstrip(".")
    return f"{field}: {message}" if field else message
