"""The training loop: epochs, validation and the learning-rate schedule, independent of system and task."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from wsi_attn.errors import DivergedError
from wsi_attn.models.base import Network
from wsi_attn.models.systems import trained_backbones
from wsi_attn.tasks.base import Fitting, Losses, TrainingJob
from wsi_attn.tasks.clock import EpochClock
from wsi_attn.tasks.ranks import gathered
from wsi_attn.tasks.steps import Step
from wsi_attn.train.averaging import averaged
from wsi_attn.train.distributed import share_buffers
from wsi_attn.train.groups import Freezing, parameter_groups, warm_up_epochs
from wsi_attn.train.remembering import Remembering
from wsi_attn.train.state import TrainingState, load_state, save_state

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule

FEATURES = "features"
"""Folder of the maps of frozen stages in a run folder."""

WARM_UP = 0.1
"""Share of the steps in which the learning rate of "one-cycle" rises."""


class Objective(nn.Module):
    """Map a batch to its named loss terms: the module that Fabric distributes over devices and precisions."""

    def __init__(self, network: Network, losses: Losses) -> None:
        super().__init__()
        self.network = network
        self.losses = losses

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the loss terms of one batch."""
        return self.losses(self.network, step)


def fit(
    job: TrainingJob,
    network: Network,
    fitting: Fitting,
    state_folder: Path,
    log: Callable[[dict[str, float]], None],
) -> TrainingState:
    """Train to the end, resuming after the last complete epoch; the result contains the best weights.

    The first rank writes files and the log. `log` is called for every epoch, including those before an interruption.
    """
    fabric, config, progress = job.fabric, job.config, job.progress
    fabric.to_device(network)
    trained = trained_backbones(network, job.options.weights)
    freezing = Freezing(trained, config, warm_up_epochs(config, network))
    optimizer = torch.optim.AdamW(map(dict, parameter_groups(network, trained, config)), lr=config.learning_rate)
    average = averaged(network, config.averaging)
    smooth = cast(Network, average.module)
    scaling = fabric.strategy.precision
    state = load_state(state_folder, network, average, optimizer, scaling)
    module, stepper = fabric.setup(Objective(network, fitting.losses), optimizer)
    remembering = Remembering(
        network, smooth, trained, config, job.options.resources.cache_mb << 20, state_folder.parent / FEATURES
    )
    if remembering:
        fitting.repeat(config.augmented_copies)
    for record in state.history:
        log(record)
    settled = max(fitting.settled, warm_up_epochs(config, network))
    while state.epoch < config.epochs and not _has_stalled(state, config.patience, settled):
        epoch = state.epoch
        # Dropout: a resumed epoch repeats its random numbers, and every rank has its own.
        torch.manual_seed(config.seed * 7919 + epoch + 15_485_863 * fabric.global_rank)
        for each in (network, smooth):
            each.begin_epoch(epoch, config.epochs)
        module.train()
        freezing.begin_epoch(epoch)
        remembering.begin_epoch(freezing.stages(epoch))
        terms = train_epoch(job, module, stepper, average, fitting, state)
        share_buffers(fabric, smooth)
        steps = fitting.steps()
        progress((epoch + 1) * steps, config.epochs * steps, f"training: epoch {epoch + 1}/{config.epochs}, validating")
        record = {"epoch": epoch + 1, **terms, **fitting.validate(smooth), **smooth.logged()}
        loss = record["val_loss"]
        state.history.append(record)
        state.epoch = epoch + 1
        if loss < state.best_loss or epoch == settled:
            state.best_loss = loss
            state.best = {key: value.detach().clone() for key, value in smooth.state_dict().items()}
        if fabric.is_global_zero:
            save_state(state_folder, network, average, optimizer, scaling, state)
        log(record)
    remembering.close()
    return state


def train_epoch(
    job: TrainingJob,
    module: _FabricModule,
    stepper: torch.optim.Optimizer,
    average: AveragedModel,
    fitting: Fitting,
    state: TrainingState,
) -> dict[str, float]:
    """Run one epoch; return the mean of every loss term, the last learning rate and the timing.

    Parameters
    ----------
    module, stepper
        `Objective` and optimizer, set up by Fabric.
    """
    fabric, config, progress = job.fabric, job.config, job.progress
    epoch, steps = state.epoch, fitting.steps()
    clock, warm_up = EpochClock(), warm_up_epochs(config, cast(Objective, module.module).network)
    sums: dict[str, float] = {}
    for step, item in enumerate(fitting.batches(epoch, clock)):
        rate = learning_rate((epoch * steps + step) / (config.epochs * steps), config.learning_rate, config.schedule)
        for group in stepper.param_groups:
            group["lr"] = rate * group["share"]
        first = step // config.accumulate * config.accumulate
        together = min(config.accumulate, steps - first)
        last = step == first + together - 1
        with fabric.no_backward_sync(module, enabled=not last):
            terms = module(item)
            if epoch < warm_up:
                terms = {name: term for name, term in terms.items() if name in fitting.losses.early} or terms
            loss = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(loss):
                raise DivergedError(f"The loss became {loss.item()} in epoch {epoch + 1}; lower --learning-rate")
            fabric.backward(loss / together)
        if last:
            fabric.clip_gradients(module, stepper, max_norm=config.clip, error_if_nonfinite=False)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
            average.update_parameters(cast(Objective, module.module).network)
        for name, value in {"loss": loss, **terms}.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        clock.images += len(item.rows)
        clock.patches += item.patches
        clock.sample(step, fabric.device)
        progress(epoch * steps + step + 1, config.epochs * steps, _said(state, config.epochs, loss.item()))
    means = {name: total / steps for name, total in sums.items()}
    return _over_ranks(fabric, means, clock.record()) | {"learning_rate": rate}


def learning_rate(done: float, peak: float, schedule: str = "one-cycle") -> float:
    """Return the learning rate after a share `done` (0 to 1) of all steps.

    "one-cycle" rises linearly over the first tenth and then follows half a cosine to zero; "cosine" decays from the
    start; "constant" is `peak`.
    """
    if schedule == "constant":
        return peak
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    if done < WARM_UP:
        return peak * (done + 1e-3) / (WARM_UP + 1e-3)
    return peak * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _has_stalled(state: TrainingState, patience: int, settled: int) -> bool:
    """Return whether the validation loss from epoch `settled` on has not improved for `patience` epochs, unless 0."""
    losses = [record["val_loss"] for record in state.history[settled:]]
    if not patience or not losses:
        return False
    return len(losses) - 1 - int(np.argmin(losses)) >= patience


def _said(state: TrainingState, epochs: int, loss: float) -> str:
    """Return the progress text: epoch, loss and, after the first epoch, the last validation."""
    said = f"training: epoch {state.epoch + 1}/{epochs}, loss {loss:.3f}"
    if not state.history:
        return said
    scores = {name: value for name, value in state.history[-1].items() if name.startswith("val_")}
    validation = ", ".join(
        f"{name.removeprefix('val_').replace('_', ' ')} {score:.3f}" for name, score in scores.items()
    )
    return f"{said}; validation {validation}"


def _over_ranks(fabric: Fabric, means: dict[str, float], timing: dict[str, float]) -> dict[str, float]:
    """Average over all ranks; rates are summed because ranks run concurrently."""
    records = gathered(fabric, [means | timing])
    return {
        name: float(sum(record[name] for record in records)) / (1 if name.endswith("_per_second") else len(records))
        for name in records[0]
    }
