"""Predict many slides in sequence; finished slides are skipped, and a failed one does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_attn.data.inputs import Input
from wsi_attn.errors import PredictionError, WsiAttnError
from wsi_attn.geometry import Mpp
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.outputs.names import Reservations
from wsi_attn.outputs.policy import Found, Output, claim, complete, other, unfinished
from wsi_attn.slide import BatchProgress, Progress, Slide, no_progress
from wsi_attn.store.prediction_maps import foreign_maps
from wsi_attn.store.predictions import SUFFIX, Referral, SlidePrediction, maps_path, read_prediction, write_prediction
from wsi_attn.store.records import read_record
from wsi_attn.tasks.classification.exhaustive import ATTENTION as EXHAUSTIVE
from wsi_attn.tasks.classification.slide import PredictConfig, predict_slide


@dataclass(frozen=True)
class Outcome:
    """Result of one input; `state` is "predicted", "skipped" or "failed", and `error` is set if it failed.

    `file` is the written record, None without an output folder; `images` are those of a field of several.
    """

    path: Path
    state: str
    prediction: SlidePrediction | None = None
    file: Path | None = None
    error: WsiAttnError | None = None
    images: tuple[Path, ...] = ()


def predict_paths(
    inputs: Sequence[Input],
    checkpoint: Checkpoint,
    output: Path | None,
    config: PredictConfig,
    *,
    slide_mpp: Mpp | None = None,
    overwrite: bool = False,
    progress: BatchProgress = no_progress,
) -> Iterator[Outcome]:
    """Predict every input; outcomes are in input order.

    Parameters
    ----------
    output
        Folder for `STEM.prediction.json`; None writes no files.
    slide_mpp
        Pixel size of level 0, µm, for inputs without one in a manifest.
    """
    reservations = Reservations()
    for number, given in enumerate(inputs, 1):
        with progress.item(number, len(inputs), given.path.name) as item:
            outcome = _predict_one(given, checkpoint, output, config, reservations, slide_mpp, overwrite, item)
            item.state = outcome.state
        yield outcome


def _predict_one(
    given: Input,
    checkpoint: Checkpoint,
    output: Path | None,
    config: PredictConfig,
    reservations: Reservations,
    slide_mpp: Mpp | None,
    overwrite: bool,
    progress: Progress,
) -> Outcome:
    path = given.path
    try:
        progress(0, 1, "opening")
        with given.open(slide_mpp) as slide:
            if output is None:
                return Outcome(
                    path, "predicted", predict_slide(slide, checkpoint, config, progress), images=given.images
                )
            file = output / f"{slide.info.name}{SUFFIX}"
            reservations.reserve(file, path)
            with claim(prediction_output(file, slide, checkpoint, config), overwrite=overwrite) as found:
                if found.finished is not None:
                    return Outcome(path, "skipped", found.finished, file, images=given.images)
                prediction = predict_slide(slide, checkpoint, config, progress)
                progress(0, 1, "writing")
                write_prediction(prediction, file)
        return Outcome(path, "predicted", prediction, file, images=given.images)
    except WsiAttnError as error:
        return Outcome(path, "failed", error=error)
    except OSError as error:  # A full disk or a read-only folder: the next slide may be written elsewhere.
        reason = PredictionError(f"Cannot write the prediction of {path} into {output}: {error.strerror}")
        return Outcome(path, "failed", error=reason)


def prediction_output(
    file: Path, slide: Slide, checkpoint: Checkpoint, config: PredictConfig
) -> Output[SlidePrediction]:
    """The record of a prediction as an output, with its maps."""
    return Output(file, lambda: _found(file, slide, checkpoint, config), protected={maps_path(file): foreign_maps})


def _found(file: Path, slide: Slide, checkpoint: Checkpoint, config: PredictConfig) -> Found[SlidePrediction]:
    """What lies at the path of a prediction."""
    try:
        record = read_record(file)
    except PredictionError:
        return other("exists and is not a prediction")
    referral = record.referral and Referral(record.referral.by, record.referral.above)
    there = record.fingerprint, record.model.sha256, record.mpp, record.coverage, record.mc_dropout, referral
    wanted = (
        slide.info.fingerprint,
        checkpoint.sha256,
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
    return complete(replace(found, slide=str(slide.info.path)))
