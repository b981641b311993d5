"""`wsi-attn heatmap`: draw predictions or tile scores, and write attended regions for QuPath."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wsi_attn.cli.options import Debug, Json, Overwrite, Quiet, Threads, check_folder_option
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import ExportError, UsageError, WsiAttnError
from wsi_attn.outputs import names

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="PREDICTION|STORE",
        help="Predictions (STEM.prediction.json), stores, or folders of either; - reads a list from stdin.",
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option("--output", "-o", callback=check_folder_option, help="Output folder; by default that of the input."),
]
Of = Annotated[
    str | None,
    typer.Option(
        "--of",
        metavar="QUANTITY",
        help="Quantity to draw: attention, evidence:LABEL, uncertainty, score:NAME or tissue.",
    ),
]
SlidePath = Annotated[Path | None, typer.Option("--slide", help="Path of the slide if it has moved.")]
Grid = Annotated[str, typer.Option("--grid", help="Grid of a store whose scores are drawn.")]
Size = Annotated[int, typer.Option("--size", min=64, max=20000, help="Longer side of the slide in the image, pixels.")]
Mode = Annotated[
    Literal["rank", "value"] | None,
    typer.Option(
        "--as",
        "--show",
        help="Colour scale: rank (percentile within the slide) or value. Default: rank for attention, else value.",
    ),
]
Alpha = Annotated[
    float, typer.Option("--opacity", "--alpha", min=0, max=1, help="Opacity of the highest value, 0 to 1.")
]
Colour = Annotated[
    str, typer.Option("--colours", "--colour-map", help="Colour map: viridis, magma, inferno, plasma or cividis.")
]
Sheet = Annotated[
    int,
    typer.Option(
        "--contact-sheet",
        metavar="K",
        min=0,
        max=400,
        help="Also draw a contact sheet of the K highest regions; 0 draws none.",
    ),
]


def heatmap(
    inputs: Inputs,
    output: Folder = None,
    of: Of = None,
    slide: SlidePath = None,
    grid: Grid = "default",
    size: Size = 1600,
    show: Mode = None,
    alpha: Alpha = 0.5,
    colour_map: Colour = "viridis",
    contact_sheet: Sheet = 0,
    overwrite: Overwrite = False,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw predictions or tile scores as PNG; for predictions, also write the attended regions as GeoJSON."""
    from wsi_attn.export.heatmap import HeatmapConfig, draw_heatmap, heatmap_of
    from wsi_attn.export.source import open_export_source, results_in

    found = expand(inputs, results_in, "prediction and no store")
    if slide and len(found) > 1:
        raise UsageError(f"--slide applies to a single input, but {len(found)} were given")
    config = HeatmapConfig(of, show, colour_map, alpha, size, contact_sheet)
    console = Console(quiet=quiet, total=len(found))
    reservations = names.Reservations()
    with console.progress("heatmap") as progress:
        for number, given in enumerate(found, 1):
            path = given.path
            try:
                with progress.item(number, len(found), path.name) as item:
                    subject = open_export_source(given.located(), slide, grid)
                    wanted = heatmap_of(subject, output or path.parent, config)
                    for file in wanted.files().values():
                        reservations.reserve(Path(file), path)
                    made = draw_heatmap(subject, wanted, config, overwrite=overwrite, progress=item)
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
            data_json({**record, "state": made.state}) if json else data("\t".join(record.values()))
    raise typer.Exit(console.exit_code())
