"""Rendered tiles: the pixels that the slide gives, damage hatched where it is, memory bounded by the tile."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tests.slides import ArraySlide, stained
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.viewer import render
from wsi_attn.viewer.render import hatched, render_region, to_jpeg


def test_native_pixels() -> None:
    array = stained(300, 200)
    frame = Frame(Size(300, 200), 1.0, 1.0)
    pixels, whole = render_region(ArraySlide(array), frame, Region(64, 32, 128, 100))
    assert whole
    np.testing.assert_array_equal(pixels, array[32:132, 64:192])


def test_far_reduced_regions_are_read_in_pieces(monkeypatch) -> None:
    slide = ArraySlide(stained(1024, 1024))
    frame = Frame.covering(slide.info.size0, 8.0, 8.0)
    at_once, _ = render_region(slide, frame, Region(0, 0, 128, 128))
    largest = []
    read = slide.read_region
    monkeypatch.setattr(render, "LARGEST_READ", 256)
    monkeypatch.setattr(
        slide, "read_region", lambda xy, level, size: largest.append(max(size)) or read(xy, level, size)
    )
    in_pieces, whole = render_region(slide, frame, Region(0, 0, 128, 128))
    assert whole
    assert max(largest) <= 256
    np.testing.assert_array_equal(in_pieces, at_once)


def test_damage_is_hatched_and_nothing_else() -> None:
    array = stained(512, 512)
    slide = ArraySlide(array, broken_regions=[(0, Region(200, 200, 8, 8))])
    whole_tile = Region(0, 0, 512, 512)
    pixels, whole = render_region(slide, Frame(Size(512, 512), 1.0, 1.0), whole_tile)
    assert not whole
    differs = (pixels != array).any(axis=-1)
    rows, columns = np.nonzero(differs)
    assert rows.min() >= 192
    assert rows.max() < 256
    assert columns.max() < 256
    np.testing.assert_array_equal(pixels[192:256, 192:256], hatched(Region(192, 192, 64, 64)))


def test_jpeg() -> None:
    array = stained(100, 50)
    decoded = np.asarray(Image.open(io.BytesIO(to_jpeg(array))))
    assert decoded.shape == array.shape
    assert np.abs(decoded.astype(int).mean(axis=(0, 1)) - array.mean(axis=(0, 1))).max() < 3
