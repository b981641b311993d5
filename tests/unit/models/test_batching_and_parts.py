"""Batches, padding, partial damage, systems and the zoo: what surrounds the main model's equations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.slides import ArraySlide
from wsi_attn.data.bags import collate, make_bag
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import CheckpointError, UnknownNameError
from wsi_attn.models.base import BagBatch
from wsi_attn.models.checkpoint import load_checkpoint, read_config, save_checkpoint
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig
from wsi_attn.models.instances import AttentionGrid
from wsi_attn.models.spec import ModelSpec
from wsi_attn.models.systems import build_network, plain_config
from wsi_attn.models.zoo import find_model

CONFIG = DeepAttentionConfig(
    classes=3, coarse_factor=4, patch_size=32, instances=3, coarse_widths=(8, 8), patch_widths=(8, 8), hidden=8
)


def build(**options: Any) -> DeepAttention:
    torch.manual_seed(0)
    network = DeepAttention(replace(CONFIG, **options))
    with torch.no_grad():  # statistics as after training: a fresh network's padding would differ too little
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.5, 0.5)
    return network.eval()


def image(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def batch_of(images: Sequence[NDArray[np.uint8]]) -> BagBatch:
    bags = [
        make_bag(SlidePatches(ArraySlide(pixels, mpp=None), None, CONFIG.coarse_factor, workers=1), "none")
        for pixels in images
    ]
    return collate(bags, 2 ** len(CONFIG.coarse_widths))


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(20, 150), st.integers(20, 150)), min_size=2, max_size=4))
def test_a_batch_of_any_sizes_answers_as_each_alone(sizes: list[tuple[int, int]]) -> None:
    network = build()
    images = [image(width, height, seed) for seed, (width, height) in enumerate(sizes)]
    with torch.inference_mode():
        together = network(batch_of(images))
        for index, pixels in enumerate(images):
            alone = network(batch_of([pixels]))
            assert torch.allclose(together.logits[index], alone.logits[0], atol=1e-4)
            rows, columns = alone.attention.shape[1:]
            assert torch.allclose(together.attention[index, :rows, :columns], alone.attention[0], atol=1e-5)
            assert torch.equal(together.patch_xy[index], alone.patch_xy[0])


def test_order_of_a_batch_changes_nothing() -> None:
    network = build()
    images = [image(96, 80, seed) for seed in range(3)]
    with torch.inference_mode():
        forward, backward = network(batch_of(images)).logits, network(batch_of(images[::-1])).logits
    assert torch.allclose(forward, backward.flip(0), atol=1e-5)


@settings(max_examples=20)
@given(st.integers(8, 260), st.integers(8, 260))
def test_a_hot_cell_of_any_field_gives_a_patch_around_it(width: int, height: int) -> None:
    """Wherever the patch fits around the cell; elsewhere it is shifted inside and no further."""
    network, batch = build(instances=1), batch_of([image(width, height)])
    cell, half = network.cell, network.config.patch_size // 2
    rows, columns = batch.valid.shape[1:]
    for row in range(rows):
        for column in range(columns):
            scores = torch.zeros(1, rows, columns)
            scores[0, row, column] = 1
            found = network.selection.choose(AttentionGrid(scores.flatten(1), batch.valid, batch.extent, cell), None)
            corner = found.xy
            assert found.mask.all()
            for edge, place, extent in [(corner[0, 0, 0], column, width), (corner[0, 0, 1], row, height)]:
                wanted = max(half, min((place + 0.5) * cell, extent - half))
                assert edge >= 0
                assert edge + 2 * half <= max(extent, 2 * half)
                assert extent < 2 * half or abs(edge.item() + half - wanted) <= cell / 2


def test_two_passes_in_evaluation_are_equal() -> None:
    network, batch = build(dropout=0.9, exploration=10.0), batch_of([image(120, 90)])
    batch = replace(batch, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network(batch).logits, network(batch).logits)
    network.train()
    assert not torch.equal(network(batch).logits, network(batch).logits)


class SecondIsDamaged:
    """A source whose second patch cannot be decoded: its pixels must not matter."""

    def __init__(self, fill: int) -> None:
        self.fill = fill

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        patches = np.stack([image(size, size, index) for index in range(len(xy))])
        patches[1] = self.fill
        return patches, np.arange(len(xy)) != 1


def test_pixels_of_a_damaged_patch_do_not_matter() -> None:
    network, batch = build(), batch_of([image(128, 128)])
    with torch.inference_mode():
        outputs = [network(replace(batch, sources=(SecondIsDamaged(fill),))) for fill in (0, 255)]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert outputs[0].patch_mask.tolist() == [[True, False, True]]
    assert outputs[0].patch_attention[0, 1] == 0
    assert outputs[0].patch_attention.sum().item() == pytest.approx(1)
    assert outputs[0].unreadable.tolist() == [1]


def test_all_damaged_in_training_still_has_a_finite_gradient() -> None:
    class Broken:
        def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
            return np.zeros((len(xy), size, size, 3), np.uint8), np.zeros(len(xy), np.bool_)

    network = build().train()
    output = network(replace(batch_of([image(64, 64)]), sources=(Broken(),)))
    sum(network.losses(output, torch.tensor([1])).values()).backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_attention_stays_within_tissue() -> None:
    network, batch = build(), batch_of([image(160, 160)])
    valid = torch.zeros_like(batch.valid)
    valid[0, 3:5, 6] = True
    with torch.inference_mode():
        output = network(replace(batch, valid=valid))
    assert output.attention[~valid].sum() == 0
    assert output.attention.sum().item() == pytest.approx(1)
    corners = output.patch_xy[0][output.patch_mask[0]]
    assert ((corners[:, 0] + 16 - 6.5 * 16).abs() <= 8).all()


def test_class_weights_enter_every_cross_entropy() -> None:
    network, batch = build(), batch_of([image(64, 64), image(64, 64, 1)])
    output, labels = network(batch), torch.tensor([0, 1])
    only_first = network.losses(output, labels, torch.tensor([1.0, 0.0, 1.0]))
    first = replace(
        output,
        logits=output.logits[:1],
        global_logits=output.global_logits[:1],
        instance_logits=output.instance_logits[:1],
    )
    wanted = network.losses(first, labels[:1])
    for term in ("fused", "global", "instance"):
        assert only_first[term].item() == pytest.approx(wanted[term].item(), rel=1e-5)


def test_configuration_survives_json() -> None:
    plain = json.loads(json.dumps(plain_config(CONFIG)))
    assert build_network("deep-attention", plain).config == CONFIG
    with pytest.raises(UnknownNameError) as caught:
        build_network("deep-atention", plain)
    assert "deep-attention" in caught.value.known
    with pytest.raises(TypeError):
        build_network("deep-attention", {**plain, "depth": 3})


def saved(folder: Path) -> Path:
    spec = ModelSpec(("a", "b", "c"), None, "any", "none")
    save_checkpoint(
        folder, name="m", system="deep-attention", network=build(), spec=spec, card="# m", provenance={"seed": 0}
    )
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "something else"}, "not a wsi-attn checkpoint"),
        ({"schema_version": 99}, "version 99"),
        ({"schema_version": None}, "version None"),
        ({"system": "deep-atention"}, "deep-attention"),
        ({"network": []}, "do not match"),
        ({"network": {}}, "classes"),
        ({"network": {**plain_config(CONFIG), "classes": 5}}, "do not match"),
        ({"network": {**plain_config(CONFIG), "depth": 5}}, "depth"),
        ({"network": {**plain_config(CONFIG), "coarse_widths": []}}, "do not match"),
        ({"spec": {}}, "labels"),
        ({"spec": None}, "do not match"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "m") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=said) as caught:
        load_checkpoint(tmp_path / "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gone", ["format", "schema_version", "name", "system", "network", "spec"])
def test_configuration_without_a_part_is_refused(gone: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "m") / "config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != gone}))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe\x00", b"not json"])
def test_other_files_by_the_name_of_a_configuration(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_config(tmp_path)


def test_saving_twice_replaces_the_folder_whole(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m")
    (folder / "stray").touch()
    first = (folder / "model.safetensors").read_bytes()
    saved(folder)
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "card.md",
        "provenance.json",
    }
    assert (folder / "model.safetensors").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_checkpoint_is_found_by_its_folder_or_its_run(tmp_path: Path) -> None:
    saved(tmp_path / "run" / "checkpoint")
    assert find_model(str(tmp_path / "run")) == tmp_path / "run" / "checkpoint"
    assert find_model(str(tmp_path / "run" / "checkpoint")) == tmp_path / "run" / "checkpoint"
    with pytest.raises(CheckpointError, match="contains no checkpoint"):
        find_model(str(tmp_path))
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        find_model(str(tmp_path / "none"))
    with pytest.raises(UnknownNameError) as caught:
        find_model("celularity")
    assert (caught.value.kind, caught.value.name) == ("model", "celularity")
