"""Thumbnails of the most uncertain images with their attention."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from wsi_attn.data.sources import open_row
from wsi_attn.evaluate.html import Picture
from wsi_attn.geometry import Frame
from wsi_attn.heatmaps.appearance import Appearance
from wsi_attn.heatmaps.layer import ATTENTION, Layer, display_values
from wsi_attn.heatmaps.picture import overlay
from wsi_attn.heatmaps.raster import resample
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.slides.view import read_view
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.evaluation import RowPrediction
from wsi_attn.tasks.classification.slide import predict_slide

SIDE, QUALITY = 320, 85
"""Maximum longer side of a thumbnail in pixels, and its JPEG quality."""

PICTURES = 6


def uncertain_pictures(
    answers: Sequence[RowPrediction], by: str, checkpoint: Checkpoint, config: PredictConfig, count: int = PICTURES
) -> list[Picture]:
    """Draw the `count` images with the highest term `by`, most uncertain first, with the attention of one model.

    They are predicted again, so that no attention map has to be kept for the others.
    """
    order = np.argsort([-answer.uncertainty[by] for answer in answers], kind="stable")
    labels = checkpoint.spec.labels
    plain = replace(config, mc_dropout=0, refer_above=None, refer_by=None, coverage=None)
    pictures = []
    for answer in (answers[index] for index in order[:count].tolist()):
        called = labels[int(answer.probabilities.argmax())]
        caption = (
            f"{answer.row.path.name}: {answer.row.label}, called {called} with {answer.probabilities.max():.2f}, "
            f"{by.replace('_', ' ')} {answer.uncertainty[by]:.3f}"
        )
        pictures.append(Picture(_jpeg(answer, checkpoint, plain), caption, called == answer.row.label))
    return pictures


def _jpeg(answer: RowPrediction, checkpoint: Checkpoint, config: PredictConfig) -> bytes:
    with open_row(answer.row) as slide:
        found = predict_slide(slide, checkpoint, config, regions=answer.row.regions).attention_map
        downsample = max(1.0, max(slide.info.size0) / SIDE)
        frame = Frame.covering(slide.info.size0, downsample, downsample)
        pixels = read_view(slide, downsample, downsample, workers=config.workers).pixels
    values = resample(display_values(Layer(ATTENTION, found.frame, found.values)).values, found.frame, frame)
    buffer = io.BytesIO()
    Image.fromarray(overlay(pixels, values, Appearance.alpha, Appearance.colour)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
