"""DICOM: the streams decide what colours they hold, against PhotometricInterpretation and OpenSlide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.uid import JPEG2000

from tests.cli.runner import wsi_attn
from tests.dicom_files import write_series
from tests.unit.slides.test_colours import HALF, PIXELS, STATED, error_of, stream_of
from wsi_attn.errors import NotEncodedError, SlideUnsupportedError
from wsi_attn.slides.open import open_slide
from wsi_attn.slides.openslide_reader import OpenSlideReader


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize("kind", [kind for kind, stated in STATED.items() if stated])
@pytest.mark.parametrize("has_table", [True, False])
def test_stream_decides(photometric: str, kind: str, has_table: bool, tmp_path: Path) -> None:
    levels = [PIXELS, HALF]
    encode = lambda tile: stream_of(tile, kind)  # noqa: E731
    folder = write_series(tmp_path / "s", levels, photometric=photometric, encode=encode, has_table=has_table)
    with open_slide(folder) as slide:
        assert len(slide.info.levels) == 2
        for index, level in enumerate(levels):
            assert error_of(slide.read_region((0, 0), index, level.shape[1::-1]), level) < 4
            assert slide.encoded_tiles(index).encoding.colorspace == STATED[kind]


def test_attribute_decides_where_the_stream_says_nothing(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", [PIXELS], photometric="RGB", encode=lambda tile: stream_of(tile, "bare"))
    with open_slide(folder) as slide:
        assert error_of(slide.read_region((0, 0), 0, slide.info.size0), PIXELS) < 4


def test_frames_that_differ(tmp_path: Path) -> None:
    kinds = iter(["jfif", "letters"] * 10)
    folder = write_series(tmp_path / "s", [PIXELS], photometric="RGB", encode=lambda tile: stream_of(tile, next(kinds)))
    with open_slide(folder) as slide:
        assert error_of(slide.read_region((0, 0), 0, slide.info.size0), PIXELS) < 4
        with pytest.raises(NotEncodedError, match="different colour spaces"):
            slide.encoded_tiles(0)


@pytest.mark.parametrize(("photometric", "transformed"), [("YBR_ICT", False), ("YBR_RCT", False), ("YBR_ICT", True)])
def test_jpeg_2000_without_the_transform_that_is_stated(photometric: str, transformed: bool, tmp_path: Path) -> None:
    def encode(tile: np.ndarray) -> bytes:
        return imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(tile), level=50, codecformat="j2k", mct=transformed, reversible=False
        )

    folder = write_series(tmp_path / "s", [PIXELS], photometric=photometric, encode=encode, syntax=JPEG2000)
    if not transformed:
        with pytest.raises(SlideUnsupportedError, match=f"states {photometric}"):
            open_slide(folder)
    else:
        with open_slide(folder) as slide:
            assert error_of(slide.read_region((0, 0), 0, slide.info.size0), PIXELS) < 4


def test_frames_are_copied_into_a_store(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", [PIXELS, HALF], photometric="RGB")
    store = tmp_path / "s.zarr"
    wsi_attn("tile", folder, "-o", store, "--tile-size", "128", "--codec", "passthrough")
    with open_slide(folder) as slide:
        wanted = slide.read_region((0, 0), 0, slide.info.size0)
    assert np.array_equal(plain_pixels(store), wanted)


def plain_pixels(store: Path) -> np.ndarray:
    """Level 0 as any reader of Zarr sees it, with the public codec."""
    import zarr

    array = zarr.open_group(store, mode="r")["0"]
    return np.moveaxis(np.asarray(array[:]), 0, -1)


@pytest.mark.parametrize("name", ["dicom_camelyon_level.dcm", "dicom_sm_rgb.dcm", "dicom_pair/part0.dcm"])
def test_real_slides_are_openslides(name: str, collection: Callable[[str], Path]) -> None:
    path = collection(f"slides/{name}")
    with open_slide(path) as ours, OpenSlideReader(path) as theirs:
        for index, level in enumerate(ours.info.levels):
            wanted = theirs.read_region((0, 0), index, level.size)
            assert np.array_equal(ours.read_region((0, 0), index, level.size), wanted)
