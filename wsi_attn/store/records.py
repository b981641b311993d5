"""JSON records on disk: their fields, types and ranges, with reading and validation in one place.

`docs/prediction.schema.json` publishes `PredictionRecord`. `read_record` reads every schema version and raises
`PredictionError` with file and field if a record does not conform.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from wsi_attn.errors import PredictionError
from wsi_attn.paths import path_from_text, path_to_text

SCHEMA_VERSION = 2

Fraction = Annotated[float, Meta(ge=0, le=1)]
MAX_PIXELS = 2**31 - 1
"""Largest coordinate that image libraries can draw."""

Count = Annotated[int, Meta(ge=0, le=MAX_PIXELS)]
Pixels = Annotated[int, Meta(ge=1, le=MAX_PIXELS)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class AttendedRegion:
    """A rectangle that the model read at high resolution, in level-0 pixels, and its share of the decision."""

    x: Count
    y: Count
    width: Pixels
    height: Pixels
    weight: NonNegative


class ModelRecord(Struct, frozen=True):
    """The model of the prediction: its name, and the SHA-256 of its weights."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Referral:
    """The referral rule: slides whose uncertainty `by` exceeds a threshold need review by a person."""

    by: str
    above: float


class GridRecord(Struct, frozen=True):
    """A map inside a record of schema version 1: values row by row, null for invalid cells."""

    cell_width: Positive
    cell_height: Positive
    rows: Pixels
    columns: Pixels
    values: list[float | None]

    def __post_init__(self) -> None:
        if len(self.values) != self.rows * self.columns:
            raise ValueError(f"{len(self.values)} values for {self.rows} x {self.columns} cells")


class BaseRecord(Struct, frozen=True, kw_only=True):
    """Fields that prediction records of all schema versions share."""

    slide: Annotated[str, Meta(description="Absolute path of the slide; a file: URI if the path is not valid Unicode.")]
    label: Annotated[str, Meta(description="The most probable label.")]
    probabilities: Annotated[
        dict[str, Fraction], Meta(description="Probability of each label; the most probable labels if truncated.")
    ]
    uncertainty: Annotated[dict[str, float], Meta(description="Named estimators of uncertainty.")]
    tissue_fraction: Annotated[Fraction, Meta(description="Share of the slide's area that is tissue.")]
    unreadable_tiles: Annotated[Count, Meta(description="Tiles that could not be decoded and were excluded.")]
    attention: Annotated[
        tuple[AttendedRegion, ...],
        Meta(description="Regions read at high resolution, by decreasing weight; the first ones."),
    ]
    model: ModelRecord
    mpp: Annotated[
        tuple[Positive, Positive] | None, Meta(description="Microns per pixel of level 0 along x and y, if known.")
    ]
    seconds: Annotated[NonNegative, Meta(description="Wall time of the prediction.")]
    software: Annotated[dict[str, str], Meta(description="Versions of the software that produced it.")]
    warnings: Annotated[tuple[str, ...], Meta(description="Warnings shown to the user.")]
    coverage: Annotated[Fraction | None, Meta(description="Coverage of the prediction set.")] = None
    prediction_set: Annotated[
        tuple[str, ...] | None, Meta(description="Labels that cannot be excluded at `coverage`, most probable first.")
    ] = None
    unsure: Annotated[bool | None, Meta(description="Whether the set does not contain exactly one label.")] = None
    mc_dropout: Annotated[Count, Meta(description="Passes with dropout behind some terms of uncertainty.")] = 0
    seed: Annotated[int, Meta(description="Seed of these passes.")] = 0
    refer: Annotated[bool | None, Meta(description="Whether a person should review the slide.")] = None
    referral: Referral | None = None
    size: Annotated[tuple[Pixels, Pixels], Meta(description="Width and height of level 0 in pixels.")]
    bounds: Annotated[
        tuple[int, int, Pixels, Pixels] | None,
        Meta(description="Scanned area x, y, width, height in level-0 pixels, if the slide states one."),
    ] = None
    fingerprint: Annotated[str, Meta(description="Identity of the slide file.")]


class RecordV1(BaseRecord, frozen=True, kw_only=True):
    """Schema version 1, with the maps inside the JSON."""

    schema_version: Literal[1]
    attention_map: GridRecord
    maps: dict[str, GridRecord] = {}


class PredictionRecord(BaseRecord, frozen=True, kw_only=True, omit_defaults=True):
    """A prediction of `wsi-attn predict`, at most 100,000 bytes; a Zarr group beside it contains its maps."""

    schema_version: Annotated[Literal[2], Meta(description="Version of this schema.")]
    slide_relative: Annotated[
        str | None, Meta(description="Path of the slide relative to the folder of this record.")
    ] = None
    attention_count: Annotated[Count, Meta(description="Number of all regions read at high resolution.")]
    truncated: Annotated[
        list[str], Meta(description="Fields that are shortened here; the group of the maps contains them in full.")
    ] = []
    maps_id: Annotated[
        str,
        Meta(description="SHA-256 of the attributes of the Zarr group with the maps, which contains their checksums."),
    ]


class _Version(Struct):
    schema_version: int


Record = TypeVar("Record", bound=Struct)


def read_record(path: Path) -> PredictionRecord | RecordV1:
    """Read and validate the JSON of a prediction without reading its maps.

    Raises
    ------
    PredictionError : the file is missing or unreadable, is not a prediction, has a field that is missing, of the
        wrong type or out of range, or has a schema version unknown to this version of wsi-attn.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PredictionError(f"There is no prediction at {path}; `wsi-attn predict` writes one") from error
    except OSError as error:
        raise PredictionError(f"Cannot read {path}: {error.strerror or error}") from error
    version = decode(data, _Version, path).schema_version
    if version in (1, SCHEMA_VERSION):
        record = decode(data, RecordV1, path) if version == 1 else decode(data, PredictionRecord, path)
        if contradiction := _contradiction(record):
            raise PredictionError(f"Cannot read {path}: {contradiction}; it is damaged, rerun `wsi-attn predict`")
        return record
    raise PredictionError(
        f"Cannot read {path}: field `schema_version` is {version} and this version of wsi-attn reads 1 to "
        f"{SCHEMA_VERSION}; update wsi-attn"
    )


def _contradiction(record: PredictionRecord | RecordV1) -> str:
    """Return which fields of a record contradict each other; empty if none do."""
    width, height = record.size
    if any(region.x >= width or region.y >= height for region in record.attention):
        return f"a region lies outside the slide of {width} x {height} px"
    return ""


def decode(data: bytes, kind: type[Record], path: Path) -> Record:
    """Decode JSON as a record of one type; raises `PredictionError` with file and field if it does not conform."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        reason, _, field = str(error).partition(" - at ")
        where = f"field {field.replace('$.', '')}: " if field else ""
        raise PredictionError(f"Cannot read {path}: not a prediction of wsi-attn ({where}{reason})") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PredictionError(f"Cannot read {path}: not a prediction of wsi-attn ({error})") from error


def relative_to(path: Path, folder: Path) -> str | None:
    """Path from a folder to a file as text; None if there is none, as between two drives on Windows."""
    try:
        return path_to_text(os.path.relpath(absolute(path), absolute(folder)))
    except ValueError:
        return None


def absolute(path: Path) -> Path:
    """The absolute path without `..`, symbolic links unresolved."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps `..`


def exists(path: Path) -> bool:
    """Whether the path of a slide, which may name an image in it (`FILE#IMAGE`), is an existing file or folder.

    Returns False, not an error, for a path that no system could have.
    """
    text = str(path)
    return os.path.exists(text) or ("#" in text and os.path.exists(text.rpartition("#")[0]))  # noqa: PTH110


def slide_places(record: BaseRecord, file: Path) -> tuple[Path, ...]:
    """Candidate absolute paths of the slide of a record, the most probable first.

    These are the recorded path, the path relative to the record, and the slide's name beside the record. A record of
    schema version 1 may contain a relative path, which is resolved against the working folder and the folder of the
    record.
    """
    slide, folder = path_from_text(record.slide), absolute(file).parent
    places = [absolute(slide)]
    if isinstance(record, PredictionRecord) and record.slide_relative is not None:
        places.append(absolute(folder / path_from_text(record.slide_relative)))
    places += [absolute(folder / slide), folder / slide.name]
    return tuple(dict.fromkeys(places))


def json_schema() -> str:
    """JSON Schema of `PredictionRecord`, published as `docs/prediction.schema.json`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(PredictionRecord)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
