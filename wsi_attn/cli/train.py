"""`wsi-attn train`: a model from a manifest."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from wsi_attn.cli.options import Debug, Device, Json, Overwrite, Quiet, Seed, resolve_device
from wsi_attn.cli.output import Talk, data, data_json, interval

Manifest = Annotated[Path, typer.Argument(help="CSV with path and label, and where they apply split, patient, mpp.")]
System = Annotated[str, typer.Option("--model", "-m", help="Attention system to train.")]
Run = Annotated[Path, typer.Option("--output", "-o", help="Run folder.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the model; the run folder's by default.")]
Epochs = Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training part.")]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Images of one step.")]
Rate = Annotated[float, typer.Option("--learning-rate", help="Peak learning rate.")]
Mpp = Annotated[
    float | None, typer.Option("--mpp", help="Resolution to read at, µm/px; the images' own pixels by default.")
]
Tissue = Annotated[str, typer.Option("--tissue", help="Tissue detection: otsu, or none to look everywhere.")]
Stain = Annotated[str, typer.Option("--stain", help="Stain of the images, in words, stored with the model.")]
PatchSize = Annotated[int, typer.Option("--patch-size", min=16, help="Side of a key instance, high-resolution pixels.")]
CoarseFactor = Annotated[int, typer.Option("--coarse-factor", min=1, help="High-resolution pixels per coarse pixel.")]
Instances = Annotated[int, typer.Option("--instances", min=1, help="Most key instances that are read.")]
Colour = Annotated[float, typer.Option("--colour", min=0, help="Strength of colour augmentation; 0 is none.")]
Scale = Annotated[float, typer.Option("--scale", min=0, help="Strength of scale augmentation; 0 is none.")]
Validation = Annotated[float, typer.Option("--validation", min=0.01, max=0.9, help="Share of patients to validate on.")]


def train(
    manifest: Manifest,
    output: Run,
    model: System = "deep-attention",
    name: Name = None,
    epochs: Epochs = 40,
    batch_size: Batch = 8,
    learning_rate: Rate = 1e-3,
    mpp: Mpp = None,
    tissue: Tissue = "none",
    stain: Stain = "unspecified",
    patch_size: PatchSize = 128,
    coarse_factor: CoarseFactor = 8,
    instances: Instances = 8,
    colour: Colour = 1.0,
    scale: Scale = 0.0,
    validation: Validation = 0.2,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a model on the images of a manifest, split by patient."""
    from wsi_attn.models.systems import SYSTEMS
    from wsi_attn.train.config import TrainConfig
    from wsi_attn.train.run import train as train_run

    SYSTEMS.get(model)
    config = TrainConfig(
        system=model,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        colour=colour,
        scale=scale,
        validation=validation,
        mpp=mpp,
        tissue=tissue,
        stain=stain,
        seed=seed,
        device=resolve_device(device),
    )
    network = {"patch_size": patch_size, "coarse_factor": coarse_factor, "instances": instances}
    talk = Talk(quiet=quiet)
    with talk.progress("train") as progress:
        summary = train_run(
            manifest,
            output,
            config,
            network,
            name=name,
            command=shlex.join(["wsi-attn", *sys.argv[1:]]),
            overwrite=overwrite,
            progress=progress,
            log=lambda record: talk.say(as_line(record)),
        )
    if summary.state == "skipped":
        talk.say(f"{output} is complete already; --overwrite trains anew")
    talk.say(f"checkpoint: {summary.checkpoint}")
    if json:
        data_json(
            {"run": str(summary.run), "checkpoint": str(summary.checkpoint), "state": summary.state, **summary.metrics}
        )
    else:
        data(f"{summary.checkpoint}\tbalanced_accuracy\t{interval(summary.metrics['balanced_accuracy'])}")


def as_line(record: dict[str, float]) -> str:
    """One epoch's record for people."""
    return "  ".join(f"{key} {value:.4g}" for key, value in record.items())
