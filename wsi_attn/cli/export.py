"""`wsi-attn export`: predictions and stores in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsi_attn.cli.options import Debug, Json, Overwrite, Quiet, Threads
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import ExitCode, ExportError, UsageError, WsiAttnError
from wsi_attn.files import Reservations

if TYPE_CHECKING:
    from wsi_attn.data.inputs import Input

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="PREDICTION|STORE|RUN",
        help="Files that predict wrote, stores, folders of either, or for attention-map runs; - reads stdin.",
    ),
]
Target = Annotated[
    Path, typer.Option("--output", "-o", help="A file that ends like the format, or a folder for STEM.FORMAT.")
]
To = Annotated[
    Literal["png", "geojson", "ome-tiff", "ome-zarr", "csv", "parquet", "dzi", "html", "attention-map"],
    typer.Option("--to", help="Format; attention-map takes runs or checkpoints of global-spatial."),
]
Of = Annotated[
    list[str] | None,
    typer.Option(
        "--of",
        metavar="QUANTITY",
        help="attention, evidence:LABEL, uncertainty, score:NAME, tissue, or slide for no colours; html takes several.",
    ),
]
SlidePath = Annotated[Path | None, typer.Option("--slide", help="Where the slide lies now, if it has moved.")]
Grid = Annotated[str, typer.Option("--grid", help="Grid of a store whose scores are shown.")]
Mode = Annotated[
    Literal["rank", "value"] | None,
    typer.Option("--as", help="rank: percentile within the slide; value: numbers. Attention is ranked by default."),
]
Colours = Annotated[str, typer.Option("--colours", help="viridis, magma, inferno, plasma or cividis.")]
Opacity = Annotated[float, typer.Option("--opacity", min=0, max=1, help="Opacity of the highest value.")]
Size = Annotated[int | None, typer.Option("--size", min=64, max=200_000, help="Longer side of pictures, pixels.")]
Downsample = Annotated[
    float | None, typer.Option("--downsample", min=1, help="Level-0 pixels per pixel of pictures, instead of --size.")
]
Top = Annotated[
    int | None,
    typer.Option("--top", min=0, help="html: patches; geojson: only so many of the highest cells or tiles."),
]
Annotations = Annotated[bool, typer.Option("--as-annotations", help="geojson: annotations instead of detections.")]
Values = Annotated[bool, typer.Option("--values", help="ome-tiff: numbers as float32 with NaN instead of colours.")]
Transparent = Annotated[bool, typer.Option("--transparent", help="png: colours alone, without slide and legend.")]
Pyramid = Annotated[
    Literal["subifd", "pages"],
    typer.Option("--pyramid", help="ome-tiff: subifd for Bio-Formats and QuPath, pages for OpenSlide."),
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
    """Write predictions and stores as PNG, GeoJSON, OME-TIFF, OME-Zarr, CSV, Parquet, DeepZoom or one HTML file, and
    the map that a global-spatial model learned.
    """
    if to == "attention-map":
        models = expand(inputs, lambda folder: [folder], "run")
        raise typer.Exit(_attention_maps(models, output, Console(quiet=quiet), overwrite=overwrite, json=json))
    from wsi_attn.export.run import ExportConfig, export_subject, target_of
    from wsi_attn.export.source import open_export_source, results_in

    found = expand(inputs, results_in, "prediction and no store")
    if slide and len(found) > 1:
        raise UsageError(f"--slide names one slide and {len(found)} inputs were given")
    if size and downsample:
        raise UsageError("--size and --downsample say the same thing; give one")
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
                console.info(f"{target} is there already; --overwrite writes it anew")
            if record.get("features_left_out"):
                console.info(
                    f"{path}: {record['features']} features written, {record['features_left_out']} lower ones left out"
                )
            if record.get("unreadable_tiles"):
                console.info(f"warning: {path}: {record['unreadable_tiles']} tiles could not be decoded; they are grey")
            data_json(record) if json else data(f"{path}\t{target}")
    raise typer.Exit(console.exit_code())


def _attention_maps(models: list[Input], output: Path, console: Console, *, overwrite: bool, json: bool) -> ExitCode:
    """The learned maps of runs or checkpoints, each as two pictures in the folder `output`."""
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
                console.info(f"{record['output']} is there already; --overwrite writes it anew")
            data_json(record) if json else data(f"{model}\t{record['output']}\t{record['overlay']}")
    return console.exit_code()
