"""The record of a segmentation, as `segment --json` prints it and the file `STEM.segmentation.json` holds it."""

from __future__ import annotations

from typing import TypedDict


class ConfigRecord(TypedDict):
    """The settings of `SegmentConfig` that affect the result."""

    tile: int | None
    overlap: int | None
    into_store: bool
    annotations: bool
    simplify: float


class Settings(ConfigRecord):
    """What must be equal for an earlier segmentation to be resumed or kept: the slide, its mpp and the model too."""

    fingerprint: str
    mpp: list[float] | None
    model_sha256: str


class ClassRecord(TypedDict):
    """Number of objects of a class, its area in `area_unit`, and its share of the tissue."""

    objects: int
    area: float
    share: float


class Areas(TypedDict):
    """The classes but the background, by name, and the unit of their areas, "mm²" or "px²"."""

    classes: dict[str, ClassRecord]
    area_unit: str


class SegmentationRecord(Areas):
    """The whole record.

    `labels` and `polygons` are paths; `mpp` and `label_mpp` are x and y, of level 0 and of the label image, in µm;
    `unreadable_places` are regions of the slide that could not be decoded; `model` has `name` and `sha256`.
    """

    slide: str
    tissue_fraction: float
    unreadable_places: int
    labels: str
    polygons: str
    mpp: list[float] | None
    label_mpp: list[float] | None
    model: dict[str, str]
    settings: Settings
    seconds: float
    software: dict[str, str]
