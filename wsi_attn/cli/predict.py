"""`wsi-attn predict`: predict slide labels and attention."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from wsi_attn.cli.command import Command
from wsi_attn.cli.inference import answer_inputs
from wsi_attn.cli.options import Machine, PixelSize, Slides, Write, folder, shipped_models
from wsi_attn.cli.output import Console, expand
from wsi_attn.errors import ExportError, WsiAttnError
from wsi_attn.models.zoo import DEFAULT, find_model
from wsi_attn.options import Option
from wsi_attn.outputs.names import Reservations
from wsi_attn.tasks.classification.config import PredictConfig

if TYPE_CHECKING:
    from wsi_attn.inference.batch import Outcome
    from wsi_attn.store.predictions import SlidePrediction


@dataclass(frozen=True)
class Target:
    """What is written."""

    output: Annotated[
        Path | None,
        Option(
            "Folder for the predictions (STEM.prediction.json); without it, nothing is written.",
            aliases=("-o",),
            check=folder,
        ),
    ] = None
    heatmap: Annotated[
        bool,
        Option("Also draw the attention as STEM.heatmap.png in --output, or in the current folder without --output."),
    ] = False


@dataclass(frozen=True)
class Model:
    """The model that predicts."""

    model: Annotated[
        str,
        Option(
            "Name of a shipped model, a run folder or a checkpoint folder.",
            aliases=("-m",),
            suggestions=shipped_models,
        ),
    ] = DEFAULT


def predict(
    slides: Slides,
    target: Target,
    model: Model,
    config: PredictConfig,
    pixels: PixelSize,
    machine: Machine,
    write: Write,
) -> None:
    """Predict the label of slides, stores or images and print it; with --output, also write for each a record of at
    most 100 kB (STEM.prediction.json) and its maps (STEM.prediction.zarr).
    """
    inputs, checkpoint_folder = expand(slides), find_model(model.model)
    from wsi_attn.inference.batch import Batch
    from wsi_attn.models.checkpoint import load_checkpoint
    from wsi_attn.tasks.base import inference_of

    reservations = Reservations()

    def draw(outcome: Outcome, console: Console) -> dict[str, object]:
        found, place = outcome.answer and outcome.answer.drawable, target.output or Path()
        if not found or not target.heatmap:
            return {}
        return _drawn(outcome, found, place, reservations, console, write.overwrite)

    answer_inputs(
        inputs,
        inference_of(load_checkpoint(checkpoint_folder, machine.resolve()), config),
        Batch(target.output, pixels.slide_mpp, write.overwrite),
        json=write.json,
        quiet=write.quiet,
        also=draw,
    )


def _drawn(
    outcome: Outcome,
    found: SlidePrediction,
    folder: Path,
    reservations: Reservations,
    console: Console,
    overwrite: bool,
) -> dict[str, object]:
    """Draw the heatmap of one prediction with the defaults of `wsi-attn heatmap`, without regions."""
    from wsi_attn.export.config import HeatmapConfig
    from wsi_attn.export.heatmap import draw_heatmap, heatmap_of
    from wsi_attn.export.source import prediction_source

    file = outcome.answer.file if outcome.answer else None
    try:
        source = prediction_source(found, file, images=outcome.images)
        config = HeatmapConfig()
        wanted = heatmap_of(source, folder, config, regions=False)
        reservations.reserve(wanted.heatmap, outcome.path)
        drawn = draw_heatmap(source, wanted, config, overwrite=overwrite)
    except WsiAttnError as error:
        console.fail(error)
        return {}
    except OSError as error:
        console.fail(ExportError(f"Cannot draw the heatmap of {found.slide}: {error.strerror or error}"))
        return {}
    if drawn.state == "skipped":
        console.skipped(f"heatmap: {drawn.heatmap}", "draw it")
    else:
        console.info(f"heatmap: {drawn.heatmap}")
    return {"heatmap": str(drawn.heatmap)}


COMMAND = Command("predict", predict)
