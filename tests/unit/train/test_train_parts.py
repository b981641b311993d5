"""Schedule, batches, cache and state of a run, each alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wsi_attn.data.manifest import Row
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig
from wsi_attn.train.card import METRICS, metrics_table
from wsi_attn.train.config import TrainConfig
from wsi_attn.train.dataset import Dataset, SlideCache
from wsi_attn.train.loop import WARM_UP, answer, learning_rate
from wsi_attn.train.run import class_weights
from wsi_attn.train.state import Progression, load_state, save_state

NETWORK = DeepAttentionConfig(
    classes=2, coarse_factor=4, patch_size=16, instances=2, coarse_widths=(4, 4), patch_widths=(4, 4), hidden=4
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    made = []
    for index in range(9):
        pixels = rng.integers(60, 220, (40 + 8 * (index % 3), 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        made.append(Row(folder / f"{index}.png", "ab"[index % 2], f"p{index}", "train", None, index + 2))
    return made


def dataset(rows: list[Row], **options: object) -> Dataset:
    return Dataset(rows, ("a", "b"), DeepAttention(NETWORK), TrainConfig(**{"batch_size": 4, **options}), SlideCache())


def network() -> DeepAttention:
    torch.manual_seed(0)
    return DeepAttention(NETWORK)


@given(st.floats(0, 1))
def test_learning_rate_rises_then_falls(done: float) -> None:
    rate = learning_rate(done, 0.3)
    assert 0 <= rate <= 0.3 + 1e-12
    later = learning_rate(min(1.0, done + 0.01), 0.3)
    assert later >= rate if done + 0.01 < WARM_UP else done < WARM_UP or later <= rate


def test_learning_rate_at_its_corners() -> None:
    assert 0 < learning_rate(0, 1) < 0.02
    assert learning_rate(WARM_UP, 1) == pytest.approx(1)
    assert learning_rate(0.55, 1) == pytest.approx(0.5)
    assert learning_rate(1, 1) == pytest.approx(0)


def test_an_epoch_sees_every_image_once_and_the_next_in_another_order(rows: list[Row]) -> None:
    data = dataset(rows)
    epochs = [[row.number for step in data.batches(epoch, training=True) for row in step.rows] for epoch in (0, 0, 1)]
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]
    assert len(epochs[0]) == 8  # a last batch of one image is left out
    assert len(set(epochs[0])) == 8
    plain = [row.number for step in data.batches(0, training=False) for row in step.rows]
    assert plain == [row.number for row in rows]


@pytest.mark.parametrize("size", [1, 3, 9, 20])
def test_every_batch_size_trains(rows: list[Row], size: int) -> None:
    steps = list(dataset(rows, batch_size=size).batches(0, training=True))
    seen = [row.number for step in steps for row in step.rows]
    assert len(seen) == len(set(seen)) == 9
    assert all(len(step.rows) <= size for step in steps)


def test_batches_hold_images_of_like_size(rows: list[Row]) -> None:
    steps = list(dataset(rows, batch_size=3).batches(0, training=True))
    assert [len({source.extent[0] * source.extent[1] for source in step.batch.sources}) for step in steps] == [1, 1, 1]


def test_batches_are_the_same_whenever_they_are_made(rows: list[Row]) -> None:
    first = list(dataset(rows, colour=1.0, scale=0.2).batches(3, training=True))
    again = list(dataset(rows, colour=1.0, scale=0.2).batches(3, training=True))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.batch.coarse, other.batch.coarse)
        assert torch.equal(one.labels, other.labels)
        assert one.labels.tolist() == ["ab".index(row.label) for row in one.rows]
        corners = np.array([[3, 5]])
        for ours, theirs in zip(one.batch.sources, other.batch.sources, strict=True):
            assert np.array_equal(ours.read_patches(corners, 16)[0], theirs.read_patches(corners, 16)[0])


def test_validation_is_neither_augmented_nor_drawn(rows: list[Row]) -> None:
    (step, *_) = dataset(rows, colour=1.0, scale=0.5).batches(0, training=False)
    assert step.batch.generator is None
    assert np.array_equal(
        step.batch.sources[0].read_patches(np.array([[0, 0]]), 40)[0][0], np.asarray(Image.open(rows[0].path))[:40, :40]
    )


def test_answers_do_not_depend_on_the_batch_size(rows: list[Row]) -> None:
    """Images of three sizes: padding must not show."""
    found = [answer(network(), dataset(rows, batch_size=size), torch.ones(2)) for size in (1, 4, 9)]
    for other in found[1:]:
        assert other.probabilities == pytest.approx(found[0].probabilities, abs=1e-5)
        assert other.loss == pytest.approx(found[0].loss, abs=1e-5)
    assert found[0].labels.tolist() == [index % 2 for index in range(9)]
    assert found[0].probabilities.sum(axis=1) == pytest.approx(np.ones(9))


def test_rare_classes_weigh_more_and_the_mean_is_one(rows: list[Row]) -> None:
    data = dataset([row for index, row in enumerate(rows) if row.label == "a" or index == 1])
    found = class_weights(data, 2)
    assert found[1] / found[0] == pytest.approx(math.sqrt(5))
    assert (5 * found[0] + found[1]) / 6 == pytest.approx(1)


def test_cache_keeps_within_its_bound(rows: list[Row]) -> None:
    cache = SlideCache(limit=3 * 56 * 56 * 3)
    first = cache.get(rows[0])
    assert cache.get(rows[0]) is first
    for row in rows[1:]:
        cache.get(row)
    again = cache.get(rows[0])
    assert again is not first
    assert np.array_equal(again.pixels, first.pixels)


def test_state_restores_network_average_moments_and_history(rows: list[Row], tmp_path: Path) -> None:
    def parts() -> tuple[DeepAttention, AveragedModel, torch.optim.Optimizer]:
        made = network()
        average = AveragedModel(made, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        return made, average, torch.optim.AdamW(made.parameters(), lr=1e-2)

    def step(made: DeepAttention, average: AveragedModel, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        made.train()
        torch.manual_seed(epoch)
        item = next(iter(dataset(rows).batches(epoch, training=True)))
        loss = sum(made.losses(made(item.batch), item.labels).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(made)

    one = parts()
    step(*one, 0)
    progression = Progression(1, 0.5, {"a": torch.ones(2)}, [{"epoch": 1, "loss": 0.25}])
    save_state(tmp_path / "state", *one, progression)
    step(*one, 1)

    other = parts()
    torch.nn.init.normal_(other[0].fused_head.weight)
    found = load_state(tmp_path / "state", *other)
    assert (found.epoch, found.best_loss, found.history) == (1, 0.5, [{"epoch": 1, "loss": 0.25}])
    assert torch.equal(found.best["a"], torch.ones(2))
    step(*other, 1)
    for ours, theirs in zip(one[:2], other[:2], strict=True):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_no_state_is_the_beginning(tmp_path: Path) -> None:
    made = network()
    found = load_state(tmp_path / "none", made, AveragedModel(made), torch.optim.AdamW(made.parameters()))
    assert (found.epoch, found.best, found.history) == (0, {}, [])


def test_a_metric_without_an_interval_still_has_a_row() -> None:
    nothing = {"value": None, "low": None, "high": None}
    metrics = {
        "accuracy": {"value": 0.5, "low": 0.25, "high": 0.75},
        "auroc": {"value": 1.0, "low": None, "high": None},
    }
    *_, accuracy, auroc = metrics_table({name: metrics.get(name, nothing) for name in METRICS})
    assert accuracy == "| accuracy | 0.500 | 0.250 to 0.750 |"
    assert auroc == "| auroc | 1.000 | too few patients |"
