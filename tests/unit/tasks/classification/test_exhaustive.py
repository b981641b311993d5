"""Every tissue tile scored: the same scores as one by one, from any source, and the label unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.slides import ArraySlide, stained
from tests.unit.tasks.classification.test_predict_slide import ONE_THREAD, checkpoint
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import UsageError
from wsi_attn.geometry import Mpp, Region
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig
from wsi_attn.models.spec import ModelSpec
from wsi_attn.store.predictions import read_prediction, write_prediction
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.exhaustive import ATTENTION, EVIDENCE, score_tiles
from wsi_attn.tasks.classification.slide import predict_slide

EVERYTHING = PredictConfig(workers=2, exhaustive=True)


def all_tissue(regions0: np.ndarray) -> np.ndarray:
    return np.ones(len(regions0), np.float32)


def network_of(**options) -> DeepAttention:
    torch.manual_seed(0)
    config = DeepAttentionConfig(
        classes=2, coarse_factor=4, patch_size=16, coarse_widths=(8, 8), patch_widths=(8, 8), hidden=8, **options
    )
    return DeepAttention(config).eval()


@pytest.mark.parametrize("mpp", [Mpp(0.5, 0.5), Mpp(0.4, 0.3)])
def test_every_tile_is_scored_as_it_would_be_alone(mpp: Mpp) -> None:
    network = network_of()
    patches = SlidePatches(ArraySlide(stained(333, 270), mpp=mpp), 0.5, 4)
    maps, unreadable = score_tiles(patches, network, ("a", "b"), all_tissue)
    columns, rows = (-(-extent // 16) for extent in patches.extent)
    assert unreadable == 0
    assert np.isfinite(maps[ATTENTION].values).all()
    assert maps[ATTENTION].values.shape == (rows, columns)
    for row, column in [(0, 0), (rows // 2, columns // 2), (3, 1)]:
        pixels, _ = patches.read_patches(np.array([[column * 16, row * 16]]), 16)
        with torch.inference_mode():
            gate, evidence = network.score_patches(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        found = [maps[name].values[row, column] for name in (ATTENTION, EVIDENCE + "a", EVIDENCE + "b")]
        assert found == pytest.approx([gate.item(), *evidence[0].tolist()], abs=0.02)  # grey values round at seams


def test_evidence_of_a_tile_is_what_the_instance_branch_answers() -> None:
    for selection in ("top-k", "sample", "threshold"):
        network = network_of(selection=selection)
        gate, evidence = network.score_patches(torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8))
        assert evidence.sum(dim=1).abs().max() < 1e-5
        assert gate.isnan().all() == (selection == "threshold")


def test_label_is_unchanged_and_glass_is_not_read(tmp_path: Path) -> None:
    slide, model = ArraySlide(stained(640, 480), levels=(1.0, 4.0)), checkpoint()
    plain, found = predict_slide(slide, model, ONE_THREAD), predict_slide(slide, model, EVERYTHING)
    assert found.probabilities == plain.probabilities
    assert found.attention == plain.attention
    assert set(found.maps) - set(plain.maps) == {ATTENTION, *(EVIDENCE + label for label in "abc")}
    tiles = found.maps[ATTENTION]
    assert tiles.values.shape == (15, 20)
    assert (tiles.frame.downsample_x, tiles.frame.downsample_y) == (32, 32)
    assert np.isnan(tiles.values[0, 0])
    assert np.isfinite(tiles.values[7, 10])
    write_prediction(found, tmp_path / "p.json")
    again = read_prediction(tmp_path / "p.json").maps[ATTENTION].values
    np.testing.assert_allclose(again, tiles.values, rtol=1e-5)


def test_tiles_that_cannot_be_decoded_are_counted_and_left_out() -> None:
    slide = ArraySlide(stained(256, 256), broken_regions=[(0, Region(40, 40, 2, 2))])
    maps, unreadable = score_tiles(SlidePatches(slide, 0.5, 4), network_of(), ("a", "b"), all_tissue)
    assert unreadable == 1
    assert np.argwhere(np.isnan(maps[ATTENTION].values)).tolist() == [[2, 2]]


def test_progress_reaches_its_end() -> None:
    told: list[tuple[int, int, str]] = []
    patches = SlidePatches(ArraySlide(stained(300, 200)), 0.5, 4, progress=lambda *step: told.append(step))
    score_tiles(patches, network_of(), ("a", "b"), all_tissue)
    done, total, what = told[-1]
    assert (done, what) == (total, "scoring tiles")


def test_a_system_without_a_patch_network_is_refused() -> None:
    spec = ModelSpec(labels=("a", "b"), mpp=0.5, stain="H&E", tissue="none")
    model = Checkpoint("coarse", "0" * 64, "deep-attention", spec, network_of(branches="global"))
    with pytest.raises(UsageError, match="no patch network"):
        predict_slide(ArraySlide(stained(64, 64)), model, EVERYTHING)
