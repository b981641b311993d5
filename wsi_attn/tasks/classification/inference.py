"""Predictions as answers: the line of the terminal, the record, and an earlier record that is read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wsi_attn.errors import PredictionError
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.conformal import threshold_of
from wsi_attn.outputs.policy import Found, Output, complete, other, unfinished
from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.store.prediction_maps import foreign_maps
from wsi_attn.store.predictions import SUFFIX, SlidePrediction, maps_path, read_prediction, write_prediction
from wsi_attn.store.records import Referral, read_record
from wsi_attn.tasks.base import Answer, Inference
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.exhaustive import ATTENTION as EXHAUSTIVE
from wsi_attn.tasks.classification.slide import Predict, predict_slide


def answer_of(found: SlidePrediction, file: Path | None) -> Answer:
    """Return a prediction, and the file of its record, as an answer.

    The line has slide, label, probability and file (- if none is written); with a coverage also the prediction set and
    whether it is unsure; with a referral rule also whether the slide is referred.
    """
    line = f"{found.slide}\t{found.label}\t{found.probabilities[found.label]:.3f}\t{file or '-'}"
    if found.prediction_set is not None:
        line += f"\t{'|'.join(found.prediction_set) or '-'}\t{'unsure' if found.unsure else 'sure'}"
    if found.refer is not None:
        line += f"\t{'refer' if found.refer else 'keep'}"
    unreadable = f"{found.slide}: {found.unreadable_tiles} tiles could not be decoded and were excluded"
    warnings = (*found.warnings, *([unreadable] if found.unreadable_tiles else []))
    return Answer(found.record(), line, file, warnings, found)


class SlideInference(Inference):
    """Predicts slides with one model.

    Raises
    ------
    UsageError : the checkpoint has no threshold for the coverage.
    """

    done, again, product = "predicted", "predict", "prediction"

    def __init__(self, checkpoint: Checkpoint, config: PredictConfig, predict: Predict = predict_slide) -> None:
        if config.coverage is not None:
            threshold_of(checkpoint.spec.calibration.conformal, config.coverage, checkpoint.name)
        self.checkpoint, self.config, self.predict = checkpoint, config, predict

    def output(self, slide: Slide, folder: Path) -> Output[Answer]:
        """Return the record of a prediction as an output, with its maps."""
        file = folder / f"{slide.info.name}{SUFFIX}"
        return Output(file, lambda: self._found(file, slide), protected={maps_path(file): foreign_maps})

    def answer(
        self, slide: Slide, folder: Path | None, *, overwrite: bool = False, progress: Progress = no_progress
    ) -> Answer:
        """Predict one slide and write record and maps."""
        prediction = self.predict(slide, self.checkpoint, self.config, progress)
        file = None if folder is None else folder / f"{slide.info.name}{SUFFIX}"
        if file is not None:
            progress(0, 1, "writing")
            write_prediction(prediction, file)
        return answer_of(prediction, file)

    def _found(self, file: Path, slide: Slide) -> Found[Answer]:
        """What lies at the path of a prediction."""
        config = self.config
        try:
            record = read_record(file)
        except PredictionError:
            return other("exists and is not a prediction")
        referral = record.referral and Referral(record.referral.by, record.referral.above)
        there = record.fingerprint, record.model.sha256, record.mpp, record.coverage, record.mc_dropout, referral
        wanted = (
            slide.info.fingerprint,
            self.checkpoint.sha256,
            slide.info.mpp,
            config.coverage,
            config.mc_dropout,
            config.referral,
        )
        if there != wanted or (record.mc_dropout and record.seed != config.seed):
            return other("belongs to another slide, model, pixel size, coverage, dropout or referral")
        try:
            found = read_prediction(file)
            for name in found.maps:
                found.maps[name]  # Reads the maps and compares the checksum.
        except PredictionError:
            return unfinished()  # Its maps are missing, damaged or of another run, because a run was interrupted.
        if config.exhaustive and EXHAUSTIVE not in found.maps:
            return unfinished()  # The same prediction with fewer maps than requested.
        return complete(answer_of(replace(found, slide=str(slide.info.path)), file))
