"""TIFF slides read tile by tile: the pixels that OpenSlide gives, at every level and place, from any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import tiff_files
from tests.tiff_files import Streams
from wsi_attn.errors import NotEncodedError
from wsi_attn.slide import BACKGROUND
from wsi_attn.slides.leica_metadata import scanned_area
from wsi_attn.slides.openslide_reader import OpenSlideReader
from wsi_attn.slides.tiff_reader import TiffReader

HERE = Path(__file__).parents[2]
PIXELS = tifffile.imread(HERE / "data" / "cmu1_small_region.svs", key=0)[600:1515, 400:1133]
"""Real tissue and glass, 733 x 915 px: no level of it is a multiple of any tile."""

DYADIC = tiff_files.pyramid_of(PIXELS, tiff_files.halves(PIXELS, 2))
UNEVEN = tiff_files.pyramid_of(PIXELS, tiff_files.halves(PIXELS, 3, 2.7))
GREY = [np.ascontiguousarray(level[..., 1]) for level in DYADIC]

SLIDES: dict[str, Callable[[Path], Path]] = {
    "ycbcr.svs": lambda path: tiff_files.write_svs(path, DYADIC),
    "rgb.svs": lambda path: tiff_files.write_svs(path, DYADIC, (240, 240), Streams("RGB")),
    "own_tables.svs": lambda path: tiff_files.write_svs(path, DYADIC, streams=Streams("YCBCR", abbreviated=False)),
    "progressive.svs": lambda path: tiff_files.write_svs(
        path, DYADIC, streams=Streams("YCBCR", abbreviated=False, progressive=True)
    ),
    "rgb_said_ycbcr.svs": lambda path: tiff_files.write_svs(path, DYADIC, streams=Streams("RGB", said="YCBCR")),
    "ycbcr_said_rgb.svs": lambda path: tiff_files.write_svs(path, DYADIC, streams=Streams("YCBCR", said="RGB")),
    "missing.svs": lambda path: tiff_files.write_svs(path, DYADIC, missing=(1, 5)),
    "jpeg2000_rgb.svs": lambda path: tiff_files.write_svs_jpeg2000(path, DYADIC[:2], 33005),
    "jpeg2000_ycbcr.svs": lambda path: tiff_files.write_svs_jpeg2000(path, DYADIC[:2], 33003),
    "deflate.tif": lambda path: tiff_files.write_generic(path, DYADIC),
    "lzw.tif": lambda path: tiff_files.write_generic(path, DYADIC, (240, 240), "lzw"),
    "zstd.tif": lambda path: tiff_files.write_generic(path, DYADIC, compression="zstd"),
    "grey.tif": lambda path: tiff_files.write_generic(path, GREY),
    "oblong.tif": lambda path: tiff_files.write_generic(path, DYADIC, (256, 128), streams=Streams(), missing=(2,)),
    "uneven.tif": lambda path: tiff_files.write_generic(path, UNEVEN, streams=Streams("RGB", abbreviated=False)),
    "philips.tiff": lambda path: tiff_files.write_philips(path, PIXELS),
    "leica.scn": lambda path: tiff_files.write_leica(path, DYADIC, 64000),
}
COPIED = {
    "ycbcr.svs": "YCBCR",
    "rgb.svs": "RGB",
    "own_tables.svs": "YCBCR",
    "progressive.svs": "YCBCR",
    "rgb_said_ycbcr.svs": "YCBCR",
    "ycbcr_said_rgb.svs": "YCBCR",
    "jpeg2000_rgb.svs": None,
    "oblong.tif": "YCBCR",
    "uneven.tif": "RGB",
    "philips.tiff": "YCBCR",
}
"""Slides all of whose levels can be copied, and what their streams hold."""

WRONG_IN_OPENSLIDE = {"ycbcr_said_rgb.svs"}
"""OpenSlide believes the tag; see `test_colours.py`."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A slide by name, written once."""
    folder = tmp_path_factory.mktemp("tiff")

    def find(name: str) -> Path:
        path = folder / name
        return path if path.exists() else SLIDES[name](path)

    return find


def assert_equal_on_all_levels(path: Path) -> None:
    with TiffReader(path) as ours, OpenSlideReader(path) as theirs:
        assert ours.info.levels == theirs.info.levels
        assert (ours.info.mpp, ours.info.associated) == (theirs.info.mpp, theirs.info.associated)
        for index, level in enumerate(ours.info.levels):
            width, height = min(level.size.width, 4000), min(level.size.height, 4000)
            wanted = theirs.read_region((0, 0), index, (width, height))
            assert np.array_equal(ours.read_region((0, 0), index, (width, height)), wanted), f"level {index}"


@pytest.mark.parametrize("name", sorted(SLIDES.keys() - WRONG_IN_OPENSLIDE))
def test_levels_are_openslides(name: str, written: Callable[[str], Path]) -> None:
    assert_equal_on_all_levels(written(name))


@pytest.mark.parametrize("name", COPIED)
def test_copied_tiles_decode_to_the_same_pixels(name: str, written: Callable[[str], Path]) -> None:
    with TiffReader(written(name)) as slide:
        for index, level in enumerate(slide.info.levels):
            tiles = slide.encoded_tiles(index)
            assert tiles.encoding.colorspace == COPIED[name]
            (width, height), (rows, columns) = tiles.tile_size, tiles.lengths.shape
            assert (rows, columns) == (-(-level.size.height // height), -(-level.size.width // width))
            canvas = np.full((rows * height, columns * width, 3), BACKGROUND, np.uint8)
            cells = [(row, column) for column in range(columns) for row in reversed(range(rows))]
            for (row, column), data in zip(cells, tiles.read(cells), strict=True):
                assert len(data) == tiles.lengths[row, column]
                if len(data):
                    canvas[row * height :, column * width :][:height, :width] = tiles.encoding.decode(data)
            inside = canvas[: level.size.height, : level.size.width]
            assert np.array_equal(inside, slide.read_region((0, 0), index, level.size))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["ycbcr.svs", "oblong.tif", "lzw.tif", "grey.tif", "missing.svs", "philips.tiff", "leica.scn"]),
    st.integers(-300, 1300),
    st.integers(-300, 1300),
    st.integers(1, 600),
    st.integers(1, 600),
)
def test_any_region_is_openslides(
    written: Callable[[str], Path], name: str, x: int, y: int, width: int, height: int
) -> None:
    path = written(name)
    with TiffReader(path) as ours, OpenSlideReader(path) as theirs:
        wanted = theirs.read_region((x, y), 0, (width, height))
        assert np.array_equal(ours.read_region((x, y), 0, (width, height)), wanted)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3), st.integers(-900, 2000), st.integers(-900, 2000), st.integers(1, 400), st.integers(1, 400))
def test_any_region_is_its_part_of_the_level(
    uneven: tuple[TiffReader, list[np.ndarray]], level: int, x: int, y: int, width: int, height: int
) -> None:
    slide, whole = uneven
    frame = slide.info.levels[level]
    left, top = round(x / frame.downsample_x), round(y / frame.downsample_y)
    padded = np.pad(whole[level], ((2500, 2500), (2500, 2500), (0, 0)), constant_values=BACKGROUND)
    wanted = padded[2500 + top : 2500 + top + height, 2500 + left : 2500 + left + width]
    assert np.array_equal(slide.read_region((x, y), level, (width, height)), wanted)


@pytest.fixture(scope="module")
def uneven(written: Callable[[str], Path]) -> Iterator[tuple[TiffReader, list[np.ndarray]]]:
    """A slide with odd factors, and OpenSlide's whole levels, which it reads without interpolation from the corner."""
    path = written("uneven.tif")
    with TiffReader(path) as slide, OpenSlideReader(path) as theirs:
        yield slide, [theirs.read_region((0, 0), index, level.size) for index, level in enumerate(theirs.info.levels)]


@pytest.mark.parametrize("name", ["ycbcr.svs", "deflate.tif", "jpeg2000_ycbcr.svs"])
def test_threads_read_what_one_reads(name: str, written: Callable[[str], Path]) -> None:
    rng = np.random.default_rng(0)
    places = [(tuple(rng.integers(-100, 900, 2).tolist()), int(rng.integers(2))) for _ in range(120)]
    with TiffReader(written(name)) as slide:
        wanted = [slide.read_region(xy, level, (97, 131)) for xy, level in places]
    with TiffReader(written(name)) as slide, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: slide.read_region(*place, (97, 131)), places))
    assert all(map(np.array_equal, found, wanted))


def test_area_on_the_glass_of_a_leica_slide_is_read_from_its_page(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with TiffReader(written("leica.scn")) as slide, OpenSlideReader(written("leica.scn")) as theirs:
        wanted = theirs.read_region((100, 100), 0, (400, 500))
        slide.read_region((0, 0), 0, (1, 1))  # its tiles are compared with OpenSlide's now
        monkeypatch.setattr(OpenSlideReader, "read_region", None)
        assert np.array_equal(slide.read_region((100, 100), 0, (400, 500)), wanted)
        assert slide.info.reader == "tifffile"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda xml: xml, {1: (128, 128), 2: (63, 63), 3: (31, 31)}),
        (lambda xml: xml.replace('offsetX="64000"', 'offsetX="0"'), {1: (0, 128), 2: (0, 63), 3: (0, 31)}),
        (
            lambda xml: xml.replace(
                "</collection>", xml[xml.rindex("<image") : xml.rindex("</collection>")] + "</collection>"
            ),
            {},
        ),
        (lambda xml: xml.replace(' r="0" ifd="1"', ' r="0" z="2" ifd="1"'), {}),
        (lambda xml: xml.replace(' ifd="2"', ""), {}),
        (lambda xml: xml[:-9], {}),
        (lambda xml: "", {}),
    ],
)
def test_scanned_area_of_a_leica_slide(
    change: Callable[[str], str], found: dict[int, tuple[int, int]], written: Callable[[str], Path]
) -> None:
    with tifffile.TiffFile(written("leica.scn")) as tiff:
        assert scanned_area(change(tiff.pages.first.description)) == found


REAL = [
    "cmu1_small_region.svs",
    "crc01_he_left.tif",
    "generic_pyramid.tiff",
    "ndpi_dapi.ndpi",
    "orientation1.tif",
    "tiny.svs",
]


@pytest.mark.parametrize("name", REAL)
def test_real_slides_are_openslides(name: str, collection: Callable[[str], Path]) -> None:
    assert_equal_on_all_levels(collection(f"slides/{name}"))


@pytest.mark.parametrize("name", ["webp", "jpegxl", "jpeg2000", "lerc"])
def test_compressions_that_openslide_does_not_know(name: str, tmp_path: Path) -> None:
    path = tiff_files.write_generic(tmp_path / "a.tif", DYADIC, compression=name)
    with TiffReader(path) as slide, tifffile.TiffFile(path) as tiff:
        assert slide.info.reader == "tifffile"
        for index, level in enumerate(slide.info.levels):
            wanted = tiff.pages[index].asarray()
            assert np.array_equal(slide.read_region((0, 0), index, level.size), wanted)
            if name == "jpeg2000":
                assert slide.encoded_tiles(index).encoding.codec == "jpeg2000"
            else:
                with pytest.raises(NotEncodedError, match=name.upper()):
                    slide.encoded_tiles(index)


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_ome_pyramid_in_sub_directories(compression: str, tmp_path: Path) -> None:
    path = tiff_files.write_ome(tmp_path / "a.ome.tif", DYADIC, compression=compression)
    with TiffReader(path) as slide, OpenSlideReader(path) as theirs, tifffile.TiffFile(path) as tiff:
        assert len(theirs.info.levels) == 1  # it does not see the others
        assert slide.info.vendor == "ome-tiff"
        assert slide.info.mpp == (0.25, 0.26)
        assert (slide.info.mpp_source, slide.info.name) == ("file", "a")
        assert [level.size for level in slide.info.levels] == [level.shape[1::-1] for level in DYADIC]
        for index, level in enumerate(slide.info.levels):
            wanted = tiff.series[0].levels[index].asarray()
            assert np.array_equal(slide.read_region((0, 0), index, level.size), wanted)
        assert np.array_equal(slide.read_region((-9, 30), 0, (500, 400)), theirs.read_region((-9, 30), 0, (500, 400)))
        if compression == "jpeg":
            assert slide.encoded_tiles(1).lengths.shape == (2, 2)


@pytest.mark.parametrize(
    ("mpp", "unit", "wanted"),
    [
        ((250, 250), "nm", (0.25, 0.25)),
        ((0.0005, 0.0005), "mm", (0.5, 0.5)),
        ((1.0, 1.0), "pixel", None),
        ((300.0, 300.0), "µm", None),
    ],
)
def test_ome_units(mpp: tuple[float, float], unit: str, wanted: tuple[float, float] | None, tmp_path: Path) -> None:
    path = tiff_files.write_ome(tmp_path / "a.ome.tif", DYADIC[:1], mpp=mpp, unit=unit)
    with TiffReader(path) as slide:
        assert slide.info.mpp == (pytest.approx(wanted) if wanted else None)
        assert bool(slide.info.mpp_note) == (wanted is None)
