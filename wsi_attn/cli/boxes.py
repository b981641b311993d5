"""`wsi-attn boxes`: automatic boxes as a manifest column, with images to check them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import Machine, Output, Write
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import UsageError, WsiAttnError
from wsi_attn.options import Option

if TYPE_CHECKING:  # These import numpy, which only the command needs.
    from wsi_attn.data.box_table import BoxFinder, BoxRecord
    from wsi_attn.data.manifest import Row

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="MANIFEST|IMAGE",
        help="One manifest (.csv), or images and folders of images; - reads a list of paths from stdin.",
    ),
]


@dataclass(frozen=True)
class Finder:
    """How boxes are found."""

    method: Annotated[
        Literal["saliency", "segmentation"], Option("Box method: saliency, or segmentation with --model.")
    ] = "saliency"
    model: Annotated[
        str,
        Option(
            "Segmentation model for --method segmentation: a run or checkpoint folder.",
            aliases=("-m",),
            metavar="FOLDER",
        ),
    ] = ""


def boxes(inputs: Inputs, target: Output, finder: Finder, machine: Machine, write: Write) -> None:
    """Find boxes around salient regions of each image. Writes FOLDER/boxes.csv, a manifest with a column boxes, and
    FOLDER/pictures, which shows found boxes in orange and those of the manifest in green.
    """
    from wsi_attn.data.box_table import PICTURES, TABLE, find_boxes

    output, chosen = target.output, _finder(finder.method, finder.model, machine)
    rows, problems = _rows(inputs)
    console = Console(quiet=write.quiet, total=len(rows) + len(problems))
    for problem in problems:
        console.fail(problem)
    with console.progress("boxes") as progress:
        records, state = find_boxes(
            rows, chosen, output, console.fail, whole=not problems, overwrite=write.overwrite, progress=progress
        )
    if state == "skipped":
        console.skipped(output / TABLE, "find boxes")
    elif records:
        console.info(f"table: {output / TABLE}, pictures: {output / PICTURES}")
    for record in records:
        data_json(vars(record)) if write.json else data(_line(record))
    measured = [record.iou for record in records if record.iou is not None]
    if measured:
        console.info(
            f"mean IoU with the boxes of the manifest: {sum(measured) / len(measured):.3f} on {len(measured)} images"
        )
    raise typer.Exit(console.exit_code())


def _finder(method: str, model: str, machine: Machine) -> BoxFinder:
    from wsi_attn.data.box_table import BoxFinder

    if method == "saliency":
        from wsi_attn.data.saliency import salient_boxes

        return BoxFinder(method, model, salient_boxes)
    from wsi_attn.tasks.segmentation.boxes import box_finder  # Imports torch.

    return BoxFinder(method, model, box_finder(method, model, machine.resolve()))


def _rows(arguments: list[str]) -> tuple[list[Row], list[WsiAttnError]]:
    """Return the rows of the manifest, or one row per image, and the errors of unusable inputs."""
    from wsi_attn.data.manifest import Row, read_manifest

    if arguments[0].lower().endswith(".csv"):
        if len(arguments) > 1:
            raise UsageError("boxes takes either one manifest or images, not both and not several manifests")
        return read_manifest(Path(arguments[0]), need_label=False), []
    rows: list[Row] = []
    problems: list[WsiAttnError] = []
    for number, given in enumerate(expand(arguments), 1):
        if given.problem is None:
            rows.append(Row(given.path, "", "", "", given.mpp, number, paths=given.images))
        else:
            problems.append(given.problem)
    return rows, problems


def _line(record: BoxRecord) -> str:
    overlap = "-" if record.iou is None else f"{record.iou:.3f}"
    return f"{record.path}\t{record.boxes or '-'}\t{record.score or '-'}\t{overlap}"


COMMAND = Command("boxes", boxes)
