"""Fields whose class only high resolution shows: what reads key instances learns it, a coarse view alone does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from wsi_attn.models.base import SlideModel
from wsi_attn.models.systems import build_network
from wsi_attn.testing.models import Field, batch_of

FINE: dict[str, Any] = {
    "patch_size": 32,
    "instances": 2,
    "patch_widths": (12, 24),
    "exploration": 0.5,
    "entropy_weight": 0.0,
}


def glyph_field(label: int, seed: int) -> tuple[Field, tuple[int, int]]:
    """Grey noise with one 16 px glyph, bars upright or level: the same mean, told apart only at high resolution."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(120, 136, (96, 96, 3), dtype=np.uint8)
    x, y = (int(value) for value in rng.integers(8, 72, 2))
    bars = np.where(np.arange(16) % 4 < 2, 0, 120).astype(np.uint8)
    pixels[y : y + 16, x : x + 16] = (bars[None, :] if label else bars[:, None])[..., None]
    return Field(pixels), (x + 8, y + 8)


def trained(system: str, options: dict[str, Any]) -> SlideModel:
    torch.manual_seed(0)
    shared = {"classes": 2, "coarse_factor": 4, "coarse_widths": (8, 8), "dropout": 0.0}
    network = build_network(system, {**shared, **options})
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for step in range(50):
        labels = [index % 2 for index in range(16)]
        fields = [glyph_field(label, 1000 * step + index)[0] for index, label in enumerate(labels)]
        output = network(batch_of(fields, network, torch.Generator().manual_seed(step)))
        loss = sum(network.losses(output, torch.tensor(labels)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def scored(network: SlideModel) -> tuple[float, float]:
    """Share of new fields that are called right, and share whose heaviest patch is centred on the glyph."""
    labels = [index % 2 for index in range(64)]
    made = [glyph_field(label, 10_000_000 + index) for index, label in enumerate(labels)]
    with torch.inference_mode():
        output = network(batch_of([field for field, _ in made], network))
    right = (output.logits.argmax(1) == torch.tensor(labels)).float().mean().item()
    if not output.patch_mask.numel():
        return right, 0.0
    best = output.patch_attention.argmax(1)
    hits = []
    for index, (_, place) in enumerate(made):
        centre = output.patch_xy[index, best[index]] + output.patch_size[index, best[index]] // 2
        hits.append((torch.tensor(place) - centre).abs().max().item() <= 16)
    return right, float(np.mean(hits))


def test_the_main_model_learns_it_and_looks_there() -> None:
    right, hits = scored(trained("deep-attention", FINE))
    assert right > 0.95
    assert hits > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"selection": "sample", "instances": 4},
        {"heads": 2},
        {"branches": "local"},
    ],
)
def test_so_do_other_ways_to_read(options: dict[str, Any]) -> None:
    right, _ = scored(trained("deep-attention", {**FINE, **options}))
    assert right > 0.8


@pytest.mark.parametrize(("system", "options"), [("cnn", {}), ("deep-attention", {**FINE, "branches": "global"})])
def test_the_coarse_view_alone_stays_near_chance(system: str, options: dict[str, Any]) -> None:
    right, _ = scored(trained(system, options))
    assert right < 0.75
