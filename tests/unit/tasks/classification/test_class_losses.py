"""Focal loss, class-balanced weights and resampling against what they are by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from wsi_attn.data.manifest import Row
from wsi_attn.data.slide_cache import SlideCache
from wsi_attn.errors import UnknownNameError, UsageError
from wsi_attn.models.cnn import Cnn, CnnConfig
from wsi_attn.tasks.classification.class_losses import effective_number_weights, focal_loss
from wsi_attn.tasks.classification.dataset import Dataset, GuidedStep
from wsi_attn.tasks.classification.resampling import resampled
from wsi_attn.tasks.classification.training import ClassificationLosses, class_weights
from wsi_attn.tasks.config import TrainConfig
from wsi_attn.testing.models import batch_of, noise
from wsi_attn.train.loop import Objective

EVEN = torch.ones(2)


@pytest.mark.parametrize(("p", "gamma"), [(0.5, 2.0), (0.9, 2.0), (0.9, 0.5), (0.2, 5.0)])
def test_focal_loss_of_one_image(p: float, gamma: float) -> None:
    logits = torch.tensor([[math.log(p), math.log(1 - p)]])
    assert focal_loss(logits, torch.tensor([0]), EVEN, gamma).item() == pytest.approx(
        (1 - p) ** gamma * -math.log(p), rel=1e-5
    )


def test_focal_loss_of_lin_et_al_for_a_well_answered_image() -> None:
    """With gamma 2, p 0.9 counts 100 times less than in the cross-entropy, as the paper says."""
    logits, labels = torch.tensor([[math.log(9.0), 0.0]]), torch.tensor([0])
    ratio = functional.cross_entropy(logits, labels) / focal_loss(logits, labels, EVEN, 2.0)
    assert ratio.item() == pytest.approx(100, rel=1e-4)


def test_focal_loss_without_gamma_is_the_weighted_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(20, 4), torch.randint(0, 4, (20,)), torch.rand(4) + 0.1
    wanted = functional.cross_entropy(logits, labels, weights)
    assert torch.allclose(focal_loss(logits, labels, weights, 0.0), wanted)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_focal_loss_is_smooth_even_where_the_answer_is_sure(gamma: float) -> None:
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels, weights = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, labels, weights, gamma), logits)
    sure = torch.tensor([[60.0, -60.0, 0.0]], requires_grad=True)
    loss = focal_loss(sure, labels[:1], weights.float(), gamma)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert sure.grad is not None
    assert sure.grad.isfinite().all()


def test_effective_numbers() -> None:
    counts = np.array([1, 10, 1000])
    assert effective_number_weights(counts, 0.0) == pytest.approx([1, 1, 1])
    found = effective_number_weights(counts, 0.9)
    assert found == pytest.approx([1, 0.1 / (1 - 0.9**10), 0.1 / (1 - 0.9**1000)])
    nearly = effective_number_weights(counts, 1 - 1e-9)
    assert nearly / nearly[2] == pytest.approx([1000, 100, 1], rel=1e-4)


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=5), st.sampled_from(["balanced", "root"]), st.integers(0, 1000)
)
def test_resampling_shows_as_many_images_and_shares_them_out(counts: list[int], kind: str, seed: int) -> None:
    classes = np.repeat(np.arange(len(counts)), counts)
    total = len(classes)
    found = resampled(classes, kind, np.random.default_rng(seed))
    assert len(found) == len(set(found.tolist())) == total
    shown = np.bincount(classes[found % total], minlength=len(counts))
    power = {"balanced": 0.0, "root": 0.5}[kind]
    wanted = total * np.array(counts) ** power / (np.array(counts) ** power).sum()
    assert np.abs(shown - wanted).max() <= 1
    times = np.bincount(found % total, minlength=total)
    for name in range(len(counts)):
        assert np.ptp(times[classes == name]) <= 1
    for image in range(total):  # showings are counted without a gap
        assert sorted(found[found % total == image] // total) == list(range(times[image]))


def test_without_resampling_each_image_is_shown_once() -> None:
    classes = np.array([0, 0, 1])
    assert resampled(classes, "none", np.random.default_rng(0)).tolist() == [0, 1, 2]


def rows_of(folder: Path, labels: str) -> list[Row]:
    made = []
    for number, label in enumerate(labels, 2):
        path = folder / f"{number}.png"
        Image.fromarray(noise(24, 24, number).pixels).save(path)
        made.append(Row(path, label, f"p{number}", "train", None, number))
    return made


def test_an_epoch_shows_a_rare_image_again_in_another_colour(tmp_path: Path) -> None:
    network = Cnn(CnnConfig(classes=2, coarse_factor=1, coarse_widths=(4,)))
    config = TrainConfig(system="cnn", batch_size=4, resample="balanced")
    data = Dataset(rows_of(tmp_path, "aaaaaaab"), "ab", network, config, SlideCache(1 << 22))
    steps = list(data.batches(0, training=True))
    assert len(steps) == data.steps() == 2
    seen = [(row.number, view) for step in steps for row, view in zip(step.rows, step.batch.coarse, strict=True)]
    rare = [view for number, view in seen if number == 9]
    assert len(rare) == 4
    assert len({view.numpy().tobytes() for view in rare}) == 4
    plain = [row.number for step in data.batches(0, training=False) for row in step.rows]
    assert plain == list(range(2, 10))


def test_weights_of_the_class_balanced_loss_have_mean_one(tmp_path: Path) -> None:
    network = Cnn(CnnConfig(classes=2, coarse_factor=1, coarse_widths=(4,)))
    data = Dataset(rows_of(tmp_path, "aaab"), "ab", network, TrainConfig(), SlideCache(1 << 22))
    found = class_weights(data, 2, "effective", 0.9)
    assert (3 * found[0] + found[1]) / 4 == pytest.approx(1)
    assert found[1] / found[0] == pytest.approx((1 - 0.9**3) / (1 - 0.9))


def test_the_focal_loss_takes_the_place_of_the_cross_entropy_of_the_answer() -> None:
    torch.manual_seed(0)
    network = Cnn(CnnConfig(classes=2, coarse_factor=4, coarse_widths=(4,), dropout=0.0)).train()
    batch, labels = batch_of([noise(32, 32), noise(32, 32, 1)], network), torch.tensor([0, 1])
    terms = Objective(network, ClassificationLosses(EVEN, TrainConfig(loss="focal", gamma=3.0)))(
        GuidedStep(batch, labels, ())
    )
    assert torch.allclose(terms["fused"], focal_loss(network(batch).logits, labels, EVEN, 3.0))
    assert set(terms) == {"fused"}


@pytest.mark.parametrize("options", [{"loss": "foca"}, {"resample": "blanced"}, {"care": "box"}])
def test_unknown_names_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(UnknownNameError):
        TrainConfig(**options)


@pytest.mark.parametrize("options", [{"gamma": -1.0}, {"beta": 1.0}, {"care_weight": 1.0}, {"care_tau": 0.0}])
def test_numbers_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be"):
        TrainConfig(**options)
