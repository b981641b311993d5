"""Evaluation of a model, or of the averaged models of several folds, against the labels of a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_attn.data.annotations import region_mask
from wsi_attn.data.manifest import Row, read_manifest
from wsi_attn.data.sources import open_row
from wsi_attn.errors import CheckpointError, ManifestError, WsiAttnError
from wsi_attn.evaluate.attention_scores import AttentionScores, attention_section, mean_scores, score_attention
from wsi_attn.evaluate.intervals import group_weights
from wsi_attn.evaluate.report import evaluate_predictions
from wsi_attn.evaluate.sections import OperatingPoint, calibration_sections
from wsi_attn.evaluate.uncertainty import entropy, uncertainty_section
from wsi_attn.geometry import Size
from wsi_attn.models.calibration import calibrated
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.slide import BatchProgress, Progress, no_progress
from wsi_attn.tasks.classification.config import DROPOUT_TERMS, PLAIN_TERMS, PredictConfig
from wsi_attn.tasks.classification.slide import predict_slide

REGION_SIDE = 4096
"""Maximum longer side of the raster for annotated regions; smaller images use their own pixels."""


@dataclass(frozen=True)
class RowPrediction:
    """Prediction of one row.

    `before` and `probabilities` are float64 (C,), before and after temperature scaling; `attention` is
    None if the row has no annotated region (`annotated`) or the attention could not be scored; `uncertainty` has
    the entropy of the probabilities and the Monte-Carlo dropout terms, averaged over folds.
    """

    row: Row
    before: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    annotated: bool
    attention: AttentionScores | None
    uncertainty: dict[str, float]


def evaluate_manifest(
    checkpoints: Checkpoint | Sequence[Checkpoint],
    manifest: Path,
    split: str,
    config: PredictConfig,
    *,
    seed: int = 0,
    command: str = "",
    progress: BatchProgress = no_progress,
) -> tuple[dict[str, Any], list[WsiAttnError]]:
    """Return the report on one split and the errors of failed slides; see `predict_manifest`."""
    members = [checkpoints] if isinstance(checkpoints, Checkpoint) else list(checkpoints)
    answers, failures = predict_manifest(members, manifest, split, config, progress)
    passes = config.mc_dropout
    return report_on(answers, failures, members, split=split, seed=seed, command=command, passes=passes), failures


def predict_manifest(
    checkpoints: Sequence[Checkpoint], manifest: Path, split: str, config: PredictConfig, progress: BatchProgress
) -> tuple[list[RowPrediction], list[WsiAttnError]]:
    """Predict every row of one split.

    Parameters
    ----------
    checkpoints
        One model, or the models of several folds, whose calibrated probabilities are averaged.
    split
        "train", "val", "test", or "all" for every row.

    Returns
    -------
    The predictions in manifest order, and the errors of the failed rows.

    Raises
    ------
    ManifestError : the split has no rows, a label is unknown to the model, or every row failed.
    CheckpointError : the folds have different labels.
    """
    labels = checkpoints[0].spec.labels
    if any(checkpoint.spec.labels != labels for checkpoint in checkpoints):
        raise CheckpointError(
            f"{', '.join(checkpoint.name for checkpoint in checkpoints)} have different labels and cannot be averaged"
        )
    rows = [row for row in read_manifest(manifest) if split in ("all", row.split)]
    if not rows:
        raise ManifestError(f"{manifest} has no rows of split {split!r}; choose another --split")
    for row in rows:
        if row.label not in labels:
            raise ManifestError(
                f"{manifest}, row {row.number}: {row.label!r} is not a label of {checkpoints[0].name}; "
                f"its labels are {', '.join(labels)}"
            )
    raw = replace(config, calibrate=False, coverage=None, refer_above=None, refer_by=None)
    answers: list[RowPrediction] = []
    failures: list[WsiAttnError] = []
    for number, row in enumerate(rows, 1):
        with progress.item(number, len(rows), row.path.name) as item:
            try:
                answers.append(_answer(row, checkpoints, raw, item))
            except WsiAttnError as error:
                failures.append(error)
                item.state = "failed"
    if not answers:
        raise ManifestError(f"{manifest}: none of {len(rows)} rows could be predicted; first error: {failures[0]}")
    return answers, failures


def report_on(
    answers: Sequence[RowPrediction],
    failures: Sequence[WsiAttnError],
    checkpoints: Sequence[Checkpoint],
    *,
    split: str,
    seed: int,
    command: str,
    operating_point: OperatingPoint | None = None,
    passes: int = 0,
) -> dict[str, Any]:
    """Return the report of `evaluate`.

    Returns
    -------
    The result of `evaluate_predictions` for the calibrated probabilities, the sections of
    `calibration_sections`, `uncertainty`, `attention` if rows have regions, `folds` with the model of each fold if
    there are several, and `unanswered` with the errors of the excluded rows.
    """
    labels = checkpoints[0].spec.labels
    y = np.array([labels.index(answer.row.label) for answer in answers])
    before, after = (np.stack([getattr(answer, name) for answer in answers]) for name in ("before", "probabilities"))
    patients = [answer.row.patient for answer in answers]
    models = [{"name": checkpoint.name, "sha256": checkpoint.sha256} for checkpoint in checkpoints]
    report = evaluate_predictions(
        y,
        after,
        names=labels,
        groups=patients,
        split=split,
        seed=seed,
        command=command,
        model=model_record(checkpoints),
    )
    calibrations = [checkpoint.spec.calibration for checkpoint in checkpoints]
    report |= calibration_sections(y, before, after, labels, patients, seed, calibrations, operating_point)
    report["uncertainty"] = _uncertainty(answers, after.argmax(axis=1) != y, patients, seed, passes)
    if annotated := sum(answer.annotated for answer in answers):
        scored = [(answer.attention, answer.row.patient) for answer in answers if answer.attention is not None]
        scores, owners = [score for score, _ in scored], [patient for _, patient in scored]
        report["attention"] = attention_section(scores, owners, annotated, seed)
    if len(models) > 1:
        report["folds"] = models
    return report | {"unanswered": [str(error) for error in failures]}


def model_record(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Return name and hash of the model; several folds have one combined hash."""
    if len(checkpoints) == 1:
        return {"name": checkpoints[0].name, "sha256": checkpoints[0].sha256}
    together = hashlib.sha256("".join(checkpoint.sha256 for checkpoint in checkpoints).encode()).hexdigest()
    return {"name": f"mean of {len(checkpoints)} folds", "sha256": together}


def _answer(row: Row, checkpoints: Sequence[Checkpoint], config: PredictConfig, progress: Progress) -> RowPrediction:
    with open_row(row) as slide:
        size0 = slide.info.size0
        region = region_mask(row, size0, _raster(size0), slide.info.origin)
        found = [predict_slide(slide, checkpoint, config, progress, row.regions) for checkpoint in checkpoints]
    before = np.array([list(prediction.probabilities.values()) for prediction in found])  # (folds, C)
    after = np.array(
        [calibrated(each, checkpoint.spec.calibration) for each, checkpoint in zip(before, checkpoints, strict=True)]
    )
    attention = None
    if region is not None:
        attention = mean_scores(
            [score_attention(prediction.attention_map, prediction.attention, region, size0) for prediction in found]
        )
    uncertainty = {"entropy": float(entropy(after.mean(axis=0)))}
    if config.mc_dropout:
        uncertainty |= {
            name: float(np.mean([prediction.uncertainty[name] for prediction in found])) for name in DROPOUT_TERMS
        }
    return RowPrediction(row, before.mean(axis=0), after.mean(axis=0), region is not None, attention, uncertainty)


def referred_by(passes: int) -> str:
    """Return the uncertainty by which images are ranked; with dropout passes, their term."""
    return DROPOUT_TERMS[0] if passes else PLAIN_TERMS[0]


def _uncertainty(
    answers: Sequence[RowPrediction], wrong: NDArray[np.bool_], patients: Sequence[str], seed: int, passes: int
) -> dict[str, Any]:
    names = answers[0].uncertainty
    terms = {name: np.array([answer.uncertainty[name] for answer in answers]) for name in names}
    weights = group_weights(patients, seed)
    return uncertainty_section(terms, referred_by(passes), wrong, weights, len(set(patients)), passes)


def _raster(size0: Size) -> tuple[int, int]:
    """Return rows and columns of the raster for annotated regions."""
    scale = min(1.0, REGION_SIDE / max(size0))
    return max(1, round(size0.height * scale)), max(1, round(size0.width * scale))
