"""Heads that start as logistic regressions on the features of pretrained backbones.

Fine-tuning from a random head distorts pretrained features, because its first gradients depend on the random weights;
fitting the head first avoids this (Kumar, Raghunathan, Jones, Ma, Liang, "Fine-Tuning can Distort Pretrained Features
and Underperform Out-of-Distribution", ICLR 2022, section 3).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

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


def solved(features: NDArray[np.float32], images: TrainingImages) -> LinearSolution:
    """Return the logistic regression of the labels on features, float32 (n, D), its strength chosen by
    cross-validation over patients.
    """
    return fit_logistic(features, images.labels.numpy(), images.patients, images.weights.numpy(), images.seed)


@torch.no_grad()
def take_solution(head: nn.Linear, solution: LinearSolution) -> None:
    """Copy a solution into a layer."""
    head.weight.copy_(torch.from_numpy(solution.weight))
    head.bias.copy_(torch.from_numpy(solution.bias))
