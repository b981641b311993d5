"""Attention of a cohort against annotated regions: every measure beside its chance level.

The chance level is that of uniform attention over all valid cells, with as many patches sampled
from those cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.evaluate.attention_quality import attention_auprc, mass_in_region, pointing_game
from wsi_attn.evaluate.intervals import ratio_interval, resample_groups
from wsi_attn.geometry import Size
from wsi_attn.json_types import JsonObject
from wsi_attn.models.probabilities import FloatArray
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.store.records import AttendedRegion

MEASURES = ("pointing_game", "mass_in_region", "auprc", "places_hit")

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class AttentionScores:
    """Value and chance level of each of `MEASURES` for one image; measures that do not apply are absent."""

    values: dict[str, float]
    chance: dict[str, float]


def score_attention(
    attention: AttentionMap, places: Sequence[AttendedRegion], region: BoolArray, size0: Size
) -> AttentionScores | None:
    """Compare the attention of one image with its annotated region.

    Parameters
    ----------
    attention, places
        The map, and the regions read at high resolution.
    region
        bool (rows, columns) over the whole image, at any resolution.
    size0
        Size of the image, level-0 pixels.

    Returns
    -------
    `pointing_game`, `mass_in_region` and `auprc`, see `attention_quality`; `places_hit`, 1 if a region read at high
    resolution touches the annotation, otherwise 0. None with fewer than two valid cells or if the annotation
    touches none.
    """
    weights = attention.values.astype(np.float64)
    seen = ~np.isnan(weights)
    share, area = _cells(attention, region, size0)
    if seen.sum() < 2 or not (share[seen] > 0).any():
        return None
    even = np.where(seen, 1.0, np.nan)
    values, chance = (_measures(each, share, area) for each in (weights, even))
    if places:
        values["places_hit"], chance["places_hit"] = _places_hit(attention, places, region, size0)
    return AttentionScores(values, chance)


def mean_scores(scores: Sequence[AttentionScores | None]) -> AttentionScores | None:
    """Return the mean over the models of an ensemble; None if one of them could not be scored."""
    known = [score for score in scores if score is not None]
    if not known or len(known) < len(scores):
        return None
    return AttentionScores(
        {name: float(np.mean([score.values[name] for score in known])) for name in known[0].values},
        {name: float(np.mean([score.chance[name] for score in known])) for name in known[0].chance},
    )


def attention_section(
    scores: Sequence[AttentionScores], groups: Sequence[str], annotated: int, seed: int
) -> JsonObject:
    """Return the means over images, with intervals that resample patients.

    Parameters
    ----------
    scores, groups
        n scored images, and their patients.
    annotated
        Number of images with a region, scored or not.
    seed
        Seed of the resampling.

    Returns
    -------
    `n`, `skipped` (annotated but not scored), and each of `MEASURES` as `{value, low, high, chance}`; measures without
    images are absent.
    """
    section: JsonObject = {"n": len(scores), "skipped": annotated - len(scores)}
    for measure in MEASURES:
        having = [index for index, score in enumerate(scores) if measure in score.values]
        if having:
            values = np.array([scores[index].values[measure] for index in having])
            found = ratio_interval(values, None, resample_groups([groups[index] for index in having], seed))
            chance = float(np.mean([scores[index].chance[measure] for index in having]))
            section[measure] = {**found.record(), "chance": chance}
    return section


def _measures(attention: FloatArray, share: FloatArray, area: FloatArray) -> dict[str, float]:
    found = {
        "pointing_game": pointing_game(attention, share > 0),
        "mass_in_region": mass_in_region(attention, share),
        "auprc": attention_auprc(attention, share, area),
    }
    return {name: value for name, value in found.items() if value is not None}


def _cells(attention: AttentionMap, region: BoolArray, size0: Size) -> tuple[FloatArray, FloatArray]:
    """Return the share of each cell, clipped to the image, that the region covers, and the clipped area in level-0
    pixels.
    """
    rows, columns = attention.values.shape
    high = _overlap(region.shape[0], size0.height, rows, attention.frame.downsample_y)
    wide = _overlap(region.shape[1], size0.width, columns, attention.frame.downsample_x)
    area = np.outer(high.sum(axis=1), wide.sum(axis=1))
    covered = high @ region.astype(np.float64) @ wide.T
    return np.divide(covered, area, out=np.zeros_like(covered), where=area > 0), area


def _overlap(pixels: int, extent: int, cells: int, cell: float) -> FloatArray:
    """Return the overlap of each cell with each mask pixel along one axis, level-0 pixels: (cells, pixels)."""
    pixel_edge = np.arange(pixels + 1) * (extent / pixels)
    cell_edge = np.arange(cells + 1) * cell  # the last cells may extend beyond the image
    low = np.maximum(cell_edge[:-1, None], pixel_edge[None, :-1])
    high = np.minimum(cell_edge[1:, None], pixel_edge[None, 1:])
    shared: FloatArray = np.maximum(high - low, 0)
    return shared


def _places_hit(
    attention: AttentionMap, places: Sequence[AttendedRegion], region: BoolArray, size0: Size
) -> tuple[float, float]:
    """Return whether a patch touches the region, and the probability for K patches of that size on K random valid
    cells.
    """
    boxes = np.array([(place.x, place.y, place.x + place.width, place.y + place.height) for place in places], float)
    rows, columns = np.nonzero(~np.isnan(attention.values))
    cell = (attention.frame.downsample_x, attention.frame.downsample_y)
    centres = np.stack([columns + 0.5, rows + 0.5], axis=1) * cell
    half = np.median(boxes[:, 2:] - boxes[:, :2], axis=0) / 2
    everywhere = np.hstack([centres - half, centres + half])
    touching = _touch(np.vstack([boxes, everywhere]), region, size0)
    free = len(centres) - int(touching[len(boxes) :].sum())
    drawn = min(len(places), len(centres))
    missing = math.comb(free, drawn) / math.comb(len(centres), drawn)
    return float(touching[: len(boxes)].any()), 1 - missing


def _touch(boxes: FloatArray, region: BoolArray, size0: Size) -> BoolArray:
    """Return whether each box (x0, y0, x1, y1), level-0 pixels, contains a marked pixel: bool (n,)."""
    sums = np.asarray(cv2.integral(region.astype(np.uint8)))  # int32 (rows + 1, columns + 1)
    scale = np.array([region.shape[1] / size0.width, region.shape[0] / size0.height])
    last = np.array(region.shape[::-1])
    x0, y0 = np.clip(np.floor(boxes[:, :2] * scale), 0, last).astype(np.int64).T
    x1, y1 = np.clip(np.ceil(boxes[:, 2:] * scale), 0, last).astype(np.int64).T
    inside: BoolArray = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0] > 0
    return inside
