"""Heatmap files: the image of one quantity, a contact sheet of its highest regions, and regions for QuPath."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from wsi_attn.errors import UsageError
from wsi_attn.export.config import ExportConfig, HeatmapConfig
from wsi_attn.export.exporter import EXPORTERS
from wsi_attn.export.finished import export_output, mark_of
from wsi_attn.export.run import export_subject
from wsi_attn.export.source import ExportSource
from wsi_attn.heatmaps.contact_sheet import contact_sheet, read_patches
from wsi_attn.heatmaps.picture import png_bytes
from wsi_attn.outputs import files
from wsi_attn.outputs.mark import Mark
from wsi_attn.outputs.policy import State, claim, decide
from wsi_attn.slide import Progress, no_progress

PATCH_SIDE = 256
"""Maximum side of a patch of a contact sheet, pixels."""


@dataclass(frozen=True)
class HeatmapFiles:
    """The files of one heatmap; `state` is "written", or "skipped" if all of them were already complete."""

    slide: Path
    heatmap: Path
    contact_sheet: Path | None = None
    geojson: Path | None = None
    state: str = "written"

    def files(self) -> dict[str, str]:
        """Paths by name: `heatmap`, and `contact_sheet` and `geojson` if written."""
        named = {"heatmap": self.heatmap, "contact_sheet": self.contact_sheet, "geojson": self.geojson}
        return {name: str(path) for name, path in named.items() if path is not None}


REGIONS = ExportConfig(annotations=True)
"""Regions are annotations, which can be edited in QuPath."""


def heatmap_of(subject: ExportSource, folder: Path, config: HeatmapConfig, *, regions: bool = True) -> HeatmapFiles:
    """The files that `draw_heatmap` writes for one source.

    Parameters
    ----------
    subject
        A prediction or a store.
    folder
        Output folder of `STEM.heatmap.png`, `STEM.patches.png` and `STEM.geojson`; a quantity other than the
        default is part of the image names.
    regions
        Whether the regions of a prediction are written as GeoJSON.

    Raises
    ------
    UsageError : the source is a slide, which has no quantity to draw.
    """
    if not subject.layers:
        path, stem = subject.path, subject.stem
        raise UsageError(
            f"{path} is a slide without a heatmap: run `wsi-attn predict {path} --heatmap` to draw the attention of "
            f"a model, or `wsi-attn tile {path}` and `wsi-attn heatmap {stem}.zarr` to draw the scores of tiles"
        )
    usual = subject.prediction is not None and config.of in (None, subject.layers[0])
    of = (config.of or subject.layers[0]).replace(":", "-")
    stem = subject.stem if usual else f"{subject.stem}.{of}"
    return HeatmapFiles(
        subject.slide,
        folder / f"{stem}.heatmap.png",
        folder / f"{stem}.patches.png" if config.contact_sheet else None,
        folder / f"{subject.stem}.geojson" if subject.prediction and regions else None,
    )


def draw_heatmap(
    subject: ExportSource,
    wanted: HeatmapFiles,
    config: HeatmapConfig,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> HeatmapFiles:
    """Write the files of `heatmap_of` that are not complete yet.

    Returns
    -------
    `wanted`, with its state.

    Raises
    ------
    OutputExistsError : one of the files is something else, and `overwrite` is not set; nothing is written then.
    UnknownNameError : there is no such quantity.
    PredictionError, SlideError : the slide is missing, is a different one, or is unreadable.
    """
    picture = config.picture()
    parts = [(wanted.heatmap, mark_of(subject, "png", picture))]
    if wanted.geojson is not None:
        parts.append((wanted.geojson, mark_of(subject, "geojson", REGIONS)))
    if wanted.contact_sheet is not None:
        parts.append((wanted.contact_sheet, mark_of(subject, "contact-sheet", config)))
    found = [decide(export_output(mark, path, EXPORTERS.get("png")), overwrite=overwrite) for path, mark in parts]
    if all(each.state is State.COMPLETE for each in found):
        return replace(wanted, state="skipped")
    export_subject(subject, "png", wanted.heatmap, picture, overwrite=overwrite, progress=progress)
    if wanted.contact_sheet is not None:
        _write_sheet(subject, wanted.contact_sheet, config, overwrite=overwrite, progress=progress)
    if wanted.geojson is not None:
        export_subject(subject, "geojson", wanted.geojson, REGIONS, overwrite=overwrite)
    return wanted


def _write_sheet(
    subject: ExportSource, path: Path, config: HeatmapConfig, *, overwrite: bool, progress: Progress
) -> None:
    mark = mark_of(subject, "contact-sheet", config)
    with claim(export_output(mark, path, EXPORTERS.get("png")), overwrite=overwrite) as found:
        if found.state is not State.COMPLETE:
            progress(0, 1, "contact sheet")
            files.write_bytes(path, _sheet(subject, config, mark))


def _sheet(subject: ExportSource, config: HeatmapConfig, mark: Mark) -> bytes:
    name = config.of or subject.layers[0]
    places = subject.regions(config.contact_sheet, name)
    caption = subject.caption
    lines = (caption.name, *caption.lines, f"{len(places)} highest regions by {name}, positions in level-0 pixels")
    with subject.pixels() as slide:
        patches = read_patches(slide, places, PATCH_SIDE)
    sheet = contact_sheet(patches, lines, subject.mpp, side=PATCH_SIDE, quantity=name.rpartition(":")[2])
    return png_bytes(sheet, {**subject.origin, "of": name, "made": mark.text})
