"""Layers on their colour bar, and contact sheets: what the words say is what is shown."""

import numpy as np
import pytest

from tests.slides import ArraySlide, stained
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.heatmaps.appearance import Appearance
from wsi_attn.heatmaps.contact_sheet import UNREADABLE, contact_sheet, read_patches
from wsi_attn.heatmaps.layer import Layer, display_values
from wsi_attn.heatmaps.picture import colours_alone
from wsi_attn.slide import UInt8Array
from wsi_attn.store.records import AttendedRegion

VALUES = np.array([[1, 5, np.nan], [2, 9, -7]], np.float32)
FRAME = Frame(Size(3, 2), 10, 10)


def layer(name, values=VALUES):
    return Layer(name, FRAME, values)


@pytest.mark.parametrize(
    ("name", "title", "mode"),
    [
        ("attention", "Attention", "rank"),
        ("evidence:benign", "Evidence for benign", "value"),
        ("score:entropy", "Entropy", "value"),
        ("uncertainty", "Uncertainty", "value"),
    ],
)
def test_names_and_what_suits_them(name, title, mode):
    assert layer(name).title == title
    assert layer(name).mode == mode
    assert ("rank" in display_values(layer(name)).title) == (mode == "rank")


def test_values_run_from_the_least_to_the_largest_and_the_ticks_say_them():
    shown = display_values(layer("evidence:a"))
    np.testing.assert_allclose(shown.values, [[0.5, 0.75, np.nan], [0.5625, 1, 0]])
    assert shown.ticks == ("-7", "1", "9")


def test_attention_by_value_starts_at_zero():
    shown = display_values(layer("attention", np.array([[0.2, 0.8, np.nan]], np.float32)), "value")
    np.testing.assert_allclose(shown.values, [[0.25, 1, np.nan]])
    assert shown.ticks == ("0", "0.4", "0.8")


@pytest.mark.parametrize("values", [np.full((2, 3), np.nan, np.float32), np.full((2, 3), 4, np.float32)])
def test_nothing_and_all_equal_have_a_bar_too(values):
    shown = display_values(layer("score:x", values))
    assert np.isnan(shown.values).all() or (shown.values == 0.5).all()
    assert len(shown.ticks) >= 2


def test_colours_alone_are_transparent_where_nothing_was_looked_at():
    image = np.asarray(colours_alone(layer("score:x"), Frame(Size(30, 20), 1, 1), Appearance(alpha=0.5)))
    assert (image[:10, 20:, 3] == 0).all()
    assert (image[10:, :, 3] == 128).all()


def slide_with_damage() -> ArraySlide:
    return ArraySlide(stained(400, 300), broken_regions=[(0, Region(0, 0, 10, 10))])


def test_patches_have_their_own_pixels_and_damage_is_grey():
    slide = slide_with_damage()
    regions = [
        AttendedRegion(100, 50, 64, 64, 0.7),
        AttendedRegion(0, 0, 64, 64, 0.2),
        AttendedRegion(50, 60, 256, 128, 0.1),
    ]
    whole, broken, large = read_patches(slide, regions, 64)
    np.testing.assert_array_equal(whole.pixels, stained(400, 300)[50:114, 100:164])
    assert (broken.pixels == UNREADABLE).all()
    assert not broken.readable
    assert large.pixels.shape == (32, 64, 3)
    assert large.downsample == 4


def dark_rows(sheet: UInt8Array) -> int:
    return int((sheet.min(axis=(1, 2)) < 200).sum())


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_sheets_of_any_number(count):
    regions = [AttendedRegion(100 + i, 50, 64, 64, 0.1) for i in range(count)]
    patches = read_patches(slide_with_damage(), regions, 128)
    sheet = contact_sheet(patches, ("a.svs", "tumour"), (0.5, 0.5), side=128, quantity="attention")
    assert dark_rows(np.asarray(sheet)) > 10
    assert (np.asarray(sheet)[:, -2:] == 255).all()  # nothing is cut off
    assert contact_sheet(patches, ("a.svs",), None, side=128, quantity="attention")
