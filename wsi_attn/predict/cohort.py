"""A model against the labels of a manifest, or the models of several folds, whose probabilities are averaged."""

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
from wsi_attn.evaluate.calibration import calibrated
from wsi_attn.evaluate.intervals import group_weights
from wsi_attn.evaluate.report import evaluate_predictions
from wsi_attn.evaluate.sections import OperatingPoint, calibration_sections
from wsi_attn.evaluate.uncertainty import entropy, uncertainty_section
from wsi_attn.geometry import Size
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.predict.slide import DROPOUT_TERMS, PLAIN_TERMS, PredictConfig, predict_slide
from wsi_attn.slide import BatchProgress, Progress, no_progress

REGION_SIDE = 4096
"""Longer side of the raster that annotated regions are drawn on, at most; smaller images at their own pixels."""


@dataclass(frozen=True)
class RowPrediction:
    """What was said of one row.

    `before` and `probabilities` are float64 (C,), as the networks give them and at their temperatures; `attention` is
    None where the row has no region (`annotated`) or the attention could not be scored against it; `uncertainty` holds
    the entropy of the probabilities and the terms of Monte-Carlo dropout, of several folds their means.
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
    """The report on one split, and the errors of slides that could not be answered; see `predict_manifest`."""
    members = [checkpoints] if isinstance(checkpoints, Checkpoint) else list(checkpoints)
    answers, failures = predict_manifest(members, manifest, split, config, progress)
    passes = config.mc_dropout
    return report_on(answers, failures, members, split=split, seed=seed, command=command, passes=passes), failures


def predict_manifest(
    checkpoints: Sequence[Checkpoint], manifest: Path, split: str, config: PredictConfig, progress: BatchProgress
) -> tuple[list[RowPrediction], list[WsiAttnError]]:
    """RowPrediction every row of one split.

    Parameters
    ----------
    checkpoints
        One model, or those of several folds: their probabilities, each at its own temperature, are averaged.
    split
        "train", "val", "test", or "all" for every row.

    Returns
    -------
    The answers in the manifest's order, and the errors of the rows that have none.

    Raises
    ------
    ManifestError : no such rows, labels that the model does not know, or not one slide could be answered.
    CheckpointError : folds that answer different labels.
    """
    labels = checkpoints[0].spec.labels
    if any(checkpoint.spec.labels != labels for checkpoint in checkpoints):
        raise CheckpointError(
            f"{', '.join(checkpoint.name for checkpoint in checkpoints)} answer different labels and cannot be averaged"
        )
    rows = [row for row in read_manifest(manifest) if split in ("all", row.split)]
    if not rows:
        raise ManifestError(f"{manifest} has no rows of split {split!r}; choose another --split")
    for row in rows:
        if row.label not in labels:
            raise ManifestError(
                f"{manifest}, row {row.number}: {checkpoints[0].name} knows no label {row.label!r}, "
                f"only {', '.join(labels)}"
            )
    raw = replace(config, calibrate=False, coverage=None, referral=None)
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
        raise ManifestError(f"{manifest}: none of {len(rows)} rows could be answered; the first said: {failures[0]}")
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
    """The report of `evaluate`.

    Returns
    -------
    What `evaluate_predictions` gives of the probabilities at their temperature, the sections of
    `calibration_sections`, `uncertainty`, `attention` where rows have regions, `folds` with each fold's model where
    there are several, and `unanswered` with the reasons of the rows that are in none of the figures.
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
    """Name and hash of the model; of several folds one hash over theirs."""
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
    """The term of uncertainty that images are ranked by: of the passes with dropout, if there are any."""
    return DROPOUT_TERMS[0] if passes else PLAIN_TERMS[0]


def _uncertainty(
    answers: Sequence[RowPrediction], wrong: NDArray[np.bool_], patients: Sequence[str], seed: int, passes: int
) -> dict[str, Any]:
    names = answers[0].uncertainty
    terms = {name: np.array([answer.uncertainty[name] for answer in answers]) for name in names}
    weights = group_weights(patients, seed)
    return uncertainty_section(terms, referred_by(passes), wrong, weights, len(set(patients)), passes)


def _raster(size0: Size) -> tuple[int, int]:
    """Rows and columns of the raster for annotated regions."""
    scale = min(1.0, REGION_SIDE / max(size0))
    return max(1, round(size0.height * scale)), max(1, round(size0.width * scale))
