"""Kernels against their NumPy twin, and agreement with the mask's own rule."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_attn.errors import UnknownNameError, UsageError
from wsi_attn.scores.scores import MEASURE_CODES, SCORES, tissue_scores
from wsi_attn.tissue.detect import MEASURES, measure_of


def twin(tiles, valid, measure, threshold):
    """The definition, slowly."""
    values = []
    for tile, (width, height) in zip(tiles, valid, strict=True):
        part = measure_of(tile[:height, :width], measure).astype(int)
        values.append((part > threshold).mean() if part.size else 0.0)
    return np.array(values, np.float32)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)),
    measure=st.sampled_from(sorted(MEASURE_CODES)),
    threshold=st.integers(-1, 255),
    parallel=st.booleans(),
)
def test_equals_twin(seed, shape, measure, threshold, parallel):
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    valid = np.stack([rng.integers(0, shape[2] + 1, shape[0]), rng.integers(0, shape[1] + 1, shape[0])], axis=1)
    got = tissue_scores(tiles, valid, measure, threshold, parallel=parallel)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, twin(tiles, valid, measure, threshold))


def test_edge_tiles_count_only_what_is_inside():
    tiles = np.full((2, 4, 4, 3), 255, np.uint8)
    tiles[:, :2, :1] = (200, 100, 150)
    assert tissue_scores(tiles, np.array([[1, 2], [4, 4]]), "chroma", 20).tolist() == [1.0, 0.125]


def test_measures_are_those_of_masks():
    assert set(MEASURES) == set(MEASURE_CODES)
    assert set(SCORES) == {"tissue"}


def test_refuses_what_it_cannot_mean():
    tiles = np.zeros((1, 4, 4, 3), np.uint8)
    with pytest.raises(UsageError, match="uint8"):
        tissue_scores(tiles.astype(np.float32), np.array([[4, 4]]), "chroma", 20)
    with pytest.raises(UsageError, match="fit"):
        tissue_scores(tiles, np.array([[5, 4]]), "chroma", 20)
    with pytest.raises(UnknownNameError, match="chroma"):
        tissue_scores(tiles, np.array([[4, 4]]), "croma", 20)


def test_package_loads_no_numba():
    code = "import sys, wsi_attn.scores, wsi_attn.scores.scores; raise SystemExit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
