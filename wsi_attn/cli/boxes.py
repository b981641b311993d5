"""`wsi-attn boxes`: automatic boxes as a manifest column, with images to check them."""

from __future__ import annotations

import csv
import io
import json as json_module
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wsi_attn.cli.options import Machine, Output, Write
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import OutputExistsError, UsageError, WsiAttnError
from wsi_attn.options import Option
from wsi_attn.outputs import files

if TYPE_CHECKING:  # These import numpy, which only the command needs.
    from wsi_attn.data.boxes import FoundBoxes
    from wsi_attn.data.manifest import Row
    from wsi_attn.slide import Slide

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


TABLE, RECORD, PICTURES = "boxes.csv", "boxes.json", "pictures"
COLUMNS = ("path", "label", "patient", "split", "boxes", "score", "iou")


def boxes(inputs: Inputs, target: Output, finder: Finder, machine: Machine, write: Write) -> None:
    """Find boxes around salient regions of each image. Writes FOLDER/boxes.csv, a manifest with a column boxes, and
    FOLDER/pictures, which shows found boxes in orange and those of the manifest in green.
    """
    output = target.output
    find = _finder(finder.method, finder.model, machine)
    rows, problems = _rows(inputs)
    made_of = {"method": finder.method, "model": finder.model, "inputs": [_input(row) for row in rows]}
    console = Console(quiet=write.quiet, total=len(rows) + len(problems))
    for problem in problems:
        console.fail(problem)
    records = None if write.overwrite else _finished(output, made_of)
    if records is not None:
        console.info(f"{output / TABLE} is already complete; use --overwrite to find boxes again")
    else:
        records = []
        with console.progress("boxes") as progress:
            for number, row in enumerate(rows, 1):
                try:
                    with progress.item(number, len(rows), row.path.name) as item:
                        item(0, 1, "finding boxes")
                        records.append(_find(row, find, output))
                except WsiAttnError as error:
                    console.fail(error)
        if records:
            files.write_text(output / TABLE, _table(records))
            console.info(f"table: {output / TABLE}, pictures: {output / PICTURES}")
        if not console.failures:  # Incomplete results are recomputed.
            files.write_json(output / RECORD, {"made_of": made_of, "records": records})
    for record in records:
        data_json(record) if write.json else data(_line(record))
    measured = [record["iou"] for record in records if record["iou"] is not None]
    if measured:
        console.info(
            f"mean IoU with the boxes of the manifest: {sum(measured) / len(measured):.3f} on {len(measured)} images"
        )
    raise typer.Exit(console.exit_code())


def _finder(method: str, model: str, machine: Machine) -> Callable[[Slide], FoundBoxes]:
    if method == "saliency":
        from wsi_attn.data.boxes import salient_boxes

        return salient_boxes
    from wsi_attn.tasks.segmentation.boxes import box_finder  # Imports torch.

    return box_finder(method, model, machine.resolve())


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


def _input(row: Row) -> list[Any]:
    """Return what the boxes of a row depend on: images with size and modification time, and annotated regions."""
    images = []
    for path in row.paths:
        file = path / "zarr.json" if path.is_dir() else path
        state = file.stat() if file.is_file() else None
        images.append([str(path), state and state.st_size, state and state.st_mtime_ns])
    return [images, row.boxes, str(row.mask or "")]


def _finished(output: Path, made_of: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the records of an earlier run with the same input; None if the folder is empty, an error if it differs."""
    if not output.exists() or not any(output.iterdir()):
        return None
    try:
        found = json_module.loads((output / RECORD).read_text())
        same, records = found["made_of"] == made_of, found["records"]
    except (OSError, ValueError, KeyError, TypeError):
        same, records = False, []
    if not same:
        raise OutputExistsError(
            f"{output} contains something else or boxes of other images; use --overwrite or another --output"
        )
    return list(records)


def _find(row: Row, find: Callable[[Slide], FoundBoxes], output: Path) -> dict[str, Any]:
    """Find the boxes of one row, draw them, and measure the IoU with annotated boxes."""
    from wsi_attn.data.annotations import box_mask
    from wsi_attn.data.boxes import as_text, draw_boxes, given_boxes, overlap, overview
    from wsi_attn.data.sources import open_row

    with open_row(row) as slide:
        found = find(slide)
        size0, shape = slide.info.size0, overview(slide).pixels.shape[:2]
        given = given_boxes(row, size0, shape, slide.info.origin)
        picture = output / PICTURES / f"{row.number:05d}-{slide.info.name}.png"
        files.write_bytes(picture, draw_boxes(slide, found.boxes, given))
        iou = None if given is None else overlap(box_mask(found.boxes, size0, shape), given)
    return {
        "path": ";".join(os.path.relpath(path.resolve(), output.resolve()) for path in row.paths),
        "label": row.label,
        "patient": row.patient,
        "split": row.split,
        "boxes": as_text(found.boxes),
        "score": "; ".join(f"{score:.3f}" for score in found.scores),
        "iou": None if iou is None else round(iou, 4),
        "picture": str(picture),
    }


def _table(records: list[dict[str, Any]]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return table.getvalue()


def _line(record: dict[str, Any]) -> str:
    overlap = "-" if record["iou"] is None else f"{record['iou']:.3f}"
    return f"{record['path']}\t{record['boxes'] or '-'}\t{record['score'] or '-'}\t{overlap}"
