"""Evaluation of a model, or of the averaged models of several folds, against the labels of a manifest."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_attn.annotations.regions import region_mask
from wsi_attn.data.manifest import Row, path_in
from wsi_attn.errors import CheckpointError, ManifestError, WsiAttnError
from wsi_attn.evaluate.attention_scores import AttentionScores, attention_section, mean_scores, score_attention
from wsi_attn.evaluate.html import Picture
from wsi_attn.evaluate.intervals import resample_groups
from wsi_attn.evaluate.report import Report, evaluate_predictions
from wsi_attn.evaluate.sections import OperatingPoint, calibration_sections, choose_operating_point
from wsi_attn.evaluate.uncertainty import entropy, uncertainty_section
from wsi_attn.geometry import Size
from wsi_attn.json_types import JsonObject
from wsi_attn.models.calibration import calibrated
from wsi_attn.models.checkpoint import Checkpoint, model_record
from wsi_attn.models.conformal import in_set
from wsi_attn.slide import Progress, Slide
from wsi_attn.tasks.base import Evaluation, EvaluationJob
from wsi_attn.tasks.classification.config import DROPOUT_TERMS, PLAIN_TERMS, PredictConfig
from wsi_attn.tasks.classification.slide import predict_slide, uncertainty_of

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


class ClassificationEvaluation(Evaluation):
    """Labels of one model, or of the averaged models of several folds.

    Raises
    ------
    CheckpointError : the folds have different labels.
    UsageError : the operating point cannot be determined, or a model does not predict labels.
    """

    done = "predicted"

    def __init__(self, checkpoints: Sequence[Checkpoint], job: EvaluationJob) -> None:
        self.checkpoints, self.job = checkpoints, job
        self.labels = checkpoints[0].spec.labels
        if any(checkpoint.spec.labels != self.labels for checkpoint in checkpoints):
            raise CheckpointError(
                f"{', '.join(checkpoint.name for checkpoint in checkpoints)} have different labels and cannot be "
                "averaged"
            )
        self.config = PredictConfig(
            allow_out_of_distribution=job.allow_out_of_distribution,
            workers=job.workers,
            calibrate=False,
            mc_dropout=job.mc_dropout,
            seed=job.config.seed,
        )
        self.calibrations = [checkpoint.spec.calibration for checkpoint in checkpoints]
        self.point: OperatingPoint | None = None
        positive, sensitivity = job.config.positive, job.config.sensitivity
        if positive is not None and sensitivity is not None:
            self.point = choose_operating_point(self.calibrations, self.labels, positive, sensitivity)
        self.answers: list[RowPrediction] = []
        self._thresholds: dict[str, float] = {}

    def check(self, rows: Sequence[Row]) -> None:
        """See `Evaluation.check`."""
        for row in rows:
            if row.label not in self.labels:
                raise ManifestError(
                    f"{self.job.manifest}, row {row.number}: {row.label!r} is not a label of "
                    f"{self.checkpoints[0].name}; its labels are {', '.join(self.labels)}"
                )

    def add(self, row: Row, slide: Slide, progress: Progress) -> None:
        """See `Evaluation.add`."""
        self.answers.append(_answer(row, slide, self.checkpoints, self.config, progress))

    def report(self, failures: Sequence[WsiAttnError]) -> Report:
        """Return the metrics of the calibrated probabilities, the sections of `calibration_sections`, `uncertainty`,
        `attention` if rows have regions, `folds` with the model of each fold if there are several, and `unanswered`.
        """
        job, answers, checkpoints = self.job, self.answers, self.checkpoints
        y = np.array([self.labels.index(answer.row.label) for answer in answers])
        before, after = (
            np.stack([getattr(answer, name) for answer in answers]) for name in ("before", "probabilities")
        )
        patients = [answer.row.patient for answer in answers]
        origin = job.origin(model_record(checkpoints))
        report = evaluate_predictions(y, after, self.labels, patients, origin)
        calibration = calibration_sections(
            y, before, after, self.labels, patients, job.config.seed, self.calibrations, self.point
        )
        coverages = calibration["conformal"]["coverages"] if "conformal" in calibration else {}
        self._thresholds = {name: at["threshold"] for name, at in coverages.items() if at["threshold"] is not None}
        wrong = after.argmax(axis=1) != y
        sections: dict[str, object] = {
            **calibration,
            "uncertainty": _uncertainty(answers, wrong, patients, job.config.seed, self.config.mc_dropout),
        }
        if annotated := sum(answer.annotated for answer in answers):
            scored = [(answer.attention, answer.row.patient) for answer in answers if answer.attention is not None]
            scores, owners = [score for score, _ in scored], [patient for _, patient in scored]
            sections["attention"] = attention_section(scores, owners, annotated, job.config.seed)
        if len(checkpoints) > 1:
            sections["folds"] = [{"name": checkpoint.name, "sha256": checkpoint.sha256} for checkpoint in checkpoints]
        return report.with_sections(**sections, unanswered=[str(error) for error in failures])

    def table(self) -> str:
        """See `predictions_table`; the prediction sets are those of the last report."""
        return predictions_table(self.answers, self.labels, self._thresholds, self.job.manifest)

    def pictures(self) -> Sequence[Picture]:
        """Return the most uncertain images with their attention."""
        from wsi_attn.tasks.classification.uncertain import uncertain_pictures

        return uncertain_pictures(
            self.answers, referred_by(self.config.mc_dropout), self.checkpoints[0], replace(self.config, calibrate=True)
        )


def _answer(
    row: Row, slide: Slide, checkpoints: Sequence[Checkpoint], config: PredictConfig, progress: Progress
) -> RowPrediction:
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
) -> JsonObject:
    names = answers[0].uncertainty
    terms = {name: np.array([answer.uncertainty[name] for answer in answers]) for name in names}
    return uncertainty_section(terms, referred_by(passes), wrong, resample_groups(patients, seed), passes)


def _raster(size0: Size) -> tuple[int, int]:
    """Return rows and columns of the raster for annotated regions."""
    scale = min(1.0, REGION_SIDE / max(size0))
    return max(1, round(size0.height * scale)), max(1, round(size0.width * scale))


def predictions_table(
    answers: Sequence[RowPrediction], labels: Sequence[str], thresholds: Mapping[str, float], manifest: Path
) -> str:
    """Return a CSV with a header and one line per predicted row.

    Columns: `path` (relative to the manifest, several images separated by `;`), `patient`, `label` (true), `predicted`,
    `probability:LABEL` for each label, `entropy`, `margin`, the terms of Monte-Carlo dropout if used, and
    `set:COVERAGE`, the labels of the prediction set separated by `|`, for each coverage with a threshold.
    """
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
                path_in(manifest, answer.row),
                answer.row.patient,
                answer.row.label,
                labels[int(p.argmax())],
                *(f"{value:.6g}" for value in (*p, uncertainty["entropy"], uncertainty["margin"])),
                *(f"{answer.uncertainty[name]:.6g}" for name in terms),
                *("|".join(label for label, held in zip(labels, of, strict=True) if held) for of in members),
            ]
        )
    return table.getvalue()
