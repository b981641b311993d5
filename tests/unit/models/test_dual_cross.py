"""Dual cross-attention as a network: its taps, its ablations, padding, and that every part learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.timm_here import timm_or_skip
from wsi_attn.errors import UnknownNameError, UsageError
from wsi_attn.models import dual_cross
from wsi_attn.models.checkpoint import load_checkpoint, save_checkpoint
from wsi_attn.models.dual_cross import DualCross, DualCrossConfig
from wsi_attn.models.spec import ModelSpec
from wsi_attn.models.systems import build_network
from wsi_attn.options import option_fields
from wsi_attn.testing.models import Field, batch_of, noise

FUSIONS = option_fields(DualCrossConfig)["fusion"].option.choices

SMALL: dict[str, Any] = {
    "classes": 3, "coarse_widths": (4, 8, 8, 12), "widths": (8, 16), "heads": 2, "fused_width": 16, "hidden": 8,
    "most_keys": 20,
}  # fmt: skip


def build(**options: Any) -> DualCross:
    """A network whose gammas are not 0, so that cross-attention counts, in evaluation."""
    torch.manual_seed(0)
    network = DualCross(DualCrossConfig(**{**SMALL, **options}))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    return network.eval()


@pytest.mark.parametrize("size", [(224, 224), (380, 380), (96, 160)])
def test_taps_align_at_both_levels(size: tuple[int, int]) -> None:
    network = build()
    padded = tuple(-(-extent // 16) * 16 for extent in size)
    fine, coarse = network.tapped(torch.zeros(1, 3, *padded))
    for maps, stride in ((fine, 8), (coarse, 16)):
        assert [found.shape[2:] for found in maps] == [(padded[0] // stride, padded[1] // stride)] * 2
    grid, places = network.encode(torch.zeros(1, 3, *size), torch.ones(1, padded[0] // 16, padded[1] // 16) > 0)
    assert grid.shape == (1, 16, padded[0] // 16, padded[1] // 16)
    assert places.shape == grid.shape[:1] + grid.shape[2:]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_second_network_may_see_the_image_coarsely(fusion: str) -> None:
    """Its maps are smaller; the answer keeps the grid of the first, and has a gradient to every parameter."""
    network = build(fusion=fusion, second_factor=4).train()
    batch = batch_of([noise(100, 140), noise(60, 90, 1)], network)
    output = network(batch)
    assert output.attention.shape == (2, 7, 9)
    assert output.attention.sum(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    network.losses(output, torch.tensor([0, 1]))["fused"].backward()
    still = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert all(name.endswith("key.bias") for name in still)  # a softmax does not see a shift
    fine, _ = network.tapped(torch.zeros(1, 3, 112, 144))
    sizes = {"first": [(14, 18)], "second": [(4, 6)]}.get(fusion, [(14, 18), (4, 6)])
    assert [tuple(found.shape[2:]) for found in fine] == sizes


def test_each_network_sees_its_own_normalisation() -> None:
    torch.manual_seed(0)
    own, other = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    network = build(fusion="second", mean=own[0], std=own[1], second_mean=other[0], second_std=other[1])
    alone = build(fusion="second", mean=other[0], std=other[1])
    batch = batch_of([noise(64, 64)], network)
    torch.testing.assert_close(network(batch).logits, alone(batch).logits)


def test_the_second_normalisation_is_that_of_its_weights() -> None:
    timm_or_skip()
    config = {"classes": 2, "backbone": "efficientnet-lite0", "second_backbone": "timm:resnet18"}
    assert DualCross.completed(config)["second_mean"] == (0.485, 0.456, 0.406)
    assert "second_mean" not in DualCross.completed({**config, "mean": (0.5, 0.5, 0.5)})
    assert DualCross.former == {"second_mean": None, "second_std": None}


def test_the_gate_of_an_empty_convolution_takes_the_mean() -> None:
    level = build().coarse
    with torch.no_grad():
        level.merge.weight.zero_()
        level.merge.bias.zero_()
    e, r = torch.randn(2, 16, 4, 5), torch.randn(2, 16, 4, 5)
    allowed = torch.ones(2, 4, 5, dtype=torch.bool)
    crossed = level.cross(e, r, allowed, allowed)
    assert torch.allclose(level.fused([e, r], allowed), (crossed[0] + crossed[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_gets_a_gradient(fusion: str) -> None:
    network = build(fusion=fusion, dropout=0.0).train()
    output = network(batch_of([noise(96, 96, seed) for seed in range(3)], network))
    network.losses(output, torch.tensor([0, 1, 2]))["fused"].backward()
    still = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    still += [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum()]
    # The bias of a key adds the same to all logits of a query.
    assert all(name.endswith("key.bias") for name in still)


def test_what_the_ablations_leave_out() -> None:
    images = torch.randn(1, 3, 64, 64)
    allowed = torch.ones(1, 4, 4, dtype=torch.bool)
    names = {fusion: {name for name, _ in build(fusion=fusion).named_parameters()} for fusion in FUSIONS}
    assert not any(".cross." in name for fusion in FUSIONS[1:] for name in names[fusion])
    assert any("networks.1" in name for name in names["concat"])
    assert not any("networks.1" in name for fusion in ("first", "second") for name in names[fusion])
    assert type(build(fusion="second").networks[0]) is type(build().networks[1])

    cross = build()
    shut = build()
    with torch.no_grad():
        for level in (shut.fine, shut.coarse):
            level.cross.first.gamma.zero_()
            level.cross.second.gamma.zero_()
    assert not torch.allclose(cross.encode(images, allowed)[0], shut.encode(images, allowed)[0], atol=1e-5)


def test_padding_and_glass_change_no_answer() -> None:
    network = build()
    fields = [noise(128, 160), noise(70, 49, 1)]
    together = network(batch_of(fields, network))
    alone = torch.cat([network(batch_of([field], network)).logits for field in fields])
    assert torch.allclose(together.logits, alone, atol=1e-5)
    assert together.attention.shape == (2, 8, 10)
    assert together.evidence.shape == (2, 3, 8, 10)
    assert torch.allclose(together.attention.sum(dim=(1, 2)), torch.ones(2))
    assert (together.attention[1, 5:] == 0).all()
    assert torch.allclose(together.evidence.mean(dim=1), torch.zeros(2, 8, 10), atol=1e-6)

    batch = batch_of(fields[:1], network)
    valid = batch.valid.clone()
    valid[:, :, 5:] = False
    output = network(replace(batch, valid=valid))
    assert (output.attention[:, :, 5:] == 0).all()
    empty = network(replace(batch, valid=torch.zeros_like(valid)))
    assert empty.logits.isfinite().all()
    assert empty.attention.sum() == 0


def test_evidence_of_one_cell_is_the_answer_to_it() -> None:
    network = build()
    batch = batch_of([noise(64, 64)], network)
    valid = torch.zeros_like(batch.valid)
    valid[0, 1, 2] = True
    output = network(replace(batch, valid=valid))
    centred = output.logits[0] - output.logits[0].mean()
    assert torch.allclose(output.evidence[0, :, 1, 2], centred, atol=1e-5)


def test_the_networks_of_the_paper_where_timm_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for here, wanted in ((True, dual_cross.PUBLISHED), (False, dual_cross.OURS)):
        monkeypatch.setattr(dual_cross, "timm_is_here", lambda here=here: here)
        found = DualCross.completed({"classes": 2})
        assert (found["backbone"], found["second_backbone"]) == wanted
        assert DualCross.completed({"backbone": "small"})["backbone"] == "small"


def test_networks_of_timm_are_tapped_by_stride() -> None:
    timm_or_skip()
    names = {"backbone": "timm:test_efficientnet", "second_backbone": "timm:test_resnet"}
    network = build_network("dual-cross", {**SMALL, **names}).train()
    output = network(batch_of([noise(96, 80), noise(96, 80, 1)], network))
    network.losses(output, torch.tensor([0, 1]))["fused"].backward()
    assert output.attention.shape == (2, 6, 5)
    published = build_network("dual-cross", {"classes": 2, "backbone": "timm:efficientnet_b4",
                                             "second_backbone": "timm:resnet34"})  # fmt: skip
    assert published.config.mean == (0.485, 0.456, 0.406)
    assert [level.projections[0][0].in_channels for level in (published.fine, published.coarse)] == [56, 160]
    assert [level.projections[1][0].in_channels for level in (published.fine, published.coarse)] == [128, 256]


def test_save_and_load_give_the_same_answers(tmp_path: Path) -> None:
    network = build_network("dual-cross", {**SMALL, "backbone": "small-resnet", "second_backbone": "small-densenet"})
    network.eval()
    spec = ModelSpec(("a", "b", "c"), None, "any", "none")
    save_checkpoint(tmp_path / "m", name="m", system="dual-cross", network=network, spec=spec, card="", provenance={})
    loaded = load_checkpoint(tmp_path / "m").network
    assert loaded.config == network.config
    batch = batch_of([noise(64, 64)], network)
    assert torch.equal(loaded(batch).logits, network(batch).logits)


def test_options_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="do not divide"):
        build(heads=3)
    with pytest.raises(UnknownNameError) as caught:
        build(fusion="crossed")
    assert "cross" in caught.value.known
    with pytest.raises(UsageError, match="no stage of stride 16"):
        build(coarse_widths=(8, 8, 8))


def test_learns_in_a_few_steps() -> None:
    network = build(classes=2, dropout=0.0).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    labels = torch.arange(8) % 2
    fields: list[Field] = [noise(64, 64, seed) for seed in range(8)]
    for field, label in zip(fields, labels.tolist(), strict=True):
        field.pixels[16:48, 16:48] = 200 * label
    for _ in range(12):
        loss = network.losses(network(batch_of(fields, network)), labels)["fused"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
