"""Segmentations as answers: the line of the terminal, the record, and an earlier record that is read again."""

from __future__ import annotations

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


def answer_of(record: SegmentationRecord) -> Answer:
    """Return the record of a segmentation as an answer.

    The line has the slide, then name, tissue share and number of objects of each class, then the label image.
    """
    classes = "\t".join(
        f"{name}\t{found['share']:.4f}\t{found['objects']}" for name, found in record["classes"].items()
    )
    count = record["unreadable_places"]
    warnings = [f"{record['slide']}: {count} regions could not be decoded"] if count else []
    return Answer(record, f"{record['slide']}\t{classes}\t{record['labels']}", Path(record["labels"]), warnings)


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
            result = None if found.result is None else answer_of(found.result)
            return Found(found.state, result, found.reason)

        return Output(output.path, inspect, output.beside)

    def answer(
        self, slide: Slide, folder: Path | None, *, overwrite: bool = False, progress: Progress = no_progress
    ) -> Answer:
        """Segment one slide and write its label image, polygons and record."""
        if folder is None:
            raise UsageError("a segmentation is written to files; add --output")
        segmentation = SlideSegmentation(slide, self.checkpoint, folder, self.config)
        return answer_of(segmentation.write(overwrite=overwrite, progress=progress))
