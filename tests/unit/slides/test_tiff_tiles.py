"""Compressed tiles: what is handed out and what is refused; damage, missing ends, wrong tags, closed files."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests import tiff_files
from tests.tiff_files import Streams
from wsi_attn import file_bytes
from wsi_attn.errors import (
    NotEncodedError,
    RegionError,
    SlideError,
    SlideReadError,
    SlideTruncatedError,
    SlideUnsupportedError,
    TileDecodeError,
)
from wsi_attn.lru import LruCache
from wsi_attn.slides.open import open_slide
from wsi_attn.slides.openslide_reader import OpenSlideReader
from wsi_attn.slides.tiff_reader import TiffReader

HERE = Path(__file__).parents[2]
PIXELS = tifffile.imread(HERE / "data" / "cmu1_small_region.svs", key=0)[900:1515, 500:1133]
LEVELS = tiff_files.pyramid_of(PIXELS, tiff_files.halves(PIXELS, 1))
CELLS = [(row, column) for row in range(3) for column in range(3)]


@pytest.fixture
def svs(tmp_path: Path) -> Path:
    return tiff_files.write_svs(tmp_path / "a.svs", LEVELS)


def bytes_of(path: Path, page: int = 0) -> list[bytes]:
    with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
        found = []
        for offset, count in zip(tiff.pages[page].dataoffsets, tiff.pages[page].databytecounts, strict=True):
            file.seek(offset)
            found.append(file.read(count))
        return found


def test_bytes_are_the_files_own_in_the_order_asked(svs: Path) -> None:
    wanted = dict(zip(CELLS, bytes_of(svs), strict=True))
    with TiffReader(svs) as slide:
        tiles = slide.encoded_tiles(0)
        assert tiles.lengths.dtype == np.int64
        assert tiles.lengths.tolist() == [[len(wanted[row, column]) for column in range(3)] for row in range(3)]
        for cells in (CELLS, CELLS[::-1], [(2, 0), (0, 1), (2, 0)], []):
            assert [bytes(data) for data in tiles.read(cells)] == [wanted[cell] for cell in cells]


@pytest.mark.parametrize("gap", [0, 20_000, 1 << 20])
def test_reads_through_gaps_are_the_same(gap: int, svs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_bytes, "GAP_BYTES", gap)
    cells = [CELLS[index] for index in (0, 1, 3, 4, 8, 2, 2, 5)]
    wanted = dict(zip(CELLS, bytes_of(svs), strict=True))
    with TiffReader(svs) as slide:
        assert [bytes(data) for data in slide.encoded_tiles(0).read(cells)] == [wanted[cell] for cell in cells]


def test_neighbours_are_one_read(svs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TiffReader(svs) as slide:
        tiles = slide.encoded_tiles(0)
        reads: list[int] = []
        preadv = os.preadv
        monkeypatch.setattr(os, "preadv", lambda fd, parts, at: reads.append(at) or preadv(fd, parts, at))
        tiles.read(CELLS)
    assert len(reads) == 1


def test_short_reads_are_finished(svs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, count, at: pread(fd, min(count, 1000), at))
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: preadv(fd, [parts[0][:1000]], at))
    with TiffReader(svs) as slide:
        assert [bytes(data) for data in slide.encoded_tiles(0).read(CELLS)] == bytes_of(svs)
        assert [bytes(data) for data in slide.encoded_tiles(0).read(CELLS[:1] + CELLS[2:])] == [
            data for index, data in enumerate(bytes_of(svs)) if index != 1
        ]


@pytest.mark.parametrize("lacking", ["preadv", "pread"])
def test_reads_without_positioned_reads(lacking: str, svs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "preadv")
    if lacking == "pread":  # as on Windows
        monkeypatch.delattr(os, "pread")
    with TiffReader(svs) as slide:
        assert [bytes(data) for data in slide.encoded_tiles(0).read(CELLS)] == bytes_of(svs)


def test_ranges_of_too_many_bytes_are_refused(svs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_bytes, "MOST_BYTES", 1000)
    with TiffReader(svs) as slide, pytest.raises(SlideReadError, match="together exceed"):
        slide.encoded_tiles(0).read(CELLS)


def test_file_that_shrinks_while_it_is_read(svs: Path) -> None:
    with TiffReader(svs) as slide:
        tiles = slide.encoded_tiles(0)
        os.truncate(svs, 20_000)
        with pytest.raises(SlideReadError, match="beyond its end"):
            tiles.read(CELLS)


def test_missing_tiles_are_empty_and_background(tmp_path: Path) -> None:
    path = tiff_files.write_svs(tmp_path / "a.svs", LEVELS, missing=(4,))
    with TiffReader(path) as slide:
        tiles = slide.encoded_tiles(0)
        assert tiles.lengths[1, 1] == 0
        assert [len(data) > 0 for data in tiles.read([(1, 1), (1, 2)])] == [False, True]
        assert (slide.read_region((256, 256), 0, (256, 256)) == 255).all()
        with pytest.raises(NotEncodedError, match="missing"):
            slide.encoded_tiles(1)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: tiff_files.write_generic(path, LEVELS, compression="lzw"), "LZW, not JPEG"),
        (lambda path: tiff_files.write_generic(path, LEVELS, compression=""), "uncompressed, not JPEG"),
        (
            lambda path: tiff_files.write_generic(path, LEVELS, (256, 16), streams=Streams()),
            "256 x 16 px are too small",
        ),
        (lambda path: tiff_files.write_svs_jpeg2000(path, LEVELS, 33003), "without stating it"),
        (lambda path: tiff_files.write_leica(path, LEVELS, 64000), "of the glass, not at its corner"),
    ],
)
def test_what_is_not_copied_says_why(write: Callable[[Path], Path], said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif")
    with TiffReader(path) as slide:
        for level in range(len(slide.info.levels)):
            with pytest.raises(NotEncodedError, match=said):
                slide.encoded_tiles(level)


def test_colours_apart_are_read_and_not_copied(tmp_path: Path) -> None:
    planes = np.ascontiguousarray(np.moveaxis(PIXELS, -1, 0))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, planes, tile=(64, 64), photometric="rgb", planarconfig="separate", metadata=None)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_region((0, 0), 0, slide.info.size0), PIXELS)
        with pytest.raises(NotEncodedError):
            slide.encoded_tiles(0)


def test_disagreement_with_openslide_leaves_the_level_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiff_files.write_generic(tmp_path / "a.tif", LEVELS, streams=Streams())
    read = OpenSlideReader.read_region
    monkeypatch.setattr(OpenSlideReader, "read_region", lambda *place: read(*place) // 2)
    with TiffReader(path) as slide, OpenSlideReader(path) as theirs:
        with pytest.raises(NotEncodedError, match="other pixels than in OpenSlide"):
            slide.encoded_tiles(0)
        wanted = theirs.read_region((0, 0), 0, (300, 300))
        assert np.array_equal(slide.read_region((0, 0), 0, (300, 300)), wanted)


def test_reader_that_cannot_read_is_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiff_files.write_generic(tmp_path / "a.tif", LEVELS, streams=Streams())
    with TiffReader(path) as slide:
        wanted = slide.read_region((0, 0), 0, (300, 300))

    def fail(*place: object) -> None:
        raise SlideReadError("cannot")

    monkeypatch.setattr(OpenSlideReader, "read_region", fail)
    with TiffReader(path) as slide:
        assert slide.encoded_tiles(0).encoding.colorspace == "YCBCR"
        assert np.array_equal(slide.read_region((0, 0), 0, (300, 300)), wanted)


def test_streams_of_another_size_than_the_tag_says(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    streams = Streams(abbreviated=False)
    encoded = [streams.encode(part) for part in tiff_files.tiles_of(PIXELS[:256, :256], (128, 128))]
    options = {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2), "metadata": None}
    tifffile.imwrite(path, iter(encoded), shape=(512, 512, 3), dtype="uint8", tile=(256, 256), **options)
    with TiffReader(path) as slide, pytest.raises(SlideReadError, match="128 x 128 px, not 256 x 256"):
        slide.read_region((0, 0), 0, (256, 256))


def test_tiles_may_have_tables_of_their_own_beside_shared_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    shared, own = Streams("YCBCR", quality=90), Streams("YCBCR", quality=40, abbreviated=False)
    parts = list(tiff_files.tiles_of(PIXELS, (256, 256)))
    encoded = [(own if index % 2 else shared).encode(part) for index, part in enumerate(parts)]
    tables = shared.tables()
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter(encoded),
            shape=PIXELS.shape,
            dtype="uint8",
            tile=(256, 256),
            compression="jpeg",
            photometric="ycbcr",
            subsampling=(2, 2),
            metadata=None,
            description=tiff_files.APERIO + "x|MPP = 0.5",
            extratags=[(tiff_files.JPEG_TABLES, 7, len(tables), tables, True)],
        )
    with TiffReader(path) as slide, OpenSlideReader(path) as theirs:
        size = slide.info.size0
        assert slide.encoded_tiles(0).encoding.tables == tables
        assert np.array_equal(slide.read_region((0, 0), 0, size), theirs.read_region((0, 0), 0, size))


def test_damage_stays_in_its_tile_and_is_named(svs: Path) -> None:
    with TiffReader(svs) as slide:
        wanted = slide.read_region((0, 0), 0, (256, 615))
    tiff_files.damage_tile(svs, 0, 4)
    with TiffReader(svs) as slide:
        with pytest.raises(SlideReadError, match="level 0, tile in column 1, row 1"):
            slide.read_region((300, 300), 0, (10, 10))
        with pytest.raises(SlideReadError, match=r"a\.svs"):
            slide.read_region((0, 0), 0, (500, 500))
        assert np.array_equal(slide.read_region((0, 0), 0, (256, 615)), wanted)
        tiles = slide.encoded_tiles(0)
        with pytest.raises(TileDecodeError):
            tiles.encoding.decode(tiles.read([(1, 1)])[0])


def test_tile_that_ends_early_is_no_grey_tile(tmp_path: Path) -> None:
    path = tiff_files.write_generic(tmp_path / "a.tif", LEVELS, streams=Streams())
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        counts = list(tag.value)
        place, width = tag.valueoffset, tag.valuebytecount // len(counts)
    with path.open("r+b") as file:
        file.seek(place + 4 * width)
        file.write(struct.pack({2: "<H", 4: "<I", 8: "<Q"}[width], counts[4] // 2))
    with TiffReader(path) as slide, pytest.raises(SlideReadError, match="column 1, row 1"):
        slide.read_region((256, 256), 0, (256, 256))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("write", ["svs", "generic", "ome"])
def test_cut_off_files_are_said_to_be(share: float, write: str, tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    {
        "svs": lambda: tiff_files.write_svs(path, LEVELS),
        "generic": lambda: tiff_files.write_generic(path, LEVELS, streams=Streams()),
        "ome": lambda: tiff_files.write_ome(path, LEVELS),
    }[write]()
    kept = int(path.stat().st_size * share)
    os.truncate(path, kept)
    with pytest.raises(SlideTruncatedError, match=f"is truncated: it has {kept} of at least .* copy it again"):
        open_slide(path)


@pytest.mark.parametrize("tag", ["TileWidth", "TileLength", "ImageWidth", "BitsPerSample", "SamplesPerPixel"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_directories_are_errors_of_ours(tag: str, tmp_path: Path) -> None:
    """Among them tiles of many gigabytes, for which OpenSlide would end the process."""
    path = tiff_files.write_generic(tmp_path / "a.tif", LEVELS, streams=Streams())
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].tags[tag].valueoffset
    whole = path.read_bytes()
    for value in (b"\0\0", b"\xff\xff", b"\xf0\xff"):
        path.write_bytes(whole[:place] + value + whole[place + 2 :])
        with contextlib.suppress(SlideError), open_slide(path) as slide:
            assert slide.read_region((0, 0), 0, (64, 64)).shape == (64, 64, 3)


def test_absurd_offsets_are_damage(svs: Path) -> None:
    with tifffile.TiffFile(svs) as tiff:
        place = tiff.pages[0].tags["TileOffsets"].valueoffset
    with svs.open("r+b") as file:
        file.seek(place + 8)
        file.write(b"\xff\xff\xff\xf0")
    with pytest.raises(SlideTruncatedError, match="damaged"):
        open_slide(svs)


def test_closed_slides_and_levels_that_are_not_there(svs: Path) -> None:
    slide = TiffReader(svs)
    tiles = slide.encoded_tiles(0)
    slide.read_region((10, 10), 0, (9, 9))
    for level in (-1, 2):
        with pytest.raises(RegionError):
            slide.encoded_tiles(level)
        with pytest.raises(RegionError):
            slide.read_region((0, 0), level, (5, 5))
    slide.close()
    slide.close()
    for attempt in (
        lambda: slide.read_region((10, 10), 0, (9, 9)),
        lambda: slide.encoded_tiles(0),
        lambda: tiles.read([(0, 0)]),
    ):
        with pytest.raises(SlideReadError):
            attempt()


def test_what_is_handed_out_may_be_written_to(svs: Path) -> None:
    with TiffReader(svs) as slide:
        for xy in ((0, 0), (100, 100), (0, 0)):
            pixels = slide.read_region(xy, 0, (256, 256))
            kept = pixels.copy()
            pixels[:] = 7
            assert np.array_equal(slide.read_region(xy, 0, (256, 256)), kept)


def test_off_grid_reads_decode_each_tile_once(svs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TiffReader(svs) as slide:
        slide.encoded_tiles(0)
        pread, reads = os.pread, []
        monkeypatch.setattr(os, "pread", lambda fd, count, at: reads.append(at) or pread(fd, count, at))
        for x in range(10, 600, 50):
            slide.read_region((x, 10), 0, (40, 40))
    assert len(reads) == len(set(reads)) == 3


def test_cache_is_bounded_and_keeps_what_was_used_last() -> None:
    tile = np.zeros(100, np.uint8)
    cache = LruCache(250)
    cache.put(1, tile)
    cache.put(2, tile)
    cache.get(1)
    cache.put(3, tile)
    cache.put(4, np.zeros(1000, np.uint8))
    assert [cache.get(key) is not None for key in (1, 2, 3, 4)] == [True, False, True, False]
    cache.clear()
    assert cache.get(1) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("crc01_cycif_4ch.ome.tif", "4 channels"),
        ("ome_multichannel_z.ome.tif", "3 channels, 5 focal planes"),
        ("ome_two_channels.ome.tif", "2 channels"),
        ("rgb_uint16.tiff", "16 bits"),
        ("uint16_with_thumbnail.tif", "16 bits"),
        ("grey_4bit.tif", "4 bits"),
        ("unsupported_compression.tiff", "52479, which is not supported: convert"),
        ("czi_rgb8.czi", "bfconvert"),
        ("czi_tiles.czi", "bfconvert"),
        ("dicom_bpaec/6_0.dcm", "whole-slide volumes"),
    ],
)
def test_one_clear_sentence_for_what_is_no_brightfield_picture(
    name: str, said: str, collection: Callable[[str], Path]
) -> None:
    with pytest.raises(SlideUnsupportedError, match=said) as caught:
        open_slide(collection(f"slides/{name}"))
    assert str(caught.value).count(said) == 1


def test_real_slide_that_is_cut_off(collection: Callable[[str], Path]) -> None:
    with pytest.raises(SlideTruncatedError, match="1200000 of at least"):
        open_slide(collection("slides/truncated.svs"))


def test_a_copy_is_the_same_slide(svs: Path, tmp_path: Path) -> None:
    shutil.copy(svs, tmp_path / "b.svs")
    with TiffReader(svs) as one, TiffReader(tmp_path / "b.svs") as other:
        assert one.info.fingerprint == other.info.fingerprint
        assert np.array_equal(one.encoded_tiles(0).lengths, other.encoded_tiles(0).lengths)
