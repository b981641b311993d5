"""One evaluation as `wsi-attn evaluate` makes it: a report, and where it is asked for its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_attn.contract import Progress, no_progress
from wsi_attn.errors import ManifestError, WsiAttnError
from wsi_attn.evaluate.sections import choose_operating_point
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.predict.cohort import answer_manifest, model_record, report_on
from wsi_attn.predict.report_folder import finished_report, write_report_folder
from wsi_attn.predict.slide import PredictConfig
from wsi_attn.provenance import sha256_of


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated: the rows, the seed of the resampling, and an operating point, if any."""

    manifest: Path
    split: str = "test"
    seed: int = 0
    sensitivity: float | None = None
    positive: str | None = None
    command: str = ""


def evaluate_into(
    folder: Path | None,
    checkpoints: Sequence[Checkpoint],
    wanted: Evaluation,
    config: PredictConfig,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> tuple[dict[str, Any], list[WsiAttnError]]:
    """Evaluate, and leave the report in `folder`; a finished report of the same inputs is read instead.

    Parameters
    ----------
    folder
        Where the report goes; None writes nothing.
    checkpoints
        One model, or those of several folds.

    Returns
    -------
    The report of `cohort.report_on` with its `inputs`, and the errors of the rows that were not answered this time.

    Raises
    ------
    OutputExistsError : something else lies at `folder`.
    UsageError : no operating point can be chosen.
    WsiAttnError : as `cohort.answer_manifest`.
    """
    if not wanted.manifest.is_file():
        raise ManifestError(f"There is no manifest {wanted.manifest}")
    inputs = {
        "model_sha256": model_record(checkpoints)["sha256"],
        "manifest_sha256": sha256_of(wanted.manifest),
        "split": wanted.split,
        "seed": wanted.seed,
        "sensitivity": wanted.sensitivity,
        "positive": wanted.positive,
    }
    if folder is not None and (found := finished_report(folder, inputs, overwrite=overwrite)) is not None:
        return found, []
    point = None
    if wanted.positive is not None and wanted.sensitivity is not None:
        calibrations = [checkpoint.spec.calibration for checkpoint in checkpoints]
        point = choose_operating_point(calibrations, checkpoints[0].spec.labels, wanted.positive, wanted.sensitivity)
    answers, failures = answer_manifest(checkpoints, wanted.manifest, wanted.split, config, progress)
    report = report_on(
        answers,
        failures,
        checkpoints,
        split=wanted.split,
        seed=wanted.seed,
        command=wanted.command,
        operating_point=point,
    ) | {"inputs": inputs}
    if folder is not None:
        write_report_folder(folder, report, answers, wanted.manifest)
    return report, failures
