"""`wsi-attn segment`: segment slides into label images and polygons."""

from __future__ import annotations

from typing import Annotated

import typer

from wsi_attn.cli.inference import answer_inputs
from wsi_attn.cli.options import Slides
from wsi_attn.cli.output import expand
from wsi_attn.cli.typed_options import (
    Debug,
    Device,
    Json,
    OutputFolder,
    Overwrite,
    Quiet,
    SlideMpp,
    Threads,
    parse_slide_mpp,
)
from wsi_attn.devices import resolve_device
from wsi_attn.models.zoo import find_model

Model = Annotated[
    str, typer.Option("--model", "-m", help="Run or checkpoint folder of `train --model joint-segmentation`.")
]
IntoStore = Annotated[
    bool, typer.Option("--into-store", help="Write the labels into the segmented store, under the name of the model.")
]
Tile = Annotated[
    int | None,
    typer.Option(
        "--tile",
        min=32,
        help="Tile side in pixels at the model's resolution, a multiple of 32; by default that of the training crops.",
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        "--overlap", min=0, help="Overlap of tiles in pixels, a multiple of 32; by default a quarter of a tile."
    ),
]
Annotations = Annotated[
    bool, typer.Option("--as-annotations", help="Write polygons as annotations instead of detections.")
]
Simplify = Annotated[
    float,
    typer.Option("--simplify", min=0, help="Tolerance of outline simplification in level-0 pixels; 0 disables it."),
]


def segment(
    slides: Slides,
    model: Model,
    output: OutputFolder,
    into_store: IntoStore = False,
    tile: Tile = None,
    overlap: Overlap = None,
    annotations: Annotations = False,
    simplify: Simplify = 0.0,
    slide_mpp: SlideMpp = None,
    json: Json = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Segment slides, stores or images and write an OME-Zarr label image, GeoJSON polygons and a record of areas for
    each to --output.
    """
    inputs, mpp, folder = expand(slides), parse_slide_mpp(slide_mpp), find_model(model)
    from wsi_attn.inference.batch import Batch
    from wsi_attn.models.checkpoint import load_checkpoint
    from wsi_attn.tasks.segmentation.slide import SegmentConfig

    answer_inputs(
        inputs,
        load_checkpoint(folder, resolve_device(device)),
        SegmentConfig(tile, overlap, into_store, annotations, simplify),
        Batch(output, mpp, overwrite),
        json=json,
        quiet=quiet,
    )
