"""`SlidePrediction`: what a model said of one slide, as a NumPy record and as a JSON file.

No torch here: heatmaps and exports consume this record. The file is `STEM.prediction.json`; it is written
whole or not at all, and holds everything that pictures need except the slide's own pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_attn import files
from wsi_attn.errors import PredictionError
from wsi_attn.geometry import ORIGIN, Frame, Point, Region, Size

SCHEMA_VERSION = 1
SUFFIX = ".prediction.json"


@dataclass(frozen=True)
class AttendedRegion:
    """One place that was read at high resolution: level-0 pixels, and its share of the decision."""

    x: int
    y: int
    width: int
    height: int
    weight: float


@dataclass(frozen=True)
class AttentionMap:
    """Attention over the whole slide.

    `values` is float32 (rows, columns), at least 0, summing to 1 over what was looked at, NaN where nothing
    was; one cell spans `frame.downsample_x` by `frame.downsample_y` level-0 pixels.
    """

    frame: Frame
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Referral:
    """The rule of what a person should look at: slides whose uncertainty `by` lies above a threshold."""

    by: str
    above: float


@dataclass(frozen=True)
class SlidePrediction:
    """The answer for one slide.

    `probabilities` sums to 1 over the model's labels; `attention` is ordered by falling weight, weights sum
    to 1; `mpp` is the slide's own pixel size at level 0, or None; `seconds` is wall time. `maps` holds further
    quantities over the slide, where the model has them: "evidence:LABEL" for what each place says for a label,
    "uncertainty"; any real values, NaN where nothing was looked at. `prediction_set` holds the labels that cannot be
    ruled out at `coverage`, likeliest first, perhaps none; both are None where no coverage was asked for. `mc_dropout`
    counts the passes with dropout behind some terms of `uncertainty`, drawn from `seed`; `referral` is the rule of
    `refer`. `bounds` is the slide's scanned area in level-0 pixels, None where it states none; all coordinates of a
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

    @property
    def origin(self) -> Point:
        """Where QuPath's coordinates begin, level-0 pixels; see `SlideInfo.origin`."""
        return Point(self.bounds.x, self.bounds.y) if self.bounds else ORIGIN

    @property
    def refer(self) -> bool | None:
        """Whether a person should look at it; None without a rule."""
        return None if self.referral is None else self.uncertainty[self.referral.by] > self.referral.above

    @property
    def unsure(self) -> bool:
        """Whether there is a prediction set and it does not hold exactly one label."""
        return self.prediction_set is not None and len(self.prediction_set) != 1

    def record(self) -> dict[str, Any]:
        """The public JSON object: one line of `predict --json`, without the map."""
        return {
            "slide": self.slide,
            "label": self.label,
            "probabilities": self.probabilities,
            "uncertainty": self.uncertainty,
            "tissue_fraction": self.tissue_fraction,
            "unreadable_tiles": self.unreadable_tiles,
            "attention": [vars(region) for region in self.attention],
            "model": self.model,
            "mpp": list(self.mpp) if self.mpp else None,
            "seconds": self.seconds,
            "software": self.software,
            "warnings": list(self.warnings),
            **self._set_record(),
            **({"mc_dropout": self.mc_dropout, "seed": self.seed} if self.mc_dropout else {}),
            **({"refer": self.refer, "referral": vars(self.referral)} if self.referral else {}),
        }

    def _set_record(self) -> dict[str, Any]:
        if self.prediction_set is None:
            return {}
        return {"coverage": self.coverage, "prediction_set": list(self.prediction_set), "unsure": self.unsure}


def write_prediction(prediction: SlidePrediction, path: Path) -> None:
    """Write the record and its maps as one JSON file; a map takes one line, since it may hold a million numbers."""
    record = {
        "schema_version": SCHEMA_VERSION,
        **prediction.record(),
        "size": list(prediction.size0),
        "bounds": list(prediction.bounds) if prediction.bounds else None,
        "fingerprint": prediction.fingerprint,
    }
    parts = [json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}")]
    parts.append(f',\n "attention_map": {_map_to_json(prediction.attention_map)}')
    if prediction.maps:
        lines = [f"  {json.dumps(name)}: {_map_to_json(value)}" for name, value in prediction.maps.items()]
        parts.append(',\n "maps": {\n' + ",\n".join(lines) + "\n }")
    files.write_text(path, "".join(parts) + "\n}\n")


def read_prediction(path: Path) -> SlidePrediction:
    """Read what `write_prediction` wrote.

    Raises
    ------
    PredictionError : the file is missing, is not JSON, or is no prediction of this schema.
    """
    try:
        data = json.loads(path.read_text())
        if data["schema_version"] != SCHEMA_VERSION:
            raise PredictionError(
                f"Cannot read {path}: prediction schema {data['schema_version']}, this version knows {SCHEMA_VERSION}"
            )
        return SlidePrediction(
            slide=data["slide"],
            size0=Size(*data["size"]),
            label=data["label"],
            probabilities=data["probabilities"],
            uncertainty=data["uncertainty"],
            tissue_fraction=data["tissue_fraction"],
            unreadable_tiles=data["unreadable_tiles"],
            attention=tuple(AttendedRegion(**region) for region in data["attention"]),
            model=data["model"],
            mpp=tuple(data["mpp"]) if data["mpp"] else None,
            seconds=data["seconds"],
            software=data["software"],
            attention_map=_map_from_json(data["attention_map"]),
            fingerprint=data["fingerprint"],
            warnings=tuple(data["warnings"]),
            maps={name: _map_from_json(value) for name, value in data.get("maps", {}).items()},
            coverage=data.get("coverage"),
            prediction_set=tuple(data["prediction_set"]) if "prediction_set" in data else None,
            mc_dropout=data.get("mc_dropout", 0),
            seed=data.get("seed", 0),
            referral=Referral(**data["referral"]) if "referral" in data else None,
            bounds=Region(*data["bounds"]) if data.get("bounds") else None,
        )
    except FileNotFoundError as error:
        raise PredictionError(f"There is no prediction at {path}; `wsi-attn predict` writes one") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, PredictionError):
            raise
        raise PredictionError(
            f"Cannot read {path}: not a prediction that `wsi-attn predict` wrote ({error})"
        ) from error


def _map_to_json(value: AttentionMap) -> str:
    cells = [None if math.isnan(cell) else cell for cell in _six_digits(value.values).ravel().tolist()]
    grid = {
        "cell_width": value.frame.downsample_x,
        "cell_height": value.frame.downsample_y,
        "rows": value.values.shape[0],
        "columns": value.values.shape[1],
        "values": cells,
    }
    return json.dumps(grid, allow_nan=False)


def _six_digits(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Values rounded to six significant digits, which is what float32 holds for certain."""
    exact = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = 5 - np.floor(np.log10(np.abs(exact)))
    digits = np.where(np.isfinite(digits), np.clip(digits, -300, 300), 0.0)
    up, down = 10.0 ** np.maximum(digits, 0), 10.0 ** np.maximum(-digits, 0)  # powers of ten that are exact
    return np.asarray(np.rint(exact * up / down) / up * down)


def _map_from_json(grid: dict[str, Any]) -> AttentionMap:
    values = np.array([np.nan if cell is None else cell for cell in grid["values"]], np.float32)
    frame = Frame(Size(grid["columns"], grid["rows"]), grid["cell_width"], grid["cell_height"])
    return AttentionMap(frame, values.reshape(grid["rows"], grid["columns"]))
