"""One slide, one answer: where it looked, what it weighs, what it refuses, what it writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.slides import ArraySlide, stained
from wsi_attn.data.appearance import describe_appearance, fit_appearance
from wsi_attn.data.bags import make_bag
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import MissingMppError, ModelMismatchError, PredictionError, SlideReadError, TissueError
from wsi_attn.geometry import Mpp, Region
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig
from wsi_attn.models.spec import ModelSpec
from wsi_attn.store.predictions import read_prediction, write_prediction
from wsi_attn.tasks.classification import slide as predict
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.slide import predict_slide, uncertainty_of

ONE_THREAD = PredictConfig(workers=1)


def checkpoint(**spec: Any) -> Checkpoint:
    torch.manual_seed(0)
    config = DeepAttentionConfig(
        classes=3, coarse_factor=4, patch_size=32, instances=4, coarse_widths=(8, 8), patch_widths=(8, 8), hidden=8
    )
    expected = {"labels": ("a", "b", "c"), "mpp": 0.5, "stain": "H&E", "tissue": "otsu", **spec}
    return Checkpoint("tiny", "0" * 64, "deep-attention", ModelSpec(**expected), DeepAttention(config).eval())


def test_uncertainty_of_a_certain_a_split_and_an_even_answer() -> None:
    assert uncertainty_of(np.array([1.0, 0.0, 0.0])) == {"entropy": 0, "margin": 0}
    assert uncertainty_of(np.array([0.5, 0.5, 0.0])) == pytest.approx({"entropy": math.log(2), "margin": 1})
    assert uncertainty_of(np.full(4, 0.25)) == pytest.approx({"entropy": math.log(4), "margin": 1})
    assert uncertainty_of(np.array([0.1, 0.7, 0.2]))["margin"] == pytest.approx(0.5)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6))
def test_uncertainty_stays_in_its_range_and_knows_no_order(logits: list[float]) -> None:
    probabilities = torch.softmax(torch.tensor(logits, dtype=torch.float64), 0).numpy()
    found = uncertainty_of(probabilities)
    assert 0 <= found["entropy"] <= math.log(len(logits)) + 1e-9
    assert 0 <= found["margin"] <= 1
    assert uncertainty_of(probabilities[::-1]) == pytest.approx(found)


@settings(max_examples=10)
@given(st.integers(30, 500), st.integers(30, 400), st.sampled_from([Mpp(0.5, 0.5), Mpp(0.23, 0.31), Mpp(0.7, 0.45)]))
def test_answer_of_any_slide(width: int, height: int, mpp: Mpp) -> None:
    slide = ArraySlide(stained(width, height), mpp=mpp)
    found = predict_slide(slide, checkpoint(tissue="none"), ONE_THREAD)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.label == max(found.probabilities, key=lambda label: found.probabilities[label])
    assert (found.size0, found.mpp, found.tissue_fraction) == ((width, height), mpp, 1)
    assert found.unreadable_tiles == 0
    weights = [region.weight for region in found.attention]
    assert 1 <= len(weights) <= 4
    assert sum(weights) == pytest.approx(1)
    assert weights == sorted(weights, reverse=True)
    for region in found.attention:
        assert (region.x >= 0, region.y >= 0, region.width > 0, region.height > 0) == (True,) * 4
        assert region.x + region.width <= width
        assert region.y + region.height <= height
        assert region.width <= math.ceil(32 * 0.5 / mpp.x) + 1
    values, frame = found.attention_map.values, found.attention_map.frame
    assert np.nansum(values) == pytest.approx(1, abs=1e-4)
    assert (frame.downsample_x, frame.downsample_y) == pytest.approx((16 * 0.5 / mpp.x, 16 * 0.5 / mpp.y))
    assert frame.size == values.shape[::-1]
    assert values.shape[1] * frame.downsample_x >= width - 4 * frame.downsample_x / 16


def test_map_is_nan_where_there_is_no_tissue() -> None:
    slide = ArraySlide(stained(640, 480), levels=(1.0, 4.0))
    found = predict_slide(slide, checkpoint(), ONE_THREAD)
    values = found.attention_map.values
    assert np.isnan(values[0, 0])
    assert np.isnan(values[-1, -1])
    middle = values[values.shape[0] // 2, values.shape[1] // 2]
    assert middle >= 0
    assert np.nansum(values) == pytest.approx(1, abs=1e-4)
    assert 0.2 < found.tissue_fraction < 0.6
    for region in found.attention:
        centre = (region.x + region.width / 2 - 320) / 640, (region.y + region.height / 2 - 240) / 480
        assert math.hypot(*centre) < 0.42


def test_patches_and_not_the_slide_are_read_at_high_resolution() -> None:
    slide = ArraySlide(stained(2048, 2048), levels=(1.0, 4.0))
    read = slide.read_region
    pixels: list[int] = []

    def counted(xy0: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        if level == 0:
            pixels.append(size[0] * size[1])
        return read(xy0, level, size)

    slide.read_region = counted  # type: ignore[method-assign]
    found = predict_slide(slide, checkpoint(), ONE_THREAD)
    assert len(found.attention) == 4
    assert sum(pixels) == 4 * 32 * 32


def test_same_answer_twice_and_with_threads() -> None:
    slide = ArraySlide(stained(400, 300))
    found = [
        predict_slide(slide, checkpoint(), config) for config in (ONE_THREAD, ONE_THREAD, PredictConfig(workers=3))
    ]
    for other in found[1:]:
        assert other.probabilities == found[0].probabilities
        assert other.attention == found[0].attention


def test_prediction_survives_its_file(tmp_path: Path) -> None:
    found = predict_slide(ArraySlide(stained(401, 303), mpp=Mpp(0.3, 0.4)), checkpoint(), ONE_THREAD)
    write_prediction(found, tmp_path / "p.json")
    again = read_prediction(tmp_path / "p.json")
    assert replace(again, slide=found.slide, attention_map=found.attention_map, maps=found.maps) == found
    names = [f"evidence:{label}" for label in found.probabilities]
    assert list(again.maps) == list(found.maps) == [*names, "uncertainty"]
    evidence = np.stack([found.maps[name].values for name in names])
    shares = np.exp(evidence) / np.exp(evidence).sum(axis=0)
    entropy = -(shares * np.log(shares)).sum(axis=0) / np.log(len(names))
    np.testing.assert_allclose(found.maps["uncertainty"].values, entropy, atol=1e-5)
    pairs = zip((found.attention_map, *found.maps.values()), (again.attention_map, *again.maps.values()), strict=True)
    for ours, theirs in pairs:
        assert theirs.frame == ours.frame == found.attention_map.frame
        np.testing.assert_array_equal(np.isnan(ours.values), np.isnan(found.attention_map.values))
        np.testing.assert_array_equal(theirs.values, ours.values)
    write_prediction(again, tmp_path / "q.json")
    assert (tmp_path / "q.json").read_bytes() == (tmp_path / "p.json").read_bytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "not a prediction"), (b"[]", "not a prediction"), (b"\xff\x00", "not a"), (b'{"schema_version": 9}', "9")],
)
def test_other_files_are_no_predictions(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match="no prediction at"):
        read_prediction(tmp_path / "none.json")
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(PredictionError, match=said) as caught:
        read_prediction(tmp_path / "p.json")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_answered() -> None:
    with pytest.raises(MissingMppError):
        predict_slide(ArraySlide(stained(200, 200), mpp=None), checkpoint(), ONE_THREAD)
    with pytest.raises(ModelMismatchError):
        predict_slide(ArraySlide(stained(200, 200), mpp=Mpp(1, 1)), checkpoint(), ONE_THREAD)
    with pytest.raises(TissueError):
        predict_slide(ArraySlide(np.full((200, 200, 3), 255, np.uint8)), checkpoint(), ONE_THREAD)


def test_a_model_of_photographs_refuses_a_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "MAX_NATIVE_PIXELS", 10_000)
    with pytest.raises(ModelMismatchError, match="200 x 200"):
        predict_slide(ArraySlide(stained(200, 200)), checkpoint(mpp=None), ONE_THREAD)
    small = predict_slide(ArraySlide(stained(90, 90), mpp=None), checkpoint(mpp=None), ONE_THREAD)
    assert small.mpp is None


def damaged_at(patches: Callable[[list[Region]], list[Region]]) -> tuple[ArraySlide, int]:
    """A slide of two levels whose coarse level is whole, damaged on level 0 where the model would look."""
    pixels = stained(640, 640)
    found = predict_slide(ArraySlide(pixels, levels=(1.0, 4.0)), checkpoint(), ONE_THREAD)
    places = [Region(r.x, r.y, r.width, r.height) for r in found.attention]
    broken = patches(places)
    return ArraySlide(pixels, levels=(1.0, 4.0), broken_regions=[(0, region) for region in broken]), len(places)


def test_damaged_place_is_left_out_and_counted() -> None:
    slide, places = damaged_at(lambda found: [Region(found[0].x + 15, found[0].y + 15, 1, 1)])
    found = predict_slide(slide, checkpoint(), ONE_THREAD)
    assert found.unreadable_tiles == 1
    assert len(found.attention) == places - 1
    assert sum(region.weight for region in found.attention) == pytest.approx(1)


def test_all_places_damaged_is_an_error() -> None:
    slide, _ = damaged_at(lambda found: [Region(0, 0, 640, 640)])
    with pytest.raises(SlideReadError):
        predict_slide(slide, checkpoint(), ONE_THREAD)


def test_fit_is_checked_said_and_may_be_ignored() -> None:
    seen = [make_bag(SlidePatches(ArraySlide(stained(400, 300, seed)), 0.5, 4, workers=1), "otsu") for seed in range(9)]
    model = checkpoint(appearance=fit_appearance([describe_appearance(bag.view, bag.tissue) for bag in seen]))
    assert predict_slide(ArraySlide(stained(400, 300, 99)), model, ONE_THREAD).warnings == ()
    blue = ArraySlide(stained(400, 300)[..., ::-1] // np.array([2, 1, 1], np.uint8))
    with pytest.raises(ModelMismatchError, match="--allow-out-of-distribution"):
        predict_slide(blue, model, ONE_THREAD)
    ignored = predict_slide(blue, model, PredictConfig(allow_out_of_distribution=True, workers=1))
    (warning,) = ignored.warnings
    assert "is out of distribution" in warning
