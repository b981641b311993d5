"""Settings of exports and heatmaps. Imports no arrays, so that the help of commands needs none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from wsi_attn.heatmaps.appearance import Appearance
from wsi_attn.options import Option

Layout = Literal["subifd", "pages"]
"""Where the reduced levels of an OME-TIFF are."""


PNG_SIDE = 1600
"""Longer side of the slide in an image, pixels."""


@dataclass(frozen=True)
class ExportConfig(Appearance):
    """Settings of an export; formats ignore settings that do not apply to them."""

    of: Annotated[
        tuple[str, ...],
        Option(
            "Quantity to export: attention, evidence:LABEL, uncertainty, score:NAME, tissue, or slide for no overlay. "
            "Repeat it for several layers in html.",
            metavar="QUANTITY",
        ),
    ] = ()
    size: Annotated[
        int | None,
        Option("Longer side of images.", unit="px", at_least=64, at_most=200_000, default="depends on the format"),
    ] = None
    downsample: Annotated[float | None, Option("Level-0 pixels per image pixel, instead of --size.", at_least=1)] = None
    top: Annotated[
        int | None,
        Option(
            "Number of patches in html; maximum number of the highest cells or tiles in geojson.",
            at_least=0,
            default="depends on the format",
        ),
    ] = None
    annotations: Annotated[
        bool, Option("geojson: write annotations instead of detections.", name="--as-annotations")
    ] = False
    values: Annotated[bool, Option("ome-tiff: write float32 values with NaN instead of colours.")] = False
    transparent: Annotated[bool, Option("png: draw only the overlay, without slide and legend.")] = False
    pyramid: Annotated[
        Layout, Option("ome-tiff: pyramid layout, subifd (Bio-Formats, QuPath) or pages (OpenSlide).")
    ] = "subifd"
    workers: int | None = None
    """Threads that read; `thread_limit` by default."""


@dataclass(frozen=True)
class HeatmapConfig(Appearance):
    """Settings of a heatmap."""

    of: Annotated[
        str | None,
        Option(
            "Quantity to draw: attention, evidence:LABEL, uncertainty, score:NAME or tissue.",
            metavar="QUANTITY",
            default="attention of a prediction, the first score of a store",
        ),
    ] = None
    size: Annotated[int, Option("Longer side of the slide in the image.", unit="px", at_least=64, at_most=20_000)] = (
        PNG_SIDE
    )
    contact_sheet: Annotated[
        int,
        Option(
            "Also draw a contact sheet of the K highest regions; 0 draws none.",
            metavar="K",
            at_least=0,
            at_most=400,
        ),
    ] = 0

    def picture(self) -> ExportConfig:
        """Settings of the image."""
        of = () if self.of is None else (self.of,)
        return ExportConfig(mode=self.mode, colour=self.colour, alpha=self.alpha, of=of, size=self.size)
