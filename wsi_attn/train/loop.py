"""The training loop: epochs, validation and the learning-rate schedule, independent of the system."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from wsi_attn.errors import DivergedError
from wsi_attn.models.base import SlideModel
from wsi_attn.slide import Progress, no_progress
from wsi_attn.tasks.classification.care import TERM as CARE_TERM
from wsi_attn.tasks.classification.care import care_terms
from wsi_attn.tasks.classification.class_losses import focal_loss
from wsi_attn.tasks.classification.dataset import Dataset
from wsi_attn.tasks.clock import EpochClock
from wsi_attn.tasks.config import TrainConfig
from wsi_attn.tasks.steps import Step
from wsi_attn.train.averaging import averaged
from wsi_attn.train.distributed import gathered, share_buffers
from wsi_attn.train.state import TrainingState, load_state, save_state

if TYPE_CHECKING:
    from lightning_fabric import Fabric

WARM_UP = 0.1
"""Share of the steps in which the learning rate of "one-cycle" rises."""

GLOBAL_TERMS = ("global", "entropy", CARE_TERM)
"""Terms of the loss that count in the first epochs of `warm_up_epochs`: those that crops have no part in."""


class Batches(Protocol):
    """Training batches, with labels for images or for pixels."""

    def steps(self) -> int:
        """Batches of one training epoch on each rank."""
        ...

    def batches(self, epoch: int, *, training: bool, clock: EpochClock | None = None) -> Iterator[Step]:
        """Batches of one epoch."""
        ...


Validate = Callable[[SlideModel], dict[str, float]]
"""The columns of the log that begin with `val_`; `val_loss` among them decides which weights are kept."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of a split in row order: int64 labels (n,), float64 logits (n, C)."""

    labels: NDArray[np.int64]
    logits: NDArray[np.float64]

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """float64 (n, C), softmax of the logits."""
        return np.exp(self._log_probabilities())

    def loss(self, class_weights: NDArray[np.float64]) -> float:
        """Cross-entropy with class weights (C,)."""
        weights = class_weights[self.labels]
        losses = -self._log_probabilities()[np.arange(len(self.labels)), self.labels]
        return float((weights * losses).sum() / weights.sum())

    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that occur."""
        called = self.logits.argmax(axis=1)
        return float(np.mean([(called[self.labels == c] == c).mean() for c in np.unique(self.labels)]))

    def scores(self, class_weights: NDArray[np.float64]) -> dict[str, float]:
        """Return the validation metrics of an epoch; see `Validate`."""
        return {"val_loss": self.loss(class_weights), "val_balanced_accuracy": self.balanced_accuracy()}

    def _log_probabilities(self) -> NDArray[np.float64]:
        shifted = self.logits - self.logits.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


class Objective(nn.Module):
    """Map a batch to its named loss terms: the module that Fabric distributes over devices and precisions."""

    def __init__(self, network: SlideModel, class_weights: Tensor, config: TrainConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the loss terms of one batch; stores the number of patches read in `step`."""
        output = self.network(step.batch)
        step.patches = int(output.patch_mask.sum())
        labels, config = step.labels.to(output.logits.device), self.config
        terms = self.network.losses(output, labels, self.class_weights)
        if config.loss == "focal":
            terms["fused"] = focal_loss(output.logits, labels, self.class_weights, config.gamma)
        if step.lesions is not None:
            terms = care_terms(
                terms,
                output,
                labels,
                step.lesions,
                weight=config.care_weight,
                tau=config.care_tau,
                reduction=config.care_reduction,
                second_order=config.care_second_order,
            )
        return terms


def fit(
    fabric: Fabric,
    network: SlideModel,
    training: Batches,
    validate: Validate,
    config: TrainConfig,
    class_weights: Tensor,
    state_folder: Path,
    progress: Progress,
    log: Callable[[dict[str, float]], None],
) -> TrainingState:
    """Train to the end, resuming after the last complete epoch; the result contains the best weights.

    The first rank writes files and the log. `log` is called for every epoch, including those before an interruption.
    """
    fabric.to_device(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    average = averaged(network, config.averaging)
    smooth = cast(SlideModel, average.module)
    scaling = fabric.strategy.precision
    state = load_state(state_folder, network, average, optimizer, scaling)
    module, stepper = fabric.setup(Objective(network, class_weights, config), optimizer)
    for record in state.history:
        log(record)
    while state.epoch < config.epochs and not _has_stalled(state, config.patience):
        epoch = state.epoch
        # Dropout: a resumed epoch repeats its random numbers, and every rank has its own.
        torch.manual_seed(config.seed * 7919 + epoch + 15_485_863 * fabric.global_rank)
        for each in (network, smooth):
            each.begin_epoch(epoch, config.epochs)
        terms = train_epoch(fabric, module, stepper, average, training, config, state, progress)
        share_buffers(fabric, smooth)
        steps = training.steps()
        progress((epoch + 1) * steps, config.epochs * steps, f"training: epoch {epoch + 1}/{config.epochs}, validating")
        record = {"epoch": epoch + 1, **terms, **validate(smooth)}
        loss = record["val_loss"]
        state.history.append(record)
        state.epoch = epoch + 1
        if loss < state.best_loss:
            state.best_loss = loss
            state.best = {key: value.detach().clone() for key, value in smooth.state_dict().items()}
        if fabric.is_global_zero:
            save_state(state_folder, network, average, optimizer, scaling, state)
        log(record)
    return state


def train_epoch(
    fabric: Fabric,
    module: Any,
    stepper: Any,
    average: AveragedModel,
    dataset: Batches,
    config: TrainConfig,
    state: TrainingState,
    progress: Progress,
) -> dict[str, float]:
    """Run one epoch; return the mean of every loss term, the last learning rate and the timing.

    Parameters
    ----------
    module, stepper
        `Objective` and optimizer, set up by Fabric.
    """
    module.train()
    epoch, steps = state.epoch, dataset.steps()
    clock = EpochClock()
    sums: dict[str, float] = {}
    for step, item in enumerate(dataset.batches(epoch, training=True, clock=clock)):
        rate = learning_rate((epoch * steps + step) / (config.epochs * steps), config.learning_rate, config.schedule)
        for group in stepper.param_groups:
            group["lr"] = rate
        first = step // config.accumulate * config.accumulate
        together = min(config.accumulate, steps - first)
        last = step == first + together - 1
        with fabric.no_backward_sync(module, enabled=not last):
            terms = module(item)
            if epoch < config.warm_up_epochs:
                terms = {name: term for name, term in terms.items() if name in GLOBAL_TERMS}
            loss = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(loss):
                raise DivergedError(f"The loss became {loss.item()} in epoch {epoch + 1}; lower --learning-rate")
            fabric.backward(loss / together)
        if last:
            fabric.clip_gradients(module, stepper, max_norm=config.clip, error_if_nonfinite=False)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
            average.update_parameters(module.module.network)
        for name, value in {"loss": loss, **terms}.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        clock.images += len(item.rows)
        clock.patches += item.patches
        clock.sample(step, fabric.device)
        progress(epoch * steps + step + 1, config.epochs * steps, _said(state, config.epochs, loss.item()))
    means = {name: total / steps for name, total in sums.items()}
    return _over_ranks(fabric, means, clock.record()) | {"learning_rate": rate}


@torch.inference_mode()
def predict(fabric: Fabric, network: SlideModel, dataset: Dataset, progress: Progress = no_progress) -> Predictions:
    """Predict every row without augmentation, noise or dropout; each rank predicts its share."""
    network.eval()
    mine: list[tuple[int, int, NDArray[np.float64]]] = []
    rows = -(-len(dataset.rows) // fabric.world_size)
    progress(0, rows, "predicting")
    for item in dataset.batches(0, training=False):
        with fabric.autocast():
            logits = network(item.batch).logits.double().cpu().numpy()
        mine += [
            (row.number, label, values)
            for row, label, values in zip(item.rows, item.labels.tolist(), logits, strict=True)
        ]
        progress(len(mine), max(rows, len(mine)), "predicting")
    found = {number: (label, values) for number, label, values in gathered(fabric, mine)}
    predictions = [found[row.number] for row in dataset.rows]
    return Predictions(
        np.array([label for label, _ in predictions], np.int64), np.stack([values for _, values in predictions])
    )


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


def _has_stalled(state: TrainingState, patience: int) -> bool:
    """Return whether the validation loss has not improved for `patience` epochs; never for patience 0."""
    if not patience or not state.history:
        return False
    losses = [record["val_loss"] for record in state.history]
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
