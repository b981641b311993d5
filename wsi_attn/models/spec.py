"""Inputs and outputs of a model, apart from its weights, as in `config.json` of its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import msgspec

from wsi_attn.json_types import JsonObject
from wsi_attn.models.calibration import Calibration
from wsi_attn.models.configs import CLASSIFICATION

DESCRIBED = 4
"""Number of the numbers that describe the colour of an image."""


@dataclass(frozen=True)
class Appearance:
    """Colour of the training images; see `data.appearance`.

    Attributes
    ----------
    mean
        The four numbers that describe an image, averaged.
    precision
        Inverse of their covariance, row-major.
    limit
        Mahalanobis distance of the accepted images.
    """

    mean: tuple[float, ...]
    precision: tuple[float, ...]
    limit: float

    def __post_init__(self) -> None:
        if len(self.mean) != DESCRIBED or len(self.precision) != DESCRIBED**2:
            raise ValueError(f"appearance: {DESCRIBED} numbers describe an image, and their precision has the square")
        if not all(map(math.isfinite, (*self.mean, *self.precision))) or not 0 < self.limit < math.inf:
            raise ValueError("appearance: a number is not finite, or the limit is not positive")


@dataclass(frozen=True)
class ModelSpec:
    """Inputs and outputs of a model, apart from its weights.

    Attributes
    ----------
    labels
        Class names in the order of the logits.
    mpp
        Microns per pixel of its high resolution; None if it was trained on images of unknown pixel size.
    stain
        Free text.
    tissue
        Method of tissue detection (see `tissue`); "none" uses the whole image.
    appearance
        Colour statistics of the training images; None disables the check.
    calibration
        Temperature, conformal thresholds and operating points from the validation set.
    prior
        Prior weight of locations (see `data.prior`).
    task
        Name of the task, see `tasks`.
    turns
        Whether predictions are averages over the eight flips and quarter turns of an image.
    mask_values
        The value of each label in mask images; empty if every nonzero value is the second label or if values are
        label indices.
    """

    labels: tuple[str, ...]
    mpp: float | None
    stain: str
    tissue: str
    appearance: Appearance | None = None
    calibration: Calibration = field(default_factory=Calibration)
    prior: str = "none"
    task: str = CLASSIFICATION
    mask_values: tuple[int, ...] = ()
    turns: bool = False

    def __post_init__(self) -> None:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels: {', '.join(self.labels)}; they must be distinct")
        if self.mpp is not None and not 0 < self.mpp < math.inf:
            raise ValueError(f"mpp: {self.mpp} is not a positive number")
        if len(self.calibration.operating_points) not in (0, len(self.labels)):
            raise ValueError("operating_points: their number is not that of the labels")

    def record(self) -> JsonObject:
        """Return the specification as JSON values; empty objects stand for no colours and no calibration."""
        return asdict(self) | {
            "appearance": asdict(self.appearance) if self.appearance else {},
            "calibration": asdict(self.calibration) if self.calibration.fitted else {},
        }


def read_spec(record: Mapping[str, object]) -> ModelSpec:
    """Read what `ModelSpec.record` returns.

    Raises
    ------
    msgspec.ValidationError : a value has another type; the message names it.
    """
    known = {name: value for name, value in record.items() if value != {}}
    return msgspec.convert(known, ModelSpec)
