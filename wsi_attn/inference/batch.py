"""Predict many slides in sequence; finished slides are skipped, and a failed one does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_attn.data.inputs import Input
from wsi_attn.errors import OutputExistsError, PredictionError, WsiAttnError
from wsi_attn.files import Reservations
from wsi_attn.geometry import Mpp
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.slide import BatchProgress, Progress, Slide, no_progress
from wsi_attn.store.predictions import SUFFIX, Referral, SlidePrediction, read_prediction, write_prediction
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
            file = None if output is None else output / f"{slide.info.name}{SUFFIX}"
            if file is not None:
                reservations.reserve(file, path)
                done = None if overwrite else _finished(file, slide, checkpoint, config)
                if done is not None:
                    return Outcome(path, "skipped", done, file, images=given.images)
            prediction = predict_slide(slide, checkpoint, config, progress)
            if file is not None:
                progress(0, 1, "writing")
                write_prediction(prediction, file)
        return Outcome(path, "predicted", prediction, file, images=given.images)
    except WsiAttnError as error:
        return Outcome(path, "failed", error=error)
    except OSError as error:  # A full disk or a read-only folder: the next slide may be written elsewhere.
        reason = PredictionError(f"Cannot write the prediction of {path} into {output}: {error.strerror}")
        return Outcome(path, "failed", error=reason)


def _finished(file: Path, slide: Slide, checkpoint: Checkpoint, config: PredictConfig) -> SlidePrediction | None:
    """Return the prediction in `file` if it is complete and of the same slide, model and settings; None if incomplete.

    Raises
    ------
    OutputExistsError : the file contains something else.
    """
    if not file.exists():
        return None
    try:
        record = read_record(file)
    except PredictionError as error:
        raise OutputExistsError(f"{file} exists and is not a prediction; use --overwrite to replace it") from error
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
        raise OutputExistsError(
            f"{file} belongs to another slide, model, pixel size, coverage, dropout or referral; "
            "use --overwrite or another --output"
        )
    try:
        found = read_prediction(file)
        for name in found.maps:
            found.maps[name]  # Reads the maps and compares the checksum.
    except PredictionError:
        return None  # Its maps are missing, damaged or of another run, because a run was interrupted.
    if config.exhaustive and EXHAUSTIVE not in found.maps:
        return None  # The same prediction with fewer maps than requested.
    return replace(found, slide=str(slide.info.path))
