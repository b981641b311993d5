"""Tiles with altered JPEG data are unreadable for every command: no altered pixel is scored, used or shown."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from tests.cli.runner import wsi_attn
from wsi_attn.lru import LruCache
from wsi_attn.viewer.viewer_slide import ViewerSlide

pytestmark = pytest.mark.slow

SLIDE = Path(__file__).parents[1] / "data" / "cmu1_small_region.svs"
COLUMNS = 10
TILE = 3 * COLUMNS + 4
"""In the middle of the tissue."""


def with_damage(source: Path, target: Path, damage: bytes) -> Path:
    """A copy of a slide with bytes replaced in the middle of one tile."""
    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages[0]
        start, length = page.dataoffsets[TILE], page.databytecounts[TILE]
    data = bytearray(source.read_bytes())
    middle = start + length // 2
    data[middle : middle + len(damage)] = damage
    target.write_bytes(data)
    return target


@pytest.fixture(scope="module")
def zeroed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 bytes zeroed: decoders that ignore warnings show wrong pixels from there on."""
    return with_damage(SLIDE, tmp_path_factory.mktemp("damaged") / "zeroed.svs", bytes(400))


def test_tile_masks_counts_and_reports_it_and_verify_finds_it(zeroed: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    done = wsi_attn("tile", zeroed, "-o", store, "--tile-size", "240", "--min-tissue", "0", "--json")
    (record,) = done.json()
    assert record["unreadable_tiles"] == 1
    assert "1 tile" in done.stderr
    grid = zarr.open_group(store, mode="r")["tiles/default"]
    readable = grid["readable"][...]
    assert grid["coords"][...][~readable].tolist() == [[4 * 240, 3 * 240]]
    for name in grid["scores"]:
        assert (np.isnan(grid["scores"][name][...]) == ~readable).all()
    verdict = wsi_attn("verify", store, "--json", code=3)
    assert verdict.json()[0]["state"] == "damaged"
    assert "row 3, column 4" in verdict.error()


def test_predict_leaves_it_out_and_says_so(zeroed: Path, tmp_path: Path) -> None:
    assert "could not be decoded" in wsi_attn("predict", zeroed, "-o", tmp_path).stderr


@pytest.mark.parametrize("codec", ["zstd", "jpeg"])
def test_other_codecs_do_not_store_altered_pixels(zeroed: Path, tmp_path: Path, codec: str) -> None:
    store = tmp_path / "s.zarr"
    options = ("--codec", codec, "--scores", "none", "--tile-size", "240", "--min-tissue", "0")
    assert wsi_attn("tile", zeroed, "-o", store, *options, "--json").json()[0]["unreadable_tiles"] >= 1
    assert (zarr.open_group(store, mode="r")["0"][:, 725:955, 965:1195] == 255).all()
    wsi_attn("verify", store)


def test_what_breaks_the_structure_is_found_without_decoding(tmp_path: Path) -> None:
    slide = with_damage(SLIDE, tmp_path / "broken.svs", b"\xff\x12")
    options = ("--codec", "passthrough", "--scores", "none", "--tile-size", "240", "--min-tissue", "0")
    done = wsi_attn("tile", slide, "-o", tmp_path / "s.zarr", *options, "--json")
    assert done.json()[0]["unreadable_tiles"] == 1
    wsi_attn("verify", tmp_path / "s.zarr")  # the store says that the tile is unreadable and holds nothing of it


def test_damage_within_the_data_of_a_copied_tile_is_found_by_verify(zeroed: Path, tmp_path: Path) -> None:
    options = ("--codec", "passthrough", "--scores", "none")
    wsi_attn("tile", zeroed, "-o", tmp_path / "s.zarr", *options)
    wsi_attn("verify", tmp_path / "s.zarr", "--fast")
    assert "row 3, column 4" in wsi_attn("verify", tmp_path / "s.zarr", code=3).error()


def test_the_viewer_hatches_it(zeroed: Path) -> None:
    slide = ViewerSlide(zeroed, LruCache(1 << 20))
    try:
        finest = slide.levels[-1]
        assert slide.stored_tile(finest, 4, 3) is None
        assert not slide.tile(finest, 4, 3).whole
        sound = slide.tile(finest, 5, 3)
        assert sound.whole
        assert slide.stored_tile(finest, 5, 3) == sound  # proven once, handed out at once from now on
    finally:
        slide.close()


def test_plain_images_and_strips(tmp_path: Path) -> None:
    with tifffile.TiffFile(SLIDE) as tiff:
        pixels = np.ascontiguousarray(tiff.pages[0].asarray()[700:1200, 900:1400])
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=90)
    Image.fromarray(pixels).save(tmp_path / "strips.tif", compression="jpeg", quality=90)
    for name, whole in (("image.jpg", jpeg.getvalue()), ("strips.tif", (tmp_path / "strips.tif").read_bytes())):
        image = tmp_path / name
        image.write_bytes(whole)
        wsi_attn("info", image)
        image.write_bytes(whole[: len(whole) // 2] + bytes(400) + whole[len(whole) // 2 + 400 :])
        wsi_attn("info", image, code=3).error()


def test_damage_to_the_only_tile_of_a_slide(tmp_path: Path) -> None:
    """OpenSlide would show altered pixels without a warning."""
    with tifffile.TiffFile(SLIDE) as tiff:
        pixels = np.ascontiguousarray(tiff.pages[0].asarray()[700:956, 900:1156])
    slide = tmp_path / "one.tif"
    tifffile.imwrite(slide, pixels, tile=(256, 256), compression="jpeg", photometric="rgb", metadata=None)
    whole = slide.read_bytes()
    with tifffile.TiffFile(slide) as tiff:
        middle = tiff.pages[0].dataoffsets[0] + tiff.pages[0].databytecounts[0] // 2
    slide.write_bytes(whole[:middle] + bytes(400) + whole[middle + 400 :])
    done = wsi_attn("tile", slide, "-o", tmp_path / "s.zarr", "--tissue", "none", "--json")
    assert done.json()[0]["unreadable_tiles"] == 1
    assert "row 0, column 0" in wsi_attn("verify", tmp_path / "s.zarr", code=3).error()
    assert "could not be decoded" in wsi_attn("export", slide, "--to", "dzi", "-o", tmp_path / "s.dzi").stderr


@pytest.mark.parametrize("layout", [{"tile": (256, 256)}, {"rowsperstrip": 64}])
def test_planes_stored_apart(layout: dict[str, object], tmp_path: Path) -> None:
    with tifffile.TiffFile(SLIDE) as tiff:
        pixels = np.ascontiguousarray(tiff.pages[0].asarray()[700:1212, 900:1412].transpose(2, 0, 1))
    slide = tmp_path / "planes.tif"
    options = {"compression": "jpeg", "photometric": "rgb", "planarconfig": "separate", "metadata": None, **layout}
    tifffile.imwrite(slide, pixels, **options)
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0]
        middle = page.dataoffsets[-1] + page.databytecounts[-1] // 2
    command = ("tile", slide, "-o", tmp_path / "s.zarr", "--tissue", "none", "--scores", "none", "--json")
    assert wsi_attn(*command).json()[0]["unreadable_tiles"] == 0
    whole = slide.read_bytes()
    slide.write_bytes(whole[:middle] + bytes(200) + whole[middle + 200 :])
    if "tile" in layout:
        assert wsi_attn(*command, "--overwrite").json()[0]["unreadable_tiles"] >= 1
    else:
        assert "JPEG stream" in wsi_attn(*command, "--overwrite", code=3).error()
