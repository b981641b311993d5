"""The folder of `evaluate --report`: `report.json`, `report.html` and `predictions.csv` with one row per image."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsi_attn.evaluate.html import Picture, write_html_report
from wsi_attn.models.conformal import in_set
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import Found, Output, complete, other, same
from wsi_attn.tasks.classification.cohort import RowPrediction
from wsi_attn.tasks.classification.slide import uncertainty_of

REPORT, PAGE, PREDICTIONS_CSV = "report.json", "report.html", "predictions.csv"


def report_output(folder: Path, inputs: dict[str, Any]) -> Output[dict[str, Any]]:
    """The folder as an output, which is complete if its report has the same `inputs`."""

    def inspect() -> Found[dict[str, Any]]:
        try:
            found: dict[str, Any] = json.loads((folder / REPORT).read_text())
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
    folder: Path,
    report: dict[str, Any],
    answers: Sequence[RowPrediction],
    manifest: Path,
    pictures: Sequence[Picture] = (),
) -> None:
    """Write the folder atomically, replacing an existing one; `pictures` are shown on the page."""
    with files.new_folder(folder) as temporary:
        files.write_json(temporary / REPORT, report)
        write_html_report(temporary / PAGE, report, pictures)
        files.write_text(temporary / PREDICTIONS_CSV, predictions_table(answers, report, manifest))


def predictions_table(answers: Sequence[RowPrediction], report: dict[str, Any], manifest: Path) -> str:
    """Return a CSV with a header and one line per predicted row.

    Columns: `path` (relative to the manifest, several images separated by `;`), `patient`, `label` (true), `predicted`,
    `probability:LABEL` for each label, `entropy`, `margin`, the terms of Monte-Carlo dropout if used, and
    `set:COVERAGE`, the labels of the prediction set separated by `|`, for each coverage with a threshold.
    """
    labels = report["labels"]
    coverages = report.get("conformal", {}).get("coverages", {})
    thresholds = {name: at["threshold"] for name, at in coverages.items() if at["threshold"] is not None}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    names = [f"probability:{label}" for label in labels]
    sets = [f"set:{coverage}" for coverage in thresholds]
    terms = [name for name in answers[0].uncertainty if name != "entropy"]
    writer.writerow(["path", "patient", "label", "predicted", *names, "entropy", "margin", *terms, *sets])
    for answer in answers:
        p, uncertainty = answer.probabilities, uncertainty_of(answer.probabilities)
        members = [in_set(p, threshold) for threshold in thresholds.values()]
        writer.writerow(
            [
                ";".join(_relative(path, manifest.parent) for path in answer.row.paths),
                answer.row.patient,
                answer.row.label,
                labels[int(p.argmax())],
                *(f"{value:.6g}" for value in (*p, uncertainty["entropy"], uncertainty["margin"])),
                *(f"{answer.uncertainty[name]:.6g}" for name in terms),
                *("|".join(label for label, held in zip(labels, of, strict=True) if held) for of in members),
            ]
        )
    return table.getvalue()


def _relative(path: Path, folder: Path) -> str:
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
