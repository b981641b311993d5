"""The finished picture: colour where attention is and nowhere else, at any shape, the same every time."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from wsi_attn.errors import UnknownNameError, UsageError
from wsi_attn.geometry import Frame, Size
from wsi_attn.heatmaps import legend, text
from wsi_attn.heatmaps.appearance import Appearance
from wsi_attn.heatmaps.layer import ATTENTION, Layer
from wsi_attn.heatmaps.outlines import outline_box
from wsi_attn.heatmaps.picture import caption_of, draw_layer, origin_of, overlay, png_bytes
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.store.predictions import SlidePrediction
from wsi_attn.store.records import AttendedRegion

GLASS = 240


def draw_heatmap(prediction, thumbnail, frame, mode="rank", alpha=0.5, colour="viridis", outlines=True):
    look = Appearance(mode, colour, alpha)
    layer = Layer(ATTENTION, prediction.attention_map.frame, prediction.attention_map.values)
    caption = caption_of(prediction if outlines else replace(prediction, attention=()))
    return draw_layer(layer, caption, thumbnail, frame, look)


def slide(width, height, size0=(40_000, 30_000), cell=(1000.0, 750.0), marks=((20_000, 15_000),), n_regions=3):
    """A prediction that attends to the marks (level-0 x, y) alone, and a plain grey thumbnail with its frame."""
    source = Frame.covering(Size(*size0), *cell)
    values = np.full((source.size.height, source.size.width), np.nan, np.float32)
    for x, y in marks:
        values[int(y / cell[1]), int(x / cell[0])] = 1 / len(marks)
    prediction = SlidePrediction(
        slide="case_07",
        size0=Size(*size0),
        label="tumour",
        probabilities={"normal": 0.07, "tumour": 0.93},
        uncertainty={},
        tissue_fraction=0.4,
        unreadable_tiles=0,
        attention=tuple(AttendedRegion(3000 * i, 2000 * i, 512, 512, 1 / n_regions) for i in range(n_regions)),
        model={"name": "deep-attention", "sha256": "0" * 64},
        mpp=(0.25, 0.25),
        seconds=1.0,
        software={"python": "3"},
        attention_map=AttentionMap(source, values),
        fingerprint="f" * 64,
    )
    frame = Frame(Size(width, height), size0[0] / width, size0[1] / height)
    return prediction, np.full((height, width, 3), GLASS, np.uint8), frame


@pytest.mark.parametrize(("width", "height"), [(400, 300), (400, 150), (160, 300)])
@pytest.mark.parametrize("mode", ["rank", "value"])
def test_a_mark_is_coloured_at_its_place_and_nothing_else_is(width, height, mode):
    mark = (8_500, 21_375)  # the middle of a cell of 1000 by 750
    prediction, thumbnail, frame = slide(width, height, marks=[mark])
    image = np.asarray(draw_heatmap(prediction, thumbnail, frame, mode=mode, outlines=False))[:height, :width]
    rows, columns = np.nonzero((image != GLASS).any(axis=-1))
    centre_x = (np.arange(width) + 0.5) * frame.downsample_x
    centre_y = (np.arange(height) + 0.5) * frame.downsample_y
    assert set(columns) == set(np.flatnonzero((centre_x >= 8_000) & (centre_x < 9_000)))
    assert set(rows) == set(np.flatnonzero((centre_y >= 21_000) & (centre_y < 21_750)))
    assert image[int(mark[1] / frame.downsample_y), int(mark[0] / frame.downsample_x)].tolist() != [GLASS] * 3


def test_nothing_looked_at_leaves_the_thumbnail_as_it_is():
    prediction, thumbnail, frame = slide(300, 225, marks=[])
    for mode in ("rank", "value"):
        image = np.asarray(draw_heatmap(prediction, thumbnail, frame, mode=mode, outlines=False))
        np.testing.assert_array_equal(image[:225, :300], thumbnail)


def test_more_attention_hides_more_and_never_all():
    grey = np.random.default_rng(0).integers(60, 255, (50, 50, 1)).astype(np.uint8)
    texture = np.repeat(grey, 3, axis=-1)
    shown = [overlay(texture, np.full((50, 50), v, np.float32), 0.5, "viridis")[..., 0] for v in (0.0, 0.5, 1.0)]
    spread = [channel.std() / grey.std() for channel in shown]
    np.testing.assert_allclose(spread, [0.9, 0.7, 0.5], atol=0.01)  # 1 - 0.5 * (0.2 + 0.8 * value)
    np.testing.assert_array_equal(overlay(texture, np.ones((50, 50), np.float32), 0.0, "viridis"), texture)


@pytest.mark.parametrize("size", [(300, 225), (1500, 60), (60, 1500), (20, 20), (1, 1)])
@pytest.mark.parametrize("mpp", [None, (0.25, 0.25), (20.0, 20.0)])
def test_any_shape_has_its_own_pixels_and_a_whole_legend(size, mpp):
    prediction, thumbnail, frame = slide(*size, marks=[], n_regions=0)
    image = draw_heatmap(replace(prediction, mpp=mpp), thumbnail, frame)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image)[: size[1], : size[0]], thumbnail)
    assert image.width > size[0] or image.height > size[1]
    right, bottom = np.asarray(image)[:, -4:], np.asarray(image)[-4:]
    for edge in (right[size[1] + 1 :], bottom[:, size[0] + 1 :]):
        assert (edge == 255).all()  # nothing is cut off


@pytest.mark.parametrize("size", [(300, 225), (1500, 60), (60, 1500), (1000, 800)])
def test_blocks_of_the_legend_do_not_overlap(size, monkeypatch):
    seen = []
    for name in ("in_rows", "in_column"):
        original = getattr(legend, name)
        monkeypatch.setattr(legend, name, lambda *a, f=original: seen.append(f(*a)) or seen[-1])
    prediction, thumbnail, frame = slide(*size)
    image = draw_heatmap(replace(prediction, slide="TCGA-" + "very-long-" * 12), thumbnail, frame)
    ((places, height),) = seen
    boxes = [(p.x, p.y, p.x + p.block.width, p.y + p.block.height) for p in places]
    for i, a in enumerate(boxes):
        assert a[2] <= image.width
        assert a[3] <= height
        assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in boxes[i + 1 :])


def test_equal_input_gives_equal_bytes_that_tell_their_origin():
    prediction, thumbnail, frame = slide(300, 225)
    first, second = (png_bytes(draw_heatmap(prediction, thumbnail, frame), origin_of(prediction)) for _ in range(2))
    assert first == second
    with Image.open(io.BytesIO(first)) as image:
        record = json.loads(image.text["wsi-attn"])
    assert record["fingerprint"] == "f" * 64
    assert record["model"]["name"] == "deep-attention"
    assert record["notice"] == "Research use only"


def test_outlines_surround_their_regions():
    frame = Frame(Size(400, 150), 100.0, 200.0)
    assert outline_box(frame, AttendedRegion(1000, 2000, 500, 500, 1.0)) == (10, 10, 15, 13)
    assert outline_box(frame, AttendedRegion(1000, 2000, 500, 500, 1.0), smallest=9) == (8, 7, 17, 16)
    prediction, thumbnail, frame = slide(400, 300, marks=[], n_regions=1)
    moved = replace(prediction, attention=(AttendedRegion(20_000, 15_000, 4000, 4000, 1.0),))
    image = np.asarray(draw_heatmap(moved, thumbnail, frame))[:300, :400]
    rows, columns = np.nonzero((image != GLASS).any(axis=-1))
    assert (image[151:189, 201:239] == GLASS).all()  # the region itself stays free
    assert columns.min() in range(196, 200)
    assert rows.max() in range(190, 194)


def test_regions_at_and_past_the_edge_are_drawn_without_error():
    prediction, thumbnail, frame = slide(300, 225)
    far = [AttendedRegion(x, y, 600, 600, 0.1) for x in (-500, 39_900) for y in (-500, 29_900)]
    assert draw_heatmap(replace(prediction, attention=tuple(far * 3)), thumbnail, frame)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mode": "log"}, UsageError),
        ({"alpha": 1.5}, UsageError),
        ({"colour": "jet"}, UnknownNameError),
        ({"thumbnail": np.zeros((10, 10, 3), np.uint8)}, UsageError),
        ({"thumbnail": np.zeros((225, 300, 3), np.float32)}, UsageError),
    ],
)
def test_options_out_of_range_are_refused(options, error):
    prediction, thumbnail, frame = slide(300, 225)
    with pytest.raises(error):
        draw_heatmap(prediction, **{"thumbnail": thumbnail, "frame": frame, **options})


@pytest.mark.parametrize(
    ("longest", "length", "words"),
    [(7, 5, "5 µm"), (199, 100, "100 µm"), (200, 200, "200 µm"), (6_000, 5_000, "5 mm"), (23_000, 20_000, "2 cm")],
)
def test_scale_bars_have_round_lengths(longest, length, words):
    assert legend.scale_length(longest) == length
    assert legend.length_words(length) == words


def test_the_scale_bar_has_the_length_that_it_states():
    block = np.asarray(legend.scale_bar(2.0, 20, 400, ""))
    dark = (block.sum(axis=-1) < 150).sum(axis=1)
    assert dark.max() == 200 / 2.0  # 10 letters of 20 pixels at 2 µm: 400 µm of room, 200 µm are round


def test_text_keeps_both_ends():
    short = text.fitted("TCGA-05-4244-01Z-00-DX1", 20, 120)
    assert short.startswith("TCGA")
    assert short.endswith("DX1")
    assert text.text_width(short, 20) <= 120
    assert text.fitted("wide", 20, 1) == "…"
