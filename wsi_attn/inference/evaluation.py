"""Evaluation of a model, for any task: the answers to the rows of a manifest, the report and its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wsi_attn.data.manifest import read_manifest
from wsi_attn.errors import ManifestError, WsiAttnError
from wsi_attn.evaluate.html import write_html_report
from wsi_attn.evaluate.report import Report
from wsi_attn.json_types import JsonObject
from wsi_attn.models.checkpoint import Checkpoint, model_record
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import Found, Output, claim, complete, other, same
from wsi_attn.provenance import sha256_of
from wsi_attn.slide import BatchProgress, no_progress
from wsi_attn.tasks.base import TASKS, Evaluation, EvaluationJob, add_rows

REPORT, PAGE, PREDICTIONS_CSV = "report.json", "report.html", "predictions.csv"
"""Files of the folder of `evaluate --report`; the last has one row per image."""


def evaluate_into(
    folder: Path | None,
    checkpoints: Sequence[Checkpoint],
    job: EvaluationJob,
    *,
    overwrite: bool = False,
    progress: BatchProgress = no_progress,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Mapping[str, object], list[WsiAttnError]]:
    """Evaluate and write the report to `folder`; a finished report of the same inputs is read instead.

    Parameters
    ----------
    folder
        Report folder; None writes no files.
    checkpoints
        One model, or those of several folds.
    say
        Told that a finished report is read.

    Returns
    -------
    The record of the report with its `inputs`, and the errors of the rows that failed in this run.

    Raises
    ------
    OutputExistsError : `folder` contains something else.
    WsiAttnError : see `evaluate_rows`.
    """
    if not job.manifest.is_file():
        raise ManifestError(f"no manifest at {job.manifest}")
    inputs: JsonObject = {
        "model_sha256": model_record(checkpoints)["sha256"],
        "manifest_sha256": sha256_of(job.manifest),
        "split": job.config.split,
        "seed": job.config.seed,
        "sensitivity": job.config.sensitivity,
        "positive": job.config.positive,
        "mc_dropout": job.mc_dropout,
    }
    with claim(report_output(folder, inputs) if folder else None, overwrite=overwrite) as found:
        if found.finished is not None:
            say(f"{folder} is already complete; use --overwrite to evaluate again")
            return found.finished, []
        evaluation, failures = evaluate_rows(checkpoints, job, progress)
        progress(0, 1, "computing metrics")
        report = evaluation.report(failures).with_sections(inputs=inputs)
        if folder is not None:
            progress(0, 1, "writing the report")
            write_report_folder(folder, report, evaluation)
        return report.record(), failures


def evaluate_rows(
    checkpoints: Sequence[Checkpoint], job: EvaluationJob, progress: BatchProgress = no_progress
) -> tuple[Evaluation, list[WsiAttnError]]:
    """Answer every row of one split.

    Returns
    -------
    The evaluation with all rows that could be answered, and the errors of the others.

    Raises
    ------
    ManifestError : the split has no rows, the model cannot be compared with a row, or every row failed.
    UsageError, CheckpointError : see `Task.evaluation`.
    """
    task = TASKS.get(checkpoints[0].spec.task)
    evaluation = task.evaluation(checkpoints, job)
    rows = [
        row for row in read_manifest(job.manifest, need_label=task.need_label) if job.config.split in ("all", row.split)
    ]
    if not rows:
        raise ManifestError(f"{job.manifest} has no rows of split {job.config.split!r}; choose another --split")
    evaluation.check(rows)
    failures = add_rows(evaluation, rows, progress=progress)
    if len(failures) == len(rows):
        raise ManifestError(
            f"{job.manifest}: none of {len(rows)} rows could be {evaluation.done}; first error: {failures[0]}"
        )
    return evaluation, failures


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


def write_report_folder(folder: Path, report: Report, evaluation: Evaluation) -> None:
    """Write the folder atomically, replacing an existing one, with the table and the pictures of the evaluation."""
    with files.new_folder(folder) as temporary:
        files.write_json(temporary / REPORT, report.record())
        write_html_report(temporary / PAGE, report, evaluation.pictures())
        files.write_csv(temporary / PREDICTIONS_CSV, evaluation.table())
