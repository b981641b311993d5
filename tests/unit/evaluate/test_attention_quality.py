"""Closed forms of the pointing game and the attention mass."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_attn.evaluate.attention_quality import mass_in_region, pointing_game


def box(rows, columns, top, left, height, width):
    mask = np.zeros((rows, columns), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_the_strongest_cell_hits_or_misses():
    touched = box(2, 3, 0, 1, 1, 1)
    assert pointing_game([[0.1, 0.7, 0.1], [0.1, 0, 0]], touched) == 1
    assert pointing_game([[0.7, 0.1, 0.1], [0.1, 0, 0]], touched) == 0
    assert pointing_game([[np.nan, 0.1, np.nan], [0.05, 0, 0]], touched) == 1


def test_equal_attention_hits_as_often_as_a_random_cell():
    touched = box(4, 5, 1, 1, 2, 3)
    assert pointing_game(np.full((4, 5), 0.05), touched) == 6 / 20
    assert pointing_game(np.full((4, 5), np.nan), touched) is None


def test_mass_of_uniform_attention_is_the_share_of_the_area():
    assert mass_in_region(np.ones((4, 6)), box(4, 6, 0, 0, 2, 3)) == pytest.approx(0.25)


def test_mass_with_cells_that_the_region_cuts():
    assert mass_in_region([[3.0, 1.0]], [[1, 2 / 3]]) == pytest.approx((3 + 2 / 3) / 4)


def test_nothing_looked_at():
    assert mass_in_region(np.full((2, 2), np.nan), np.ones((2, 2))) is None
    assert mass_in_region(np.array([[np.nan, 1.0]]), np.array([[1, 0]])) == 0


@settings(deadline=None)
@given(st.integers(0, 100))
def test_mass_inside_and_outside_sum_to_one(seed):
    generator = np.random.default_rng(seed)
    attention, mask = generator.random((5, 7)), generator.random((5, 7))
    assert mass_in_region(attention, mask) + mass_in_region(attention, 1 - mask) == pytest.approx(1)
