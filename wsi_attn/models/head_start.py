"""Heads that start as logistic regressions on the features of pretrained backbones.

A head with random weights first moves the features of a pretrained backbone towards what random weights ask for; one
that is solved beforehand leaves them in place (Kumar, Raghunathan, Jones, Ma, Liang, "Fine-tuning can distort
pretrained features and underperform out-of-distribution", ICLR 2022, section 3).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wsi_attn.models.base import SlideModel, TrainingImages
from wsi_attn.models.logistic import LinearSolution, fit_logistic


@torch.inference_mode()
def solve_heads(network: SlideModel, images: TrainingImages) -> None:
    """Give each of `SlideModel.linear_heads` the weights of a logistic regression on what it reads of the training
    images, as they are before training.
    """
    heads = network.linear_heads()
    if not heads:
        return
    training = network.training
    network.eval()
    parts = [network(batch).pooled for batch in images.batches()]
    network.train(training)
    pooled = torch.cat([part for part in parts if part is not None]).float().cpu().numpy()
    for head, columns in heads:
        take_solution(head, solved(pooled[:, columns], images))


def solved(features: np.ndarray, images: TrainingImages) -> LinearSolution:
    """Return the logistic regression of the labels on features, float32 (n, D), its strength chosen by
    cross-validation over patients.
    """
    return fit_logistic(features, images.labels.numpy(), images.patients, images.weights.numpy(), images.seed)


@torch.no_grad()
def take_solution(head: nn.Linear, solution: LinearSolution) -> None:
    """Copy a solution into a layer."""
    for value, found in ((head.weight, solution.weight), (head.bias, solution.bias)):
        value.copy_(_tensor(found))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
