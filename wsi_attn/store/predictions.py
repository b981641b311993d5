"""`SlidePrediction`: the prediction for one slide, in memory and on disk.

On disk it is `STEM.prediction.json`, at most 100 kB for any slide (`records`), and `STEM.prediction.zarr` with the maps
(`prediction_maps`). The maps are written first and the JSON last, each atomically, and the JSON identifies the content
of the maps, so an interrupted run leaves no prediction, one that is recognisably incomplete, or a complete one. This
module does not import torch; heatmaps and exports consume `SlidePrediction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import msgspec
import numpy as np

from wsi_attn.errors import PredictionError
from wsi_attn.geometry import ORIGIN, Frame, Point, Region, Size
from wsi_attn.json_types import Json, JsonObject
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import check_protected
from wsi_attn.paths import path_to_text, printable
from wsi_attn.store.notebook import prediction_html
from wsi_attn.store.prediction_maps import (
    AttentionMap,
    StoredMaps,
    foreign_maps,
    read_array,
    read_attributes,
    write_maps,
)
from wsi_attn.store.record_limits import MAX_BYTES, shorten, to_text
from wsi_attn.store.records import (
    SCHEMA_VERSION,
    AttendedRegion,
    BaseRecord,
    GridRecord,
    PredictionRecord,
    RecordV1,
    Referral,
    absolute,
    decode,
    exists,
    read_record,
    relative_to,
    slide_places,
)

SUFFIX, MAPS_SUFFIX = ".prediction.json", ".prediction.zarr"
ATTENTION = "attention"


@dataclass(frozen=True, repr=False)
class SlidePrediction:
    """The prediction for one slide.

    `probabilities` sums to 1 over the model's labels; `attention` is sorted by decreasing weight, weights sum
    to 1; `mpp` is the slide's own pixel size at level 0, or None; `seconds` is wall time. `attention_map` is the
    attention over the whole slide. `maps` contains further quantities over the slide, if the model has them:
    "evidence:LABEL", the evidence of each location for a label, and "uncertainty"; any real values, NaN for invalid
    cells. `prediction_set` contains the labels that cannot be excluded at `coverage`, most probable first, possibly
    none; both are None if no coverage was requested. `mc_dropout` is the number of dropout passes behind some terms of
    `uncertainty`, drawn with `seed`; `referral` is the rule of `refer`.

    `slide` is the path of the slide: as given to the model or, for a prediction read from a file, an absolute path,
    the current one if the slide was found. `places` are all candidate paths of the slide of such a prediction.
    `bounds` is the slide's scanned area in level-0 pixels, None if the file states none; all coordinates of a
    prediction are level-0 pixels of the whole slide.
    """

    slide: str
    size0: Size
    label: str
    probabilities: dict[str, float]
    uncertainty: dict[str, float]
    tissue_fraction: float
    unreadable_tiles: int
    attention: tuple[AttendedRegion, ...]
    model: dict[str, str]
    mpp: tuple[float, float] | None
    seconds: float
    software: dict[str, str]
    attention_map: AttentionMap
    fingerprint: str
    warnings: tuple[str, ...] = field(default=())
    maps: Mapping[str, AttentionMap] = field(default_factory=dict)
    coverage: float | None = None
    prediction_set: tuple[str, ...] | None = None
    mc_dropout: int = 0
    seed: int = 0
    referral: Referral | None = None
    bounds: Region | None = None
    places: tuple[Path, ...] = field(default=(), compare=False)

    @property
    def origin(self) -> Point:
        """Origin of QuPath's coordinates, level-0 pixels; see `SlideInfo.origin`."""
        return Point(self.bounds.x, self.bounds.y) if self.bounds else ORIGIN

    @property
    def refer(self) -> bool | None:
        """Whether a person should review the slide; None without a rule."""
        return None if self.referral is None else self.uncertainty[self.referral.by] > self.referral.above

    @property
    def unsure(self) -> bool:
        """Whether there is a prediction set and it does not contain exactly one label."""
        return self.prediction_set is not None and len(self.prediction_set) != 1

    def record(self) -> JsonObject:
        """The JSON object that `predict --json` prints: the fields of the file, at most 100 kB, without the maps."""
        short, complete = shorten(self._fields())
        return {**short, **({"truncated": list(complete)} if complete else {})}

    def _fields(self) -> JsonObject:
        """All fields of the record, untruncated, except those that describe files."""
        return {
            "schema_version": SCHEMA_VERSION,
            "slide": path_to_text(self.slide),
            "label": printable(self.label),
            "probabilities": _printable_keys(self.probabilities),
            "uncertainty": _printable_keys(self.uncertainty),
            "tissue_fraction": self.tissue_fraction,
            "unreadable_tiles": self.unreadable_tiles,
            "attention": [asdict(region) for region in self.attention],
            "attention_count": len(self.attention),
            "model": {name: printable(text) for name, text in self.model.items()},
            "mpp": list(self.mpp) if self.mpp else None,
            "seconds": self.seconds,
            "software": dict(self.software),
            "warnings": [printable(warning) for warning in self.warnings],
            **self._set_fields(),
            **({"mc_dropout": self.mc_dropout, "seed": self.seed} if self.mc_dropout else {}),
            **({"refer": self.refer, "referral": asdict(self.referral)} if self.referral else {}),
            "size": list(self.size0),
            **({"bounds": list(self.bounds)} if self.bounds else {}),
            "fingerprint": self.fingerprint,
        }

    def _set_fields(self) -> JsonObject:
        if self.prediction_set is None:
            return {}
        labels = [printable(label) for label in self.prediction_set]
        return {"coverage": self.coverage, "prediction_set": labels, "unsure": self.unsure}

    def __repr__(self) -> str:
        probability = self.probabilities.get(self.label)
        share = "" if probability is None else f" ({probability:.3f})"
        name = printable(Path(self.slide).name)
        return f"SlidePrediction({name!r}: {self.label!r}{share}, {len(self.attention)} regions)"

    def _repr_html_(self) -> str | None:
        """HTML for notebooks: label, probabilities and a small image of the attention."""
        return prediction_html(self)


def write_prediction(prediction: SlidePrediction, path: Path) -> None:
    """Write the maps, then the record, each atomically.

    Raises
    ------
    OutputExistsError : `maps_path(path)` exists and is not the maps of a prediction.
    PredictionError : a value cannot be stored in a record, such as a probability that is not a number.
    """
    fields = prediction._fields() | {
        "slide": path_to_text(absolute(Path(prediction.slide))),
        "slide_relative": relative_to(Path(prediction.slide), path.parent),
    }
    short, complete = shorten(fields)
    truncated = {"truncated": list(complete)} if complete else {}
    short = {**short, **truncated}
    check_protected({maps_path(path): foreign_maps})
    _text(short, "", path)  # raises before anything is written
    path.parent.mkdir(parents=True, exist_ok=True)
    regions = None
    if "attention" in complete:
        regions = np.array([(r.x, r.y, r.width, r.height, r.weight) for r in prediction.attention], np.float64)
        del complete["attention"]
    maps = {ATTENTION: prediction.attention_map, **prediction.maps}
    maps_id = write_maps(maps_path(path), maps, prediction.size0, prediction.fingerprint, regions, complete)
    files.write_text(path, _text(short, maps_id, path))


def maps_path(path: Path) -> Path:
    """Path of the maps of the prediction at `path`."""
    stem = path.name.removesuffix(SUFFIX) if path.name.endswith(SUFFIX) else path.name.removesuffix(".json")
    return path.with_name(f"{stem}{MAPS_SUFFIX}")


def read_prediction(path: Path) -> SlidePrediction:
    """Read a prediction written by `write_prediction`, in any schema version.

    The attention map is read immediately, the other maps on access.

    Raises
    ------
    PredictionError : the file is missing, is not a prediction, or does not conform to its schema; the maps are
        missing, damaged or belong to another run. The message names the file and the field.
    """
    record = read_record(path)
    if isinstance(record, RecordV1):
        inline = {name: _map_of(grid) for name, grid in record.maps.items()}
        return _prediction_of(record, path, _map_of(record.attention_map), inline)
    folder = maps_path(path)
    attributes = read_attributes(folder, path, record.maps_id)
    if (attributes.size, attributes.fingerprint) != (record.size, record.fingerprint):
        raise PredictionError(
            f"Cannot read {path}: its size or fingerprint is not that of its maps; rerun `wsi-attn predict`"
        )
    if attributes.complete:
        whole = msgspec.to_builtins(record) | attributes.complete
        record = decode(msgspec.json.encode(whole), PredictionRecord, path)
    maps = StoredMaps(folder, {entry.name: entry for entry in attributes.maps})
    if ATTENTION not in maps:
        raise PredictionError(f"Cannot read {path}: its maps {folder} contain no {ATTENTION!r}")
    further = StoredMaps(folder, {entry.name: entry for entry in attributes.maps if entry.name != ATTENTION})
    regions = None
    if attributes.regions is not None:
        rows = read_array(folder, attributes.regions, np.dtype(np.float64)).tolist()
        regions = tuple(AttendedRegion(int(x), int(y), int(w), int(h), weight) for x, y, w, h, weight in rows)
    return _prediction_of(record, path, maps[ATTENTION], further, regions)


def _prediction_of(
    record: BaseRecord,
    file: Path,
    attention_map: AttentionMap,
    maps: Mapping[str, AttentionMap],
    regions: tuple[AttendedRegion, ...] | None = None,
) -> SlidePrediction:
    places = slide_places(record, file)
    if record.referral is not None and record.referral.by not in record.uncertainty:
        raise PredictionError(f"Cannot read {file}: field referral.by: no uncertainty {record.referral.by!r}")
    read = msgspec.structs.asdict(record)
    shared = {each.name: read[each.name] for each in fields(SlidePrediction) if each.name in read}
    own = {
        "slide": str(next(filter(exists, places), places[0])),
        "size0": Size(*record.size),
        "attention": record.attention if regions is None else regions,
        "model": msgspec.structs.asdict(record.model),
        "attention_map": attention_map,
        "maps": maps,
        "bounds": Region(*record.bounds) if record.bounds else None,
        "places": places,
    }
    return SlidePrediction(**{**shared, **own})


def _text(record: Mapping[str, Json], maps_id: str, path: Path) -> str:
    """Text of a record, checked to be small and readable."""
    try:
        text = to_text({**record, "maps_id": maps_id})
    except ValueError as error:
        raise PredictionError(f"Cannot write {path}: {error}") from error
    decode(text.encode(), PredictionRecord, path)
    if len(text.encode()) + 100 > MAX_BYTES:
        raise PredictionError(f"Cannot write {path}: the record would take more than {MAX_BYTES} bytes")
    return text


def _map_of(grid: GridRecord) -> AttentionMap:
    values = np.array([np.nan if cell is None else cell for cell in grid.values], np.float32)
    frame = Frame(Size(grid.columns, grid.rows), grid.cell_width, grid.cell_height)
    return AttentionMap(frame, values.reshape(grid.rows, grid.columns))


def _printable_keys(values: Mapping[str, float]) -> dict[str, float]:
    return {printable(name): value for name, value in values.items()}
