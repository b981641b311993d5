"""`wsi-attn evaluate`: metrics of a model on one split of a manifest, with confidence intervals."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import Machine, Write, folder
from wsi_attn.cli.output import Console, data, data_json, interval
from wsi_attn.cli.parameters import Only
from wsi_attn.errors import ExitCode
from wsi_attn.models.zoo import find_models
from wsi_attn.options import Option
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.config import EvaluateConfig

Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Run folder (with or without folds), checkpoint folder, or name of a shipped model."
    ),
]
Manifest = Annotated[Path, typer.Argument(help="CSV manifest with the columns path, label and split.")]


@dataclass(frozen=True)
class Target:
    """Where the report goes."""

    report: Annotated[
        Path | None,
        Option("Folder for report.html, report.json and predictions.csv.", metavar="FOLDER", check=folder),
    ] = None


def evaluate(
    model: Model,
    manifest: Manifest,
    settings: EvaluateConfig,
    passes: Annotated[PredictConfig, Only(("mc_dropout",))],
    target: Target,
    machine: Machine,
    write: Write,
) -> None:
    """Evaluate the predictions of a model against the labels of a manifest; confidence intervals resample patients."""
    folders, report = find_models(model), target.report
    from wsi_attn.inference.evaluation import evaluate_into
    from wsi_attn.models.checkpoint import load_checkpoint
    from wsi_attn.tasks.base import EvaluationJob

    console = Console(quiet=write.quiet)
    command = shlex.join(["wsi-attn", *sys.argv[1:]])
    job = EvaluationJob(manifest, settings, command, mc_dropout=passes.mc_dropout, allow_out_of_distribution=True)
    with console.progress("evaluate") as progress:
        place = machine.resolve()
        checkpoints = [load_checkpoint(folder, place) for folder in folders]
        found, failures = evaluate_into(
            report, checkpoints, job, overwrite=write.overwrite, progress=progress, say=console.info
        )
    for error in failures:
        console.fail(error)
    if report is not None:
        console.info(f"report: {report / 'report.html'}")
    data_json(found) if write.json else data("\n".join(as_text(found)))
    raise typer.Exit(ExitCode.SOME_FAILED if found["unanswered"] else ExitCode.DONE)


def as_text(report: Mapping[str, object]) -> Iterator[str]:
    """Yield one line per metric: name, value, interval."""
    yield f"n\t{report['n']}\tgroups\t{report['groups']}\tsplit\t{report['split']}"
    yield from _lines(report, "")


def _lines(section: Mapping[str, object], before: str) -> Iterator[str]:
    for name, found in section.items():
        if isinstance(found, dict) and name != "per_class":
            if {"value", "low", "high"} <= set(found):
                chance = f"\tchance\t{found['chance']:.3f}" if "chance" in found else ""
                yield f"{before}{name}\t{interval(found)}{chance}"
            else:
                yield from _lines(found, f"{before}{name} ")


COMMAND = Command("evaluate", evaluate)
