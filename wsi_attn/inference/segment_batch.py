"""Segment many slides in sequence; finished slides are skipped, and a failed one does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_attn.data.inputs import Input
from wsi_attn.errors import PredictionError, WsiAttnError
from wsi_attn.geometry import Mpp
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.outputs.names import Reservations
from wsi_attn.outputs.policy import claim
from wsi_attn.slide import BatchProgress, Progress, no_progress
from wsi_attn.tasks.segmentation.slide import SegmentConfig, output_paths, segment_slide, segmentation_output


@dataclass(frozen=True)
class Outcome:
    """Result of one input; `state` is "segmented", "skipped" or "failed", and `error` is set if it failed."""

    path: Path
    state: str
    record: dict[str, Any] | None = None
    error: WsiAttnError | None = None


def segment_paths(
    inputs: Sequence[Input],
    checkpoint: Checkpoint,
    output: Path,
    config: SegmentConfig,
    *,
    slide_mpp: Mpp | None = None,
    overwrite: bool = False,
    progress: BatchProgress = no_progress,
) -> Iterator[Outcome]:
    """Segment every input; outcomes are in input order."""
    reservations = Reservations()
    for number, given in enumerate(inputs, 1):
        with progress.item(number, len(inputs), given.path.name) as item:
            outcome = _segment_one(given, checkpoint, output, config, reservations, slide_mpp, overwrite, item)
            item.state = outcome.state
        yield outcome


def _segment_one(
    given: Input,
    checkpoint: Checkpoint,
    output: Path,
    config: SegmentConfig,
    reservations: Reservations,
    slide_mpp: Mpp | None,
    overwrite: bool,
    progress: Progress,
) -> Outcome:
    path = given.path
    try:
        progress(0, 1, "opening")
        with given.open(slide_mpp) as slide:
            places = output_paths(slide, checkpoint, output, config)
            reservations.reserve(places.record, path)
            with claim(segmentation_output(places, slide, checkpoint, config), overwrite=overwrite) as found:
                if found.finished is not None:
                    return Outcome(path, "skipped", found.finished)
                record = segment_slide(slide, checkpoint, output, config, overwrite=overwrite, progress=progress)
        return Outcome(path, "segmented", record)
    except WsiAttnError as error:
        return Outcome(path, "failed", error=error)
    except OSError as error:  # A full disk or a read-only folder: the next slide may be written elsewhere.
        reason = PredictionError(f"Cannot write the segmentation of {path} into {output}: {error.strerror}")
        return Outcome(path, "failed", error=reason)
