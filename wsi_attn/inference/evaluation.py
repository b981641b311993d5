"""One run of `wsi-attn evaluate`: the report and, if requested, its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsi_attn.errors import ManifestError, UsageError, WsiAttnError
from wsi_attn.evaluate.sections import choose_operating_point
from wsi_attn.inference.config import Evaluation
from wsi_attn.inference.report_folder import report_output, write_report_folder
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.configs import SEGMENTATION
from wsi_attn.outputs.policy import claim
from wsi_attn.provenance import sha256_of
from wsi_attn.slide import BatchProgress, no_progress
from wsi_attn.tasks.classification.cohort import model_record, predict_manifest, report_on
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.uncertain import uncertain_pictures
from wsi_attn.tasks.segmentation.evaluation import evaluate_manifest, write_folder


def evaluate_into(
    folder: Path | None,
    checkpoints: Sequence[Checkpoint],
    wanted: Evaluation,
    config: PredictConfig,
    *,
    overwrite: bool = False,
    progress: BatchProgress = no_progress,
) -> tuple[dict[str, Any], list[WsiAttnError]]:
    """Evaluate and write the report to `folder`; a finished report of the same inputs is read instead.

    Parameters
    ----------
    folder
        Report folder; None writes no files.
    checkpoints
        One model, or those of several folds.

    Returns
    -------
    The report of `cohort.report_on` with its `inputs`, and the errors of the rows that failed in this run.

    Raises
    ------
    OutputExistsError : `folder` contains something else.
    UsageError : the operating point cannot be determined.
    WsiAttnError : see `cohort.predict_manifest`.
    """
    if not wanted.manifest.is_file():
        raise ManifestError(f"no manifest at {wanted.manifest}")
    inputs = {
        "model_sha256": model_record(checkpoints)["sha256"],
        "manifest_sha256": sha256_of(wanted.manifest),
        "split": wanted.config.split,
        "seed": wanted.config.seed,
        "sensitivity": wanted.config.sensitivity,
        "positive": wanted.config.positive,
        "mc_dropout": config.mc_dropout,
    }
    with claim(report_output(folder, inputs) if folder else None, overwrite=overwrite) as found:
        if found.finished is not None:
            return found.finished, []
        return _evaluate(folder, checkpoints, wanted, config, inputs, progress)


def _evaluate(
    folder: Path | None,
    checkpoints: Sequence[Checkpoint],
    wanted: Evaluation,
    config: PredictConfig,
    inputs: dict[str, Any],
    progress: BatchProgress,
) -> tuple[dict[str, Any], list[WsiAttnError]]:
    """See `evaluate_into`."""
    if checkpoints[0].spec.task == SEGMENTATION:
        return _segmentation_into(folder, checkpoints[0], wanted, inputs, config.workers, progress)
    point = None
    if wanted.config.positive is not None and wanted.config.sensitivity is not None:
        calibrations = [checkpoint.spec.calibration for checkpoint in checkpoints]
        point = choose_operating_point(
            calibrations, checkpoints[0].spec.labels, wanted.config.positive, wanted.config.sensitivity
        )
    answers, failures = predict_manifest(checkpoints, wanted.manifest, wanted.config.split, config, progress)
    progress(0, 1, "computing metrics")
    report = report_on(
        answers,
        failures,
        checkpoints,
        split=wanted.config.split,
        seed=wanted.config.seed,
        command=wanted.command,
        operating_point=point,
        passes=config.mc_dropout,
    ) | {"inputs": inputs}
    if folder is not None:
        progress(0, 1, "writing the report")
        pictures = uncertain_pictures(answers, report["uncertainty"]["by"], checkpoints[0], config)
        write_report_folder(folder, report, answers, wanted.manifest, pictures)
    return report, failures


def _segmentation_into(
    folder: Path | None,
    checkpoint: Checkpoint,
    wanted: Evaluation,
    inputs: dict[str, Any],
    workers: int | None,
    progress: BatchProgress,
) -> tuple[dict[str, Any], list[WsiAttnError]]:
    """Evaluate a segmentation model; see `segment.evaluation`."""
    if wanted.config.positive is not None:
        raise UsageError(f"{checkpoint.name} is a segmentation model and has no operating point; remove --sensitivity")
    report, found, failures = evaluate_manifest(
        checkpoint,
        wanted.manifest,
        wanted.config.split,
        seed=wanted.config.seed,
        command=wanted.command,
        workers=workers,
        progress=progress,
    )
    report |= {"inputs": inputs}
    if folder is not None:
        write_folder(folder, report, found, wanted.manifest)
    return report, failures
