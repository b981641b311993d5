"""Heads that start as logistic regressions on what they read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.unit.models.test_gradients import DEEP, SIDE, SMALL, SPATIAL, named
from wsi_attn.models.base import BagBatch, SlideModel, TrainingImages
from wsi_attn.models.head_start import solve_heads
from wsi_attn.models.systems import build_network
from wsi_attn.testing.models import batch_of, noise

COUNT = 24


def tinted(seed: int) -> Any:
    """Noise, with more red or more blue by its label, which is the parity of the seed."""
    field = noise(SIDE, SIDE, seed=seed)
    field.pixels[..., 2 * (seed % 2)] //= 2
    return field


@pytest.mark.parametrize(
    "variant",
    [
        ("cnn", SMALL),
        ("global-spatial", SPATIAL),
        *(("deep-attention", {**DEEP, "branches": branches}) for branches in ("both", "global", "local")),
    ],
    ids=named,
)
def test_solved_heads_answer_before_training(variant: tuple[str, dict[str, Any]]) -> None:
    torch.manual_seed(0)
    network = build_network(variant[0], {"classes": 2, **variant[1]}, "none")
    assert isinstance(network, SlideModel)
    fields, labels = [tinted(seed) for seed in range(COUNT)], torch.arange(COUNT) % 2

    def batches() -> Iterator[BagBatch]:
        for first in range(0, COUNT, 4):
            yield batch_of(fields[first : first + 4], network)

    patients = [str(index) for index in range(COUNT)]
    images = TrainingImages(labels, lambda index: fields[index].pixels, 4, 0, patients, torch.ones(COUNT), batches)
    network.prepare(images)
    network.train()
    solve_heads(network, images)
    assert network.training
    with torch.inference_mode():
        outputs = [network.eval()(batch) for batch in batches()]
    assert torch.equal(torch.cat([output.logits for output in outputs]).argmax(dim=1), labels)
    if variant[1].get("branches") in ("both", "global"):
        found = torch.cat([output.global_logits for output in outputs if output.global_logits is not None])
        assert torch.equal(found.argmax(dim=1), labels)


def test_a_system_without_linear_heads_keeps_its_own() -> None:
    network = build_network("probe", {"classes": 2, "backbone": "small"}, "none")
    assert isinstance(network, SlideModel)
    assert network.linear_heads() == []
