"""Monte-Carlo dropout: repeated stochastic predictions from one forward pass over the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_attn.errors import UsageError
from wsi_attn.models.base import Network

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@contextmanager
def dropout_on(network: nn.Module) -> Iterator[None]:
    """Enable dropout layers within the block; all other layers, in particular batch norm, stay in evaluation mode.

    Raises
    ------
    UsageError : the network has no dropout.
    """
    if not any(isinstance(module, DROPOUTS) and module.p > 0 for module in network.modules()):
        raise UsageError("--mc-dropout: the model was trained without dropout, so all passes would be equal")
    with dropout_set(network, active=True):
        yield


@contextmanager
def dropout_set(network: nn.Module, *, active: bool) -> Iterator[None]:
    """Enable or disable the dropout layers within the block; all other layers keep their modes."""
    layers = [module for module in network.modules() if isinstance(module, DROPOUTS)]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.train(active)
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.train(mode)


def dropout_passes(network: Network, pooled: Tensor | None, count: int, seed: int) -> NDArray[np.float64]:
    """Return the probabilities of every pass, float64 (count, C).

    Systems have dropout only before their heads, so that repeating the head equals `count` passes of
    the whole network. The random draws depend only on the seed.

    Parameters
    ----------
    pooled
        float (1, P), `SlideOutput.pooled` of one slide.

    Raises
    ------
    UsageError : the system has no dropout before its head.
    """
    if pooled is None:
        raise UsageError(f"--mc-dropout: {type(network).__name__} has no dropout before its head")
    devices = [pooled.device] if pooled.device.type == "cuda" else []
    with torch.inference_mode(), dropout_on(network), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        logits = network.decide(pooled.expand(count, -1))
    return np.asarray(torch.softmax(logits.double(), dim=1).cpu().numpy())
