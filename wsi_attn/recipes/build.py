"""Building a shipped model: compose fields, train, evaluate on the test set and the baseline, write the card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.data.manifest import Row, read_manifest
from wsi_attn.data.sources import open_row
from wsi_attn.evaluate.baseline import thumbnail_svm
from wsi_attn.evaluate.report import Origin, Report, evaluate_predictions
from wsi_attn.inference.evaluation import evaluate_rows
from wsi_attn.json_types import Json
from wsi_attn.models.checkpoint import CARD, CONFIG, Checkpoint, load_checkpoint, read_config
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import State, claim
from wsi_attn.recipes import cellularity, fungi
from wsi_attn.recipes.card import recipe_card
from wsi_attn.recipes.fields import Field, fields_output, write_fields
from wsi_attn.recipes.hot_spots import hot_spot_quality
from wsi_attn.registry import unknown_name
from wsi_attn.slide import BatchProgress, OneInput, UInt8Array, no_progress
from wsi_attn.tasks.base import EvaluationJob
from wsi_attn.tasks.config import EvaluateConfig, RunOptions, TrainConfig
from wsi_attn.train.run import train

BEFORE: Mapping[str, Json] = {"hidden": 64, "global_weight": 0.5, "guidance_weight": 0.0}
"""Settings that both shipped models were trained with, which are no longer the defaults."""

THUMBNAIL = 32
"""Side of the baseline's thumbnails, pixels."""


@dataclass(frozen=True)
class Recipe:
    """Recipe of a shipped model."""

    name: str
    make_fields: Callable[[Path, int], Iterator[Field]]
    config: TrainConfig
    network: Mapping[str, Json]
    finished: Mapping[str, Json]
    """Fields of the network that are other when it answers than when it learns."""
    about: Sequence[str]
    """Paragraphs of the card: meaning of the labels, data and licence."""
    not_for: Sequence[str]
    checks: Callable[[Checkpoint, Sequence[Row]], Sequence[str]] = field(default=lambda checkpoint, rows: ())
    """Further lines of the card, measured on the test set."""


RECIPES = {
    "cellularity-he": Recipe(
        name="cellularity-he",
        make_fields=cellularity.make_fields,
        config=TrainConfig(
            device="cpu",
            epochs=18,
            warm_up_epochs=0,
            learning_rate=2e-3,
            weight_decay=1e-2,
            colour=0.7,
            mpp=cellularity.MPP,
            tissue="otsu",
            stain="haematoxylin and eosin",
        ),
        network={
            "coarse_factor": 4,
            "patch_size": 128,
            "instances": 6,
            **BEFORE,
            "focus": 64,
            "coarse_widths": [16, 32, 64, 96],
            "patch_widths": [16, 32, 64, 128],
            "dropout": 0.3,
        },
        # More instances, since slides are larger than fields; a little smoothing, since real slides are sharper.
        finished={"instances": 12, "smoothing": 0.6},
        about=cellularity.ABOUT,
        not_for=cellularity.NOT_FOR,
        checks=hot_spot_quality,
    ),
    "fungi": Recipe(
        name="fungi",
        make_fields=fungi.make_fields,
        config=TrainConfig(
            device="cpu",
            epochs=26,
            warm_up_epochs=0,
            batch_size=16,
            learning_rate=3e-3,
            weight_decay=1e-2,
            colour=0.5,
            stain="microscope photographs of fungi, unstained or lactophenol cotton blue",
        ),
        network={
            "coarse_factor": 2,
            "patch_size": 96,
            "instances": 2,
            **BEFORE,
            "focus": 128,
            "coarse_widths": [16, 32, 64, 128],
            "patch_widths": [16, 32, 64, 128],
            "dropout": 0.3,
        },
        finished={"instances": 8},
        about=fungi.ABOUT,
        not_for=fungi.NOT_FOR,
    ),
}


def build(
    name: str,
    data: Path,
    output: Path,
    *,
    seed: int = 0,
    command: str = "",
    say: Callable[[str], None] = lambda line: None,
    progress: BatchProgress = no_progress,
) -> Path:
    """Build a model and return its checkpoint folder, `OUTPUT/run/checkpoint`. Finished steps are skipped.

    Parameters
    ----------
    data
        Folder of the data sets, with `segment/` and `classify/` in it.
    output
        Receives `fields/` and `run/`.

    Raises
    ------
    UnknownNameError : unknown recipe.
    ManifestError : the data are missing.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    recipe = RECIPES[name]
    manifest = output / "fields" / "manifest.csv"
    made_of = {"recipe": name, "seed": seed}
    with claim(fields_output(output / "fields", made_of), overwrite=False) as there:
        if there.state is not State.COMPLETE:
            say("assembling fields")
            write_fields(output / "fields", recipe.make_fields(data, seed), made_of)
    say("training")
    summary = train(
        manifest,
        output / "run",
        recipe.config,
        recipe.network,
        RunOptions(name=name, command=command),
        progress=OneInput(progress),
        log=lambda record: say("  ".join(f"{key} {value:.4g}" for key, value in record.items())),
    )
    finish(summary.checkpoint, recipe.finished)
    say("evaluating")
    job = EvaluationJob(manifest, EvaluateConfig("test", seed), command, allow_out_of_distribution=True)
    reports, card = _evaluated(recipe, load_checkpoint(summary.checkpoint), job, progress)
    files.write_json(output / "evaluation.json", {name: report.record() for name, report in reports.items()})
    files.write_text(summary.checkpoint / CARD, card)
    return summary.checkpoint


def _evaluated(
    recipe: Recipe, checkpoint: Checkpoint, job: EvaluationJob, progress: BatchProgress
) -> tuple[dict[str, Report], str]:
    """Return the reports on the test rows by name, and the card."""
    evaluation, failures = evaluate_rows([checkpoint], job, progress)
    rows = read_manifest(job.manifest)
    report = evaluation.report(failures)
    baseline = evaluate_baseline(rows, checkpoint.spec.labels, job.config.seed)
    lines = [*recipe.checks(checkpoint, [row for row in rows if row.split == "test"])]
    if failures:
        lines.append(
            "Fields without a prediction, because no tissue was found, excluded from the figures of the model: "
            f"{len(failures)}."
        )
    texts, built = (recipe.about, recipe.not_for), f"`{job.command}` (seed {job.config.seed})"
    card = recipe_card(checkpoint, rows, (report, baseline), texts, lines, built)
    return {"model": report, "thumbnail_svm": baseline}, card


def finish(checkpoint: Path, options: Mapping[str, Json]) -> None:
    """Change configuration fields that the weights do not depend on, and drop the calibration of the old ones."""
    config = read_config(checkpoint)
    config["network"] |= options
    config["spec"]["calibration"] = {}
    files.write_json(checkpoint / CONFIG, config)


def evaluate_baseline(rows: Sequence[Row], labels: Sequence[str], seed: int) -> Report:
    """Evaluate the thumbnail baseline on the test rows."""
    testing, probabilities = baseline_answers(rows, labels, seed)
    true, patients = [labels.index(row.label) for row in testing], [row.patient for row in testing]
    origin = Origin("test", seed, "", {"name": "thumbnail SVM", "sha256": ""})
    return evaluate_predictions(true, probabilities, labels, patients, origin)


def baseline_answers(rows: Sequence[Row], labels: Sequence[str], seed: int) -> tuple[list[Row], NDArray[np.float64]]:
    """Train the thumbnail baseline on the train and val rows; return the test rows (n) and their probabilities (n,
    C).
    """
    learning = [row for row in rows if row.split != "test"]
    testing = [row for row in rows if row.split == "test"]
    probabilities = thumbnail_svm(
        np.stack([_thumbnail(row) for row in learning]),
        np.array([labels.index(row.label) for row in learning]),
        np.stack([_thumbnail(row) for row in testing]),
        len(labels),
        seed,
        groups=[row.patient for row in learning],
    )
    return testing, probabilities


def _thumbnail(row: Row) -> UInt8Array:
    with open_row(row) as slide:
        pixels = slide.read_region((0, 0), 0, slide.info.size0)
    return np.asarray(cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), np.uint8)
