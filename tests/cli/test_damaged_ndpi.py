"""Damaged JPEG data in NDPI files that OpenSlide shows altered without an error is unreadable for every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from tests.cli.runner import wsi_attn
from wsi_attn.errors import SlideReadError
from wsi_attn.slides.open import open_slide

pytestmark = pytest.mark.slow

PAGE = 3
"""The last page of the pyramid; levels 4 to 6 are derived from it."""

OPTIONS = ("--tissue", "none", "--tile-size", "64", "--json")


@pytest.fixture
def sound(collection: Callable[[str], Path]) -> Path:
    return collection("slides/ndpi_dapi.ndpi")


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> tuple[Path, int]:
    """A copy whose longest segment of a page begins with the data of the shortest, and its first row of pixels.

    All rows decode; the data left over show the damage, but OpenSlide does not look at them.
    """
    data = bytearray(sound.read_bytes())
    with tifffile.TiffFile(sound) as tiff:
        offsets, lengths = tiff.pages[PAGE].dataoffsets, tiff.pages[PAGE].databytecounts
    long, short = int(np.argmax(lengths)), int(np.argmin(lengths))
    body = data[offsets[short] : offsets[short] + lengths[short] - 2]
    data[offsets[long] : offsets[long] + len(body)] = body
    path = tmp_path / "damaged.ndpi"
    path.write_bytes(data)
    return path, long * 8


def test_levels_with_and_without_a_page(sound: Path, damaged: tuple[Path, int]) -> None:
    path, row = damaged
    with open_slide(sound) as whole, open_slide(path) as slide, openslide.OpenSlide(str(path)) as alone:
        for index, level in enumerate(whole.info.levels):
            pixels = whole.read_region((0, 0), index, level.size)
            if index < PAGE:
                assert np.array_equal(slide.read_region((0, 0), index, level.size), pixels)
                continue
            theirs = np.asarray(alone.read_region((0, 0), index, level.size))[..., :3]
            assert not np.array_equal(theirs, pixels)  # without an error
            with pytest.raises(SlideReadError, match=f"level {index}.* row {row // 8}"):
                slide.read_region((0, 0), index, level.size)
        above = (whole.info.levels[PAGE].size.width, row)
        assert np.array_equal(slide.read_region((0, 0), PAGE, above), whole.read_region((0, 0), PAGE, above))


def test_tile_masks_and_counts_it(sound: Path, damaged: tuple[Path, int], tmp_path: Path) -> None:
    with open_slide(sound) as slide:
        assert slide.info.mpp is not None
        options = (*OPTIONS, "--mpp", str(slide.info.mpp.x * 2**PAGE))
    done = wsi_attn("tile", sound, "-o", tmp_path / "sound.zarr", *options)
    assert done.json()[0]["unreadable_tiles"] == 0
    done = wsi_attn("tile", damaged[0], "-o", tmp_path / "damaged.zarr", *options)
    assert done.json()[0]["unreadable_tiles"] > 0
    wsi_attn("verify", tmp_path / "damaged.zarr")
