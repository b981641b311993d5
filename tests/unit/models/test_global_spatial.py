"""Global spatial attention as a network: its equations, what training tells it, and a planted region."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from tests.unit.timm_here import NETWORK, timm_or_skip
from wsi_attn.errors import UnknownNameError, UsageError
from wsi_attn.models.base import TrainingImages
from wsi_attn.models.checkpoint import load_checkpoint, save_checkpoint
from wsi_attn.models.global_spatial import GlobalSpatial, GlobalSpatialConfig, balanced_choice, resized
from wsi_attn.models.spec import ModelSpec
from wsi_attn.testing.models import Field, batch_of, noise

SIZE = 16
STAGE = {"map_after": 2, "map_features": "stage", "map_by": "batch"}


def build(fields: list[Field] | None = None, labels: list[int] | None = None, **options: Any) -> GlobalSpatial:
    torch.manual_seed(0)
    config: dict[str, Any] = {"classes": 2, "view_size": SIZE, "coarse_widths": (8, 8), "map_hidden": 8}
    config |= {"map_after": 0, "map_features": "intensity", **options}
    network = GlobalSpatial(GlobalSpatialConfig(**config))
    if fields is not None:
        network.prepare(images_of(fields, labels or [index % 2 for index in range(len(fields))]))
    return network


def images_of(fields: list[Field], labels: list[int], batch_size: int = 4) -> TrainingImages:
    patients, weights = [str(index) for index in range(len(labels))], torch.ones(len(labels))
    return TrainingImages(
        torch.tensor(labels), lambda index: fields[index].pixels, batch_size, 0, patients, weights, list
    )


def fields(count: int, seed: int = 0) -> list[Field]:
    return [noise(SIZE, SIZE, 100 * seed + index) for index in range(count)]


def test_no_image_changes_another_images_map_or_answer() -> None:
    network = build(fields(6)).eval()
    alone, together = (network(batch_of(fields(count, 5), network)) for count in (1, 4))
    assert torch.equal(alone.attention[0], together.attention[0])
    assert torch.equal(together.attention[0], together.attention[3])
    assert torch.allclose(alone.logits[0], together.logits[0], atol=1e-6)
    other = build([*fields(5), noise(SIZE, SIZE, 99)]).eval()
    assert not torch.equal(other.map.values, network.map.values)  # another training image
    assert torch.equal(build(fields(6)).eval().map.values, network.map.values)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("map_after", [0, 1, 2])
def test_a_map_of_one_is_the_plain_network(residual: bool, map_after: int) -> None:
    network = build(map_by="free", map_after=map_after, residual=residual, unit_mean=False).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    network.map.values.fill_(0.0 if residual else 1.0)
    assert torch.equal(network.features(images, images), network.phi(images))
    network.map.values.fill_(0.5)
    assert not torch.allclose(network.features(images, images), network.phi(images))


@pytest.mark.parametrize("map_by", ["anchor", "batch", "free", "shuffled", "none"])
def test_training_starts_as_the_plain_network_where_the_sigmoid_has_slope(map_by: str) -> None:
    network = build(fields(4), map_by=map_by, map_after=2, map_features="stage").eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    network.map.values.fill_(0.5)  # a classifier starts near its bias
    torch.testing.assert_close(network.features(images, images), network.phi(images))
    assert GlobalSpatialConfig(classes=2).map_bias == 0


def test_anchors_are_described_by_the_stage_that_is_weighed() -> None:
    network = build(fields(5), map_after=1, map_features="stage")
    assert network.map.anchors is not None
    assert network.map.anchors.shape == (1, 5 * 8, SIZE // 2, SIZE // 2)
    assert network.training
    shuffled = build(fields(5), map_after=1, map_features="stage", map_by="shuffled")
    assert shuffled.map.anchors is not None
    assert not torch.equal(shuffled.map.anchors, network.map.anchors)
    torch.testing.assert_close(shuffled.map.anchors.sum(dim=(2, 3)), network.map.anchors.sum(dim=(2, 3)))


def test_the_log_tells_whether_a_map_was_learned() -> None:
    network = build(fields(4), map_by="free").eval()
    assert network.logged()["map/std"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        network.map.learner.logits[..., :4] += 1
    assert network.eval().logged()["map/std"] > 0.05


def test_the_image_is_weighed_and_nothing_else() -> None:
    network = build(unit_mean=False).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    network.map.values.copy_(torch.rand(1, 1, SIZE, SIZE))
    assert torch.allclose(network.features(images, images), network.phi(images * network.map.values), atol=1e-7)


def test_gradient_of_the_map_is_the_sum_over_images_and_channels() -> None:
    """dL/dm_p = sum_{n,c} X_cp dL/dX~_cp, by autograd and by finite differences."""
    network = build().double().eval()
    images = torch.randn(3, 3, SIZE, SIZE, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1])

    def loss_of(weighed: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(network.head(network.phi(weighed).mean(dim=(2, 3))), labels)

    weights = torch.rand(1, 1, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    weighed = (images * weights).detach().requires_grad_()
    loss_of(weighed).backward()
    loss_of(images * weights).backward()
    identity = (images * weighed.grad).sum(dim=(0, 1))
    assert torch.allclose(weights.grad[0, 0], identity, atol=1e-12)
    for row, column in ((0, 0), (7, 3), (15, 15)):
        change = torch.zeros_like(weights)
        change[0, 0, row, column] = 1e-5
        with torch.no_grad():
            slope = (loss_of(images * (weights + change)) - loss_of(images * (weights - change))) / 2e-5
        assert slope.item() == pytest.approx(identity[row, column].item(), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    "options", [{}, {"map_after": 1}, {"map_by": "batch"}, {"map_by": "free", "map_after": 2}, STAGE]
)
def test_every_parameter_learns_until_the_map_is_frozen(options: dict[str, Any]) -> None:
    network = build(fields(4), **options).train()
    labels, batch = torch.tensor([0, 1, 0, 1]), batch_of(fields(4), network)

    def gradients() -> dict[str, bool]:
        network.zero_grad()
        network.losses(network(batch), labels)["fused"].backward()
        return {name: parameter.grad is not None for name, parameter in network.named_parameters()}

    network.begin_epoch(0, 10)
    assert all(gradients().values())
    network.begin_epoch(8, 10)
    frozen = gradients()
    assert [name for name, got in frozen.items() if not got] == [name for name in frozen if name.startswith("map.")]
    kept = network.map.values.clone()
    network(batch_of(fields(4, 3), network))
    assert torch.equal(network.map.values, kept)
    network.eval()
    before = network(batch).logits
    network.finish()
    assert torch.equal(network(batch).logits, before)
    assert not [name for name in network.state_dict() if "learner" in name]


def test_a_run_that_goes_on_while_frozen_keeps_its_map() -> None:
    network = build(fields(4)).train()
    network.map.values.fill_(0.3)
    network.begin_epoch(9, 10)  # epoch 8 was before the kill
    assert (network(batch_of(fields(4), network)).attention > 0).all()
    assert (network.map.values == 0.3).all()
    whole = build(fields(4), map_freeze=0.0)
    whole.begin_epoch(9, 10)
    assert not whole.map.frozen


def test_views_of_any_size_come_to_one() -> None:
    network = build(fields(4)).eval()
    small = noise(24, 40)
    large = Field(small.pixels.repeat(3, axis=0).repeat(3, axis=1))
    output = network(batch_of([small, large], network))
    assert output.attention.shape == (2, 18, 30)
    assert output.evidence.shape == (2, 2, 18, 30)
    assert torch.allclose(output.attention.sum(dim=(1, 2)), torch.ones(2))
    assert (output.attention[0, 6:] == 0).all()
    assert torch.allclose(output.logits[0], output.logits[1], atol=0.05)
    alone = network(batch_of([small], network))
    assert torch.allclose(alone.logits[0], output.logits[0], atol=1e-6)
    glass = torch.zeros_like(alone.attention, dtype=torch.bool)
    empty = network(replace(batch_of([small], network), valid=glass))
    assert empty.attention.sum() == 0
    assert torch.equal(empty.logits, alone.logits)


@pytest.mark.parametrize(("height", "width"), [(130, 96), (64, 64), (1000, 700)])
def test_a_large_view_is_averaged_in_strips(height: int, width: int) -> None:
    ramp = torch.linspace(0, 255, height)[:, None] * 0.5 + torch.linspace(0, 255, width)[None] * 0.5
    view = ramp.round().to(torch.uint8).expand(1, 3, height, width)
    whole = torch.nn.functional.interpolate(view.float(), (16, 16), mode="bilinear", antialias=True)
    found = resized(view, 16)
    assert found.shape == (1, 3, 16, 16)
    assert (found - whole).abs().max() < 4
    even = resized(torch.full((1, 3, height, width), 90, dtype=torch.uint8), 16)
    assert torch.allclose(even, torch.full_like(even, 90.0))


def test_anchors_are_balanced_seeded_and_all_of_a_small_set() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    chosen = balanced_choice(labels, 16, seed=0)
    assert len(chosen) == len(set(chosen)) == 16
    assert labels[chosen].sum() == 8
    assert chosen == balanced_choice(labels, 16, seed=0) != balanced_choice(labels, 16, seed=1)
    assert labels[balanced_choice(labels, 40, seed=0)].sum() == 10
    assert balanced_choice(labels, 50, seed=0) == list(range(100))


def test_what_preparing_leaves() -> None:
    network = build()
    shared = noise(SIZE, SIZE).pixels.astype(float)
    alike = [Field((0.8 * shared + 0.2 * field.pixels).astype(np.uint8)) for field in fields(5)]
    assert network.prepare(images_of(alike, [0, 1, 0, 1, 0])) == ()
    assert network.alignment > 0.8
    mean = np.mean([field.pixels for field in alike], axis=0).transpose(2, 0, 1)
    np.testing.assert_allclose(network.mean_image.numpy(), mean, atol=1e-3)
    assert network.map.anchors.shape == (1, 15, SIZE, SIZE)
    (warning,) = build().prepare(images_of(fields(5), [0, 1, 0, 1, 0]))
    assert "share no layout" in warning


def test_save_and_load_give_the_same_answers(tmp_path: Path) -> None:
    network = build(fields(4)).eval()
    network.finish()
    spec = ModelSpec(("a", "b"), None, "any", "none")
    save_checkpoint(
        tmp_path / "m", name="m", system="global-spatial", network=network, spec=spec, card="", provenance={}
    )
    loaded = load_checkpoint(tmp_path / "m").network
    batch = batch_of(fields(2, 4), network)
    assert torch.equal(loaded(batch).logits, network(batch).logits)
    assert torch.equal(loaded(batch).attention, network(batch).attention)


@pytest.mark.parametrize("map_after", [0, 1, 3])
def test_a_backbone_of_timm_is_weighed_at_a_stage(map_after: int) -> None:
    timm_or_skip()
    network = build(view_size=64, backbone=f"timm:{NETWORK}", map_by="free", map_after=map_after).train()
    network.prepare(images_of([noise(64, 64, seed) for seed in range(4)], [0, 1, 0, 1]))
    assert network.map.grid == {0: 64, 1: 32, 3: 8}[map_after]
    output = network(batch_of([noise(64, 64), noise(64, 64, 1)], network))
    network.losses(output, torch.tensor([0, 1]))["fused"].backward()
    assert network.map.learner.logits.grad.abs().sum() > 0


def test_options_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="multiple of 4"):
        build(view_size=18)
    with pytest.raises(UsageError, match="stages 1 to 2"):
        build(map_after=3)
    with pytest.raises(UnknownNameError) as caught:
        build(map_by="anchors")
    assert "anchor" in caught.value.known
    with pytest.raises(UsageError, match="below 1"):
        build(map_freeze=1.0)


def planted(count: int, generator: np.random.Generator, *, moved: bool) -> tuple[list[Field], list[int]]:
    """Noise whose brightness in a square says the label; elsewhere it says nothing."""
    found, labels = [], []
    for index in range(count):
        pixels = generator.normal(128, 30, (SIZE, SIZE, 3))
        y, x = generator.integers(0, SIZE - 6, 2) if moved else (4, 8)
        pixels[y : y + 6, x : x + 6] += 60 if index % 2 else -60
        found.append(Field(pixels.clip(0, 255).astype(np.uint8)))
        labels.append(index % 2)
    return found, labels


def learned_map(map_by: str, *, moved: bool) -> np.ndarray:
    images, labels = planted(64, np.random.default_rng(0), moved=moved)
    network = build(images, labels, map_by=map_by, map_bias=0.0, dropout=0.0).train()
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    order = torch.Generator().manual_seed(0)
    for _ in range(60):
        chosen = torch.randperm(64, generator=order)[:32].tolist()
        output = network(batch_of([images[index] for index in chosen], network))
        loss = network.losses(output, torch.tensor([labels[index] for index in chosen]))["fused"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().map.values[0, 0].numpy()


def test_a_planted_region_is_found_where_it_stays() -> None:
    region = np.zeros((SIZE, SIZE), bool)
    region[4:10, 8:14] = True

    def found(map_by: str, *, moved: bool) -> float:
        return float(roc_auc_score(region.ravel(), learned_map(map_by, moved=moved).ravel()))

    important = learned_map("anchor", moved=False) > 0.5
    assert found("anchor", moved=False) > 0.95
    assert (important & region).sum() / (important | region).sum() > 0.5
    assert found("anchor", moved=True) < 0.85
    assert found("free", moved=False) < 0.8  # no pixel learns from another


@pytest.mark.parametrize("map_after", [0, 2])
def test_a_map_that_is_equal_everywhere_changes_nothing(map_after: int) -> None:
    network = build(fields(4), map_by="free", map_after=map_after).eval()
    batch = batch_of(fields(2, 5), network)
    answers = []
    for value in (0.1, 0.9):
        network.map.values.fill_(value)
        answers.append(network(batch).logits)
    assert torch.allclose(*answers, atol=1e-6)
