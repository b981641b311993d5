"""Evaluation of a model, or of the averaged models of several folds, against the labels of a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsi_attn.annotations.regions import region_mask
from wsi_attn.data.manifest import Row, path_in
from wsi_attn.errors import CheckpointError, ManifestError, WsiAttnError
from wsi_attn.evaluate.attention_scores import AttentionScores, attention_section, mean_scores, score_attention
from wsi_attn.evaluate.html import Picture
from wsi_attn.evaluate.intervals import Resamples, resample_groups
from wsi_attn.evaluate.report import Report, evaluate_predictions
from wsi_attn.evaluate.sections import (
    calibration_section,
    choose_operating_point,
    conformal_section,
    images_of,
    operating_section,
)
from wsi_attn.evaluate.uncertainty import entropy, uncertainty_section
from wsi_attn.geometry import Size
from wsi_attn.json_types import JsonObject
from wsi_attn.models.calibration import calibrated
from wsi_attn.models.checkpoint import Checkpoint, model_record
from wsi_attn.models.conformal import in_set, mean_thresholds
from wsi_attn.slide import Progress, Slide
from wsi_attn.tasks.base import Evaluation, EvaluationJob
from wsi_attn.tasks.classification.config import DROPOUT_TERMS, PLAIN_TERMS, PredictConfig
from wsi_attn.tasks.classification.slide import Predict, predict_slide, uncertainty_of

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

    def __init__(self, checkpoints: Sequence[Checkpoint], job: EvaluationJob, predict: Predict = predict_slide) -> None:
        self.checkpoints, self.job, self.predict = checkpoints, job, predict
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
        self.fitted = all(calibration.fitted for calibration in self.calibrations)
        self.thresholds = (
            mean_thresholds([calibration.conformal for calibration in self.calibrations]) if self.fitted else {}
        )
        positive, sensitivity = job.config.positive, job.config.sensitivity
        self.point = (
            None
            if positive is None or sensitivity is None
            else choose_operating_point(self.calibrations, self.labels, positive, sensitivity)
        )
        self.answers: list[RowPrediction] = []

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
        self.answers.append(self._answer(row, slide, progress))

    def _answer(self, row: Row, slide: Slide, progress: Progress) -> RowPrediction:
        size0 = slide.info.size0
        region = region_mask(row, size0, _raster(size0), slide.info.origin)
        found = [self.predict(slide, checkpoint, self.config, progress, row.regions) for checkpoint in self.checkpoints]
        before = np.array([list(prediction.probabilities.values()) for prediction in found])  # (folds, C)
        after = np.array(
            [
                calibrated(each, checkpoint.spec.calibration)
                for each, checkpoint in zip(before, self.checkpoints, strict=True)
            ]
        )
        attention = None
        if region is not None:
            attention = mean_scores(
                [score_attention(prediction.attention_map, prediction.attention, region, size0) for prediction in found]
            )
        uncertainty = {"entropy": float(entropy(after.mean(axis=0)))}
        if self.config.mc_dropout:
            uncertainty |= {
                name: float(np.mean([prediction.uncertainty[name] for prediction in found])) for name in DROPOUT_TERMS
            }
        return RowPrediction(row, before.mean(axis=0), after.mean(axis=0), region is not None, attention, uncertainty)

    def report(self, failures: Sequence[WsiAttnError]) -> Report:
        """Return the metrics of the calibrated probabilities, the sections of `evaluate.sections` if all models were
        calibrated, `uncertainty`, `attention` if rows have regions, `folds` with the model of each fold if there are
        several, and `unanswered`.
        """
        job, answers, checkpoints = self.job, self.answers, self.checkpoints
        y = np.array([self.labels.index(answer.row.label) for answer in answers])
        before, after = (
            np.stack([getattr(answer, name) for answer in answers]) for name in ("before", "probabilities")
        )
        patients = [answer.row.patient for answer in answers]
        origin = job.origin(model_record(checkpoints))
        report = evaluate_predictions(y, after, self.labels, patients, origin)
        resamples = resample_groups(patients, job.config.seed)
        passes = self.config.mc_dropout
        terms = {name: np.array([answer.uncertainty[name] for answer in answers]) for name in answers[0].uncertainty}
        sections = self._calibration(y, before, after, resamples)
        sections["uncertainty"] = uncertainty_section(
            terms, referred_by(passes), after.argmax(axis=1) != y, resamples, passes
        )
        if annotated := sum(answer.annotated for answer in answers):
            scored = [(answer.attention, answer.row.patient) for answer in answers if answer.attention is not None]
            scores, owners = [score for score, _ in scored], [patient for _, patient in scored]
            sections["attention"] = attention_section(scores, owners, annotated, job.config.seed)
        if len(checkpoints) > 1:
            sections["folds"] = [{"name": checkpoint.name, "sha256": checkpoint.sha256} for checkpoint in checkpoints]
        return report.with_sections(**sections, unanswered=[str(error) for error in failures])

    def _calibration(
        self, y: NDArray[np.int64], before: NDArray[np.float64], after: NDArray[np.float64], resamples: Resamples
    ) -> JsonObject:
        if not self.fitted:
            return {}
        calibrations = self.calibrations
        sections: JsonObject = {
            "calibration": calibration_section(y, before, after, resamples, calibrations),
            "conformal": conformal_section(y, after, self.thresholds, resamples, calibrations),
        }
        if self.point is not None:
            c = self.labels.index(self.point.positive)
            sections["operating_point"] = operating_section(
                y == c, after[:, c], self.point, resamples, images_of(calibrations)
            )
        return sections

    def table(self) -> Iterator[Sequence[object]]:
        """Yield the header and a line for each answer.

        Columns: `path` (relative to the manifest, several images separated by `;`), `patient`, `label` (true),
        `predicted`, `probability:LABEL` for each label, `entropy`, `margin`, the terms of Monte-Carlo dropout if used,
        and `set:COVERAGE`, the labels of the prediction set separated by `|`, for each coverage with a threshold.
        """
        labels = self.labels
        sets = {name: threshold for name, threshold in self.thresholds.items() if threshold is not None}
        names = [*(f"probability:{label}" for label in labels), "entropy", "margin"]
        terms = [name for name in self.answers[0].uncertainty if name != "entropy"]
        yield ["path", "patient", "label", "predicted", *names, *terms, *(f"set:{coverage}" for coverage in sets)]
        for answer in self.answers:
            p, row, uncertainty = answer.probabilities, answer.row, uncertainty_of(answer.probabilities)
            members = [in_set(p, threshold) for threshold in sets.values()]
            yield [
                path_in(self.job.manifest, row),
                row.patient,
                row.label,
                labels[int(p.argmax())],
                *(f"{value:.6g}" for value in (*p, uncertainty["entropy"], uncertainty["margin"])),
                *(f"{answer.uncertainty[name]:.6g}" for name in terms),
                *("|".join(label for label, held in zip(labels, of, strict=True) if held) for of in members),
            ]

    def pictures(self) -> Sequence[Picture]:
        """Return the most uncertain images with their attention."""
        from wsi_attn.tasks.classification.uncertain import uncertain_pictures

        return uncertain_pictures(
            self.answers, referred_by(self.config.mc_dropout), self.checkpoints[0], replace(self.config, calibrate=True)
        )


def referred_by(passes: int) -> str:
    """Return the uncertainty by which images are ranked; with dropout passes, their term."""
    return DROPOUT_TERMS[0] if passes else PLAIN_TERMS[0]


def _raster(size0: Size) -> tuple[int, int]:
    """Return rows and columns of the raster for annotated regions."""
    scale = min(1.0, REGION_SIDE / max(size0))
    return max(1, round(size0.height * scale)), max(1, round(size0.width * scale))
