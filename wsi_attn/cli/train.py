"""`wsi-attn train`: train a model from a manifest."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Any

from wsi_attn.cli import train_options as opt
from wsi_attn.cli.output import LOG, Console, data, data_json, interval
from wsi_attn.cli.typed_options import Debug, Device, Json, Overwrite, Quiet, Seed, Threads
from wsi_attn.devices import resolve_device
from wsi_attn.errors import UsageError
from wsi_attn.threads import thread_limit


def train(
    manifest: opt.Manifest,
    output: opt.Run,
    model: opt.System = "deep-attention",
    name: opt.Name = None,
    validation: opt.Validation = 0.2,
    folds: opt.Folds = 0,
    mpp: opt.Mpp = None,
    tissue: opt.Tissue = "none",
    prior: opt.Prior = "tissue",
    stain: opt.Stain = "unspecified",
    colour: opt.Colour = 1.0,
    scale: opt.Scale = 0.0,
    random_crop: opt.RandomCrop = 0.0,
    no_flip: opt.NoFlip = False,
    warp: opt.Warp = None,
    classes: opt.Classes = None,
    coarse_factor: opt.CoarseFactor = None,
    patch_size: opt.PatchSize = None,
    instances: opt.Instances = None,
    selection: opt.Selection = None,
    threshold: opt.Threshold = None,
    heads: opt.Heads = None,
    no_gate: opt.NoGate = False,
    branches: opt.Branches = None,
    uniform_sampling: opt.UniformSampling = False,
    exploration: opt.Exploration = None,
    entropy_weight: opt.EntropyWeight = None,
    guidance_weight: opt.GuidanceWeight = None,
    backbone: opt.Backbone = None,
    patch_backbone: opt.PatchBackbone = None,
    weights: opt.Weights = "none",
    attention: opt.Attention = None,
    crop: opt.Crop = None,
    second_backbone: opt.SecondBackbone = None,
    fusion: opt.Fusion = None,
    view_size: opt.ViewSize = None,
    map_by: opt.MapBy = None,
    map_after: opt.MapAfter = None,
    anchors: opt.Anchors = None,
    map_side: opt.MapSide = None,
    map_residual: opt.MapResidual = False,
    map_bias: opt.MapBias = None,
    map_freeze: opt.MapFreeze = None,
    coarse_widths: opt.CoarseWidths = None,
    patch_widths: opt.PatchWidths = None,
    dropout: opt.Dropout = None,
    epochs: opt.Epochs = 40,
    patience: opt.Patience = 0,
    warm_up_epochs: opt.WarmUp = 0,
    batch_size: opt.Batch = 8,
    accumulate: opt.Accumulate = 1,
    learning_rate: opt.Rate = 1e-3,
    schedule: opt.Schedule = "one-cycle",
    weight_decay: opt.Decay = 1e-3,
    averaging: opt.Averaging = 0.99,
    clip: opt.Clip = 1.0,
    class_weights: opt.Balance = "root",
    loss: opt.Loss = "cross-entropy",
    gamma: opt.Gamma = 2.0,
    beta: opt.Beta = 0.999,
    resample: opt.Resample = "none",
    care: opt.Care = "none",
    care_model: opt.CareModel = "",
    rare_classes: opt.RareClasses = "auto",
    care_weight: opt.CareWeight = 0.01,
    care_tau: opt.CareTau = 0.5,
    care_distance: opt.CareDistance = 0.0,
    care_reduction: opt.CareReduction = "sum",
    care_after: opt.CareAfter = 0,
    care_second_order: opt.CareSecondOrder = False,
    seed: Seed = 0,
    device: Device = "auto",
    precision: opt.Precision = "auto",
    threads: Threads = None,
    cache_mb: opt.CacheMb = 3072,
    tensorboard: opt.TensorBoard = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a model on the images of a manifest, split by patient.

    Network options default to those of the chosen system. An interrupted run resumes when the command is rerun. To use
    several devices: torchrun --nproc-per-node N -m wsi_attn train ...
    """
    network = {
        "coarse_factor": coarse_factor,
        "patch_size": patch_size,
        "instances": instances,
        "selection": selection,
        "threshold": threshold,
        "heads": heads,
        "gated": False if no_gate else None,
        "branches": branches,
        "sampling": "uniform" if uniform_sampling else None,
        "exploration": exploration,
        "entropy_weight": entropy_weight,
        "guidance_weight": guidance_weight,
        "backbone": backbone,
        "patch_backbone": patch_backbone,
        "attention": attention,
        "crop": crop,
        "second_backbone": second_backbone,
        "fusion": fusion,
        "view_size": view_size,
        "map_by": map_by,
        "map_after": _stage(map_after),
        "anchors": anchors,
        "map_side": map_side,
        "residual": True if map_residual else None,
        "map_bias": map_bias,
        "freeze": map_freeze,
        "coarse_widths": _widths("--coarse-widths", coarse_widths),
        "patch_widths": _widths("--patch-widths", patch_widths),
        "dropout": dropout,
    }
    from wsi_attn.models.base import SEGMENTATION
    from wsi_attn.models.systems import task_of
    from wsi_attn.tasks.config import Resources, TrainConfig
    from wsi_attn.train.folds import cross_validate
    from wsi_attn.train.run import train as train_run
    from wsi_attn.train.segmentation import train_segmentation

    config = TrainConfig(
        system=model,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=learning_rate,
        schedule=schedule,
        weight_decay=weight_decay,
        averaging=averaging,
        clip=clip,
        warm_up_epochs=warm_up_epochs,
        patience=patience,
        class_weights=class_weights,
        loss=loss,
        gamma=gamma,
        beta=beta,
        resample=resample,
        care=care,
        care_model=care_model,
        rare_classes=_names(rare_classes),
        care_weight=care_weight,
        care_tau=care_tau,
        care_distance=care_distance,
        care_reduction=care_reduction,
        care_after=care_after,
        care_second_order=care_second_order,
        colour=colour,
        scale=scale,
        random_crop=random_crop,
        no_flip=no_flip,
        warp=1.0 if warp is None else warp,
        validation=validation,
        folds=folds,
        mpp=mpp,
        tissue=tissue,
        prior=prior,
        stain=stain,
        seed=seed,
        device=resolve_device(device),
        precision=precision,
    )
    first = os.environ.get("RANK", "0") == "0"  # Only the first process of torchrun prints.
    if not first:
        LOG.clear()
    console = Console(quiet=quiet or not first)
    arguments: dict[str, Any] = {
        "weights": weights,
        "name": name,
        "command": shlex.join(["wsi-attn", *sys.argv[1:]]),
        "overwrite": overwrite,
        "resources": Resources(thread_limit() if threads else None, cache_mb, tensorboard),
        "log": lambda record: console.info(as_line(record)),
        "say": console.info,
    }
    options = {key: value for key, value in network.items() if value is not None}
    segmenting = task_of(model) == SEGMENTATION
    if not segmenting and (classes is not None or warp is not None):
        option = "--warp" if classes is None else "--classes"
        raise UsageError(f"--model {model} classifies whole images; remove {option}")
    summary: Any
    with console.progress("train") as progress:
        if folds and not segmenting:
            summary = cross_validate(manifest, output, config, options, progress=progress, **arguments)
        else:
            with progress.item(1, 1, output.name) as item:
                if segmenting:
                    arguments["classes"] = classes
                train_one = train_segmentation if segmenting else train_run
                summary = train_one(manifest, output, config, options, progress=item, **arguments)
                item.state = summary.state
    if first:
        report(summary, console, json=json)


def report(summary: Any, console: Console, *, json: bool) -> None:
    """Print the checkpoint paths to stderr and the metrics to stdout."""
    checkpoints = [folder / "checkpoint" for folder in getattr(summary, "folds", [summary.run])]
    if summary.state == "skipped":
        console.info(f"{summary.run} is already complete; use --overwrite to train again")
    for checkpoint in checkpoints:
        console.info(f"checkpoint: {checkpoint}")
    place = {"checkpoint": str(checkpoints[0])} if len(checkpoints) == 1 else {"checkpoints": [*map(str, checkpoints)]}
    if json:
        data_json({"run": str(summary.run), **place, "state": summary.state, **summary.metrics})
    else:
        said = checkpoints[0] if len(checkpoints) == 1 else summary.run
        metric = "dice" if "dice" in summary.metrics else "balanced_accuracy"
        data(f"{said}\t{metric}\t{interval(summary.metrics[metric])}")


def as_line(record: dict[str, float]) -> str:
    """Format the record of one epoch for the terminal."""
    return "  ".join(f"{key} {value:.4g}" for key, value in record.items())


def _names(text: str) -> tuple[str, ...]:
    """Split comma-separated class names; empty for auto."""
    return () if text == "auto" else tuple(filter(None, map(str.strip, text.split(","))))


def _stage(text: str | None) -> int | None:
    """Parse --map-after: the number of a stage, 0 for the input."""
    if text is None or text == "input":
        return None if text is None else 0
    if not text.isdecimal():
        raise UsageError(f"--map-after takes input or the number of a stage, not {text!r}")
    return int(text)


def _widths(option: str, text: str | None) -> list[int] | None:
    """Parse the channels of a small backbone: at least one positive integer."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"{option} takes positive integers separated by commas, not {text!r}")
    return [int(part) for part in parts]
