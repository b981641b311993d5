"""`wsi-attn tissue`: detect tissue, as outlines for QuPath and as an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import PixelSize, Slides, Write, folder
from wsi_attn.cli.output import Console, data, data_json, expand, warn_about
from wsi_attn.errors import TissueError
from wsi_attn.options import Option
from wsi_attn.outputs.names import Reservations
from wsi_attn.tissue.settings import TissueSettings

if TYPE_CHECKING:  # Imports numpy, which only the command needs.
    from wsi_attn.annotations.outlines import TissueSummary
    from wsi_attn.data.inputs import Input
    from wsi_attn.slide import Item


@dataclass(frozen=True)
class Target:
    """Where the outlines go."""

    output: Annotated[
        Path | None,
        Option(
            "Folder for STEM.tissue.geojson and STEM.tissue.png; without it, nothing is written.",
            aliases=("-o",),
            check=folder,
        ),
    ] = None


@dataclass(frozen=True)
class Outlines:
    """How tissue is outlined."""

    simplify: Annotated[
        float, Option("Tolerance of outline simplification in level-0 pixels; 0 disables it.", at_least=0)
    ] = 0.0


def tissue(
    slides: Slides, target: Target, detection: TissueSettings, outlines: Outlines, pixels: PixelSize, write: Write
) -> None:
    """Detect the tissue of slides, stores or images; with --output, write outlines for QuPath and an image."""
    from wsi_attn.annotations.outlines import TissueFiles, Wanted, outline_tissue

    inputs, output = expand(slides), target.output
    console, reservations = Console(quiet=write.quiet), Reservations()

    def work(given: Input, item: Item) -> Iterator[None]:
        path = given.path
        with given.open(pixels.slide_mpp) as slide:
            warn_about(console, path, slide.info)
            paths = TissueFiles.of(slide, output) if output else None
            if paths:
                reservations.reserve(paths.outlines, path)
            wanted = Wanted(detection, outlines.simplify, paths)
            found, item.state = outline_tissue(slide, wanted, overwrite=write.overwrite, progress=item)
        yield
        if paths and item.state == "skipped":
            console.skipped(paths.outlines, "detect tissue")
        _warn(console, path, found)
        geojson, picture = (str(paths.outlines), str(paths.picture)) if paths else (None, None)
        record = {"slide": str(path), **vars(found), "geojson": geojson, "picture": picture, "state": item.state}
        data_json(record) if write.json else data(_line(path, found, geojson))

    def unwritten(path: Path, reason: object) -> TissueError:
        return TissueError(f"Cannot write the tissue of {path} into {output}: {reason}")

    console.each("tissue", inputs, work, unwritten)


def _warn(console: Console, path: Path, found: TissueSummary) -> None:
    if found.unreadable_fraction:
        console.info(
            f"warning: {path}: {found.unreadable_fraction:.1%} could not be decoded "
            "and counts neither as tissue nor as background"
        )
    if not found.polygons:
        console.info(
            f"warning: {path}: no tissue found; try --method robust for pale stain, or none for the whole slide"
        )
    if found.mpp is None:
        console.info(f"warning: {path}: no area in mm² because the pixel size is unknown; set it with --slide-mpp")


def _line(path: Path, found: TissueSummary, geojson: str | None) -> str:
    area = "-" if found.area_mm2 is None else f"{found.area_mm2:.3f} mm²"
    what = "1 polygon" if found.polygons == 1 else f"{found.polygons} polygons"
    return f"{path}\t{found.tissue_fraction:.3f} tissue\t{what}\t{area}\t{geojson or '-'}"


COMMAND = Command("tissue", tissue)
