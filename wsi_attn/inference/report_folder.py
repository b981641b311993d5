"""The folder of `evaluate --report`: `report.json`, `report.html` and `predictions.csv` with one row per image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wsi_attn.evaluate.html import Picture, write_html_report
from wsi_attn.evaluate.report import Report
from wsi_attn.json_types import JsonObject
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import Found, Output, complete, other, same

REPORT, PAGE, PREDICTIONS_CSV = "report.json", "report.html", "predictions.csv"


def report_output(folder: Path, inputs: JsonObject) -> Output[Mapping[str, object]]:
    """The folder as an output, which is complete if its report has the same `inputs`."""

    def inspect() -> Found[Mapping[str, object]]:
        try:
            found: JsonObject = json.loads((folder / REPORT).read_text())
            recorded = found["inputs"]
        except (OSError, ValueError, KeyError, TypeError):
            return other("exists and is not a report")
        return (
            complete(found)
            if same(recorded, inputs)
            else other("contains a report of another model, manifest or setting")
        )

    return Output(folder, inspect, option="--report")


def write_report_folder(
    folder: Path, report: Report, table: Iterable[Sequence[object]], pictures: Sequence[Picture] = ()
) -> None:
    """Write the folder atomically, replacing an existing one; `pictures` are shown on the page."""
    with files.new_folder(folder) as temporary:
        files.write_json(temporary / REPORT, report.record())
        write_html_report(temporary / PAGE, report, pictures)
        files.write_csv(temporary / PREDICTIONS_CSV, table)
