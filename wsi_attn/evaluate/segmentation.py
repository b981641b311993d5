"""Segmentation metrics: overlap, boundaries and objects, with intervals by patient.

Counts are kept per image and class, and metrics are ratios of sums over images, so a resample of patients sums their
counts. Overall metrics are means over the foreground classes that occur in the masks or the predictions of the
split.

    Dice          2 TP / (2 TP + FP + FN)    of pixels
    IoU           TP / (TP + FP + FN)
    boundary F    2 P R / (P + R); P is the share of the predicted boundary that lies within `TOLERANCE` pixels of the
                  mask's, R the other way round (Csurka et al., "What is a good evaluation measure for semantic
                  segmentation?", BMVC 2013, with a tolerance in pixels)
    object F1     2 TP / (2 TP + FP + FN)    of objects; an object is found if its IoU with an object of the mask is
    above
                  `OBJECT_IOU`, which pairs each with one at most (Kirillov et al., "Panoptic Segmentation", CVPR 2019,
                  section 4)

Predicted objects are 8-connected components of one class, as are those of masks without instance numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn import provenance
from wsi_attn.errors import PredictionError
from wsi_attn.evaluate.intervals import Interval, percentile_interval, ratio_interval, resample_groups
from wsi_attn.evaluate.report import Origin, Report, resampling_section
from wsi_attn.models.probabilities import FloatArray, IntArray

TOLERANCE = 2
"""Pixels, at the resolution of the model, by which outlines may differ."""

OBJECT_IOU = 0.5

METRICS = ("dice", "iou", "boundary_f", "object_f1")
COLUMNS = ("tp", "fp", "fn", "edge_hit", "edge", "mask_edge_hit", "mask_edge", "object_tp", "object_fp", "object_fn")
"""What is counted of each class: pixels; outline pixels of the answer, near the mask's and in all; those of the mask;
objects."""


@dataclass(frozen=True)
class PixelCounts:
    """Pixel, boundary and object counts of one image.

    `table` is int64 (C, len(COLUMNS)); `confusion` int64 (C, C), classes of the mask in rows, of the prediction in
    columns.
    """

    table: IntArray
    confusion: IntArray


def count_pixels(
    answer: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    classes: int,
    labelled: NDArray[np.bool_],
    objects: NDArray[np.int32] | None = None,
) -> PixelCounts:
    """Compare a prediction with a mask.

    Parameters
    ----------
    answer, mask
        uint8 (rows, columns), class of each pixel.
    classes
        C.
    labelled
        bool (rows, columns), pixels that count; others have no class in either array.
    objects
        int32 (rows, columns), number of the mask's object, 0 for none; by default objects are connected pixels.

    Raises
    ------
    PredictionError : arrays of different shapes, or a class beyond C.
    """
    if answer.shape != mask.shape or labelled.shape != mask.shape or answer.ndim != 2:
        raise PredictionError(f"Cannot compare a prediction of shape {answer.shape} with a mask of shape {mask.shape}")
    if max(answer.max(initial=0), mask[labelled].max(initial=0)) >= classes:
        raise PredictionError(f"Cannot compare: a pixel has a class index of {classes} or more")
    pairs = mask[labelled].astype(np.int64) * classes + answer[labelled]
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    table = np.zeros((classes, len(COLUMNS)), np.int64)
    for c in range(classes):
        found, true = (answer == c) & labelled, (mask == c) & labelled
        hit = int(confusion[c, c])
        table[c, :3] = hit, int(found.sum()) - hit, int(true.sum()) - hit
        table[c, 3:7] = _outlines(found, true, labelled)
        if c > 0:  # the background has no objects
            table[c, 7:] = _objects(found, true, objects)
    return PixelCounts(table, confusion.astype(np.int64))


def evaluate_segmentation(
    counts: Sequence[PixelCounts],
    names: Sequence[str],
    groups: Sequence[str],
    origin: Origin,
) -> Report:
    """Compute all metrics of a split, with intervals and provenance.

    Parameters
    ----------
    counts
        Counts of n images.
    names
        C class names, the background first.
    groups
        n patient names; the intervals resample patients, not images.

    Returns
    -------
    A report with the metrics `pixel_accuracy`, each of `METRICS` and `image_dice` (mean over images of their mean
    Dice), and the sections `per_class` by name with `support` (pixels of the mask) and `METRICS`; `confusion_matrix`
    of pixels, rows true; `boundary_tolerance_px`, `object_iou`, `intervals`, `software`.

    Raises
    ------
    PredictionError : no images.
    """
    if not counts:
        raise PredictionError("Cannot evaluate: no image has a prediction")
    tables = np.stack([found.table for found in counts]).astype(np.float64)  # (n, C, columns)
    confusions = np.stack([found.confusion for found in counts])
    resamples = resample_groups(groups, origin.seed)
    pooled = _scores(tables.sum(axis=0))  # (C, metrics)
    resampled = _scores(np.einsum("rn,ncm->rcm", resamples.weights, tables))  # (R, C, metrics)
    overall = _intervals(_mean(pooled[1:], axis=0), _mean(resampled[:, 1:], axis=1), resamples.groups)
    alone = _mean(_scores(tables)[:, 1:, 0], axis=1)  # (n,), mean Dice of each image
    overall["image_dice"] = ratio_interval(np.nan_to_num(alone), (~np.isnan(alone)).astype(np.float64), resamples)
    right, pixels = np.trace(confusions, axis1=1, axis2=2), confusions.sum(axis=(1, 2))
    overall["pixel_accuracy"] = ratio_interval(right.astype(np.float64), pixels.astype(np.float64), resamples)
    confusion = confusions.sum(axis=0)
    per_class = {
        name: {
            "support": int(confusion[c].sum()),
            **{key: each.record() for key, each in _intervals(pooled[c], resampled[:, c], resamples.groups).items()},
        }
        for c, name in enumerate(names)
    }
    sections = {
        "per_class": per_class,
        "confusion_matrix": confusion.tolist(),
        "boundary_tolerance_px": TOLERANCE,
        "object_iou": OBJECT_IOU,
        "intervals": resampling_section(),
        "software": provenance.software(),
    }
    return Report(len(counts), resamples.groups, tuple(names), origin, overall, sections, counted="pixels")


def _intervals(values: FloatArray, samples: FloatArray, groups: int) -> dict[str, Interval]:
    """Return the interval of each of `METRICS`, from values (metrics,) and resampled values (R, metrics)."""
    return {key: percentile_interval(float(values[m]), samples[:, m], groups) for m, key in enumerate(METRICS)}


def image_scores(counts: PixelCounts) -> FloatArray:
    """`METRICS` of each class in one image, (C, metrics); NaN where undefined."""
    return _scores(counts.table.astype(np.float64))


def _scores(table: FloatArray) -> FloatArray:
    """`METRICS` from counts (..., C, columns): (..., C, metrics), NaN if there are no objects or pixels in either."""
    tp, fp, fn, hit, edge, mask_hit, mask_edge, object_tp, object_fp, object_fn = np.moveaxis(table, -1, 0)
    # With P = hit / edge and R = mask_hit / mask_edge, 2 P R / (P + R) without a division by 0.
    between = hit * mask_edge + mask_hit * edge
    ratios = (
        (2 * tp, 2 * tp + fp + fn),
        (tp, tp + fp + fn),
        (np.where(between > 0, 2 * hit * mask_hit, 0), np.where(between > 0, between, edge + mask_edge)),
        (2 * object_tp, 2 * object_tp + object_fp + object_fn),
    )
    columns = [
        np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0, dtype=np.float64)
        for part, whole in ratios
    ]
    return np.stack(columns, axis=-1)


def _mean(values: FloatArray, axis: int) -> Any:
    """Mean without NaN; NaN if all values are."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _outlines(
    found: NDArray[np.bool_], true: NDArray[np.bool_], labelled: NDArray[np.bool_]
) -> tuple[int, int, int, int]:
    """Count boundary pixels: predicted near the mask's, predicted, mask near the predicted, mask."""
    ours, theirs = _outline(found, labelled), _outline(true, labelled)
    return (
        int((ours & _near(theirs)).sum()),
        int(ours.sum()),
        int((theirs & _near(ours)).sum()),
        int(theirs.sum()),
    )


def _outline(mask: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask with a labelled 4-neighbour outside it; the image border is not a boundary."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode((mask | ~labelled).view(np.uint8), cross)
    return np.asarray(mask & (inner == 0))


def _near(outline: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels whose centre is at most `TOLERANCE` from that of a boundary pixel."""
    y, x = np.mgrid[-TOLERANCE : TOLERANCE + 1, -TOLERANCE : TOLERANCE + 1]
    disc = (x**2 + y**2 <= TOLERANCE**2).astype(np.uint8)
    return np.asarray(cv2.dilate(outline.view(np.uint8), disc) > 0)


def _objects(
    found: NDArray[np.bool_], true: NDArray[np.bool_], numbers: NDArray[np.int32] | None
) -> tuple[int, int, int]:
    """Count objects: true positives, false positives and false negatives."""
    count, ours = cv2.connectedComponents(found.view(np.uint8), connectivity=8)
    if numbers is None:
        true_count, theirs = cv2.connectedComponents(true.view(np.uint8), connectivity=8)
    else:
        values, theirs = np.unique(np.where(true, numbers, 0), return_inverse=True)
        theirs = theirs.reshape(true.shape) + (values[0] != 0)  # 0 is background, also if all pixels are objects
        true_count = int(theirs.max(initial=0)) + 1
    pairs, shared = np.unique(ours.astype(np.int64) * true_count + theirs, return_counts=True)
    rows, columns = np.divmod(pairs, true_count)
    sizes, true_sizes = np.bincount(ours.ravel(), minlength=count), np.bincount(theirs.ravel(), minlength=true_count)
    iou = shared / (sizes[rows] + true_sizes[columns] - shared)
    hits = int(((iou > OBJECT_IOU) & (rows > 0) & (columns > 0)).sum())
    return hits, count - 1 - hits, true_count - 1 - hits
