"""The folder of `wsi-attn boxes`: a manifest with boxes, and an image of each row to check them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from wsi_attn.annotations.boxes import FoundBoxes, as_text, box_mask, overlap
from wsi_attn.annotations.picture import draw_boxes
from wsi_attn.annotations.regions import given_boxes
from wsi_attn.data.manifest import Row
from wsi_attn.data.saliency import overview
from wsi_attn.data.sources import open_row
from wsi_attn.errors import WsiAttnError, as_failure
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import Found, Output, claim, complete, other, same, unfinished
from wsi_attn.slide import BatchProgress, Slide, no_progress

TABLE, RECORD, PICTURES = "boxes.csv", "boxes.json", "pictures"
COLUMNS = ("path", "label", "patient", "split", "boxes", "score", "iou")


@dataclass(frozen=True)
class BoxFinder:
    """A way to find boxes: `find` applied to a slide; `method` and `model` identify it."""

    method: str
    model: str
    find: Callable[[Slide], FoundBoxes]


@dataclass(frozen=True)
class BoxRecord:
    """Boxes of one row; `iou` with the boxes of the manifest, None without them; `picture` is the image's path."""

    path: str
    label: str
    patient: str
    split: str
    boxes: str
    score: str
    iou: float | None
    picture: str


@dataclass(frozen=True)
class _Recorded:
    """`boxes.json`; written before the first image without records, which mark the folder as complete."""

    made_of: dict[str, object]
    records: list[BoxRecord] | None = None


def find_boxes(
    rows: Sequence[Row],
    finder: BoxFinder,
    folder: Path,
    fail: Callable[[WsiAttnError], None],
    *,
    whole: bool = True,
    overwrite: bool = False,
    progress: BatchProgress = no_progress,
) -> tuple[list[BoxRecord], str]:
    """Find the boxes of all rows and write the table and the images.

    Parameters
    ----------
    fail
        Called with the error of each row that failed; results without these rows are found again by the next run.
    whole
        Whether `rows` are all inputs; otherwise the results count as incomplete.

    Returns
    -------
    The records, and the state: "written", or "skipped" if the folder is complete.

    Raises
    ------
    OutputExistsError : the folder contains something else or boxes of other images, and `overwrite` is not set.
    """
    made_of = {"method": finder.method, "model": finder.model, "inputs": [_input(row) for row in rows]}
    with claim(_output(folder, made_of), overwrite=overwrite) as there:
        if there.finished is not None:
            return there.finished, "skipped"
        records: list[BoxRecord] = []
        for number, row in enumerate(rows, 1):
            try:
                with progress.item(number, len(rows), row.path.name) as item:
                    item(0, 1, "finding boxes")
                    record, drawing = _find(row, finder, folder)
                if not records:
                    files.write_json(folder / RECORD, {"made_of": made_of})
                files.write_bytes(Path(record.picture), drawing)
                records.append(record)
            except Exception as error:
                whole = False
                fail(as_failure(row.path, error))
        if records:
            cells = [[getattr(record, column) for column in COLUMNS] for record in records]
            files.write_csv(folder / TABLE, [COLUMNS, *cells])
        if whole:
            files.write_json(folder / RECORD, {"made_of": made_of, "records": [asdict(record) for record in records]})
        return records, "written"


def _output(folder: Path, made_of: Mapping[str, object]) -> Output[list[BoxRecord]]:
    def inspect() -> Found[list[BoxRecord]]:
        try:
            found = msgspec.convert(json.loads((folder / RECORD).read_text()), _Recorded)
        except (OSError, ValueError):
            found = _Recorded({})
        if not same(found.made_of, made_of):
            return other("contains something else or boxes of other images")
        return unfinished() if found.records is None else complete(found.records)

    return Output(folder, inspect)


def _input(row: Row) -> list[object]:
    """Return what the boxes of a row depend on: images with size and modification time, and annotated regions."""
    images = []
    for path in row.paths:
        file = path / "zarr.json" if path.is_dir() else path
        state = file.stat() if file.is_file() else None
        images.append([str(path), state and state.st_size, state and state.st_mtime_ns])
    return [images, row.boxes, str(row.mask or "")]


def _find(row: Row, finder: BoxFinder, folder: Path) -> tuple[BoxRecord, bytes]:
    """Find the boxes of one row, draw them as PNG, and measure the IoU with annotated boxes."""
    with open_row(row) as slide:
        found = finder.find(slide)
        size0, shape = slide.info.size0, overview(slide).pixels.shape[:2]
        given = given_boxes(row, size0, shape, slide.info.origin)
        picture = folder / PICTURES / f"{row.number:05d}-{slide.info.name}.png"
        drawing = draw_boxes(slide, found.boxes, given)
        iou = None if given is None else overlap(box_mask(found.boxes, size0, shape), given)
    record = BoxRecord(
        path=";".join(os.path.relpath(path.resolve(), folder.resolve()) for path in row.paths),
        label=row.label,
        patient=row.patient,
        split=row.split,
        boxes=as_text(found.boxes),
        score="; ".join(f"{score:.3f}" for score in found.scores),
        iou=None if iou is None else round(iou, 4),
        picture=str(picture),
    )
    return record, drawing
