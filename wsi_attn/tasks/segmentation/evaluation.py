"""Evaluation of a segmentation model against the masks of a manifest, tiled as in `segment`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from shapely import MultiPolygon

from wsi_attn.annotations.masks import UNLABELLED, Classes, open_mask
from wsi_attn.annotations.tissue import read_regions
from wsi_attn.data.manifest import Row, path_in
from wsi_attn.data.segmentation import window_of
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import ManifestError, UsageError, WsiAttnError
from wsi_attn.evaluate.report import Report
from wsi_attn.evaluate.segmentation import (
    COLUMNS,
    METRICS,
    PixelCounts,
    count_pixels,
    evaluate_segmentation,
    image_scores,
)
from wsi_attn.geometry import Region
from wsi_attn.models.joint_segmentation import JointSegmentation
from wsi_attn.models.spec import ModelSpec
from wsi_attn.slide import Progress, Slide
from wsi_attn.tasks.base import Evaluation, EvaluationJob
from wsi_attn.tasks.segmentation.tiled_inference import TiledInference
from wsi_attn.tasks.segmentation.windows import default_overlap

MAX_PIXELS = 100_000_000
"""Maximum pixels of an evaluated field at the model's resolution; objects and boundaries need the whole field."""

BLOCK = 2048
"""Side of the blocks that are predicted at once, pixels."""

Compared = tuple[Row, PixelCounts]


def classes_of(spec: ModelSpec) -> Classes:
    """Return the classes of a model and their values in mask images."""
    return Classes(spec.labels, tuple(spec.mask_values))


def compare(
    slide: Slide, row: Row, network: JointSegmentation, spec: ModelSpec, workers: int | None = None
) -> PixelCounts:
    """Segment one row and count the agreement with its mask.

    If the row has `regions`, only their bounding box is segmented, otherwise the whole slide.

    Raises
    ------
    ManifestError : the mask is missing or does not fit, or the field exceeds `MAX_PIXELS` pixels.
    SlideError : the slide cannot be read at the model's resolution.
    """
    patches = SlidePatches(slide, spec.mpp, network.config.coarse_factor, workers=workers)
    field_of_view = _field_of_view(row, patches)
    if field_of_view.width * field_of_view.height > MAX_PIXELS:
        raise ManifestError(
            f"row {row.number}: {row.path} is {field_of_view.width} x {field_of_view.height} px at the model's "
            f"resolution, more than the limit of {MAX_PIXELS:,} px; add a column `regions` that selects a smaller area"
        )
    mask = open_mask(row, classes_of(spec), slide.info.size0, slide.info.origin)
    window = window_of(patches, field_of_view)
    true = mask.read(window)
    tile = network.config.crop
    field = TiledInference(network, patches, tile, default_overlap(tile), workers=workers)
    answer = np.zeros(true.shape, np.uint8)
    for block in field_of_view.split(BLOCK, BLOCK):
        answer[block.within(field_of_view)] = field.answer(block).classes
    return count_pixels(answer, true, len(spec.labels), true != UNLABELLED, mask.objects(window))


class SegmentationEvaluation(Evaluation):
    """Masks of one model.

    Raises
    ------
    UsageError : the model does not segment, or an operating point is asked for.
    """

    done = "evaluated"

    def __init__(
        self, network: JointSegmentation, spec: ModelSpec, job: EvaluationJob, model: Mapping[str, str]
    ) -> None:
        if job.config.positive is not None:
            raise UsageError(
                f"{model['name']} is a segmentation model and has no operating point; remove --sensitivity"
            )
        self.network, self.spec, self.job, self.model = network, spec, job, model
        self.found: list[Compared] = []

    def add(self, row: Row, slide: Slide, progress: Progress) -> None:
        """See `Evaluation.add`."""
        progress(0, 1, "segmenting")
        self.found.append((row, compare(slide, row, self.network, self.spec, self.job.workers)))

    def report(self, failures: Sequence[WsiAttnError]) -> Report:
        """Return the result of `evaluate_segmentation` with `learned_attention` and `unanswered`."""
        report = evaluate_segmentation(
            [counts for _, counts in self.found],
            self.spec.labels,
            [row.patient for row, _ in self.found],
            self.job.origin(self.model),
        )
        return report.with_sections(
            learned_attention=self.network.kinds_of_attention(), unanswered=[str(error) for error in failures]
        )

    def table(self) -> Iterator[Sequence[object]]:
        """Yield the metrics of each image: `METRIC:CLASS` for each foreground class, empty if undefined.

        `tp:CLASS`, `fp:CLASS` and `fn:CLASS` are pixel counts, from which Dice and IoU of any set of images can be
        computed.
        """
        counted, labels = COLUMNS[:3], self.spec.labels[1:]
        names = [f"{name}:{label}" for several in (METRICS, counted) for label in labels for name in several]
        yield ["path", "patient", *names]
        for row, counts in self.found:
            texts = ["" if np.isnan(value) else f"{value:.6g}" for value in image_scores(counts)[1:].ravel().tolist()]
            pixels = counts.table[1:, : len(counted)].ravel().tolist()
            yield [path_in(self.job.manifest, row), row.patient, *texts, *pixels]


def _field_of_view(row: Row, patches: SlidePatches) -> Region:
    """Return the evaluated area of a slide in high-resolution pixels."""
    whole = Region(0, 0, *patches.extent)
    if row.regions is None:
        return whole
    bounds = MultiPolygon(read_regions(row.regions, patches.slide.info.origin).tissue).bounds
    (x0, y0), (x1, y1) = np.floor(bounds[:2]).astype(int), np.ceil(bounds[2:]).astype(int)
    box = patches.frame.region_from0(Region(int(x0), int(y0), int(x1 - x0), int(y1 - y0)))
    inside = box.intersection(whole)
    if inside is None:
        raise ManifestError(f"row {row.number}: no region of {row.regions} overlaps {row.path}")
    return inside
