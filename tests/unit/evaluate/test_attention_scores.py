"""Attention against regions: closed forms, chance, and maps that reach beyond the image."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from wsi_attn.evaluate.attention_quality import attention_auprc
from wsi_attn.evaluate.attention_scores import AttentionScores, attention_section, score_attention
from wsi_attn.geometry import Frame, Size
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.store.records import AttendedRegion


def attention(values, cell):
    values = np.asarray(values, np.float32)
    return AttentionMap(Frame(Size(values.shape[1], values.shape[0]), cell, cell), values)


def region(size, x, y, width, height):
    mask = np.zeros((size.height, size.width), bool)
    mask[y : y + height, x : x + width] = True
    return mask


SIZE = Size(40, 20)


def test_all_attention_on_the_region_scores_one():
    found = score_attention(attention([[1, 0, 0, 0], [0, 0, 0, 0]], 10), (), region(SIZE, 0, 0, 10, 10), SIZE)
    assert found.values == {"mass_in_region": 1, "auprc": 1, "pointing_game": 1}
    assert found.chance == pytest.approx({"mass_in_region": 1 / 8, "auprc": 1 / 8, "pointing_game": 1 / 8})


def test_attention_without_preference_is_chance():
    found = score_attention(attention(np.full((2, 4), 1 / 8), 10), (), region(SIZE, 5, 3, 11, 9), SIZE)
    for measure in ("mass_in_region", "auprc"):
        assert found.values[measure] == pytest.approx(found.chance[measure])
    assert found.chance["pointing_game"] == 4 / 8


def test_a_map_that_reaches_beyond_the_image_is_cut_to_it():
    # Cells of 16 px over 40 x 20: the last column is half inside, the last row a quarter.
    size, mask = Size(40, 20), region(Size(40, 20), 32, 16, 8, 4)
    found = score_attention(attention([[0, 0, 0], [0, 0, 1]], 16), (), mask, size)
    assert found.values == {"mass_in_region": 1, "auprc": 1, "pointing_game": 1}
    assert found.chance["auprc"] == pytest.approx(32 / 800)


def test_what_was_not_looked_at_does_not_count():
    values = np.array([[0.5, np.nan, 0.5, np.nan], [np.nan] * 4])
    found = score_attention(attention(values, 10), (), region(SIZE, 0, 0, 20, 10), SIZE)
    assert found.values["mass_in_region"] == 0.5
    assert found.chance["mass_in_region"] == 0.5
    assert score_attention(attention(values, 10), (), region(SIZE, 10, 0, 10, 10), SIZE) is None
    assert score_attention(attention([[1.0]], 40), (), region(SIZE, 0, 0, 10, 10), SIZE) is None


def test_the_resolution_of_the_mask_does_not_matter():
    rng = np.random.default_rng(0)
    found = [
        score_attention(attention(values, 10), (), np.kron(region(SIZE, 8, 4, 12, 8), np.ones((k, k))) > 0, SIZE)
        for k, values in [(1, rng.random((2, 4))), (3, np.random.default_rng(0).random((2, 4)))]
    ]
    assert found[0].values == pytest.approx(found[1].values)


def test_auprc_is_that_of_all_pixels():
    rng = np.random.default_rng(1)
    values, mask = rng.integers(0, 5, (4, 6)).astype(float), rng.random((40, 60)) < 0.2
    share = mask.reshape(4, 10, 6, 10).mean(axis=(1, 3))
    pixels = np.kron(values, np.ones((10, 10)))
    expected = average_precision_score(mask.ravel(), pixels.ravel())
    assert attention_auprc(values, share, np.full((4, 6), 100.0)) == pytest.approx(expected)


def test_places_and_their_chance():
    places = tuple(AttendedRegion(x, 0, 10, 10, 0.5) for x in (0, 30))
    even = attention(np.full((2, 4), 1 / 8), 10)
    hit = score_attention(even, places, region(SIZE, 2, 2, 3, 3), SIZE)
    assert hit.values["places_hit"] == 1
    assert hit.chance["places_hit"] == pytest.approx(2 / 8)  # one of 8 cells holds it, two of 8 are drawn
    missed = score_attention(even, places, region(SIZE, 12, 12, 3, 3), SIZE)
    assert missed.values["places_hit"] == 0
    every = tuple(AttendedRegion(0, 0, 10, 10, 0.1) for _ in range(9))
    assert score_attention(even, every, region(SIZE, 2, 2, 3, 3), SIZE).chance["places_hit"] == 1


def test_the_section_averages_images_and_resamples_patients():
    scores = [AttentionScores({"auprc": value}, {"auprc": 0.1}) for value in (0.2, 0.4, 0.6, 0.8)]
    scores.append(AttentionScores({"auprc": 0.5, "places_hit": 1.0}, {"auprc": 0.6, "places_hit": 0.3}))
    found = attention_section(scores, ["a", "a", "b", "c", "d"], 7, 0)
    assert (found["n"], found["skipped"]) == (5, 2)
    assert found["auprc"]["value"] == pytest.approx(0.5)
    assert found["auprc"]["low"] < 0.5 < found["auprc"]["high"]
    assert found["auprc"]["chance"] == pytest.approx(0.2)
    assert found["places_hit"] == {"value": 1.0, "low": None, "high": None, "chance": 0.3}
    assert "pointing_game" not in found


def test_no_region_anywhere_is_an_empty_section():
    assert attention_section([], [], 0, 0) == {"n": 0, "skipped": 0}
