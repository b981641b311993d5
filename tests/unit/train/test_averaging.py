"""The moving average of weights: its first steps forget the beginning, its later ones keep to the decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsi_attn.train.averaging import averaged, warmed


def test_decay_grows_to_its_limit() -> None:
    assert warmed(0.99, 0) == pytest.approx(0.1)
    assert warmed(0.99, 90) == pytest.approx(0.91)
    assert warmed(0.99, 10_000) == 0.99
    assert warmed(0.0, 5) == 0.0


def test_follows_the_recursion() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = averaged(network, 0.9)
    expected = None
    for step, value in enumerate([4.0, 1.0, 3.0, -2.0]):
        with torch.no_grad():
            network.weight.fill_(value)
        average.update_parameters(network)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)


def test_a_short_run_forgets_its_random_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = averaged(network, 0.99)
    with torch.no_grad():
        network.weight.fill_(100.0)
    average.update_parameters(network)
    with torch.no_grad():
        network.weight.fill_(0.0)
    for _ in range(40):
        average.update_parameters(network)
    assert abs(average.module.weight.item()) < 0.01
