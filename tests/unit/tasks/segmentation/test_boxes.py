"""Boxes around what a segmentation model finds: a tiny network that has learned dark from pale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.slides import ArraySlide
from tests.unit.tasks.segmentation.networks import checkpoint, tiny
from wsi_attn.annotations.boxes import boxes_from
from wsi_attn.errors import UnknownNameError, UsageError
from wsi_attn.geometry import Size
from wsi_attn.models.base import BagBatch
from wsi_attn.models.checkpoint import Checkpoint, save_checkpoint
from wsi_attn.models.cnn import Cnn, CnnConfig
from wsi_attn.models.spec import ModelSpec
from wsi_attn.tasks.segmentation import boxes as segment_boxes
from wsi_attn.tasks.segmentation.boxes import box_finder, foreground, segmented_boxes


def scene(height: int, width: int, *objects: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.full((height, width, 3), 230, np.uint8)
    for x1, y1, x2, y2 in objects:
        pixels[y1:y2, x1:x2] = (90, 40, 120)
    return pixels


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    network = tiny("none", classes=2, crop=128)
    torch.nn.init.normal_(network.network.head.weight, std=0.1)
    optimizer = torch.optim.Adam(network.parameters(), 2e-2)
    rng = np.random.default_rng(0)
    network.train()
    for _ in range(40):
        corners = rng.integers(0, 44, (4, 2)).tolist()
        views = np.stack([scene(64, 64, (x, y, x + 20, y + 20)) for x, y in corners])
        labels = torch.from_numpy((views[..., 0] < 150).astype(np.int64))
        valid = torch.ones(4, 64, 64, dtype=torch.bool)
        batch = BagBatch(torch.from_numpy(views).permute(0, 3, 1, 2), valid, torch.full((4, 2), 64), ())
        optimizer.zero_grad()
        torch.stack(list(network.losses(network(batch), labels).values())).sum().backward()
        optimizer.step()
    return checkpoint(network.eval())


def test_what_the_model_finds_is_boxed(model: Checkpoint) -> None:
    slide = ArraySlide(scene(200, 300, (40, 60, 80, 100), (200, 20, 250, 60), (150, 180, 154, 184)), mpp=None)
    found = segmented_boxes(slide, model)
    assert len(found.boxes) == 2  # the third is far lighter than the heaviest
    for box, wanted in zip(found.boxes, [(200, 20, 250, 60), (40, 60, 80, 100)], strict=True):
        assert np.abs(np.array(box) - wanted).max() <= 6
    assert all(score > 0.3 for score in found.scores)


def test_a_small_object_is_boxed_too_and_nothing_is_not(model: Checkpoint) -> None:
    (box,) = segmented_boxes(ArraySlide(scene(400, 400, (200, 100, 216, 116)), mpp=None), model).boxes
    assert np.abs(np.array(box) - (200, 100, 216, 116)).max() <= 4
    assert segmented_boxes(ArraySlide(scene(90, 120), mpp=None), model).boxes == ()


def test_a_large_slide_is_segmented_part_by_part(model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = ArraySlide(scene(333, 500, (100, 150, 220, 260)), mpp=None)
    whole = foreground(slide, model)
    assert whole.shape == (333, 500)
    monkeypatch.setattr(segment_boxes, "BLOCK_SIDE", 64)
    assert np.abs(foreground(slide, model) - whole).max() < 1e-4
    monkeypatch.setattr(segment_boxes, "RASTER_SIDE", 125)
    coarse = foreground(slide, model)
    assert coarse.shape == (84, 125)
    means = whole[:332].reshape(83, 4, 125, 4).mean(axis=(1, 3))
    assert np.abs(coarse[:64] - means[:64]).max() < 1e-4
    assert np.abs(coarse[:83] - means).max() < 0.1  # the last part ends within a pixel of the raster
    (box,) = boxes_from(coarse, coarse >= 0.5, Size(500, 333)).boxes
    assert np.abs(np.array(box) - (100, 150, 220, 260)).max() <= 16


def test_the_finder_takes_segmentation_models_only(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        box_finder("salience")
    assert "saliency" in caught.value.known
    with pytest.raises(UsageError, match="needs a segmentation model"):
        box_finder("segmentation")
    network = Cnn(CnnConfig(classes=2, coarse_widths=(4,)))
    spec = ModelSpec(("a", "b"), None, "any", "none")
    save_checkpoint(tmp_path / "m", name="m", system="cnn", network=network, spec=spec, card="# m", provenance={})
    with pytest.raises(UsageError, match="does not segment"):
        box_finder("segmentation", str(tmp_path / "m"))
