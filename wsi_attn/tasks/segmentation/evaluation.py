"""Evaluation of a segmentation model against the masks of a manifest, tiled as in `segment`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from wsi_attn.data.manifest import Row, read_manifest
from wsi_attn.data.masks import UNLABELLED, Classes, open_mask
from wsi_attn.data.segmentation import window_of
from wsi_attn.data.sources import SlidePatches, open_row
from wsi_attn.errors import ManifestError, UsageError, WsiAttnError
from wsi_attn.evaluate.html import write_html_report
from wsi_attn.evaluate.segmentation import COLUMNS, METRICS, PixelCounts, count_pixels, evaluate_segmentation
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.joint_segmentation import JointSegmentation
from wsi_attn.models.spec import ModelSpec
from wsi_attn.outputs import files
from wsi_attn.slide import BatchProgress, Slide, no_progress
from wsi_attn.tasks.segmentation.tiled_inference import TiledInference
from wsi_attn.tasks.segmentation.windows import default_overlap
from wsi_attn.tissue.polygons import read_regions

MAX_PIXELS = 100_000_000
"""Maximum pixels of an evaluated field at the model's resolution; objects and boundaries need the whole field."""

BLOCK = 2048
"""Side of the blocks that are predicted at once, pixels."""

REPORT, PAGE, PREDICTIONS_CSV = "report.json", "report.html", "predictions.csv"

Compared = tuple[Row, PixelCounts]


def segmenter(checkpoint: Checkpoint) -> JointSegmentation:
    """Return the segmentation network of a checkpoint.

    Raises
    ------
    UsageError : the checkpoint classifies whole slides.
    """
    if not isinstance(checkpoint.network, JointSegmentation):
        raise UsageError(
            f"{checkpoint.name} ({checkpoint.system}) classifies whole slides and does not segment; train a model with "
            "--model joint-segmentation"
        )
    return checkpoint.network


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
    for y in range(0, field_of_view.height, BLOCK):
        for x in range(0, field_of_view.width, BLOCK):
            width, height = min(BLOCK, field_of_view.width - x), min(BLOCK, field_of_view.height - y)
            found = field.answer(Region(field_of_view.x + x, field_of_view.y + y, width, height))
            answer[y : y + height, x : x + width] = found.classes
    return count_pixels(answer, true, len(spec.labels), true != UNLABELLED, mask.objects(window))


def compare_rows(
    rows: Sequence[Row],
    network: JointSegmentation,
    spec: ModelSpec,
    open_slide_of: Callable[[Row], AbstractContextManager[Slide]] = open_row,
    workers: int | None = None,
    progress: BatchProgress = no_progress,
) -> tuple[list[Compared], list[WsiAttnError]]:
    """Apply `compare` to every row; also return the errors of the rows that failed."""
    found: list[Compared] = []
    failures: list[WsiAttnError] = []
    for number, row in enumerate(rows, 1):
        with progress.item(number, len(rows), row.path.name) as item:
            try:
                item(0, 1, "segmenting")
                with open_slide_of(row) as slide:
                    found.append((row, compare(slide, row, network, spec, workers)))
            except WsiAttnError as error:
                failures.append(error)
                item.state = "failed"
    return found, failures


def report_on(
    found: Sequence[Compared],
    failures: Sequence[WsiAttnError],
    network: JointSegmentation,
    spec: ModelSpec,
    *,
    split: str,
    seed: int,
    command: str,
    model: dict[str, str],
) -> dict[str, Any]:
    """Return the result of `evaluate_segmentation` with `learned_attention`, and the failures under `unanswered`."""
    report = evaluate_segmentation(
        [counts for _, counts in found],
        spec.labels,
        [row.patient for row, _ in found],
        split=split,
        seed=seed,
        command=command,
        model=model,
    )
    return report | {
        "learned_attention": network.kinds_of_attention(),
        "unanswered": [str(error) for error in failures],
    }


def evaluate_manifest(
    checkpoint: Checkpoint,
    manifest: Path,
    split: str,
    *,
    seed: int = 0,
    command: str = "",
    workers: int | None = None,
    progress: BatchProgress = no_progress,
) -> tuple[dict[str, Any], list[Compared], list[WsiAttnError]]:
    """Return the report on one split, the counts of each row, and the errors of the rows that failed.

    Raises
    ------
    ManifestError : the split has no rows, or every row failed.
    UsageError : the checkpoint does not segment.
    """
    network, spec = segmenter(checkpoint), checkpoint.spec
    rows = [row for row in read_manifest(manifest, need_label=False) if split in ("all", row.split)]
    if not rows:
        raise ManifestError(f"{manifest} has no rows of split {split!r}; choose another --split")
    found, failures = compare_rows(rows, network, spec, workers=workers, progress=progress)
    if not found:
        raise ManifestError(f"{manifest}: none of {len(rows)} rows could be evaluated; first error: {failures[0]}")
    model = {"name": checkpoint.name, "sha256": checkpoint.sha256}
    report = report_on(found, failures, network, spec, split=split, seed=seed, command=command, model=model)
    return report, found, failures


def write_folder(folder: Path, report: dict[str, Any], found: Sequence[Compared], manifest: Path) -> None:
    """Write `report.json`, `report.html` and `predictions.csv` (one line per image) atomically."""
    with files.new_folder(folder) as temporary:
        files.write_json(temporary / REPORT, report)
        write_html_report(temporary / PAGE, report)
        files.write_text(temporary / PREDICTIONS_CSV, predictions_table(found, report["labels"], manifest))


def predictions_table(found: Sequence[Compared], labels: Sequence[str], manifest: Path) -> str:
    """Return a CSV with the metrics of each image: `METRIC:CLASS` for each foreground class, empty if undefined.

    `tp:CLASS`, `fp:CLASS` and `fn:CLASS` are pixel counts, from which Dice and IoU of any set of images can be
    computed.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    counted = COLUMNS[:3]
    names = [f"{name}:{label}" for several in (METRICS, counted) for label in labels[1:] for name in several]
    writer.writerow(["path", "patient", *names])
    for row, counts in found:
        alone = evaluate_segmentation([counts], labels, [row.patient], "", 0, "", {})["per_class"]
        values = [alone[label][metric]["value"] for label in labels[1:] for metric in METRICS]
        texts = ["" if value is None else f"{value:.6g}" for value in values]
        pixels = counts.table[1:, : len(counted)].ravel().tolist()
        path = row.path.relative_to(manifest.parent) if row.path.is_relative_to(manifest.parent) else row.path
        writer.writerow([path.as_posix(), row.patient, *texts, *pixels])
    return table.getvalue()


def _field_of_view(row: Row, patches: SlidePatches) -> Region:
    """Return the evaluated area of a slide in high-resolution pixels."""
    whole = Region(0, 0, *patches.extent)
    if row.regions is None:
        return whole
    corners = np.concatenate(
        [polygon.exterior for polygon in read_regions(row.regions, patches.slide.info.origin).tissue]
    )
    (x0, y0), (x1, y1) = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
    frame = Frame(Size(*patches.extent), patches.downsample_x, patches.downsample_y)
    box = frame.region_from0(Region(int(x0), int(y0), int(x1 - x0), int(y1 - y0)))
    inside = box.intersection(whole)
    if inside is None:
        raise ManifestError(f"row {row.number}: no region of {row.regions} overlaps {row.path}")
    return inside
