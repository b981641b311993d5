"""Tables with one row per attended region and cell of a prediction, or per tile of a store, as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import MissingExtraError
from wsi_attn.export.exporter import Entries, Exporter
from wsi_attn.export.job import Job
from wsi_attn.export.source import ExportSource, strongest
from wsi_attn.geometry import Frame
from wsi_attn.heatmaps.layer import ATTENTION, Layer
from wsi_attn.outputs import files
from wsi_attn.paths import path_to_text

ROWS_AT_ONCE = 65_536

REGION, CELL, TILE = "region", "cell", "tile"

FloatColumn = NDArray[np.float64]
Columns = dict[str, list[str] | FloatColumn]


class _Part(NamedTuple):
    """Rows of one kind: float64 (n, 4) boxes, and values (n,) by column."""

    kind: str
    boxes: FloatColumn
    numbers: Mapping[str, FloatColumn]


def columns_of(subject: ExportSource) -> Columns:
    """The columns of the table, all of one length.

    `slide`; `kind`, "region" (read at high resolution), "cell" (of the maps) or "tile" (of a store's grid); `x`, `y`,
    `width`, `height` in level-0 pixels; then for a prediction `attention`, `rank` from 1 within its kind, each further
    map, `label` and `probability_NAME`, and for a store each score. NaN for missing values.
    """
    parts = list(_prediction_parts(subject)) if subject.prediction else [_Part(TILE, *subject.tiles())]
    boxes = np.concatenate([part.boxes for part in parts])
    count = len(boxes)
    columns: Columns = {"slide": [path_to_text(subject.slide)] * count}
    columns["kind"] = [part.kind for part in parts for _ in part.boxes]
    columns.update({name: boxes[:, index] for index, name in enumerate(("x", "y", "width", "height"))})
    for name in dict.fromkeys(name for part in parts for name in part.numbers):
        missing = [part.numbers.get(name, np.full(len(part.boxes), np.nan)) for part in parts]
        columns[name] = np.concatenate(missing)
    if subject.prediction:
        columns["label"] = [subject.prediction.label] * count
        for name, value in subject.prediction.probabilities.items():
            columns[f"probability_{name}"] = np.full(count, value)
    return columns


def csv_bytes(subject: ExportSource) -> tuple[int, bytes]:
    """Return the number of rows and the table as CSV; missing values are empty."""
    columns = columns_of(subject)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*(map(_text, values) for values in columns.values()), strict=True))
    return len(columns["kind"]), text.getvalue().encode()


def write_parquet(subject: ExportSource, path: Path) -> int:
    """Write the table as Parquet atomically; missing values are null. Returns the number of rows.

    Raises
    ------
    MissingExtraError : pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("Parquet needs pyarrow: pip install 'wsi-attn[tables]', or export csv") from error
    columns = columns_of(subject)
    count = len(columns["kind"])
    table = pyarrow.table({name: pyarrow.array(values, from_pandas=True) for name, values in columns.items()})
    table = table.replace_schema_metadata({"wsi-attn": json.dumps(subject.origin)})
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        parquet.write_table(table, file, row_group_size=ROWS_AT_ONCE, compression="zstd")
    return count


def _prediction_parts(subject: ExportSource) -> Iterator[_Part]:
    """Regions, then cells; maps on the same grid share their rows."""
    regions = subject.prediction.attention if subject.prediction else ()
    boxes = np.array([(r.x, r.y, r.width, r.height) for r in regions], np.float64).reshape(-1, 4)
    weights = np.array([region.weight for region in regions], np.float64)
    yield _Part(REGION, boxes, {ATTENTION: weights, "rank": np.arange(1.0, len(regions) + 1)})
    by_frame: dict[Frame, list[Layer]] = {}
    for layer in map(subject.layer, subject.layers):
        by_frame.setdefault(layer.frame, []).append(layer)
    for frame, layers in by_frame.items():
        seen = np.any([~np.isnan(layer.values) for layer in layers], axis=0)
        numbers = {layer.name: layer.values[seen].astype(np.float64) for layer in layers}
        if ATTENTION in numbers:
            numbers["rank"] = _rank(numbers[ATTENTION])
        yield _Part(CELL, subject.boxes(frame, seen), numbers)


def _rank(values: FloatColumn) -> FloatColumn:
    """Rank from 1 for the largest; NaN stays NaN."""
    ranks = np.full(len(values), np.nan)
    order = strongest(values, len(values))
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


def _text(value: Any) -> Any:
    """Shortest decimal text that restores the number; empty for NaN."""
    if isinstance(value, float):
        if np.isnan(value):
            return ""
        return int(value) if value.is_integer() else repr(float(value))
    return value


def _csv(job: Job) -> tuple[bytes, Entries]:
    job.require_values()
    rows, data = csv_bytes(job.subject)
    return data, {"rows": rows}


def _parquet(job: Job) -> Entries:
    job.require_values()
    return {"rows": write_parquet(job.subject, job.path)}


CSV = Exporter((".csv",), contents=_csv)
PARQUET = Exporter((".parquet",), write=_parquet)
