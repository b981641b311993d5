"""Overlapping tiles: they cover, weights sum to one, and what lies near an inner edge of a tile counts for nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_attn.errors import UsageError
from wsi_attn.tasks.segmentation.windows import Windows


@given(length=st.integers(1, 3000), tile=st.integers(2, 12), share=st.integers(0, 6))
def test_weights_sum_to_one_everywhere(length: int, tile: int, share: int) -> None:
    windows = Windows(length, 32 * tile, 32 * min(share, tile // 2))
    total = np.zeros(length)
    for index in range(len(windows)):
        span = windows.span(index)
        weights = windows.weights(index)
        total[span.start : span.stop] += weights
        counting = np.flatnonzero(weights) + span.start
        assert span.first <= counting[0]
        assert counting[-1] < span.last
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(length=st.integers(1, 3000), first=st.integers(0, 2999), size=st.integers(1, 500))
def test_the_tiles_of_a_block_are_those_that_count_in_it(length: int, first: int, size: int) -> None:
    windows = Windows(length, 128, 32)
    first = min(first, length - 1)
    last = min(length, first + size)
    found = windows.touching(first, last)
    for index in range(len(windows)):
        weights, start = windows.weights(index), windows.span(index).start
        counts = weights[max(0, first - start) : max(0, last - start)].any() and start < last
        assert counts <= (index in found)


def test_the_outer_quarter_of_the_overlap_counts_for_nothing_but_at_the_edge_of_the_slide() -> None:
    windows = Windows(400, 256, 128)
    first, last = windows.weights(0), windows.weights(1)
    assert len(windows) == 3
    assert first[0] == 1
    assert (first[-32:] == 0).all()
    assert (first[:160] == 1).all()
    assert (last[:32] == 0).all()
    assert np.abs(np.diff(first)).max() < 0.03  # sin^2 over 64 pixels: no step is a seam


@pytest.mark.parametrize(("tile", "overlap"), [(100, 32), (128, 20), (128, 96), (0, 0)])
def test_sizes_off_the_grid_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        Windows(1000, tile, overlap)
