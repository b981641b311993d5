"""`wsi-attn predict`: predict slide labels and attention."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_attn.cli.inference import answer_inputs
from wsi_attn.cli.options import Slides
from wsi_attn.cli.output import Console, expand
from wsi_attn.cli.typed_options import (
    Debug,
    Device,
    Json,
    McDropout,
    Overwrite,
    Quiet,
    Seed,
    SlideMpp,
    Threads,
    check_folder_option,
    completed_models,
    parse_slide_mpp,
    starting,
)
from wsi_attn.devices import resolve_device
from wsi_attn.errors import ExportError, UsageError, WsiAttnError
from wsi_attn.models.zoo import DEFAULT, find_model
from wsi_attn.outputs.names import Reservations

if TYPE_CHECKING:
    from wsi_attn.inference.batch import Outcome
    from wsi_attn.store.predictions import SlidePrediction

Folder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        callback=check_folder_option,
        help="Folder for the predictions (STEM.prediction.json); without it, nothing is written.",
    ),
]
Heatmap = Annotated[
    bool,
    typer.Option(
        "--heatmap",
        help="Also draw the attention as STEM.heatmap.png in --output, or in the current folder without --output.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Name of a shipped model, a run folder or a checkpoint folder.",
        autocompletion=completed_models,
    ),
]
AllowOutOfDistribution = Annotated[
    bool,
    typer.Option(
        "--allow-out-of-distribution",
        help="Predict inputs whose colours lie outside the training distribution; the record carries a warning.",
    ),
]

Coverage = Annotated[
    float | None,
    typer.Option(
        "--coverage",
        help="Also predict a label set that contains the true label with this probability: 0.8, 0.9 or 0.95.",
    ),
]
Exhaustive = Annotated[
    bool,
    typer.Option(
        "--exhaustive",
        help="Also score every tissue tile at high resolution, for complete heatmaps; takes much longer.",
    ),
]

ReferAbove = Annotated[
    float | None,
    typer.Option("--refer-above", help="Refer slides to an expert if the uncertainty exceeds this threshold."),
]
ReferBy = Annotated[
    str,
    typer.Option(
        "--refer-by",
        help="Uncertainty for --refer-above: entropy or margin; with --mc-dropout also predictive_entropy, "
        "expected_entropy or mutual_information.",
        autocompletion=starting("entropy", "margin", "predictive_entropy", "expected_entropy", "mutual_information"),
    ),
]


def predict(
    slides: Slides,
    output: Folder = None,
    heatmap: Heatmap = False,
    model: Model = DEFAULT,
    slide_mpp: SlideMpp = None,
    allow_out_of_distribution: AllowOutOfDistribution = False,
    coverage: Coverage = None,
    exhaustive: Exhaustive = False,
    mc_dropout: McDropout = 0,
    refer_above: ReferAbove = None,
    refer_by: ReferBy = "entropy",
    seed: Seed = 0,
    json: Json = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Predict the label of slides, stores or images and print it; with --output, also write for each a record of at
    most 100 kB (STEM.prediction.json) and its maps (STEM.prediction.zarr).
    """
    inputs, mpp, folder = expand(slides), parse_slide_mpp(slide_mpp), find_model(model)
    from wsi_attn.inference.batch import Batch
    from wsi_attn.models.checkpoint import load_checkpoint
    from wsi_attn.store.predictions import Referral
    from wsi_attn.tasks.classification.slide import PredictConfig

    if refer_above is None and refer_by != "entropy":
        raise UsageError("--refer-by has no effect without --refer-above; add --refer-above with a threshold")
    config = PredictConfig(
        allow_out_of_distribution=allow_out_of_distribution,
        coverage=coverage,
        exhaustive=exhaustive,
        mc_dropout=mc_dropout,
        seed=seed,
        referral=None if refer_above is None else Referral(refer_by, refer_above),
    )
    reservations = Reservations()

    def draw(outcome: Outcome, console: Console) -> dict[str, object]:
        found = outcome.answer and outcome.answer.drawable
        return _drawn(outcome, found, output or Path(), reservations, console, overwrite) if found and heatmap else {}

    answer_inputs(
        inputs,
        load_checkpoint(folder, resolve_device(device)),
        config,
        Batch(output, mpp, overwrite),
        json=json,
        quiet=quiet,
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
    skipped = " is already complete; use --overwrite to draw it again"
    console.info(f"heatmap: {drawn.heatmap}{skipped if drawn.state == 'skipped' else ''}")
    return {"heatmap": str(drawn.heatmap)}
