"""Damage to the structure of compressed tiles is found without decoding; sound streams of all kinds pass."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.slides import stained
from tests.tiff_files import DHT, DQT, EOI, SOI, SOS, Streams, parts_of
from wsi_attn.errors import NotEncodedError, TileDecodeError
from wsi_attn.geometry import Size
from wsi_attn.slide.encoding import JPEG, JPEG2000, TileEncoding
from wsi_attn.slides.open import open_slide

SIDE = Size(96, 64)
PICTURE = stained(*SIDE)
YCBCR = TileEncoding(JPEG, "YCBCR")


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def header_bytes(stream: bytes) -> int:
    at = stream.index(bytes([0xFF, SOS]))
    return at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")


def jpeg2000(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "JPEG2000", **{"no_jp2": True, "quality_layers": [10], **options})
    return file.getvalue()


KINDS = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
    "progressive": {"progressive": True},
    "own Huffman tables": {"optimize": True},
    "restart at each row": {"restart_marker_rows": 1},
    "restart at each block": {"restart_marker_blocks": 1, "subsampling": "4:4:4"},
    "progressive with restarts": {"progressive": True, "restart_marker_blocks": 5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_sound_jpeg_passes(kind: str) -> None:
    stream = jpeg(**KINDS[kind])
    for data in (stream, memoryview(stream), stream + bytes(16), stream):
        YCBCR.check(data, SIDE)
    np.testing.assert_array_equal(YCBCR.decode(stream), np.asarray(Image.open(io.BytesIO(stream))))


def test_sound_grey_and_abbreviated_pass() -> None:
    grey = io.BytesIO()
    Image.fromarray(PICTURE[..., 0]).save(grey, "JPEG")
    TileEncoding(JPEG, "GRAYSCALE").check(grey.getvalue(), SIDE)
    with pytest.raises(TileDecodeError, match="components"):
        YCBCR.check(grey.getvalue(), SIDE)
    streams = Streams("RGB")
    TileEncoding(JPEG, "RGB", streams.tables()).check(streams.encode(PICTURE), SIDE)
    with pytest.raises(TileDecodeError, match="missing"):
        TileEncoding(JPEG, "RGB").check(streams.encode(PICTURE), SIDE)


def test_tables_are_shared_by_no_other_encoding() -> None:
    """Two encodings check tiles with equal headers each by its own tables."""
    streams = Streams("RGB")
    data = streams.encode(PICTURE)
    sound, lacking = TileEncoding(JPEG, "RGB", streams.tables()), TileEncoding(JPEG, "RGB")
    for _ in range(2):
        sound.check(data, SIDE)
        with pytest.raises(TileDecodeError):
            lacking.check(data, SIDE)


def without(stream: bytes, marker: int) -> bytes:
    return SOI + b"".join(part for kind, part in parts_of(stream) if kind != marker)


def replaced(stream: bytes, at: int, *values: int) -> bytes:
    return stream[:at] + bytes(values) + stream[at + len(values) :]


def damaged_jpegs() -> dict[str, bytes]:
    plain = jpeg()
    begin, middle = header_bytes(plain), (header_bytes(plain) + len(plain)) // 2
    restarts = jpeg(restart_marker_rows=1)
    first, second = restarts.index(b"\xff\xd0"), restarts.index(b"\xff\xd1")
    frame = plain.index(b"\xff\xc0")
    return {
        "empty": b"",
        "zeroed": bytes(len(plain)),
        "start zeroed": bytes(2) + plain[2:],
        "cut off": plain[:middle],
        "end cut off": plain[:-2],
        "cut off and ended": plain[: begin + 8] + EOI,
        "body zeroed to the end": plain[:middle] + bytes(len(plain) - middle),
        "body zeroed but for the ends": plain[:2] + bytes(len(plain) - 4) + EOI,
        "followed by other bytes": plain + bytes(17),
        "end in the middle": replaced(plain, middle, 0xFF, 0xD9),
        "illegal code": replaced(plain, middle, 0xFF, 0x12),
        "frame header in the data": replaced(plain, middle, 0xFF, 0xC0),
        "restart marker without an interval": replaced(plain, middle, 0xFF, 0xD0),
        "restart marker lost": replaced(restarts, first, 0, 0),
        "restart markers exchanged": replaced(replaced(restarts, first, 0xFF, 0xD1), second, 0xFF, 0xD0),
        "restart interval lost": without(restarts, 0xDD),
        "quantisation tables lost": without(plain, DQT),
        "Huffman tables lost": without(plain, DHT),
        "frame lost": without(plain, 0xC0),
        "other size": replaced(plain, frame + 5, 0, 65),
        "12 bits": replaced(plain, frame + 4, 12),
        "sampling of 0": replaced(plain, frame + 11, 0),
        "segment too long": replaced(plain, frame + 2, 0xFF, 0xF0),
        "segment of no length": replaced(plain, frame + 2, 0, 0),
        "scan of unknown components": replaced(plain, begin - 10, 2, 9),
        "Huffman table overfull": replaced(plain, plain.index(b"\xff\xc4") + 5, 3),
    }


@pytest.mark.parametrize("name", damaged_jpegs())
def test_damaged_structure_of_jpeg_is_found(name: str) -> None:
    damaged = damaged_jpegs()[name]
    assert damaged != jpeg()
    with pytest.raises(TileDecodeError):
        YCBCR.check(damaged, SIDE)
    YCBCR.check(jpeg(), SIDE)  # and from now on the header is known
    with pytest.raises(TileDecodeError):
        YCBCR.check(damaged, SIDE)


def test_many_tiles_are_checked_as_one_by_one() -> None:
    restarts = jpeg(restart_marker_rows=1)
    damaged = [*damaged_jpegs().values(), restarts[:-20] + EOI, restarts + b"\xff"]
    for sound in (jpeg(), restarts):  # the header that is usual, thus known
        tiles = [part for data in damaged for part in (sound, data, sound + bytes(16))]
        encoding = TileEncoding(JPEG, "YCBCR")
        assert encoding.are_whole([sound], SIDE).tolist() == [True]
        assert encoding.are_whole(tiles, SIDE).tolist() == [_passes(encoding, tile) for tile in tiles]
    assert YCBCR.are_whole([], SIDE).shape == (0,)


def test_damaged_jpeg2000_among_many_tiles_is_found() -> None:
    damaged = list(damaged_jpeg2000s().values())
    found = TileEncoding(JPEG2000).are_whole([jpeg2000(), *damaged], SIDE)
    assert found.tolist() == [True] + [False] * len(damaged)


def _passes(encoding: TileEncoding, tile: bytes) -> bool:
    try:
        encoding.check(tile, SIDE)
    except TileDecodeError:
        return False
    return True


@pytest.mark.parametrize("options", [{}, {"no_jp2": False}, {"tile_size": (32, 32)}, {"num_resolutions": 3}])
def test_sound_jpeg2000_passes(options: dict[str, object]) -> None:
    stream = jpeg2000(**options)
    TileEncoding(JPEG2000).check(stream, SIDE)
    TileEncoding(JPEG2000).check(memoryview(stream), SIDE)
    assert TileEncoding(JPEG2000).decode(stream).shape == (64, 96, 3)


def damaged_jpeg2000s() -> dict[str, bytes]:
    plain, tiled = jpeg2000(), jpeg2000(tile_size=(32, 32))
    part = plain.index(b"\xff\x90")
    second = tiled.index(b"\xff\x90", tiled.index(b"\xff\x90") + 2)
    body = plain.index(b"\xff\x93") + 2
    return {
        "empty": b"",
        "zeroed": bytes(len(plain)),
        "cut off": plain[: (body + len(plain)) // 2],
        "end cut off": plain[:-2],
        "body zeroed to the end": plain[:body] + bytes(len(plain) - body),
        "followed by other bytes": plain + bytes(17),
        "tile-part lost": tiled[: tiled.index(b"\xff\x90")] + tiled[second:],
        "tile-part too long": replaced(plain, part + 6, 0, 0x7F, 0xFF, 0xFF),
        "tile-part too short": replaced(plain, part + 6, 0, 0, 0, 20),
        "tile number": replaced(plain, part + 4, 0, 9),
        "illegal code": replaced(plain, (body + len(plain)) // 2, 0xFF, 0xA0),
        "no start of data": replaced(plain, body - 2, 0, 0),
        "other size": replaced(plain, 8, 0, 0, 0, 65),
        "other depth": replaced(plain, 42, 11),
        "no coding parameters": replaced(plain, plain.index(b"\xff\x52"), 0xFF, 0x64),
    }


@pytest.mark.parametrize("name", damaged_jpeg2000s())
def test_damaged_structure_of_jpeg2000_is_found(name: str) -> None:
    with pytest.raises(TileDecodeError):
        TileEncoding(JPEG2000).check(damaged_jpeg2000s()[name], SIDE)


def test_a_body_zeroed_is_found_by_decoding_alone() -> None:
    """The structure is whole; only who decodes notices."""
    stream = jpeg()
    middle = (header_bytes(stream) + len(stream)) // 2
    damaged = stream[:middle] + bytes(400) + stream[middle + 400 :]
    YCBCR.check(damaged, SIDE)
    with pytest.raises(TileDecodeError):
        YCBCR.decode(damaged)


def test_decoding_finds_what_the_structural_check_finds() -> None:
    """Whatever is cut out of a stream, strict decoding never gives pixels where entropy-coded data are missing."""
    stream, rng = jpeg(), np.random.default_rng(0)
    begin = header_bytes(stream)
    for _ in range(100):
        place = int(rng.integers(begin, len(stream) - 300))
        with pytest.raises(TileDecodeError):
            YCBCR.decode(stream[:place] + EOI)


def test_zeroed_runs_in_real_tiles_are_found_by_decoding(demo_slide: Path) -> None:
    rng = np.random.default_rng(1)
    with open_slide(demo_slide) as slide:
        tiles = slide.encoded_tiles(0)
        cells = [(row, column) for row, column in np.argwhere(tiles.lengths > 4000).tolist()]
        for data in map(bytes, tiles.read(cells)):
            place = int(rng.integers(header_bytes(data), len(data) - 402))
            damaged = data[:place] + bytes(400) + data[place + 400 :]
            with pytest.raises(TileDecodeError):
                tiles.encoding.decode(damaged)


def test_size_is_that_of_out() -> None:
    with pytest.raises(TileDecodeError):
        YCBCR.decode(jpeg(), np.empty((64, 100, 3), np.uint8))
    with pytest.raises(TileDecodeError):
        YCBCR.decode(jpeg(), np.empty((32, 32, 3), np.uint8))
    out = np.empty((64, 96, 3), np.uint8)
    assert YCBCR.decode(jpeg(), out) is out


@pytest.mark.parametrize("name", ["slides/cmu1_small_region.svs", "slides/crc01_he_left.tif", "slides/tiny.svs"])
def test_all_tiles_of_real_slides_pass_and_decode_to_the_pixels_of_a_lenient_decoder(
    name: str, collection: Callable[[str], Path]
) -> None:
    with open_slide(collection(name)) as slide:
        for level in range(len(slide.info.levels)):
            try:
                tiles = slide.encoded_tiles(level)
            except NotEncodedError:
                continue
            encoding = tiles.encoding
            for row, column in np.argwhere(tiles.lengths > 0).tolist():
                (data,) = tiles.read([(row, column)])
                encoding.check(data, tiles.tile_size)
                lenient = imagecodecs.jpeg8_decode(
                    bytes(data), tables=encoding.tables, colorspace=encoding.colorspace, outcolorspace="RGB"
                )
                np.testing.assert_array_equal(encoding.decode(data), lenient)


def blank_corner() -> np.ndarray:
    """Mostly white, as at the edge of tissue: optimised tables give its empty blocks the shortest codes."""
    pixels = np.full((64, 96, 3), 255, np.uint8)
    pixels[:16, :16] = PICTURE[:16, :16]
    return pixels


@pytest.mark.parametrize("level", [30, 75, 95, 100])
@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize("picture", [PICTURE, blank_corner(), np.full((64, 96, 3), 128, np.uint8)])
def test_zeros_of_sound_streams_pass(picture: np.ndarray, optimised: bool, level: int) -> None:
    jpeg_data = imagecodecs.jpeg8_encode(picture, level=level, optimize=optimised, outcolorspace="YCBCR")
    codestream = imagecodecs.jpeg2k_encode(picture, level=level, codecformat="j2k")
    for encoding, data in ((YCBCR, bytes(jpeg_data)), (TileEncoding(JPEG2000), bytes(codestream))):
        encoding.check(data, SIDE)
        assert encoding.are_whole([data, data], SIDE).all()
        encoding.decode(data)


@pytest.mark.parametrize("kind", ["4:2:0", "4:2:2", "4:4:4"])
def test_zeroed_jpeg_is_refused(kind: str) -> None:
    stream = jpeg(**KINDS[kind])
    for place in range(header_bytes(stream), len(stream) - 20, 40):
        damaged = stream[:place] + bytes(16) + stream[place + 16 :]
        with pytest.raises(TileDecodeError, match="zeroed"):
            YCBCR.decode(damaged)


def test_zeroed_jpeg2000_is_refused() -> None:
    stream = jpeg2000(quality_layers=[3])
    start = stream.index(b"\xff\x93") + 2
    damaged = stream[:start] + bytes(150) + stream[start + 150 :]
    TileEncoding(JPEG2000).check(stream, SIDE)
    with pytest.raises(TileDecodeError, match="zeroed"):
        TileEncoding(JPEG2000).check(damaged, SIDE)
