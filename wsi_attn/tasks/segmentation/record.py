"""The record of a segmentation, as `segment --json` prints it and the file `STEM.segmentation.json` holds it."""

from __future__ import annotations

from typing import TypedDict

from wsi_attn.json_types import JsonObject


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
    `unreadable_places` are regions of the slide that could not be decoded; `model` has `name` and `sha256`; `settings`
    is what must be equal for it to be resumed or kept: `fingerprint` and `mpp` of the slide, `model_sha256`, and the
    settings of `SegmentConfig` that affect the result.
    """

    slide: str
    tissue_fraction: float
    unreadable_places: int
    labels: str
    polygons: str
    mpp: list[float] | None
    label_mpp: list[float] | None
    model: dict[str, str]
    settings: JsonObject
    seconds: float
    software: dict[str, str]
