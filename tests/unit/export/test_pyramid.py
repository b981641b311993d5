"""Pyramids: every pixel read once, memory flat, damage grey and counted, any shape complete."""

import math
import tracemalloc

import cv2
import numpy as np
import pytest

from tests.slides import ArraySlide, stained
from wsi_attn.export.ome_tiff import write_picture
from wsi_attn.export.pyramid import Painter, build_pyramid, level_sizes
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.heatmaps.contact_sheet import UNREADABLE
from wsi_attn.slide import BACKGROUND


def built(slide, tile, smallest, workers=1):
    """All tiles by (level, row, column), the level sizes and the painter."""
    painter = Painter(slide, Frame.covering(slide.info.size0, 1.0, 1.0), None)
    sizes = level_sizes(slide.info.size0, smallest)
    tiles = {}

    def emit(level, row, column, pixels):
        assert (level, row, column) not in tiles
        tiles[level, row, column] = pixels

    build_pyramid(painter, tile, sizes, emit, workers)
    return tiles, sizes, painter


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (300, 1), (257, 130), (700, 513), (3, 900)])
@pytest.mark.parametrize("smallest", [1, 32])
@pytest.mark.parametrize("workers", [1, 3])
def test_levels_are_complete_and_each_halves_the_one_before(size, smallest, workers):
    pixels = stained(*size)
    tiles, sizes, _ = built(ArraySlide(pixels), 32, smallest, workers)
    before = None
    for level, size_here in enumerate(sizes):
        rows, columns = math.ceil(size_here.height / 32), math.ceil(size_here.width / 32)
        whole = np.concatenate(
            [
                np.concatenate([tiles.pop((level, row, column)) for column in range(columns)], axis=1)
                for row in range(rows)
            ]
        )
        assert whole.shape == (size_here.height, size_here.width, 3)
        if before is None:
            np.testing.assert_array_equal(whole, pixels)
        else:
            odd = [(0, 2 * n - m) for n, m in zip(whole.shape[:2], before.shape[:2], strict=True)]
            even = np.pad(before, (*odd, (0, 0)), mode="edge").astype(float)
            means = even.reshape(whole.shape[0], 2, whole.shape[1], 2, 3).mean(axis=(1, 3))
            assert np.abs(whole - means).max() <= 0.5
        before = whole
    assert not tiles
    assert max(sizes[-1]) <= smallest


def test_each_pixel_is_read_once():
    slide = ArraySlide(stained(640, 320))
    built(slide, 32, 1)
    assert slide.reads == 20 * 10


def test_damage_is_grey_and_counted():
    slide = ArraySlide(stained(128, 128), broken_regions=[(0, Region(40, 40, 4, 4))])
    tiles, _, painter = built(slide, 32, 32)
    assert painter.unreadable == 1
    assert (tiles[0, 1, 1] == UNREADABLE).all()
    assert (tiles[1, 0, 0][16:, 16:] == UNREADABLE).all()


class Endless(ArraySlide):
    """A slide of any size that takes no memory."""

    def __init__(self, width, height):
        super().__init__(np.full((8, 8, 3), BACKGROUND, np.uint8))
        level = self.info.levels[0]
        self.info = type(self.info)(
            **{
                **vars(self.info),
                "size0": Size(width, height),
                "levels": (type(level)(Size(width, height), 1, 1, Size(64, 64)),),
            }
        )

    def read_region(self, xy0, level, size):
        self.reads += 1
        return np.full((size[1], size[0], 3), (xy0[0] // 512 + xy0[1] // 512) % 200, np.uint8)


def peak_of(width, height, path):
    slide = Endless(width, height)
    painter = Painter(slide, Frame.covering(slide.info.size0, 1.0, 1.0), None)
    tracemalloc.start()
    write_picture(path, painter, None, {}, workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_slide(tmp_path):
    small, large = peak_of(4096, 4096, tmp_path / "s.tiff"), peak_of(32_768, 8192, tmp_path / "l.tiff")
    assert large < small + 8_000_000  # sixteen times the pixels, 800 MB of them
    assert large < 64_000_000


def test_opencv_means_are_the_definition():
    """`halve` leaves the averaging to OpenCV: two by two, rounded to nearest."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    means = pixels.reshape(3, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(cv2.resize(pixels, (4, 3), interpolation=cv2.INTER_AREA) - means).max() <= 0.5
