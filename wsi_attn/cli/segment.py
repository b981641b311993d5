"""`wsi-attn segment`: segment slides into label images and polygons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from wsi_attn.cli.options import Slides
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.cli.predict import peak_memory_mb
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
    from wsi_attn.inference.segment_batch import segment_paths
    from wsi_attn.models.checkpoint import load_checkpoint
    from wsi_attn.tasks.segmentation.evaluation import segmenter
    from wsi_attn.tasks.segmentation.slide import SegmentConfig
    from wsi_attn.tasks.segmentation.windows import Windows, default_overlap

    checkpoint = load_checkpoint(folder, resolve_device(device))
    side = tile or segmenter(checkpoint).config.crop
    Windows(side, side, default_overlap(side) if overlap is None else overlap)  # Fail before any slide is opened.
    console = Console(quiet=quiet, total=len(inputs))
    console.info(f"{checkpoint.name}: research and demonstration only, not for diagnosis")
    config = SegmentConfig(tile, overlap, into_store, annotations, simplify)
    with console.progress("segment") as progress:
        for outcome in segment_paths(
            inputs, checkpoint, output, config, slide_mpp=mpp, overwrite=overwrite, progress=progress
        ):
            if outcome.record is None:
                if outcome.error:
                    console.fail(outcome.error)
                continue
            found = outcome.record
            if outcome.state == "skipped":
                console.info(f"{found['labels']} is already complete; use --overwrite to segment again")
            if found["unreadable_places"]:
                console.info(f"warning: {found['slide']}: {found['unreadable_places']} regions could not be decoded")
            data_json(found) if json else data(as_line(found))
    if peak := peak_memory_mb():
        console.info(f"peak memory {peak:.0f} MB")
    raise typer.Exit(console.exit_code())


def as_line(record: Mapping[str, Any]) -> str:
    """Format the slide, then name, tissue share and number of objects of each class, then the label image."""
    classes = "\t".join(
        f"{name}\t{found['share']:.4f}\t{found['objects']}" for name, found in record["classes"].items()
    )
    return f"{record['slide']}\t{classes}\t{record['labels']}"
