"""`TissueSettings`: how to find the tissue of a slide; the options of `wsi-attn tissue`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi_attn.options import Option, check_fields

METHODS = ("otsu", "robust", "none")
"""Detection methods; `detect.METHODS` holds their functions."""


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is detected."""

    method: Annotated[
        str,
        Option(
            "Detection method: otsu, robust (handles ink, padding and pale stain) or none (whole image).",
            choices=METHODS,
        ),
    ] = "otsu"
    mpp: Annotated[
        float | None,
        Option("Resolution of the detection.", unit="µm/px", above=0, default="8, coarser for large slides"),
    ] = None
    min_area: Annotated[
        float | None,
        Option("Minimum area of a tissue piece.", metavar="UM2", unit="µm²", at_least=0, default="2500"),
    ] = None
    max_hole: Annotated[
        float | None,
        Option("Maximum area of holes that are filled.", metavar="UM2", unit="µm²", at_least=0, default="10000"),
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)


GEOJSON_SUFFIXES = (".geojson", ".json", ".geojson.gz")


def tissue_file(tissue: str) -> Path | None:
    """Return the GeoJSON file if `tissue` names one instead of a method."""
    path = Path(tissue)
    return path if path.name.lower().endswith(GEOJSON_SUFFIXES) else None
