"""The training loop: one epoch, one validation, and the schedule between them. It knows no attention system."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wsi_attn.contract import Progress
from wsi_attn.errors import DivergedError
from wsi_attn.models.contract import SlideModel
from wsi_attn.train.config import TrainConfig
from wsi_attn.train.dataset import Dataset
from wsi_attn.train.state import Progression, load_state, save_state

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True)
class Answers:
    """A split's answers: int64 labels (n,), float64 probabilities (n, C), mean loss."""

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    loss: float


def fit(
    network: SlideModel,
    training: Dataset,
    validation: Dataset,
    config: TrainConfig,
    class_weights: Tensor,
    state_folder: Path,
    progress: Progress,
    log: Callable[[dict[str, float]], None],
) -> Progression:
    """Train to the end, from the last whole epoch if there was one; the best weights are in the result."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    smoothing = get_ema_multi_avg_fn(config.averaging)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=smoothing, use_buffers=True)
    smooth = cast(SlideModel, average.module)
    progression = load_state(state_folder, network, average, optimizer)
    for record in progression.history:
        log(record)
    while progression.epoch < config.epochs:
        epoch = progression.epoch
        torch.manual_seed(config.seed * 7919 + epoch)  # dropout; a resumed epoch draws what it would have drawn
        terms = train_epoch(network, average, training, optimizer, config, class_weights, epoch, progress)
        answers = answer(smooth, validation, class_weights)
        recalls = [
            float((answers.probabilities[answers.labels == c].argmax(axis=1) == c).mean())
            for c in np.unique(answers.labels)
        ]
        record = {
            "epoch": epoch + 1,
            **terms,
            "val_loss": answers.loss,
            "val_balanced_accuracy": float(np.mean(recalls)),
        }
        progression.history.append(record)
        progression.epoch = epoch + 1
        if answers.loss < progression.best_loss:
            progression.best_loss = answers.loss
            progression.best = {key: value.detach().clone() for key, value in smooth.state_dict().items()}
        save_state(state_folder, network, average, optimizer, progression)
        log(record)
    return progression


def train_epoch(
    network: SlideModel,
    average: AveragedModel,
    dataset: Dataset,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    class_weights: Tensor,
    epoch: int,
    progress: Progress,
) -> dict[str, float]:
    """One pass over the training part; the mean of every loss term."""
    network.train()
    steps = math.ceil(len(dataset.rows) / config.batch_size)
    sums: dict[str, float] = {}
    for step, item in enumerate(dataset.batches(epoch, training=True)):
        rate = learning_rate((epoch * steps + step) / (config.epochs * steps), config.learning_rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        terms = network.losses(network(item.batch), item.labels.to(config.device), class_weights)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise DivergedError(f"The loss became {loss.item()} in epoch {epoch + 1}; lower --learning-rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        average.update_parameters(network)
        for name, value in {"loss": loss, **terms}.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        progress(step + 1, steps, f"epoch {epoch + 1}/{config.epochs}, loss {loss.item():.3f}")
    return {name: total / (step + 1) for name, total in sums.items()}


@torch.inference_mode()
def answer(network: SlideModel, dataset: Dataset, class_weights: Tensor) -> Answers:
    """Answer every row without augmentation, noise or dropout."""
    network.eval()
    labels, probabilities, losses = [], [], []
    for item in dataset.batches(0, training=False):
        output = network(item.batch)
        targets = item.labels.to(output.logits.device)
        losses.append(network.losses(output, targets, class_weights)["fused"].item() * len(targets))
        labels.append(item.labels.numpy())
        probabilities.append(torch.softmax(output.logits.double(), dim=1).cpu().numpy())
    return Answers(np.concatenate(labels), np.concatenate(probabilities), sum(losses) / len(dataset.rows))


def learning_rate(done: float, peak: float) -> float:
    """Linear rise over the first tenth, then half a cosine to zero; `done` runs from 0 to 1."""
    if done < WARM_UP:
        return peak * (done + 1e-3) / (WARM_UP + 1e-3)
    return peak * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
