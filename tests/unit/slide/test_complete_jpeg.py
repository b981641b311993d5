"""A completed tile is what a browser needs: one stream, with the pixels that the stored tile decodes to."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.slides import stained
from wsi_attn.data.sources import open_source
from wsi_attn.errors import NotEncodedError, TileDecodeError
from wsi_attn.slide.encoding import JPEG, JPEG2000, TileEncoding

PICTURE = stained(96, 64)


def browser_pixels(data: bytes) -> np.ndarray:
    """As any decoder sees it that knows nothing but the stream."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """Marker and whole segment of everything before the picture data."""
    found, place = [], 2
    while data[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        found.append((data[place + 1], data[place:end]))
        place = end
    return [*found, (0xDA, data[place:])]


def abbreviated(data: bytes) -> tuple[bytes, bytes]:
    """A whole stream as slides store it: the tables apart, no marker that says the colours."""
    parts = segments(data)
    tables = b"".join(part for marker, part in parts if marker in (0xDB, 0xC4))
    rest = b"".join(part for marker, part in parts if marker not in (0xDB, 0xC4, 0xE0, 0xEE))
    return b"\xff\xd8" + rest, b"\xff\xd8" + tables + b"\xff\xd9"


@pytest.mark.parametrize("colours", ["RGB", "YCBCR"])
@pytest.mark.parametrize("with_tables", [True, False])
def test_pixels_are_those_of_the_stored_tile(colours: str, with_tables: bool) -> None:
    whole = bytes(imagecodecs.jpeg8_encode(PICTURE, level=90, colorspace="RGB", outcolorspace=colours))
    data, tables = abbreviated(whole) if with_tables else (whole, None)
    encoding = TileEncoding(JPEG, colours, tables)
    completed = encoding.complete(memoryview(data))
    np.testing.assert_array_equal(browser_pixels(completed), encoding.decode(data))
    assert np.abs(browser_pixels(completed).astype(int) - PICTURE).mean() < 12


def test_a_marker_that_contradicts_the_file_is_left_out() -> None:
    """A JFIF marker says YCbCr; the file's photometric tag says RGB and is right."""
    encoding = TileEncoding(JPEG, "RGB")
    data = bytes(imagecodecs.jpeg8_encode(PICTURE, level=90, colorspace="RGB", outcolorspace="RGB"))
    jfif = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    completed = encoding.complete(data[:2] + jfif + data[2:])
    assert [marker for marker, _ in segments(completed)].count(0xE0) == 0
    np.testing.assert_array_equal(browser_pixels(completed), encoding.decode(data))


def test_grey() -> None:
    grey = np.ascontiguousarray(PICTURE[..., 0])
    data = bytes(imagecodecs.jpeg8_encode(grey, level=95))
    completed = TileEncoding(JPEG, "GRAYSCALE").complete(data)
    np.testing.assert_array_equal(browser_pixels(completed)[..., 1], np.asarray(Image.open(io.BytesIO(data))))


def test_picture_data_is_untouched() -> None:
    data, tables = abbreviated(
        bytes(imagecodecs.jpeg8_encode(PICTURE, level=80, colorspace="RGB", outcolorspace="YCBCR"))
    )
    completed = TileEncoding(JPEG, "YCBCR", tables).complete(data)
    assert completed.endswith(segments(data)[-1][1])


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xc4\x40\x00"])
def test_damage_is_an_error(data: bytes) -> None:
    with pytest.raises(TileDecodeError):
        TileEncoding(JPEG, "YCBCR").complete(data)


def test_only_jpeg_is_completed() -> None:
    with pytest.raises(NotEncodedError):
        TileEncoding(JPEG2000).complete(b"")


@pytest.mark.parametrize(
    "name", ["slides/cmu1_small_region.svs", "slides/crc01_he_left.tif", "slides/generic_pyramid.tiff"]
)
def test_real_slides(name: str, collection: Callable[[str], Path]) -> None:
    with open_source(collection(name)) as slide:
        try:
            tiles = slide.encoded_tiles(0)
        except NotEncodedError as error:
            pytest.skip(str(error))
        rows, columns = tiles.lengths.shape
        for cell in [(0, 0), (rows // 2, columns // 2), (rows - 1, columns - 1)]:
            (data,) = tiles.read([cell])
            if len(data):
                completed = tiles.encoding.complete(data)
                np.testing.assert_array_equal(browser_pixels(completed), tiles.encoding.decode(data))
