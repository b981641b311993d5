"""`wsi-attn train`: train a model from a manifest."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import Write, folder
from wsi_attn.cli.output import LOG, Console, data, data_json, interval
from wsi_attn.cli.parameters import Given, Made, make
from wsi_attn.errors import PluginError, UsageError
from wsi_attn.models.configs import CONFIGS, SEGMENTATION, config_of, task_of
from wsi_attn.models.configs.common import AUTO
from wsi_attn.options import Option, option_fields
from wsi_attn.tasks.config import DATA, Resources, RunOptions, TrainConfig, applies
from wsi_attn.threads import thread_limit

if TYPE_CHECKING:
    from typer._click import Context, Parameter

    from wsi_attn.train.run import TrainSummary

SYSTEM, ANY = "wsi_attn.system", ""
"""Where a context keeps the system whose options it has, and the value for those of all systems."""

ASKED = "wsi_attn.asked"
"""Whether the command line or the file of --config names the system."""

Manifest = Annotated[
    Path,
    typer.Argument(
        help="CSV manifest with the columns path and label, and optionally split, patient, mpp, regions, boxes or mask."
    ),
]


@dataclass(frozen=True)
class Target:
    """What is written, and what training begins with."""

    output: Annotated[Path, Option("Run folder: logs, metrics and the checkpoint.", aliases=("-o",), check=folder)]
    name: Annotated[str | None, Option("Name stored with the model.", default="the name of the run folder")] = None
    classes: Annotated[
        str | None,
        Option(
            "Mask classes, background first; VALUE is the pixel value in mask images.",
            metavar="NAME[=VALUE],...",
            panel=DATA,
            task=SEGMENTATION,
        ),
    ] = None
    weights: Annotated[
        str,
        Option(
            "Initial weights: imagenet (EfficientNet-Lite), pretrained (also timm), a safetensors file, none, or auto "
            "(imagenet where installed). One for all backbones, or one for each.",
            metavar="auto|none|imagenet|pretrained|FILE[,...]",
        ),
    ] = AUTO


class TrainCommand(Command):
    """The command, which has the options of the system that `--model` names.

    The command line is read twice: once with the options of all systems, for the name of the system and for options of
    another system, and once with those of the system.
    """

    def __init__(self) -> None:
        super().__init__("train", train)
        self._systems: dict[str, Made] = {}

    def made(self, ctx: Context | None = None) -> Made:
        """The parameters of one system, or of all of them."""
        return self._of(ctx.meta.get(SYSTEM, TrainConfig.system) if ctx is not None else ANY)

    def _of(self, system: str) -> Made:
        if system not in self._systems:
            self._systems[system] = self._all() if system == ANY else self._one(system)
        return self._systems[system]

    def _one(self, system: str) -> Made:
        target, training = option_fields(Target).values(), option_fields(TrainConfig).values()
        foreign = [field.name for field in target if field.option.task not in ("", task_of(system))]
        foreign += [field.name for field in training if not applies(field, system)]
        return make(self.function, config_of(system), foreign)

    def _all(self) -> Made:
        made = [self._of(system) for system in usable_systems()]
        params = {parameter.name: parameter for each in made for parameter in each.params}
        fields = {name: field for each in made for name, field in each.fields.items()}
        return Made(list(params.values()), made[0].call, fields)

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Find the system, refuse the options of others, and parse.

        Raises
        ------
        UsageError : an option of another system.
        UnknownNameError : there is no such system.
        """
        ctx.meta[SYSTEM] = ANY
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        given = {**(ctx.default_map or {}), **given}
        ctx.meta[ASKED] = "system" in given
        ctx.meta[SYSTEM] = given.get("system") or TrainConfig.system
        if not ctx.resilient_parsing:
            self._refuse(ctx.meta[SYSTEM], given)
        elif ctx.meta[SYSTEM] not in CONFIGS:
            ctx.meta[SYSTEM] = TrainConfig.system
        return super().parse_args(ctx, args)

    def _refuse(self, system: str, given: Iterable[str]) -> None:
        fields, own = self.made().fields, self._of(system).fields
        for name in given:
            if name in fields and name not in own:
                owners = [other for other in usable_systems() if name in self._of(other).fields]
                raise UsageError(
                    f"--model {system} has no option {fields[name].flag}, which belongs to --model "
                    f"{' and '.join(owners)}; remove it"
                )

    def shown(self, ctx: Context) -> list[Parameter]:
        """Return the parameters in the help: without --model only those that all systems have."""
        params = super().shown(ctx)
        own = [] if ctx.meta.get(ASKED) else self.own(TrainConfig.system)
        return [parameter for parameter in params if parameter not in own]

    def own(self, system: str) -> list[Parameter]:
        """Return the parameters of a system that not all systems have."""
        made, network = self._of(system), option_fields(config_of(system))
        names = {name for name, field in made.fields.items() if field.option.task or name in network}
        return [parameter for parameter in made.params if parameter.name in names]


def usable_systems() -> list[str]:
    """Names of the systems whose configuration can be imported; a package that is broken does not stop the others."""
    found = []
    for system in CONFIGS.names():
        with contextlib.suppress(PluginError):
            config_of(system)
            found.append(system)
    return found


def train(
    manifest: Manifest, target: Target, config: TrainConfig, network: Given, resources: Resources, write: Write
) -> None:
    """Train a model on the images of a manifest, split by patient.

    A system has further options: `wsi-attn train --model NAME --help` shows them with their defaults. An interrupted
    run resumes when the command is rerun. To use several devices: torchrun --nproc-per-node N -m wsi_attn train ...
    """
    from wsi_attn.tasks.base import TASKS
    from wsi_attn.train.run import train as train_run

    first = os.environ.get("RANK", "0") == "0"  # Only the first process of torchrun prints.
    if not first:
        LOG.clear()
    console = Console(quiet=write.quiet or not first)
    options = RunOptions(
        name=target.name,
        weights=target.weights,
        classes=target.classes,
        command=shlex.join(["wsi-attn", *sys.argv[1:]]),
        overwrite=write.overwrite,
        resources=replace(resources, workers=thread_limit() if write.threads else None),
    )
    with console.progress("train") as progress:
        summary = train_run(
            manifest,
            target.output,
            config,
            network,
            options,
            progress=progress,
            log=lambda record: console.info(as_line(record)),
            say=console.info,
        )
    if first:
        report(summary, TASKS.get(task_of(config.system)).measure, console, json=write.json)


def report(summary: TrainSummary, measure: str, console: Console, *, json: bool) -> None:
    """Print the checkpoint paths to stderr and the metrics to stdout."""
    checkpoints = summary.checkpoints
    if summary.state == "skipped":
        console.skipped(summary.run, "train")
    for checkpoint in checkpoints:
        console.info(f"checkpoint: {checkpoint}")
    place = {"checkpoint": str(checkpoints[0])} if len(checkpoints) == 1 else {"checkpoints": [*map(str, checkpoints)]}
    if json:
        data_json({"run": str(summary.run), **place, "state": summary.state, **summary.metrics})
    else:
        said = checkpoints[0] if len(checkpoints) == 1 else summary.run
        data(f"{said}\t{measure}\t{interval(cast('dict[str, float | None]', summary.metrics[measure]))}")


def as_line(record: dict[str, float]) -> str:
    """Format the record of one epoch for the terminal, without groups of curves, whose names have a slash."""
    return "  ".join(f"{key} {value:.4g}" for key, value in record.items() if "/" not in key)


COMMAND = TrainCommand()
