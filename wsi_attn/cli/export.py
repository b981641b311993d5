"""`wsi-attn export`: convert predictions and stores to formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsi_attn.cli.options import Debug, Json, Overwrite, Quiet, Threads
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import ExitCode, ExportError, UsageError, WsiAttnError
from wsi_attn.outputs.names import Reservations

if TYPE_CHECKING:
    from wsi_attn.data.inputs import Input

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="PREDICTION|STORE|RUN",
        help="Predictions (STEM.prediction.json), stores, folders of either, or run folders for attention-map; "
        "- reads a list of paths from stdin.",
    ),
]
Target = Annotated[
    Path, typer.Option("--output", "-o", help="Output file with the suffix of the format, or a folder for STEM.FORMAT.")
]
To = Annotated[
    Literal["png", "geojson", "ome-tiff", "ome-zarr", "csv", "parquet", "dzi", "html", "attention-map"],
    typer.Option("--to", help="Output format; attention-map needs run or checkpoint folders of global-spatial models."),
]
Of = Annotated[
    list[str] | None,
    typer.Option(
        "--of",
        metavar="QUANTITY",
        help="Quantity to export: attention, evidence:LABEL, uncertainty, score:NAME, tissue, or slide for no overlay. "
        "Repeat it for several layers in html.",
    ),
]
SlidePath = Annotated[Path | None, typer.Option("--slide", help="Path of the slide if it has moved.")]
Grid = Annotated[str, typer.Option("--grid", help="Grid of a store whose scores are exported.")]
Mode = Annotated[
    Literal["rank", "value"] | None,
    typer.Option(
        "--as",
        help="Colour scale: rank (percentile within the slide) or value. Default: rank for attention, else value.",
    ),
]
Colours = Annotated[str, typer.Option("--colours", help="Colour map: viridis, magma, inferno, plasma or cividis.")]
Opacity = Annotated[float, typer.Option("--opacity", min=0, max=1, help="Opacity of the highest value, 0 to 1.")]
Size = Annotated[int | None, typer.Option("--size", min=64, max=200_000, help="Longer side of images in pixels.")]
Downsample = Annotated[
    float | None, typer.Option("--downsample", min=1, help="Level-0 pixels per image pixel, instead of --size.")
]
Top = Annotated[
    int | None,
    typer.Option(
        "--top", min=0, help="Number of patches in html; maximum number of the highest cells or tiles in geojson."
    ),
]
Annotations = Annotated[
    bool, typer.Option("--as-annotations", help="geojson: write annotations instead of detections.")
]
Values = Annotated[bool, typer.Option("--values", help="ome-tiff: write float32 values with NaN instead of colours.")]
Transparent = Annotated[
    bool, typer.Option("--transparent", help="png: draw only the overlay, without slide and legend.")
]
Pyramid = Annotated[
    Literal["subifd", "pages"],
    typer.Option("--pyramid", help="ome-tiff: pyramid layout, subifd (Bio-Formats, QuPath) or pages (OpenSlide)."),
]


def export(
    inputs: Inputs,
    to: To,
    output: Target,
    of: Of = None,
    slide: SlidePath = None,
    grid: Grid = "default",
    show: Mode = None,
    colours: Colours = "viridis",
    opacity: Opacity = 0.5,
    size: Size = None,
    downsample: Downsample = None,
    top: Top = None,
    as_annotations: Annotations = False,
    values: Values = False,
    transparent: Transparent = False,
    pyramid: Pyramid = "subifd",
    overwrite: Overwrite = False,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Export predictions and stores as PNG, GeoJSON, OME-TIFF, OME-Zarr, CSV, Parquet, DeepZoom or one HTML file,
    and the learned map of global-spatial models.
    """
    if to == "attention-map":
        models = expand(inputs, lambda folder: [folder], "run")
        raise typer.Exit(_attention_maps(models, output, Console(quiet=quiet), overwrite=overwrite, json=json))
    from wsi_attn.export.run import ExportConfig, export_subject, target_of
    from wsi_attn.export.source import open_export_source, results_in

    found = expand(inputs, results_in, "prediction and no store")
    if slide and len(found) > 1:
        raise UsageError(f"--slide applies to a single input, but {len(found)} were given")
    if size and downsample:
        raise UsageError("--size and --downsample are mutually exclusive")
    config = ExportConfig(
        tuple(of or ()),
        show,
        colours,
        opacity,
        size,
        downsample,
        top,
        as_annotations,
        values,
        transparent,
        pyramid,
    )
    console = Console(quiet=quiet, total=len(found))
    reservations = Reservations()
    with console.progress("export") as progress:
        for number, given in enumerate(found, 1):
            path = given.path
            try:
                with progress.item(number, len(found), path.name) as item:
                    subject = open_export_source(given.located(), slide, grid, given.mpp)
                    target = target_of(subject, to, output, config)
                    reservations.reserve(target, path)
                    record = export_subject(subject, to, target, config, overwrite=overwrite, progress=item)
                    item.state = record["state"]
            except WsiAttnError as error:
                console.fail(error)
                continue
            except OSError as error:
                console.fail(ExportError(f"Cannot export {path} into {output}: {error.strerror or error}"))
                continue
            if record["state"] == "skipped":
                console.info(f"{target} is already complete; use --overwrite to export again")
            if record.get("features_left_out"):
                console.info(
                    f"{path}: {record['features']} features written, {record['features_left_out']} lower ones omitted"
                )
            if record.get("unreadable_tiles"):
                console.info(f"warning: {path}: {record['unreadable_tiles']} tiles could not be decoded and are grey")
            data_json(record) if json else data(f"{path}\t{target}")
    raise typer.Exit(console.exit_code())


def _attention_maps(models: list[Input], output: Path, console: Console, *, overwrite: bool, json: bool) -> ExitCode:
    """Export the learned maps of runs or checkpoints, each as two images in the folder `output`."""
    from wsi_attn.export.attention_map import export_attention_map

    console.total = len(models)
    with console.progress("export") as progress:
        for number, given in enumerate(models, 1):
            model = given.path
            try:
                with progress.item(number, len(models), model.name) as item:
                    record = export_attention_map(str(given.located()), output, overwrite=overwrite)
                    item.state = record["state"]
            except WsiAttnError as error:
                console.fail(error)
                continue
            if record["state"] == "skipped":
                console.info(f"{record['output']} is already complete; use --overwrite to export again")
            data_json(record) if json else data(f"{model}\t{record['output']}\t{record['overlay']}")
    return console.exit_code()
