"""`wsi-attn evaluate`: metrics of a model on one split of a manifest, with confidence intervals."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wsi_attn.cli.output import Console, data, data_json, interval
from wsi_attn.cli.typed_options import (
    Debug,
    Device,
    Json,
    McDropout,
    Overwrite,
    Quiet,
    Seed,
    Threads,
    check_folder_option,
)
from wsi_attn.devices import resolve_device
from wsi_attn.errors import ExitCode, UsageError
from wsi_attn.models.zoo import find_models

Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Run folder (with or without folds), checkpoint folder, or name of a shipped model."
    ),
]
Manifest = Annotated[Path, typer.Argument(help="CSV manifest with the columns path, label and split.")]
Split = Annotated[str, typer.Option("--split", help="Rows to evaluate: train, val, test or all.")]
Sensitivity = Annotated[
    float | None,
    typer.Option(
        "--sensitivity",
        help="Target sensitivity of --positive, above 0 and at most 1; the threshold comes from the validation set.",
    ),
]
Positive = Annotated[str | None, typer.Option("--positive", metavar="LABEL", help="Positive label for --sensitivity.")]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FOLDER",
        callback=check_folder_option,
        help="Folder for report.html, report.json and predictions.csv.",
    ),
]


def evaluate(
    model: Model,
    manifest: Manifest,
    split: Split = "test",
    sensitivity: Sensitivity = None,
    positive: Positive = None,
    mc_dropout: McDropout = 0,
    report: Report = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    json: Json = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Evaluate the predictions of a model against the labels of a manifest; confidence intervals resample patients."""
    if (sensitivity is None) != (positive is None):
        raise UsageError("--sensitivity and --positive must be used together")
    folders = find_models(model)
    from wsi_attn.inference.evaluation import Evaluation, evaluate_into
    from wsi_attn.models.checkpoint import load_checkpoint
    from wsi_attn.tasks.classification.slide import PredictConfig

    console = Console(quiet=quiet)
    wanted = Evaluation(manifest, split, seed, sensitivity, positive, shlex.join(["wsi-attn", *sys.argv[1:]]))
    with console.progress("evaluate") as progress:
        place = resolve_device(device)
        checkpoints = [load_checkpoint(folder, place) for folder in folders]
        config = PredictConfig(allow_out_of_distribution=True, mc_dropout=mc_dropout, seed=seed)
        found, failures = evaluate_into(report, checkpoints, wanted, config, overwrite=overwrite, progress=progress)
    for error in failures:
        console.fail(error)
    if report is not None:
        console.info(f"report: {report / 'report.html'}")
    data_json(found) if json else data("\n".join(as_text(found)))
    raise typer.Exit(ExitCode.SOME_FAILED if found["unanswered"] else ExitCode.DONE)


def as_text(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per metric: name, value, interval."""
    yield f"n\t{report['n']}\tgroups\t{report['groups']}\tsplit\t{report['split']}"
    yield from _lines(report, "")


def _lines(section: Mapping[str, Any], before: str) -> Iterator[str]:
    for name, found in section.items():
        if isinstance(found, dict) and name != "per_class":
            if {"value", "low", "high"} <= set(found):
                chance = f"\tchance\t{found['chance']:.3f}" if "chance" in found else ""
                yield f"{before}{name}\t{interval(found)}{chance}"
            else:
                yield from _lines(found, f"{before}{name} ")
