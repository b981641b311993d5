"""The published contract of a store: names, attributes and their JSON, and how they are read back.

`NAME.zarr` is one Zarr v3 group that is also an OME-Zarr 0.5 image::

    zarr.json                 attributes `ome` (`ome.py`) and `wsi_attn` (`StoreMeta`, below)
    0, 1, 2 ...               uint8 (3, rows, columns), axes c, y, x, in shards (`sharding.py`) of chunks that are
                              tiles of the slide copied as they are, or compressed anew (`chunk_codec.py`)
    labels/tissue/0, 1 ...    uint8 (rows, columns): 0 background, 1 tissue, 2 could not be read
    tiles/GRID/coords         int64 (N, 2), see `COORDS_SENTENCE`; attributes are those of `GridInfo`
    tiles/GRID/readable       bool (N,)
    tiles/GRID/scores/NAME    float32 (N,), NaN where the tile could not be read; attributes say range and unit
    journal.jsonl             only while `state` is "writing" (`journal.py`)

Free-text properties of the slide file are left out on purpose: vendors keep patient names in them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from wsi_attn.errors import SlideNotFoundError, StoreSchemaError
from wsi_attn.geometry import Mpp, Region, Size
from wsi_attn.slide import Level

SCHEMA_VERSION = 2
ATTRIBUTE = "wsi_attn"
GROUP_FILE = "zarr.json"
TISSUE_LABEL = "tissue"
WRITING, COMPLETE = "writing", "complete"

BACKGROUND_LABEL, TISSUE_VALUE, UNREADABLE_LABEL = 0, 1, 2

COORDS_SENTENCE = "x, y of the tile's top-left corner in level-0 pixels of the slide, row by row from the top left"


class Unreadable(NamedTuple):
    """A rectangle of one level that could not be decoded, in level-0 pixels; the store holds fill there."""

    level: int
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class SourceInfo:
    """The slide that a store was made of."""

    name: str
    fingerprint: str
    vendor: str
    compression: str
    size0: Size
    bounds: Region | None
    icc_profile: bytes | None


class PixelsInfo(NamedTuple):
    """Where the pixels of a level come from, and how they are compressed.

    `origin` is `passthrough` (the slide's compressed tiles, byte for byte), `copied` (decoded and compressed anew),
    `resampled` or `halved` (from the next finer level of the store); `reason` says why it is not `passthrough`.
    """

    origin: str
    codec: str
    reason: str


class FileInfo(NamedTuple):
    """Size and checksum of a shard."""

    bytes: int
    crc32c: int


@dataclass(frozen=True)
class TissueInfo:
    """How tissue was found, and the share of the slide's area that it is."""

    method: str
    measure: str
    threshold: int
    fraction: float


@dataclass(frozen=True)
class GridInfo:
    """How the tiles of a grid lie: sizes in pixels of the grid's resolution, factors to the slide's level 0.

    `mpp` is the resolution that was asked for, None for that of the store's level 0.
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

    def to_json(self) -> dict[str, Any]:
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
    def from_json(cls, name: str, value: Mapping[str, Any]) -> GridInfo:
        """Inverse of `to_json`."""
        downsample_x, downsample_y = value["downsample"]
        tile_size, overlap, min_tissue = value["tile_size"], value["overlap"], value["min_tissue"]
        scores = tuple(value["scores"])
        return cls(name, tile_size, overlap, downsample_x, downsample_y, min_tissue, value["mpp"], scores)


@dataclass(frozen=True)
class StoreMeta:
    """Everything the attribute `wsi_attn` of a store says.

    `mpp` belongs to the slide's level 0, as all coordinates do; `levels` are the store's own, whose first may
    be coarser than that, and `pixels` says of each where it comes from. `files` are the shards that hold pixels,
    relative to the store, with their sizes and checksums: what is absent from it is background, what is in it and
    gone is damage.
    """

    source: SourceInfo
    mpp: Mpp | None
    mpp_source: str
    mpp_note: str
    objective_power: float | None
    parameters: Mapping[str, Any]
    software: Mapping[str, str]
    state: str
    levels: tuple[Level, ...]
    pixels: tuple[PixelsInfo, ...]
    tissue: TissueInfo
    unreadable: tuple[Unreadable, ...] = ()
    files: Mapping[str, FileInfo] | None = None

    def to_json(self) -> dict[str, Any]:
        """The attribute `wsi_attn`."""
        source = self.source
        icc = base64.b64encode(source.icc_profile).decode() if source.icc_profile else None
        return {
            "schema_version": SCHEMA_VERSION,
            "state": self.state,
            "source": {
                "name": source.name,
                "fingerprint": source.fingerprint,
                "vendor": source.vendor,
                "compression": source.compression,
                "size0": list(source.size0),
                "bounds": list(source.bounds) if source.bounds else None,
                "icc_profile": icc,
            },
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
            "tissue": {
                "method": self.tissue.method,
                "measure": self.tissue.measure,
                "threshold": self.tissue.threshold,
                "fraction": self.tissue.fraction,
            },
            "unreadable_columns": "level, then x, y, width, height in level-0 pixels",
            "unreadable": [list(region) for region in self.unreadable],
            "files": {key: file._asdict() for key, file in self.files.items()} if self.files is not None else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StoreMeta:
        """Inverse of `to_json`; KeyError, TypeError or ValueError where something is missing."""
        source, tissue = value["source"], value["tissue"]
        return cls(
            source=SourceInfo(
                source["name"],
                source["fingerprint"],
                source["vendor"],
                source["compression"],
                Size(*source["size0"]),
                Region(*source["bounds"]) if source["bounds"] else None,
                base64.b64decode(source["icc_profile"]) if source["icc_profile"] else None,
            ),
            mpp=Mpp(*value["mpp"]) if value["mpp"] else None,
            mpp_source=value["mpp_source"],
            mpp_note=value["mpp_note"],
            objective_power=value["objective_power"],
            parameters=value["parameters"],
            software=value["software"],
            state=value["state"],
            levels=tuple(_level_from_json(level) for level in value["levels"]),
            pixels=tuple(PixelsInfo(level["origin"], level["codec"], level["reason"]) for level in value["levels"]),
            tissue=TissueInfo(tissue["method"], tissue["measure"], tissue["threshold"], tissue["fraction"]),
            unreadable=tuple(Unreadable(*region) for region in value["unreadable"]),
            files={key: FileInfo(**file) for key, file in value["files"].items()}
            if value["files"] is not None
            else None,
        )


def _level_to_json(level: Level) -> dict[str, Any]:
    return {
        "width": level.size.width,
        "height": level.size.height,
        "downsample_x": level.downsample_x,
        "downsample_y": level.downsample_y,
        "tile_size": list(level.tile_size),
    }


def _level_from_json(value: Mapping[str, Any]) -> Level:
    size, tile = Size(value["width"], value["height"]), Size(*value["tile_size"])
    return Level(size, value["downsample_x"], value["downsample_y"], tile)


def read_meta(path: Path) -> StoreMeta:
    """What a store says of itself, complete or not; decodes no pixels and loads no Zarr.

    Raises
    ------
    SlideNotFoundError : there is nothing at the path.
    StoreSchemaError : what is there is not a store of ours, or of a version that we do not know.
    """
    if not path.exists():
        raise SlideNotFoundError(f"There is no store {path}")
    try:
        attributes = json.loads((path / GROUP_FILE).read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreSchemaError(f"{path} is not a store of wsi-attn: it has no readable Zarr v3 {GROUP_FILE}") from error
    if not isinstance(attributes, dict) or not isinstance(ours := attributes.get(ATTRIBUTE), dict):
        raise StoreSchemaError(f"{path} is a Zarr, but not a store of wsi-attn: it has no attribute `{ATTRIBUTE}`")
    if ours.get("schema_version") != SCHEMA_VERSION:
        raise StoreSchemaError(
            f"{path} has store schema {ours.get('schema_version')}; this version of wsi-attn reads schema "
            f"{SCHEMA_VERSION}: update it, or tile the slide again"
        )
    try:
        return StoreMeta.from_json(ours)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreSchemaError(
            f"{path} says it is a store of wsi-attn, but its attributes are damaged: {error!r}"
        ) from error
