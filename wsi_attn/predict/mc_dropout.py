"""Monte-Carlo dropout: the answer of a system drawn many times with its dropout on, from one look at the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_attn.errors import UsageError
from wsi_attn.models.base import SlideModel

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@contextmanager
def dropout_on(network: nn.Module) -> Iterator[None]:
    """Within the block dropout layers draw as in training; every other layer stays as it is, batch norm above all.

    Raises
    ------
    UsageError : the network has no dropout.
    """
    layers = [module for module in network.modules() if isinstance(module, DROPOUTS) and module.p > 0]
    if not layers:
        raise UsageError("--mc-dropout: the model was trained without dropout, so that all passes would be alike")
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.train(mode)


def dropout_passes(network: SlideModel, pooled: Tensor | None, count: int, seed: int) -> NDArray[np.float64]:
    """Probabilities of every pass, float64 (count, C).

    Systems have dropout in front of their heads alone, so that only the head is repeated: this equals `count` passes of
    the whole network. The draws hang on the seed and not on what was drawn before.

    Parameters
    ----------
    pooled
        float (1, P), `SlideOutput.pooled` of one slide.

    Raises
    ------
    UsageError : the system has no dropout before its answer.
    """
    if pooled is None:
        raise UsageError(f"--mc-dropout: {type(network).__name__} has no dropout before its answer")
    devices = [pooled.device] if pooled.device.type == "cuda" else []
    with torch.inference_mode(), dropout_on(network), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        logits = network.decide(pooled.expand(count, -1))
    return np.asarray(torch.softmax(logits.double(), dim=1).cpu().numpy())
