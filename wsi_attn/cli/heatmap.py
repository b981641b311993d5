"""`wsi-attn heatmap`: draw predictions or tile scores, and write attended regions for QuPath."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import Subject, Write, folder
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import ExportError, WsiAttnError
from wsi_attn.export.config import HeatmapConfig
from wsi_attn.options import Option
from wsi_attn.outputs import names

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
    console = Console(quiet=write.quiet, total=len(found))
    reservations = names.Reservations()
    with console.progress("heatmap") as progress:
        for number, given in enumerate(found, 1):
            path = given.path
            try:
                with progress.item(number, len(found), path.name) as item:
                    source = open_export_source(given.located(), subject.slide, subject.grid)
                    wanted = heatmap_of(source, target.output or path.parent, config)
                    for file in wanted.files().values():
                        reservations.reserve(Path(file), path)
                    made = draw_heatmap(source, wanted, config, overwrite=write.overwrite, progress=item)
                    item.state = made.state
            except WsiAttnError as error:
                console.fail(error)
                continue
            except OSError as error:
                console.fail(ExportError(f"Cannot draw {path}: {error.strerror or error}"))
                continue
            if made.state == "skipped":
                console.info(f"{made.heatmap} is already complete; use --overwrite to draw it again")
            record = {"slide": str(made.slide), **made.files()}
            data_json({**record, "state": made.state}) if write.json else data("\t".join(record.values()))
    raise typer.Exit(console.exit_code())


COMMAND = Command("heatmap", heatmap)
