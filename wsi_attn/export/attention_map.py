"""Export of the learned map of a global-spatial model: alone, and over the mean training image.

Both are read from the checkpoint's weights; neither an image nor the network is needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from wsi_attn.errors import CheckpointError, ExportError
from wsi_attn.geometry import Frame, Size
from wsi_attn.heatmaps.layer import Layer
from wsi_attn.heatmaps.legend import NOTICE
from wsi_attn.heatmaps.picture import Caption, draw_layer, png_bytes
from wsi_attn.heatmaps.raster import FloatArray
from wsi_attn.models.zoo import WEIGHTS, find_model, weights_hash
from wsi_attn.outputs import files
from wsi_attn.outputs.mark import Mark
from wsi_attn.outputs.policy import Found, Output, State, claim, complete, other
from wsi_attn.provenance import software
from wsi_attn.slide import UInt8Array

SYSTEM = "global-spatial"

SIDE = 512
"""Minimum side of the overlay in pixels; a smaller mean image is enlarged by an integer factor."""

IMPORTANT = 0.5
"""Threshold above which a location is important: the decision boundary of its classifier."""


@dataclass(frozen=True)
class LearnedMap:
    """The map stored in a checkpoint.

    `values` is float32 (G, G), 0 to 1; `mean_image` uint8 (S, S, 3); `alignment` the mean correlation of the training
    images; `labels` the class names; `name` and `sha256` those of the model.
    """

    name: str
    sha256: str
    labels: tuple[str, ...]
    values: FloatArray
    mean_image: UInt8Array
    alignment: float


class MapRecord(TypedDict):
    """What `export --to attention-map --json` prints, see `export_attention_map`."""

    input: str
    format: str
    output: str
    overlay: str
    state: str
    least: float
    largest: float
    important: float
    alignment: float


def read_learned_map(name_or_folder: str) -> LearnedMap:
    """Read the map of a checkpoint or run.

    Raises
    ------
    ExportError : the model has no such map.
    CheckpointError : the checkpoint is missing or unreadable.
    """
    folder = find_model(name_or_folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        if config["system"] != SYSTEM:
            raise ExportError(f"{folder} is a {config['system']} model; only {SYSTEM} has one map for all images")
        weights = load_file(folder / WEIGHTS)
        return LearnedMap(
            name=config["name"],
            sha256=weights_hash(folder, config),
            labels=tuple(config["spec"]["labels"]),
            values=weights["map.values"][0, 0].astype(np.float32),
            mean_image=np.rint(weights["mean_image"].transpose(1, 2, 0)).clip(0, 255).astype(np.uint8),
            alignment=float(weights["alignment"]),
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, ExportError):
            raise
        raise CheckpointError(f"Cannot read {folder}: {error}") from error


def export_attention_map(name_or_folder: str, output: Path, *, overwrite: bool = False) -> MapRecord:
    """Write `NAME.attention-map.png`, one pixel per cell, 0 black, 1 white, and `NAME.attention-overlay.png`.

    Returns
    -------
    `input`, `format`, `output` (the map), `overlay`, `state` ("written", or "skipped" if the images of this model
    exist), `least` and `largest` of the map, `important`, the share of it above `IMPORTANT`, and `alignment`.

    Raises
    ------
    OutputExistsError : other files exist at the output paths.
    ExportError, CheckpointError : see `read_learned_map`.
    """
    found = read_learned_map(name_or_folder)
    alone, over = (output / f"{found.name}.attention-{part}.png" for part in ("map", "overlay"))
    record: MapRecord = {
        "input": name_or_folder,
        "format": "attention-map",
        "output": str(alone),
        "overlay": str(over),
        "state": "written",
        "least": round(float(found.values.min()), 6),
        "largest": round(float(found.values.max()), 6),
        "important": round(float((found.values > IMPORTANT).mean()), 6),
        "alignment": round(found.alignment, 6),
    }
    with claim(_map_output(found, alone, over), overwrite=overwrite) as there:
        if there.state is State.COMPLETE:
            return {**record, "state": "skipped"}
        _write(found, alone, over)
    return record


def _map_output(found: LearnedMap, alone: Path, over: Path) -> Output[Path]:
    """Both images as one output, complete if they are of this model."""

    def inspect() -> Found[Path]:
        done = all(Mark(found.sha256).is_in(path) for path in (alone, over))
        return complete(alone) if done else other("or the overlay beside it exists and belongs to something else")

    return Output(alone, inspect, beside=(over,))


def _write(found: LearnedMap, alone: Path, over: Path) -> None:
    origin = {"model": {"name": found.name, "sha256": found.sha256}, "software": software(), "notice": NOTICE}
    grey = Image.fromarray(np.rint(found.values * 255).astype(np.uint8))
    files.write_bytes(alone, png_bytes(grey, {**origin, "of": "attention map"}))
    files.write_bytes(over, png_bytes(draw_overlay(found), {**origin, "of": "attention map over the mean image"}))


def draw_overlay(found: LearnedMap) -> Image.Image:
    """Draw the map in colours over the mean image, with a legend."""
    side = found.mean_image.shape[0]
    factor = max(1, -(-SIDE // side))
    mean = np.asarray(found.mean_image).repeat(factor, axis=0).repeat(factor, axis=1)
    frame = Frame(Size(side * factor, side * factor), 1 / factor, 1 / factor)
    cell = side / found.values.shape[0]
    layer = Layer("attention map", Frame(Size(*found.values.shape[::-1]), cell, cell), found.values)
    lines = (
        f"Labels: {', '.join(found.labels)}",
        f"Over the mean training image; mean correlation between two images {found.alignment:.2f}",
    )
    return draw_layer(layer, Caption(found.name, lines, None), mean, frame)
