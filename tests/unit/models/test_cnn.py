"""The plain baseline: its pooling by hand, its map, and that padding and blocks change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wsi_attn.models import coarse as coarse_view
from wsi_attn.models.checkpoint import load_checkpoint, save_checkpoint
from wsi_attn.models.cnn import Cnn, CnnConfig
from wsi_attn.models.spec import ModelSpec
from wsi_attn.testing.models import Field, batch_of, noise


def build(**options: Any) -> Cnn:
    """A network with statistics as after training, in evaluation."""
    torch.manual_seed(0)
    network = Cnn(CnnConfig(classes=3, **{"coarse_factor": 4, "coarse_widths": (8, 8), **options}))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.5, 0.5)
    return network.eval()


def test_deep_features_are_those_of_the_imagenet_classifier() -> None:
    options = {"backbone": "efficientnet-lite0", "coarse_factor": 1, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    shallow, deep = build(**options), build(feature_stride=32, **options)
    assert (shallow.stride, shallow.head.in_features) == (16, 112)
    assert (deep.stride, deep.head.in_features) == (32, 1280)
    batch = batch_of([noise(96, 64)], deep)
    with torch.no_grad():
        wanted = deep.head(deep.phi.pooled_features(deep.normalise(batch.coarse[:, :])))
        assert torch.allclose(deep(batch).logits, wanted, atol=1e-4)


class Forbidden(Field):
    """A field whose patches must not be read."""

    def read_patches(self, *_: Any) -> Any:
        raise AssertionError("a patch was read")


def test_logits_are_the_head_of_the_mean_feature() -> None:
    network = build()
    batch = batch_of([Forbidden(noise(96, 80).pixels)], network)
    mean, std = torch.tensor(0.5 * 255), torch.tensor(0.25 * 255)
    wanted = network.head(network.phi((batch.coarse - mean) / std).mean(dim=(2, 3)))
    assert torch.allclose(network(batch).logits, wanted, atol=1e-5)


def test_glass_and_padding_are_left_out_of_the_mean() -> None:
    network = build()
    batch = batch_of([noise(96, 80)], network)
    valid = torch.zeros_like(batch.valid)
    valid[0, 2, 3] = True
    output = network(replace(batch, valid=valid))
    assert torch.equal(output.attention, valid.float())
    assert output.evidence is not None
    centred = output.logits[0] - network.head.bias
    assert torch.allclose(output.evidence[0, :, 2, 3], centred - centred.mean(), atol=1e-5)

    fields = [noise(128, 160), noise(70, 49, 1)]
    together = network(batch_of(fields, network)).logits
    alone = torch.cat([network(batch_of([field], network)).logits for field in fields])
    assert torch.allclose(together, alone, atol=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(smoothing=0.7)
    batch = batch_of([noise(300, 410)], network)
    whole = network(batch)
    monkeypatch.setattr(coarse_view, "BLOCK_PIXELS", 20)
    parts = network(batch)
    assert torch.allclose(parts.logits, whole.logits, atol=1e-5)
    assert torch.allclose(parts.evidence, whole.evidence, atol=1e-5)


def test_every_parameter_gets_a_gradient_and_nothing_to_see_none() -> None:
    network = build().train()
    batch = batch_of([noise(96, 96), noise(96, 96, 1)], network)
    output = network(batch)
    assert output.evidence is None
    terms = network.losses(output, torch.tensor([0, 2]), torch.tensor([1.0, 1.0, 3.0]))
    assert set(terms) == {"fused"}
    terms["fused"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    empty = network(replace(batch, valid=torch.zeros_like(batch.valid)))
    assert empty.logits.isfinite().all()
    assert empty.attention.sum() == 0


def test_native_resolution_is_a_coarse_factor_of_one() -> None:
    network = build(coarse_factor=1)
    assert network.cell == network.stride == 4
    assert network(batch_of([noise(40, 52)], network)).attention.shape == (1, 10, 13)


def test_save_and_load_give_the_same_answers(tmp_path: Path) -> None:
    network = build()
    spec = ModelSpec(("a", "b", "c"), None, "any", "none")
    save_checkpoint(tmp_path / "m", name="m", system="cnn", network=network, spec=spec, card="# m", provenance={})
    loaded = load_checkpoint(tmp_path / "m")
    assert loaded.system == "cnn"
    assert loaded.network.config == network.config
    batch = batch_of([noise(96, 96)], network)
    assert torch.equal(loaded.network(batch).logits, network(batch).logits)


def test_learns_what_the_coarse_view_shows() -> None:
    network = build(coarse_widths=(8, 16), dropout=0.0).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    labels = torch.arange(8) % 2
    fields = [noise(64, 64, seed) for seed in range(8)]
    for field, label in zip(fields, labels.tolist(), strict=True):
        field.pixels[16:48, 16:48] = 200 * label
    for _ in range(15):
        loss = network.losses(network(batch_of(fields, network)), labels)["fused"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
