"""Automatic bounding boxes, from saliency or from a segmentation model."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.annotations.boxes import FoundBoxes, boxes_from
from wsi_attn.data.saliency import salient_boxes
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import UsageError
from wsi_attn.geometry import Region
from wsi_attn.models.checkpoint import Checkpoint, load_checkpoint
from wsi_attn.models.zoo import find_models
from wsi_attn.registry import unknown_name
from wsi_attn.slide import Slide
from wsi_attn.tasks.segmentation.tiled_inference import TiledInference, segmenter
from wsi_attn.tasks.segmentation.windows import default_overlap

METHODS = ("saliency", "segmentation")
"""How boxes are found."""

RASTER_SIDE = 2048
"""Maximum longer side of the raster on which components are separated, pixels."""

BLOCK_SIDE = 512
"""Side of the raster blocks that are segmented at once, pixels; bounds memory on slides."""


def box_finder(method: str, model: str = "", device: str = "cpu") -> Callable[[Slide], FoundBoxes]:
    """Return the function that finds boxes on a slide.

    Parameters
    ----------
    method
        One of `METHODS`.
    model
        Run folder, checkpoint folder or name of a segmentation model; required by "segmentation".

    Raises
    ------
    UnknownNameError : the method or the model does not exist.
    UsageError : segmentation without a model, or with a model that does not segment.
    CheckpointError : the model cannot be loaded.
    """
    if method not in METHODS:
        raise unknown_name("box method", method, METHODS)
    if method == "saliency":
        return salient_boxes
    if not model:
        raise UsageError(
            "--method segmentation needs a segmentation model: set --model to a folder written by `wsi-attn train`"
        )
    checkpoint = load_checkpoint(find_models(model)[0], device)
    segmenter(checkpoint)
    return partial(segmented_boxes, checkpoint=checkpoint)


def segmented_boxes(slide: Slide, checkpoint: Checkpoint) -> FoundBoxes:
    """Return boxes around the foreground that a segmentation model predicts; empty if it finds none.

    Raises
    ------
    SlideError : the slide cannot be read at the model's resolution.
    """
    likely = foreground(slide, checkpoint)
    return boxes_from(likely, likely >= 0.5, slide.info.size0, least=0.0)


def foreground(slide: Slide, checkpoint: Checkpoint) -> NDArray[np.float32]:
    """Return the foreground probability on a raster of the whole slide, float32 (rows, columns)."""
    network = segmenter(checkpoint)
    patches = SlidePatches(slide, checkpoint.spec.mpp, network.config.coarse_factor)
    width, height = patches.extent
    factor = max(1, math.ceil(max(width, height) / RASTER_SIDE))
    field = TiledInference(network, patches, network.config.crop, default_overlap(network.config.crop))
    likely = np.zeros((-(-height // factor), -(-width // factor)), np.float32)
    for block in Region(0, 0, width, height).split(BLOCK_SIDE * factor, BLOCK_SIDE * factor):
        answer = 1 - field.answer(block).probabilities[0]
        rows = slice(block.y // factor, -(-block.y1 // factor))
        columns = slice(block.x // factor, -(-block.x1 // factor))
        part = likely[rows, columns]
        part[:] = cv2.resize(answer, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_AREA)
    return likely
