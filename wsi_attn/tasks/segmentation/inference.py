"""Segmentations as answers: the line of the terminal, the record, and an earlier record that is read again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_attn.errors import UsageError
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.outputs.policy import Found, Output
from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.tasks.base import Answer, Inference
from wsi_attn.tasks.segmentation.config import SegmentConfig
from wsi_attn.tasks.segmentation.record import SegmentationRecord
from wsi_attn.tasks.segmentation.slide import SlideSegmentation, tile_and_overlap
from wsi_attn.tasks.segmentation.tiled_inference import segmenter
from wsi_attn.tasks.segmentation.windows import Windows


class SegmentationAnswer(Answer):
    """The record of a segmentation, see `slide.SlideSegmentation`."""

    def __init__(self, record: SegmentationRecord) -> None:
        self._record = record
        self.file = Path(record["labels"])

    def record(self) -> SegmentationRecord:
        """Return the record."""
        return self._record

    def line(self) -> str:
        """Format the slide, then name, tissue share and number of objects of each class, then the label image."""
        record = self._record
        classes = "\t".join(
            f"{name}\t{found['share']:.4f}\t{found['objects']}" for name, found in record["classes"].items()
        )
        return f"{record['slide']}\t{classes}\t{record['labels']}"

    def warnings(self) -> Sequence[str]:
        """Return the unreadable regions."""
        count = self._record["unreadable_places"]
        return [f"{self._record['slide']}: {count} regions could not be decoded"] if count else []


class PixelInference(Inference):
    """Segments slides with one model.

    Raises
    ------
    UsageError : invalid sizes of tiles.
    """

    done, again, product = "segmented", "segment", "segmentation"

    def __init__(self, checkpoint: Checkpoint, config: SegmentConfig) -> None:
        side, overlap = tile_and_overlap(segmenter(checkpoint), config)
        Windows(side, side, overlap)
        self.checkpoint, self.config = checkpoint, config

    def output(self, slide: Slide, folder: Path) -> Output[Answer]:
        """Return the segmentation of a slide as an output, which is resumed."""
        output = SlideSegmentation(slide, self.checkpoint, folder, self.config).output()

        def inspect() -> Found[Answer]:
            found = output.inspect()
            result = None if found.result is None else SegmentationAnswer(found.result)
            return Found(found.state, result, found.reason)

        return Output(output.path, inspect, output.beside)

    def answer(
        self, slide: Slide, folder: Path | None, *, overwrite: bool = False, progress: Progress = no_progress
    ) -> Answer:
        """Segment one slide and write its label image, polygons and record."""
        if folder is None:
            raise UsageError("a segmentation is written to files; add --output")
        segmentation = SlideSegmentation(slide, self.checkpoint, folder, self.config)
        return SegmentationAnswer(segmentation.write(overwrite=overwrite, progress=progress))
