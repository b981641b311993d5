"""`wsi-attn export`: convert predictions and stores to formats of other tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import Subject, Write
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import ExportError, UsageError
from wsi_attn.export.config import ExportConfig
from wsi_attn.export.exporter import EXPORTERS
from wsi_attn.options import Option
from wsi_attn.outputs.names import Reservations

if TYPE_CHECKING:
    from wsi_attn.data.inputs import Input
    from wsi_attn.slide import Item

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


def _plugins() -> Iterable[str]:
    """Formats of installed packages; a function, since names within an annotation are not found later."""
    return EXPORTERS.plugins


@dataclass(frozen=True)
class Target:
    """What is written."""

    to: Annotated[
        str,
        Option(
            f"Output format; {ATTENTION_MAP} needs run or checkpoint folders of global-spatial models.",
            choices=(*EXPORTERS.built_in, ATTENTION_MAP),
            more_choices=_plugins,
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
        _attention_maps(inputs, output, write)
    from wsi_attn.export.run import export_subject, target_of
    from wsi_attn.export.source import open_export_source, results_in

    found = expand(inputs, results_in, "prediction and no store")
    subject.check(found)
    if config.size and config.downsample:
        raise UsageError("--size and --downsample are mutually exclusive")
    console, reservations = Console(quiet=write.quiet), Reservations()

    def work(given: Input, item: Item) -> Iterator[None]:
        path = given.path
        source = open_export_source(given.located(), subject.slide, subject.grid, given.mpp)
        file = target_of(source, to, output, config)
        reservations.reserve(file, path)
        record = export_subject(source, to, file, config, overwrite=write.overwrite, progress=item)
        item.state = str(record["state"])
        yield
        if item.state == "skipped":
            console.skipped(file, "export")
        if record.get("features_left_out"):
            console.info(
                f"{path}: {record['features']} features written, {record['features_left_out']} lower ones omitted"
            )
        if record.get("unreadable_tiles"):
            console.info(f"warning: {path}: {record['unreadable_tiles']} tiles could not be decoded and are grey")
        data_json(record) if write.json else data(f"{path}\t{file}")

    console.each("export", found, work, partial(_unwritten, output))


def _unwritten(output: Path, path: Path, reason: object) -> ExportError:
    return ExportError(f"Cannot export {path} into {output}: {reason}")


def _attention_maps(runs: list[str], output: Path, write: Write) -> NoReturn:
    """Export the learned maps of runs or checkpoints, each as two images in the folder `output`."""
    from wsi_attn.export.attention_map import export_attention_map

    found = expand(runs, lambda folder: [folder], "run")
    console = Console(quiet=write.quiet)

    def work(given: Input, item: Item) -> Iterator[None]:
        record = export_attention_map(str(given.located()), output, overwrite=write.overwrite)
        item.state = record["state"]
        yield
        if item.state == "skipped":
            console.skipped(record["output"], "export")
        data_json(record) if write.json else data(f"{given.path}\t{record['output']}\t{record['overlay']}")

    console.each("export", found, work, partial(_unwritten, output))


COMMAND = Command("export", export)
