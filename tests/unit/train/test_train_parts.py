"""Schedule, batches, cache and state of a run, each alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from PIL import Image
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wsi_attn.data.manifest import Row
from wsi_attn.data.slide_cache import SlideCache
from wsi_attn.errors import CheckpointError, UnknownNameError, UsageError
from wsi_attn.evaluate.intervals import Interval
from wsi_attn.models.calibration import fit_temperature
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig
from wsi_attn.tasks.card import metrics_table
from wsi_attn.tasks.classification.dataset import Dataset
from wsi_attn.tasks.classification.training import METRICS, Predictions, class_weights, predict_rows
from wsi_attn.tasks.clock import EpochClock
from wsi_attn.tasks.config import Resources, TrainConfig
from wsi_attn.tasks.ranks import gathered
from wsi_attn.train.distributed import make_fabric
from wsi_attn.train.loop import WARM_UP, learning_rate
from wsi_attn.train.state import TrainingState, load_state, save_state

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


LIMIT = 1 << 24


def dataset(rows: list[Row], rank: int = 0, ranks: int = 1, workers: int = 2, **options: object) -> Dataset:
    config = TrainConfig(**{"batch_size": 4, **options})
    return Dataset(
        rows, ("a", "b"), network(), config, SlideCache(LIMIT), Resources(workers=workers), rank=rank, ranks=ranks
    )


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return make_fabric(TrainConfig())


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


@pytest.mark.parametrize(("schedule", "wanted"), [("cosine", [1, 0.5, 0]), ("constant", [1, 1, 1])])
def test_other_schedules_at_their_corners(schedule: str, wanted: list[float]) -> None:
    assert [learning_rate(done, 1, schedule) for done in (0, 0.5, 1)] == pytest.approx(wanted)


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
    assert [len(set(step.batch.extent.prod(dim=1).tolist())) for step in steps] == [1, 1, 1]


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


def test_answers_do_not_depend_on_the_batch_size(rows: list[Row], fabric: Fabric) -> None:
    """Images of three sizes: padding must not show."""
    found = [predict_rows(fabric, network(), dataset(rows, batch_size=size)) for size in (1, 4, 9)]
    for other in found[1:]:
        assert other.probabilities == pytest.approx(found[0].probabilities, abs=1e-5)
    assert found[0].labels.tolist() == [index % 2 for index in range(9)]
    assert found[0].probabilities.sum(axis=1) == pytest.approx(np.ones(9))


def test_rare_classes_weigh_more_and_the_mean_is_one(rows: list[Row]) -> None:
    data = dataset([row for index, row in enumerate(rows) if row.label == "a" or index == 1])
    found = class_weights(data, 2)
    assert found[1] / found[0] == pytest.approx(math.sqrt(5))
    assert (5 * found[0] + found[1]) / 6 == pytest.approx(1)


def test_classes_weigh_as_they_are_told_to(rows: list[Row]) -> None:
    data = dataset([row for index, row in enumerate(rows) if row.label == "a" or index == 1])
    assert class_weights(data, 2, "none").tolist() == [1, 1]
    found = class_weights(data, 2, "balanced")
    assert found[1] / found[0] == pytest.approx(5)


def test_loss_and_accuracy_of_answers_are_torch_s() -> None:
    rng = np.random.default_rng(0)
    predictions = Predictions(rng.integers(0, 3, 20), rng.normal(0, 3, (20, 3)))
    weights = np.array([1.0, 2.0, 0.5])
    logits, labels = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.labels)
    temperature = fit_temperature(predictions.labels, predictions.probabilities)
    assert temperature is not None
    wanted = torch.nn.functional.cross_entropy(logits / temperature, labels, torch.from_numpy(weights))
    assert predictions.loss(weights) == pytest.approx(wanted.item())
    assert predictions.probabilities == pytest.approx(torch.softmax(logits, dim=1).numpy())
    called = predictions.logits.argmax(axis=1)
    assert predictions.balanced_accuracy() == pytest.approx(
        np.mean([(called == predictions.labels)[predictions.labels == c].mean() for c in range(3)])
    )


def test_ranks_share_the_batches_and_draw_differently(rows: list[Row]) -> None:
    whole = list(dataset(rows, batch_size=2).batches(0, training=True))
    parts = [list(dataset(rows, rank, 3, batch_size=2).batches(0, training=True)) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    assert dataset(rows, 0, 3, batch_size=2).steps() == len(parts[0])
    assert {row.number for part in parts for step in part for row in step.rows} == {
        row.number for step in whole for row in step.rows
    }
    seeds = [step.batch.generator.initial_seed() for part in parts for step in part]
    assert len(set(seeds)) == len(seeds)
    plain = [
        [row.number for step in dataset(rows, rank, 2).batches(0, training=False) for row in step.rows]
        for rank in range(2)
    ]
    assert sorted(plain[0] + plain[1]) == [row.number for row in rows]


def test_threads_change_nothing(rows: list[Row]) -> None:
    one, many = (list(dataset(rows, workers=count).batches(2, training=True)) for count in (1, 5))
    for ours, theirs in zip(one, many, strict=True):
        assert torch.equal(ours.batch.coarse, theirs.batch.coarse)


def test_cache_keeps_within_its_bound(rows: list[Row]) -> None:
    cache = SlideCache(3 * 56 * 56 * 3)
    first = cache.get(rows[0])
    assert cache.get(rows[0]).pixels is first.pixels
    for row in rows[1:]:
        cache.get(row)
    again = cache.get(rows[0])
    assert again.pixels is not first.pixels
    assert np.array_equal(again.pixels, first.pixels)


def test_a_small_cache_changes_no_batch(rows: list[Row]) -> None:
    ample, tight = dataset(rows), dataset(rows)
    tight.cache = SlideCache(1)
    for epoch in range(2):
        for ours, theirs in zip(ample.batches(epoch, training=True), tight.batches(epoch, training=True), strict=True):
            assert torch.equal(ours.batch.coarse, theirs.batch.coarse)


def test_waiting_is_measured() -> None:
    clock = EpochClock(images=6, patches=12)
    with clock.waiting():
        pass
    record = clock.record()
    assert record["patches_per_second"] == pytest.approx(2 * record["images_per_second"])
    assert 0 <= record["data_wait"] <= 1
    clock.sample(0, torch.device("cpu"))
    assert "gpu_utilisation" not in record


def test_settings_that_are_none(fabric: Fabric) -> None:
    with pytest.raises(UnknownNameError) as caught:
        TrainConfig(schedule="cosin")
    assert "cosine" in caught.value.known
    with pytest.raises(UsageError, match="at least 2 folds"):
        TrainConfig(folds=1)
    with pytest.raises(UsageError, match="16-mixed needs a CUDA device"):
        make_fabric(TrainConfig(precision="16-mixed"))
    assert gathered(fabric, [1, 2]) == [1, 2]


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
    progression = TrainingState(1, 0.5, {"a": torch.ones(2)}, [{"epoch": 1, "loss": 0.25}])
    scaling = make_fabric(TrainConfig()).strategy.precision
    save_state(tmp_path / "state", *one, scaling, progression)
    step(*one, 1)

    other = parts()
    torch.nn.init.normal_(other[0].fused_head.weight)
    found = load_state(tmp_path / "state", *other, scaling)
    assert (found.epoch, found.best_loss, found.history) == (1, 0.5, [{"epoch": 1, "loss": 0.25}])
    assert torch.equal(found.best["a"], torch.ones(2))
    step(*other, 1)
    for ours, theirs in zip(one[:2], other[:2], strict=True):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_no_state_is_the_beginning(tmp_path: Path) -> None:
    made = network()
    scaling = make_fabric(TrainConfig()).strategy.precision
    found = load_state(tmp_path / "none", made, AveragedModel(made), torch.optim.AdamW(made.parameters()), scaling)
    assert (found.epoch, found.best, found.history) == (0, {}, [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", b""),
        ("state.json", b"[]"),
        ("state.json", b'{"epoch": "1", "best_loss": 0.5, "history": []}'),
        ("state.safetensors", b""),
        ("state.safetensors", None),
    ],
)
def test_a_damaged_state_is_refused(name: str, content: bytes | None, tmp_path: Path) -> None:
    made = network()
    parts = made, AveragedModel(made), torch.optim.AdamW(made.parameters())
    scaling = make_fabric(TrainConfig()).strategy.precision
    save_state(tmp_path / "state", *parts, scaling, TrainingState(1, 0.5))
    file = tmp_path / "state" / name
    if content is None:  # one flipped bit of a weight
        altered = bytearray(file.read_bytes())
        altered[-1] ^= 1
        content = bytes(altered)
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="--overwrite"):
        load_state(tmp_path / "state", *parts, scaling)


def test_a_metric_without_an_interval_still_has_a_row() -> None:
    metrics = dict.fromkeys(METRICS, Interval(None, None, None, 0))
    metrics |= {"accuracy": Interval(0.5, 0.25, 0.75, 0), "auroc": Interval(1.0, None, None, 0)}
    *_, accuracy, auroc = metrics_table(metrics).splitlines()
    assert accuracy == "| accuracy | 0.500 | 0.250 to 0.750 |"
    assert auroc == "| auroc | 1.000 | too few patients |"
