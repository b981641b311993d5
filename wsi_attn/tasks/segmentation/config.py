"""Settings of the segmentation of slides. Imports no arrays, so that the help of commands needs none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from wsi_attn.json_types import JsonObject
from wsi_attn.options import Option, check_fields
from wsi_attn.tasks.config import InferenceConfig


@dataclass(frozen=True)
class SegmentConfig(InferenceConfig):
    """Segmentation settings.

    Raises
    ------
    UsageError : a value is out of range.
    """

    tile: Annotated[
        int | None,
        Option(
            "Tile side at the model's resolution, a multiple of 32.",
            unit="px",
            at_least=32,
            default="that of the training crops",
        ),
    ] = None
    overlap: Annotated[
        int | None,
        Option("Overlap of tiles, a multiple of 32.", unit="px", at_least=0, default="a quarter of a tile"),
    ] = None
    into_store: Annotated[bool, Option("Write the labels into the segmented store, under the name of the model.")] = (
        False
    )
    annotations: Annotated[
        bool, Option("Write polygons as annotations instead of detections.", name="--as-annotations")
    ] = False
    simplify: Annotated[
        float, Option("Tolerance of outline simplification in level-0 pixels; 0 disables it.", at_least=0)
    ] = 0.0
    workers: int | None = None
    """Number of reader threads; `thread_limit` by default."""

    def __post_init__(self) -> None:
        check_fields(self)

    def settings(self) -> JsonObject:
        """Return the settings that affect the result."""
        return {name: value for name, value in vars(self).items() if name != "workers"}
