"""The map of all images: what it depends on, its special cases, and an oracle for its boundary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from wsi_attn.nn.global_map import DECAY, GlobalMap, PixelClassifier, pixel_features, standardised

G = 6


def drawn(kind: str, anchors: Tensor | None = None, side: int = 1, hidden: int = 8, seed: int = 0) -> GlobalMap:
    torch.manual_seed(seed)
    found = GlobalMap(kind, G, hidden, side, 2.0)
    found.begin(12 if anchors is None else 3 * len(anchors), anchors)
    return found


def images(count: int, seed: int = 0) -> Tensor:
    return 255 * torch.rand(count, 3, G, G, generator=torch.Generator().manual_seed(seed))


def classifier_of(found: GlobalMap) -> PixelClassifier:
    assert isinstance(found.learner, PixelClassifier)
    return found.learner


def test_features_of_a_pixel_are_what_all_images_show_there() -> None:
    stack = images(4)
    features = pixel_features(stack)
    assert features.shape == (1, 12, G, G)
    assert torch.equal(features[0, :, 2, 5], stack[:, :, 2, 5].flatten())
    even = standardised(stack)
    assert torch.allclose(even.mean(dim=(1, 2, 3)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(even.std(dim=(1, 2, 3), correction=0), torch.ones(4), atol=1e-5)
    assert standardised(torch.full((1, 3, G, G), 7.0)).abs().max() == 0


@pytest.mark.parametrize("kind", ["anchor", "free"])
def test_the_map_does_not_look_at_the_images_of_the_step(kind: str) -> None:
    found = drawn(kind, images(4) if kind == "anchor" else None).train()
    first, second = found(images(2, 1)), found(images(7, 2))
    assert torch.equal(first, second)
    assert first.shape == (1, 1, G, G)
    assert ((first > 0) & (first < 1)).all()


def test_without_a_map_every_pixel_counts_in_full() -> None:
    found = GlobalMap("none", G, 8, 1, 2.0)
    found.begin(12)
    assert list(found.parameters()) == []
    assert torch.equal(found.train()(images(4)), torch.ones(1, 1, G, G))
    found.eval().finish()
    assert torch.equal(found.values, torch.ones(1, 1, G, G))


def test_the_map_changes_with_the_anchors() -> None:
    one, other = drawn("anchor", images(4)), drawn("anchor", images(4, 9))
    assert torch.equal(one.learner.layers[0].weight, other.learner.layers[0].weight)
    assert not torch.equal(one(images(1)), other(images(1)))


def test_anchors_in_another_order_with_weights_in_that_order() -> None:
    stack = images(4)
    found = drawn("anchor", stack)
    before = found(stack)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        weight = classifier_of(found).layers[0].weight
        weight.copy_(weight.unflatten(1, (4, 3))[:, order].flatten(1, 2))
    found.anchors = pixel_features(standardised(stack[order]))
    assert torch.allclose(found(stack), before, atol=1e-6)


@pytest.mark.parametrize("side", [1, 3])
def test_shuffled_pixels_shuffle_the_map_where_pixels_stand_alone(side: int) -> None:
    stack = images(4)
    order = torch.randperm(G * G, generator=torch.Generator().manual_seed(1))
    shuffled = stack.flatten(2)[..., order].view(stack.shape)
    plain, moved = drawn("anchor", stack, side)(stack), drawn("anchor", shuffled, side)(stack)
    assert torch.allclose(plain.flatten()[order], moved.flatten(), atol=1e-6) is (side == 1)


def test_one_hot_features_and_a_linear_classifier_are_the_free_map() -> None:
    linear, free = GlobalMap("anchor", G, 0, 1, 0.0), GlobalMap("free", G, 0, 1, 0.0)
    linear.begin(G * G, torch.zeros(1, 1, G, G))
    free.begin(0)
    linear.anchors = torch.eye(G * G).view(1, G * G, G, G)
    weight = classifier_of(linear).layers[0].weight
    with torch.no_grad():
        weight.normal_(generator=torch.Generator().manual_seed(0))
        free.learner.logits.copy_(weight.view(1, 1, G, G))
    target = torch.rand(1, 1, G, G)
    maps = [found(images(1)) for found in (linear, free)]
    for found in maps:
        (found - target).square().sum().backward()
    assert torch.allclose(maps[0], maps[1], atol=1e-7)
    assert torch.allclose(weight.grad.flatten(), free.learner.logits.grad.flatten(), atol=1e-7)


def test_the_boundary_is_that_of_logistic_regression() -> None:
    generator = np.random.default_rng(0)
    important = np.zeros((G, G), bool)
    important[1:4, 2:5] = True
    features = generator.normal(size=(2, G, G)) + important  # two features of each of 36 pixels
    oracle = LogisticRegression(C=1.0, tol=1e-10).fit(features.reshape(2, -1).T, important.ravel())

    found = GlobalMap("anchor", G, 0, 1, 0.0)
    found.begin(2, torch.zeros(1, 2, G, G))
    found.anchors = torch.from_numpy(features).float()[None]
    layer, target = classifier_of(found).layers[0], torch.from_numpy(important).float()[None, None]
    optimizer = torch.optim.LBFGS(found.parameters(), max_iter=300, tolerance_grad=1e-9, tolerance_change=1e-12)

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = functional.binary_cross_entropy(found(target), target, reduction="sum")
        total = total + 0.5 * layer.weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    np.testing.assert_allclose(layer.weight.detach().flatten().numpy(), oracle.coef_[0], atol=2e-3)
    np.testing.assert_allclose(layer.bias.item(), oracle.intercept_[0], atol=2e-3)
    called = (found(target) > 0.5)[0, 0].numpy()
    assert (called.ravel() == oracle.predict(features.reshape(2, -1).T)).all()


def test_all_images_as_one_batch_are_the_anchors() -> None:
    stack = images(4)
    anchor, batch = drawn("anchor", stack), drawn("batch")
    batch.learner.load_state_dict(anchor.learner.state_dict())
    assert torch.equal(anchor(images(2, 5)), batch(stack))
    assert not torch.equal(batch(stack[[1, 0, 2, 3]]), batch(stack))


def test_a_moving_average_stands_for_the_maps_of_batches() -> None:
    found = drawn("batch").train()
    before = found.values.clone()
    learned = found(images(4)).detach()
    assert torch.allclose(found.values, DECAY * before + (1 - DECAY) * learned)
    kept = found.values.clone()
    assert torch.equal(found.eval()(images(3)), kept)


@pytest.mark.parametrize("kind", ["anchor", "batch", "free"])
def test_evaluation_gives_a_constant_that_outlives_the_classifier(kind: str) -> None:
    found = drawn(kind, images(4) if kind == "anchor" else None).train()
    learned = found(images(4)).detach()
    found.eval()
    kept = found(images(1, 3))
    assert not kept.requires_grad
    if kind != "batch":
        assert torch.equal(kept, learned)
    found.finish()
    assert torch.equal(found(images(2, 4)), kept)
    assert set(found.state_dict()) == {"values"}
    fresh = GlobalMap(kind, G, 8, 1, 2.0)
    fresh.load_state_dict(found.state_dict())
    assert torch.equal(fresh(images(1)), kept)


def test_weights_that_change_in_evaluation_count_from_the_next_on() -> None:
    found = drawn("anchor", images(4)).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1)
        found.values.fill_(0.5)
    learned = found.eval()(images(1))
    assert torch.equal(learned, found.train()(images(1)))


def test_a_frozen_map_gets_no_gradient() -> None:
    found = drawn("anchor", images(4)).train()
    found.keep()
    found.frozen = True
    weights = found(images(2))
    (weights * torch.ones(2, 3, G, G, requires_grad=True)).sum().backward()
    assert all(parameter.grad is None for parameter in found.parameters())
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.zero_()
    assert torch.equal(found(images(2)), weights)
    assert torch.equal(found.eval()(images(2)), weights)


def test_before_it_is_begun_the_map_is_even() -> None:
    found = GlobalMap("anchor", G, 8, 1, 2.0)
    assert torch.equal(found(images(2)), torch.full((1, 1, G, G), 2.0).sigmoid())
