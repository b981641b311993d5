"""`wsi-attn segment`: segment slides into label images and polygons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from wsi_attn.cli.command import Command
from wsi_attn.cli.inference import answer_inputs
from wsi_attn.cli.options import Machine, Output, PixelSize, Slides, Write
from wsi_attn.cli.output import expand
from wsi_attn.models.zoo import find_model
from wsi_attn.options import Option
from wsi_attn.tasks.segmentation.config import SegmentConfig


@dataclass(frozen=True)
class Model:
    """The model that segments."""

    model: Annotated[str, Option("Run or checkpoint folder of `train --model joint-segmentation`.", aliases=("-m",))]


def segment(
    slides: Slides,
    model: Model,
    target: Output,
    config: SegmentConfig,
    pixels: PixelSize,
    machine: Machine,
    write: Write,
) -> None:
    """Segment slides, stores or images and write an OME-Zarr label image, GeoJSON polygons and a record of areas for
    each to --output.
    """
    inputs, folder = expand(slides), find_model(model.model)
    from wsi_attn.inference.batch import Batch
    from wsi_attn.models.checkpoint import load_checkpoint
    from wsi_attn.tasks.base import inference_of

    answer_inputs(
        inputs,
        inference_of(load_checkpoint(folder, machine.resolve()), config),
        Batch(target.output, pixels.slide_mpp, write.overwrite),
        json=write.json,
        quiet=write.quiet,
    )


COMMAND = Command("segment", segment)
