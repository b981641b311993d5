"""What training does for a system with one map for all images: its anchors, no turning, whole batches, going on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from wsi_attn.data.manifest import read_manifest
from wsi_attn.data.slide_cache import SlideCache
from wsi_attn.errors import UsageError
from wsi_attn.models.checkpoint import load_checkpoint
from wsi_attn.models.systems import build_network
from wsi_attn.tasks.classification.dataset import Dataset
from wsi_attn.tasks.config import TrainConfig
from wsi_attn.train.run import train

NETWORK: dict[str, Any] = {"view_size": 16, "coarse_widths": [4, 4], "map_hidden": 4, "map_freeze": 0.5}
CONFIG = TrainConfig(system="global-spatial", epochs=4, batch_size=4, seed=5)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten noisy images with a bright upper half, one a patient; the last is the test part."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = ["path,label,split"]
    for number in range(14):
        pixels = rng.normal(120, 20, (24, 20, 3))
        pixels[:12] += 60
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},{'train' if number < 10 else 'val' if number < 13 else 'test'}")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return folder / "m.csv"


def part(manifest: Path, config: TrainConfig, **options: Any) -> Dataset:
    rows = [row for row in read_manifest(manifest) if row.split == "train"]
    network = build_network(config.system, {"classes": 2, **NETWORK, **options})
    return Dataset(rows, ["a", "b"], network, config, SlideCache(1 << 24))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint" / "model.safetensors")


def test_images_keep_their_orientation_and_change_colour(manifest: Path) -> None:
    training = part(manifest, CONFIG)
    for item in training.batches(0, training=True):
        upper, lower = item.batch.coarse[:, :, :12].float().mean(dim=(1, 2, 3)), item.batch.coarse[:, :, 12:].float()
        assert item.batch.coarse.shape[2:] == (24, 20)
        assert (upper > lower.mean(dim=(1, 2, 3))).all()
    plain = {row.number: training.bag(row, None).view for row in training.rows}
    changed = training.bag(training.rows[0], np.random.default_rng(0)).view
    assert not np.array_equal(changed, plain[training.rows[0].number])


def test_other_systems_turn_images_unless_they_are_upright(manifest: Path) -> None:
    rows = [row for row in read_manifest(manifest) if row.split == "train"]
    network = build_network("cnn", {"classes": 2, "coarse_factor": 1})

    def seen(config: TrainConfig) -> tuple[set[tuple[int, ...]], set[bool]]:
        training = Dataset(rows, ["a", "b"], network, config, SlideCache(1 << 24))
        views = [training.bag(rows[0], np.random.default_rng(seed)).view for seed in range(20)]
        return {view.shape for view in views}, {bool(view[:12].mean() > view[12:].mean()) for view in views}

    assert seen(CONFIG) == ({(24, 20, 3), (20, 24, 3)}, {True, False})
    assert seen(replace(CONFIG, no_flip=True)) == ({(24, 20, 3)}, {True})


def test_batches_are_whole_where_the_map_is_made_of_them(manifest: Path) -> None:
    batches = part(manifest, CONFIG, map_by="batch").batches(0, training=True)
    assert [len(item.rows) for item in batches] == [4, 4]
    assert sorted(len(item.rows) for item in part(manifest, CONFIG).batches(0, training=True)) == [2, 4, 4]
    with pytest.raises(UsageError, match="do not fill one batch"):
        part(manifest, TrainConfig(system="global-spatial", batch_size=16), map_by="batch").steps()


@pytest.mark.parametrize("map_by", ["anchor", "batch", "free"])
def test_a_run_that_was_killed_ends_with_the_same_weights(map_by: str, manifest: Path, tmp_path: Path) -> None:
    options = {**NETWORK, "map_by": map_by}
    warnings: list[str] = []
    train(manifest, tmp_path / "whole", CONFIG, options, say=warnings.append)
    assert warnings == ["starting from random weights"]  # no warning: the images share their bright half
    wanted = weights(tmp_path / "whole")
    for epoch in (1, 2, 3):  # the map is learned, about to be frozen, and frozen

        def stop(record: dict[str, float], epoch: int = epoch) -> None:
            if record["epoch"] == epoch:
                raise KeyboardInterrupt

        run = tmp_path / f"stopped-{epoch}"
        with pytest.raises(KeyboardInterrupt):
            train(manifest, run, CONFIG, options, log=stop)
        assert train(manifest, run, CONFIG, options).state == "resumed"
        found = weights(run)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("averaging", [0.0, 0.99])
@pytest.mark.parametrize("freeze", [0.0, 0.5])
@pytest.mark.parametrize("map_by", ["anchor", "free"])
def test_the_map_that_is_kept_was_learned(
    map_by: str, freeze: float, averaging: float, manifest: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, averaging=averaging, learning_rate=0.05 if map_by == "free" else 0.005)
    train(manifest, tmp_path / "run", config, {**NETWORK, "map_by": map_by, "map_freeze": freeze})
    values = weights(tmp_path / "run")["map.values"]
    assert values.std() > (1e-5 if map_by == "free" else 1e-3)
    assert ((values > 0) & (values < 1)).all()


def test_the_checkpoint_holds_the_map_and_no_image(manifest: Path, tmp_path: Path) -> None:
    train(manifest, tmp_path / "run", CONFIG, NETWORK)
    found = weights(tmp_path / "run")
    assert [name for name in found if name.startswith("map.")] == ["map.values"]
    images = [np.asarray(Image.open(manifest.parent / f"{number}.png").resize((16, 16))) for number in range(10)]
    assert np.abs(found["mean_image"].numpy() - np.mean(images, axis=0).transpose(2, 0, 1)).mean() < 3
    assert load_checkpoint(tmp_path / "run" / "checkpoint").network.alignment > 0.5


def test_images_without_a_layout_are_warned_of(manifest: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for number in range(14):
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "m.csv").write_text(manifest.read_text())
    warnings: list[str] = []
    train(tmp_path / "m.csv", tmp_path / "run", CONFIG, NETWORK, say=warnings.append)
    assert len(warnings) == 2
    assert "no layout" in warnings[1]
