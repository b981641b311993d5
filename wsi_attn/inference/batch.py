"""Answer many inputs in sequence; finished ones are skipped, and a failed one does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_attn.data.inputs import Input
from wsi_attn.errors import PredictionError, WsiAttnError, as_failure
from wsi_attn.geometry import Mpp
from wsi_attn.outputs.names import Reservations
from wsi_attn.outputs.policy import claim
from wsi_attn.slide import BatchProgress, Progress, no_progress
from wsi_attn.tasks.base import Answer, Inference


@dataclass(frozen=True)
class Outcome:
    """Result of one input; `state` is `Inference.done`, "skipped" or "failed", and `error` is set if it failed.

    `images` are those of a field of several.
    """

    path: Path
    state: str
    answer: Answer | None = None
    error: WsiAttnError | None = None
    images: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Batch:
    """How the inputs of a run are read and written.

    Attributes
    ----------
    output
        Folder for the answers; None writes no files.
    slide_mpp
        Pixel size of level 0, µm, for inputs without one in a manifest.
    overwrite
        Replace other answers.
    """

    output: Path | None = None
    slide_mpp: Mpp | None = None
    overwrite: bool = False


def run_inputs(
    inputs: Sequence[Input], inference: Inference, batch: Batch, progress: BatchProgress = no_progress
) -> Iterator[Outcome]:
    """Answer every input; outcomes are in input order."""
    reservations = Reservations()
    for number, given in enumerate(inputs, 1):
        with progress.item(number, len(inputs), given.path.name) as item:
            outcome = _run_one(given, inference, batch, reservations, item)
            item.state = outcome.state
        yield outcome


def _run_one(
    given: Input, inference: Inference, batch: Batch, reservations: Reservations, progress: Progress
) -> Outcome:
    path, folder, images = given.path, batch.output, given.images
    try:
        progress(0, 1, "opening")
        with given.open(batch.slide_mpp) as slide:
            if folder is None:
                return Outcome(path, inference.done, inference.answer(slide, None, progress=progress), images=images)
            output = inference.output(slide, folder)
            reservations.reserve(output.path, path)
            with claim(output, overwrite=batch.overwrite) as found:
                if found.finished is not None:
                    return Outcome(path, "skipped", found.finished, images=images)
                answer = inference.answer(slide, folder, overwrite=batch.overwrite, progress=progress)
        return Outcome(path, inference.done, answer, images=images)
    except Exception as error:
        reason = as_failure(path, error)
        # A full disk or a read-only folder: the next slide may be written elsewhere.
        if folder is not None and isinstance(error, OSError) and not isinstance(error, WsiAttnError):
            reason = PredictionError(f"Cannot write the {inference.product} of {path} into {folder}: {error.strerror}")
        return Outcome(path, "failed", error=reason)
