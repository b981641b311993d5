"""`wsi-attn heatmap`: draw predictions or tile scores, and write attended regions for QuPath."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import Subject, Write, folder
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import ExportError
from wsi_attn.export.config import HeatmapConfig
from wsi_attn.options import Option
from wsi_attn.outputs.names import Reservations

if TYPE_CHECKING:
    from wsi_attn.data.inputs import Input
    from wsi_attn.slide import Item

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="PREDICTION|STORE",
        help="Predictions (STEM.prediction.json), stores, or folders of either; - reads a list from stdin.",
    ),
]


@dataclass(frozen=True)
class Target:
    """Where the pictures go."""

    output: Annotated[
        Path | None, Option("Output folder.", aliases=("-o",), check=folder, default="that of the input")
    ] = None


def heatmap(inputs: Inputs, target: Target, config: HeatmapConfig, subject: Subject, write: Write) -> None:
    """Draw predictions or tile scores as PNG; for predictions, also write the attended regions as GeoJSON."""
    from wsi_attn.export.heatmap import draw_heatmap, heatmap_of
    from wsi_attn.export.source import open_export_source, results_in

    found = expand(inputs, results_in, "prediction and no store")
    subject.check(found)
    console, reservations = Console(quiet=write.quiet), Reservations()

    def work(given: Input, item: Item) -> Iterator[None]:
        source = open_export_source(given.located(), subject.slide, subject.grid)
        wanted = heatmap_of(source, target.output or given.path.parent, config)
        for file in wanted.files().values():
            reservations.reserve(Path(file), given.path)
        made = draw_heatmap(source, wanted, config, overwrite=write.overwrite, progress=item)
        item.state = made.state
        yield
        if made.state == "skipped":
            console.skipped(made.heatmap, "draw it")
        record = {"slide": str(made.slide), **made.files()}
        data_json({**record, "state": made.state}) if write.json else data("\t".join(record.values()))

    console.each("heatmap", found, work, lambda path, reason: ExportError(f"Cannot draw {path}: {reason}"))


COMMAND = Command("heatmap", heatmap)
