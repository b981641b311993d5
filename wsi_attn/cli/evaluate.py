"""`wsi-attn evaluate`: metrics of a model on one split of a manifest, each with its interval."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wsi_attn.cli.options import Debug, Device, Json, Quiet, Seed, Workers, resolve_device
from wsi_attn.cli.output import Talk, data, data_json, interval
from wsi_attn.models.zoo import find_model

Model = Annotated[
    str, typer.Argument(metavar="RUN", help="A training run, a checkpoint folder, or a shipped model's name.")
]
Manifest = Annotated[Path, typer.Argument(help="CSV with path, label and split.")]
Split = Annotated[str, typer.Option("--split", help="train, val, test, or all rows with `all`.")]


def evaluate(
    model: Model,
    manifest: Manifest,
    split: Split = "test",
    seed: Seed = 0,
    json: Json = False,
    device: Device = "auto",
    workers: Workers = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare a model's answers with the labels of a manifest; intervals resample patients."""
    folder = find_model(model)
    from wsi_attn.models.checkpoint import load_checkpoint
    from wsi_attn.predict.cohort import evaluate_manifest
    from wsi_attn.predict.slide import PredictConfig

    talk = Talk(quiet=quiet)
    config = PredictConfig(ignore_fit=True, workers=workers)
    command = shlex.join(["wsi-attn", *sys.argv[1:]])
    with talk.progress("evaluate") as progress:
        checkpoint = load_checkpoint(folder, resolve_device(device))
        report, failures = evaluate_manifest(
            checkpoint, manifest, split, config, seed=seed, command=command, progress=progress
        )
    talk.total = report["n"] + len(failures)
    for error in failures:
        talk.fail(error)
    data_json(report) if json else data(as_text(report))
    raise typer.Exit(talk.exit_code())


def as_text(report: dict[str, Any]) -> str:
    """One line a metric: name, value, interval."""
    lines = [f"n\t{report['n']}\tgroups\t{report['groups']}\tsplit\t{report['split']}"]
    for name, found in report.items():
        if isinstance(found, dict) and {"value", "low", "high"} <= set(found):
            lines.append(f"{name}\t{interval(found)}")
    return "\n".join(lines)
