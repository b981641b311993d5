"""Losses for imbalanced classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def focal_loss(logits: Tensor, labels: Tensor, class_weights: Tensor, gamma: float) -> Tensor:
    """Cross-entropy with less weight on well-classified images.

    FL = sum_i w_i (1 - p_i)^gamma (- log p_i) / sum_i w_i,   p_i the probability of the true class, w_i its weight

    Equation 5 of Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, with softmax in
    place of the sigmoid. gamma 0 is the weighted cross-entropy.

    Parameters
    ----------
    logits
        float (B, C).
    labels
        int64 (B,).
    class_weights
        float (C,).
    gamma
        At least 0.
    """
    log_p = functional.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
    # 1 - p by expm1: a power below 1 has no slope at the 0 that 1 - exp would round to.
    easy = (-log_p.clamp(max=-1e-7).expm1()) ** gamma
    weights = class_weights[labels]
    return (weights * easy * -log_p).sum() / weights.sum()


def effective_number_weights(counts: NDArray[np.int64], beta: float) -> NDArray[np.float64]:
    """Return class weights from the effective number of images.

    w_c = (1 - beta) / (1 - beta^n_c)

    Equation 11 of Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
    beta 0 gives equal weights; beta close to 1 gives the inverse frequency.

    Parameters
    ----------
    counts
        int64 (C,), n_c, at least 1.
    beta
        From 0 to below 1.

    Returns
    -------
    float64 (C,), not yet scaled.
    """
    return np.asarray((1 - beta) / -np.expm1(counts * np.log1p(beta - 1))) if beta > 0 else np.ones(len(counts))
