"""`wsi-attn export`: convert predictions and stores to formats of other tools."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import Subject, Write
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import ExitCode, ExportError, UsageError, WsiAttnError
from wsi_attn.export.config import ExportConfig
from wsi_attn.export.exporter import EXPORTERS
from wsi_attn.options import Option
from wsi_attn.outputs.names import Reservations

if TYPE_CHECKING:
    from wsi_attn.data.inputs import Input

ATTENTION_MAP = "attention-map"
"""The format whose input is a model."""

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="PREDICTION|STORE|RUN",
        help="Predictions (STEM.prediction.json), stores, folders of either, or run folders for attention-map; "
        "- reads a list of paths from stdin.",
    ),
]


def formats_of_packages() -> Iterable[str]:
    """Formats of installed packages."""
    return EXPORTERS.plugins


@dataclass(frozen=True)
class Target:
    """What is written."""

    to: Annotated[
        str,
        Option(
            f"Output format; {ATTENTION_MAP} needs run or checkpoint folders of global-spatial models.",
            choices=(*EXPORTERS.built_in, ATTENTION_MAP),
            more_choices=formats_of_packages,
        ),
    ]
    output: Annotated[
        Path, Option("Output file with the suffix of the format, or a folder for STEM.FORMAT.", aliases=("-o",))
    ]


def export(inputs: Inputs, target: Target, config: ExportConfig, subject: Subject, write: Write) -> None:
    """Export predictions and stores as PNG, GeoJSON, OME-TIFF, OME-Zarr, CSV, Parquet, DeepZoom or one HTML file,
    and the learned map of global-spatial models.
    """
    to, output = target.to, target.output
    if to == ATTENTION_MAP:
        raise typer.Exit(_attention_maps(expand(inputs, lambda folder: [folder], "run"), output, write))
    from wsi_attn.export.run import export_subject, target_of
    from wsi_attn.export.source import open_export_source, results_in

    found = expand(inputs, results_in, "prediction and no store")
    subject.check(found)
    if config.size and config.downsample:
        raise UsageError("--size and --downsample are mutually exclusive")
    console = Console(quiet=write.quiet, total=len(found))
    reservations = Reservations()
    with console.progress("export") as progress:
        for number, given in enumerate(found, 1):
            path = given.path
            try:
                with progress.item(number, len(found), path.name) as item:
                    source = open_export_source(given.located(), subject.slide, subject.grid, given.mpp)
                    file = target_of(source, to, output, config)
                    reservations.reserve(file, path)
                    record = export_subject(source, to, file, config, overwrite=write.overwrite, progress=item)
                    item.state = str(record["state"])
            except WsiAttnError as error:
                console.fail(error)
                continue
            except OSError as error:
                console.fail(ExportError(f"Cannot export {path} into {output}: {error.strerror or error}"))
                continue
            if record["state"] == "skipped":
                console.info(f"{file} is already complete; use --overwrite to export again")
            if record.get("features_left_out"):
                console.info(
                    f"{path}: {record['features']} features written, {record['features_left_out']} lower ones omitted"
                )
            if record.get("unreadable_tiles"):
                console.info(f"warning: {path}: {record['unreadable_tiles']} tiles could not be decoded and are grey")
            data_json(record) if write.json else data(f"{path}\t{file}")
    raise typer.Exit(console.exit_code())


def _attention_maps(models: list[Input], output: Path, write: Write) -> ExitCode:
    """Export the learned maps of runs or checkpoints, each as two images in the folder `output`."""
    from wsi_attn.export.attention_map import export_attention_map

    console = Console(quiet=write.quiet, total=len(models))
    with console.progress("export") as progress:
        for number, given in enumerate(models, 1):
            model = given.path
            try:
                with progress.item(number, len(models), model.name) as item:
                    record = export_attention_map(str(given.located()), output, overwrite=write.overwrite)
                    item.state = record["state"]
            except WsiAttnError as error:
                console.fail(error)
                continue
            if record["state"] == "skipped":
                console.info(f"{record['output']} is already complete; use --overwrite to export again")
            data_json(record) if write.json else data(f"{model}\t{record['output']}\t{record['overlay']}")
    return console.exit_code()


COMMAND = Command("export", export)
