"""Many slides, one after the other: finished ones are skipped, a bad one is reported and the rest go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_attn.data.inputs import Input
from wsi_attn.errors import PredictionError, WsiAttnError
from wsi_attn.files import Reservations
from wsi_attn.geometry import Mpp
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.segment.slide import SegmentConfig, finished_record, output_paths, segment_slide
from wsi_attn.slide import Progress, no_progress


@dataclass(frozen=True)
class Outcome:
    """What became of one path; `state` is "segmented", "skipped" or "failed", `error` is set where it failed."""

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
    progress: Progress = no_progress,
) -> Iterator[Outcome]:
    """Segment every input; outcomes come in the order of the inputs."""
    reservations = Reservations()
    for given in inputs:
        path = given.path
        try:
            with given.open(slide_mpp) as slide:
                places = output_paths(slide, checkpoint, output, config)
                reservations.reserve(places.record, path)
                done = None if overwrite else finished_record(places, slide, checkpoint, config)
                if done is None:
                    record = segment_slide(slide, checkpoint, output, config, overwrite=overwrite, progress=progress)
                    yield Outcome(path, "segmented", record)
                else:
                    yield Outcome(path, "skipped", done)
        except WsiAttnError as error:
            yield Outcome(path, "failed", error=error)
        except OSError as error:  # a full disk, a folder that may not be written: the next slide may lie elsewhere
            reason = PredictionError(f"Cannot write the segmentation of {path} into {output}: {error.strerror}")
            yield Outcome(path, "failed", error=reason)
