"""JSON records on disk: their fields, types and ranges, and the one place where they are read and validated.

`PredictionRecord` is what `docs/prediction.schema.json` publishes. `read_record` reads every schema version and raises
`PredictionError` with file and field for anything that does not conform.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from wsi_attn.errors import PredictionError
from wsi_attn.paths import path_from_text, path_to_text

SCHEMA_VERSION = 2

Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Pixels = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]


class RegionRecord(Struct, frozen=True):
    """A rectangle that the model read at high resolution, in level-0 pixels, and its share of the decision."""

    x: Count
    y: Count
    width: Pixels
    height: Pixels
    weight: NonNegative


class ModelRecord(Struct, frozen=True):
    """The model that answered: its name, and the SHA-256 of its weights."""

    name: str
    sha256: str


class ReferralRecord(Struct, frozen=True):
    """The rule behind `refer`: slides whose uncertainty `by` lies above a threshold."""

    by: str
    above: float


class GridRecord(Struct, frozen=True):
    """A map inside a record of schema version 1: values row by row, null where nothing was looked at."""

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

    slide: Annotated[
        str, Meta(description="Absolute path of the slide; a file: URI where the path is not valid Unicode.")
    ]
    label: Annotated[str, Meta(description="The likeliest label.")]
    probabilities: Annotated[
        dict[str, Fraction], Meta(description="Probability of each label; the likeliest labels where truncated.")
    ]
    uncertainty: Annotated[dict[str, float], Meta(description="Named estimators of uncertainty.")]
    tissue_fraction: Annotated[Fraction, Meta(description="Share of the slide's area that is tissue.")]
    unreadable_tiles: Annotated[Count, Meta(description="Tiles that could not be decoded and were left out.")]
    attention: Annotated[
        list[RegionRecord], Meta(description="Regions read at high resolution, by falling weight; the first ones.")
    ]
    model: ModelRecord
    mpp: Annotated[
        tuple[Positive, Positive] | None, Meta(description="Microns per pixel of level 0 along x and y, if known.")
    ]
    seconds: Annotated[NonNegative, Meta(description="Wall time of the prediction.")]
    software: Annotated[dict[str, str], Meta(description="Versions of the software that made it.")]
    warnings: Annotated[list[str], Meta(description="What the user was warned of.")]
    coverage: Annotated[Fraction | None, Meta(description="Coverage of the prediction set.")] = None
    prediction_set: Annotated[
        list[str] | None, Meta(description="Labels that cannot be ruled out at `coverage`, likeliest first.")
    ] = None
    unsure: Annotated[bool | None, Meta(description="Whether the set does not hold exactly one label.")] = None
    mc_dropout: Annotated[Count, Meta(description="Passes with dropout behind some terms of uncertainty.")] = 0
    seed: Annotated[int, Meta(description="Seed of these passes.")] = 0
    refer: Annotated[bool | None, Meta(description="Whether a person should look at the slide.")] = None
    referral: ReferralRecord | None = None
    size: Annotated[tuple[Pixels, Pixels], Meta(description="Width and height of level 0 in pixels.")]
    bounds: Annotated[
        tuple[int, int, Pixels, Pixels] | None,
        Meta(description="Scanned area x, y, width, height in level-0 pixels, where the slide states one."),
    ] = None
    fingerprint: Annotated[str, Meta(description="Identity of the slide file.")]


class RecordV1(BaseRecord, frozen=True, kw_only=True):
    """Schema version 1: the maps are part of the JSON."""

    schema_version: Literal[1]
    attention_map: GridRecord
    maps: dict[str, GridRecord] = {}


class PredictionRecord(BaseRecord, frozen=True, kw_only=True, omit_defaults=True):
    """A prediction of `wsi-attn predict`, at most 100,000 bytes; its maps lie beside it in a Zarr group."""

    schema_version: Annotated[Literal[2], Meta(description="Version of this schema.")]
    slide_relative: Annotated[
        str | None, Meta(description="Path of the slide relative to the folder of this record.")
    ] = None
    attention_count: Annotated[Count, Meta(description="Regions read at high resolution, all of them.")]
    truncated: Annotated[
        list[str], Meta(description="Fields that are shortened here; the maps' group holds them whole.")
    ] = []
    maps_id: Annotated[
        str, Meta(description="SHA-256 of the attributes of the Zarr group with the maps, which names their checksums.")
    ]


class _Version(Struct):
    schema_version: int


Record = TypeVar("Record", bound=Struct)


def read_record(path: Path) -> PredictionRecord | RecordV1:
    """Read and validate the JSON of a prediction; its maps are not touched.

    Raises
    ------
    PredictionError : the file is missing or unreadable, is no prediction, has a field that is missing, of another type
        or out of range, or is of a schema version that this version of wsi-attn does not know.
    """
    data = read_json(path, "There is no prediction at {}; `wsi-attn predict` writes one")
    version = decode(data, _Version, path).schema_version
    if version == 1:
        return decode(data, RecordV1, path)
    if version == SCHEMA_VERSION:
        return decode(data, PredictionRecord, path)
    raise PredictionError(
        f"Cannot read {path}: field `schema_version` is {version} and this version of wsi-attn reads 1 to "
        f"{SCHEMA_VERSION}; update wsi-attn"
    )


def read_json(path: Path, missing: str) -> bytes:
    """Bytes of a record; `PredictionError` where the file cannot be read, `missing` says it is absent."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PredictionError(missing.format(path)) from error
    except OSError as error:
        raise PredictionError(f"Cannot read {path}: {error.strerror or error}") from error


def decode(data: bytes, kind: type[Record], path: Path) -> Record:
    """JSON as a record of one type; `PredictionError` with file and field where it does not conform."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        reason, _, field = str(error).partition(" - at ")
        where = f"field {field.replace('$.', '')}: " if field else ""
        raise PredictionError(f"Cannot read {path}: not a prediction of wsi-attn ({where}{reason})") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PredictionError(f"Cannot read {path}: not a prediction of wsi-attn ({error})") from error


def relative_to(path: Path, folder: Path) -> str | None:
    """Path from a folder to a file as text; None where there is none, as between two drives of Windows."""
    try:
        return path_to_text(os.path.relpath(absolute(path), absolute(folder)))
    except ValueError:
        return None


def absolute(path: Path) -> Path:
    """The absolute path without `..`, symbolic links unresolved."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps `..`


def exists(path: Path) -> bool:
    """Whether there is a file or folder for the path of a slide, which may name an image in it (`FILE#IMAGE`).

    False, not an error, for a path that no system could hold.
    """
    text = str(path)
    return os.path.exists(text) or ("#" in text and os.path.exists(text.rpartition("#")[0]))  # noqa: PTH110


def slide_places(record: BaseRecord, file: Path) -> tuple[Path, ...]:
    """Absolute paths where the slide of a record may lie, the likeliest first.

    These are the recorded path, the path relative to the record, and the slide's name beside the record. A record of
    schema version 1 may hold a relative path, which is tried from the working folder and from that of the record.
    """
    slide, folder = path_from_text(record.slide), absolute(file).parent
    places = [absolute(slide)]
    if isinstance(record, PredictionRecord) and record.slide_relative is not None:
        places.append(absolute(folder / path_from_text(record.slide_relative)))
    places += [absolute(folder / slide), folder / slide.name]
    return tuple(dict.fromkeys(places))


def json_schema() -> str:
    """JSON Schema of `PredictionRecord`, as `docs/prediction.schema.json` publishes it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(PredictionRecord)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
