"""Prediction of one bag of stored features with one checkpoint."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.data.features import FeatureSlide, feature_slide
from wsi_attn.errors import UsageError
from wsi_attn.geometry import Frame
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.feature_model import FeatureModel
from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.store.predictions import SlidePrediction
from wsi_attn.store.records import AttendedRegion
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.slide import Seen, prediction_of

MOST_CELLS = 16_000_000
"""Cells of a map: tiles of a few pixels far from each other share cells."""


@torch.inference_mode()
def predict_bag(
    slide: Slide,
    checkpoint: Checkpoint,
    config: PredictConfig,
    progress: Progress = no_progress,
    regions: Path | None = None,
) -> SlidePrediction:
    """Predict one bag, with the attention of every tile; see `Predict`.

    Raises
    ------
    FeatureError : the input has no features, or not those that the model reads.
    UsageError : `regions`, or settings that need pixels.
    """
    started = time.perf_counter()
    network, bag = checkpoint.network, feature_slide(slide)
    assert isinstance(network, FeatureModel)  # noqa: S101 - of this task
    for given, what in ((config.exhaustive, "--exhaustive"), (regions is not None, "the column regions")):
        if given:
            raise UsageError(f"{checkpoint.name} ({checkpoint.system}) reads stored features: {what} needs pixels")
    progress(0, 1, "reading features")
    values = torch.from_numpy(bag.read(network.config.features))
    progress(0, 1, "predicting")
    output = network([values])
    attention, evidence = output.attention[0].double().cpu().numpy(), output.evidence[0].float().cpu()
    attention = attention / attention.sum()
    spread = torch.special.entr(evidence.softmax(dim=1)).sum(dim=1) / math.log(max(2, evidence.shape[1]))
    labels = checkpoint.spec.labels
    maps = {f"evidence:{label}": map_of(bag, evidence[:, c].numpy()) for c, label in enumerate(labels)}
    maps["uncertainty"] = map_of(bag, spread.numpy())
    seen = Seen(output.logits, output.pooled, attended(bag, attention), map_of(bag, attention, total=True), maps)
    if config.mc_dropout:
        progress(0, 1, "Monte Carlo dropout")
    return prediction_of(bag.info, checkpoint, config, seen, started)


def attended(bag: FeatureSlide, attention: NDArray[np.float64]) -> tuple[AttendedRegion, ...]:
    """Return all tiles by decreasing weight; `attention` is float (N,)."""
    order = np.lexsort((bag.regions[:, 0], bag.regions[:, 1], -attention))
    columns = [*bag.regions[order].T.tolist(), attention[order].tolist()]
    return tuple(map(AttendedRegion, *columns))


def map_of(bag: FeatureSlide, values: NDArray[np.floating], *, total: bool = False) -> AttentionMap:
    """Return values of the tiles, float (N,), as a map with a cell as large as the smallest tile: each tile counts in
    the cell of its centre. Cells have the mean of their tiles, or with `total` their sum; NaN without tiles.
    """
    size0, side = bag.info.size0, float(bag.regions[:, 2].min())
    side = max(side, math.sqrt(math.prod(size0) / MOST_CELLS))
    frame = Frame.covering(size0, side, side)
    centres = bag.regions[:, :2] + bag.regions[:, 2:] / 2
    limit = np.array(frame.size) - 1
    columns, rows = np.minimum((centres / side).astype(np.int64), limit).T
    flat = rows * frame.size.width + columns
    sums, counts = (np.bincount(flat, weight, math.prod(frame.size)) for weight in (values, None))
    with np.errstate(invalid="ignore"):
        cells = np.where(counts > 0, sums / (1 if total else counts), np.nan)
    return AttentionMap(frame, cells.reshape(frame.size.height, frame.size.width).astype(np.float32))
