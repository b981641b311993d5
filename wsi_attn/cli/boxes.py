"""`wsi-attn boxes`: boxes that nobody drew, as a manifest's column and as pictures to check them."""

from __future__ import annotations

import csv
import io
import json as json_module
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wsi_attn import files
from wsi_attn.cli.options import Debug, Device, Json, Output, Overwrite, Quiet, Threads, resolve_device
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import OutputExistsError, UsageError, WsiAttnError

if TYPE_CHECKING:  # numpy comes with these, and only the command itself needs it
    from wsi_attn.data.boxes import FoundBoxes
    from wsi_attn.data.manifest import Row
    from wsi_attn.slide import Slide

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="MANIFEST|IMAGE", help="A manifest (.csv), or images and folders of them; - reads a list from stdin."
    ),
]
Method = Annotated[
    Literal["saliency", "segmentation"], typer.Option("--method", help="How boxes are found: saliency or segmentation.")
]
Model = Annotated[
    str, typer.Option("--model", "-m", metavar="FOLDER", help="Model of --method segmentation, from train.")
]

TABLE, RECORD, PICTURES = "boxes.csv", "boxes.json", "pictures"
COLUMNS = ("path", "label", "patient", "split", "boxes", "score", "iou")


def boxes(
    inputs: Inputs,
    output: Output,
    method: Method = "saliency",
    model: Model = "",
    device: Device = "auto",
    overwrite: Overwrite = False,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find boxes around what stands out on each image: FOLDER/boxes.csv, which is a manifest with the column boxes,
    and FOLDER/pictures, with what was found in orange and what the manifest gives in green.
    """
    find = _finder(method, model, device)
    rows, problems = _rows(inputs)
    made_of = {"method": method, "model": model, "inputs": [_input(row) for row in rows]}
    console = Console(quiet=quiet, total=len(rows) + len(problems))
    for problem in problems:
        console.fail(problem)
    records = None if overwrite else _finished(output, made_of)
    if records is not None:
        console.info(f"{output / TABLE} is there already; --overwrite finds boxes anew")
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
        if not console.failures:  # incomplete results are computed again
            files.write_json(output / RECORD, {"made_of": made_of, "records": records})
    for record in records:
        data_json(record) if json else data(_line(record))
    measured = [record["iou"] for record in records if record["iou"] is not None]
    if measured:
        console.info(f"mean overlap with given boxes: {sum(measured) / len(measured):.3f} on {len(measured)} images")
    raise typer.Exit(console.exit_code())


def _finder(method: str, model: str, device: str) -> Callable[[Slide], FoundBoxes]:
    if method == "saliency":
        from wsi_attn.data.boxes import salient_boxes

        return salient_boxes
    from wsi_attn.segment.boxes import box_finder  # and with it torch

    return box_finder(method, model, resolve_device(device))


def _rows(arguments: list[str]) -> tuple[list[Row], list[WsiAttnError]]:
    """Rows of one manifest with all its columns, or one row for each image; and inputs that cannot be used."""
    from wsi_attn.data.manifest import Row, read_manifest

    if arguments[0].lower().endswith(".csv"):
        if len(arguments) > 1:
            raise UsageError("Name one manifest, or images; not both, and not several manifests")
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
    """What a row's boxes depend on: its images, of files their size and time, and the regions it gives."""
    images = []
    for path in row.paths:
        file = path / "zarr.json" if path.is_dir() else path
        state = file.stat() if file.is_file() else None
        images.append([str(path), state and state.st_size, state and state.st_mtime_ns])
    return [images, row.boxes, str(row.mask or "")]


def _finished(output: Path, made_of: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What an earlier run found of the same input; None where there is nothing, an error where it is another's."""
    if not output.exists() or not any(output.iterdir()):
        return None
    try:
        found = json_module.loads((output / RECORD).read_text())
        same, records = found["made_of"] == made_of, found["records"]
    except (OSError, ValueError, KeyError, TypeError):
        same, records = False, []
    if not same:
        raise OutputExistsError(
            f"{output} holds something else, or boxes of other images; name another folder or add --overwrite"
        )
    return list(records)


def _find(row: Row, find: Callable[[Slide], FoundBoxes], output: Path) -> dict[str, Any]:
    """Boxes of one row, with a picture; and how well they meet given ones."""
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
