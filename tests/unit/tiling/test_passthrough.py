"""Tiles of the slide go into the store byte for byte, and everybody sees the slide's pixels."""

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
import zarr
from ome_zarr_models.v05.image import Image

from tests.slides import stained
from wsi_attn.errors import NotEncodedError
from wsi_attn.slides.open import open_slide
from wsi_attn.store.tile_store import TileStore
from wsi_attn.store.verify import verify_store
from wsi_attn.tiling.write import TileConfig, tile_slide


def pyramid(path, sizes=((1500, 1100), (375, 275)), tile=(256, 256), compression="jpeg", **options):
    """A tiled TIFF of real compression, a page a level."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for index, (width, height) in enumerate(sizes):
            writer.write(
                stained(width, height),
                photometric="rgb",
                tile=tile,
                compression=compression,
                subfiletype=int(index > 0),
                metadata=None,
                resolution=(20000 / 4**index, 20000 / 4**index),
                resolutionunit="CENTIMETER",
                **options,
            )
    return path


def expected(path, level):
    """All of a level as OpenSlide shows it."""
    with openslide.OpenSlide(path) as slide:
        size = slide.level_dimensions[level]
        rgba = np.asarray(slide.read_region((0, 0), level, size))
    rgb = rgba[..., :3].copy()
    rgb[rgba[..., 3] == 0] = 255
    return rgb


def streams(path, level):
    """The compressed tiles of a page of a TIFF, row by row."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        content = path.read_bytes()
        return [
            content[offset : offset + count]
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]


@pytest.mark.parametrize("tile", [(256, 256), (240, 240), (128, 512)])
def test_bytes_are_the_slides_and_pixels_are_openslides(tmp_path, tile):
    source = pyramid(tmp_path / "s.tiff", tile=tile)
    with open_slide(source) as slide:
        summary = tile_slide(slide, tmp_path / "s.zarr", TileConfig(codec="passthrough"))
    assert [pixels.origin for pixels in summary.pixels] == ["passthrough", "passthrough"]
    root = zarr.open_group(tmp_path / "s.zarr", mode="r")
    with TileStore.open(tmp_path / "s.zarr") as store:
        for level in (0, 1):
            np.testing.assert_array_equal(root[str(level)][...].transpose(1, 2, 0), expected(source, level))
            tiles = store.encoded_tiles(level)
            rows, columns = tiles.lengths.shape
            data = tiles.read([(row, column) for row in range(rows) for column in range(columns)])
            assert [bytes(chunk) for chunk in data] == streams(source, level)
            assert tiles.tile_size == tile[::-1]
    Image.from_zarr(root)
    assert verify_store(tmp_path / "s.zarr").problems == ()


def test_metadata_is_that_of_the_public_codec(tmp_path):
    source = pyramid(tmp_path / "s.tiff", sizes=((600, 500),))
    with open_slide(source) as slide:
        tile_slide(slide, tmp_path / "s.zarr", TileConfig())
    (sharded,) = zarr.open_array(tmp_path / "s.zarr" / "0", mode="r").metadata.to_dict()["codecs"]
    transpose, stream = sharded["configuration"]["codecs"]
    assert transpose == {"name": "transpose", "configuration": {"order": (1, 2, 0)}}
    assert stream["name"] == "imagecodecs_jpeg"
    assert stream["configuration"]["colorspace_jpeg"] == "YCBCR"
    assert stream["configuration"]["colorspace_data"] == "RGB"
    assert set(stream["configuration"]) <= {"colorspace_jpeg", "colorspace_data", "tables"}


def test_jpeg_2000_is_passed_through(tmp_path):
    source = tmp_path / "s.tiff"
    pyramid(source, compression="jpeg2000", compressionargs={"level": 60, "codecformat": "j2k"})
    with open_slide(source) as slide:
        shown = [slide.read_region((0, 0), index, level.size) for index, level in enumerate(slide.info.levels)]
        summary = tile_slide(slide, tmp_path / "s.zarr", TileConfig(codec="passthrough", scores="none"))
    assert {pixels.codec for pixels in summary.pixels} == {"jpeg2000"}
    root = zarr.open_group(tmp_path / "s.zarr", mode="r")
    for level, pixels in enumerate(shown):
        stored = root[str(level)][...].transpose(1, 2, 0)
        np.testing.assert_array_equal(stored, pixels)
        assert bytes(streams(source, level)[0]) == bytes(
            TileStore.open(tmp_path / "s.zarr").encoded_tiles(level).read([(0, 0)])[0]
        )
    assert imagecodecs.jpeg2k_decode(streams(source, 0)[0]).shape == (256, 256, 3)


def test_background_is_left_out_and_the_rest_untouched(tmp_path):
    source = pyramid(tmp_path / "s.tiff")
    with open_slide(source) as slide:
        kept = tile_slide(slide, tmp_path / "keep.zarr", TileConfig())
        skipped = tile_slide(slide, tmp_path / "skip.zarr", TileConfig(background="skip"))
    assert skipped.bytes < kept.bytes
    with TileStore.open(tmp_path / "skip.zarr") as store:
        shown = expected(source, 0)
        assert (store.encoded_tiles(0).lengths == 0).any()
        for x, y in store.coords().tolist():
            inside = shown[y : y + 256, x : x + 256]
            got = store.read_region((x, y), 0, (inside.shape[1], inside.shape[0]))
            np.testing.assert_array_equal(got, inside)


@pytest.mark.parametrize("compression", ["deflate", "lzw"])
def test_what_cannot_be_copied_is_decoded_once_and_says_why(tmp_path, compression):
    source = pyramid(tmp_path / "s.tiff", compression=compression)
    with open_slide(source) as slide:
        with pytest.raises(NotEncodedError, match=r"level 0: .*; --codec auto"):
            tile_slide(slide, tmp_path / "s.zarr", TileConfig(codec="passthrough"))
        assert not (tmp_path / "s.zarr").exists()
        summary = tile_slide(slide, tmp_path / "s.zarr", TileConfig())
    assert [(pixels.origin, pixels.codec) for pixels in summary.pixels] == [("copied", "zstd")] * 2
    with TileStore.open(tmp_path / "s.zarr") as store:
        assert "JPEG" in store.meta.pixels[0].reason
        np.testing.assert_array_equal(store.read_region((0, 0), 0, (1500, 1100)), expected(source, 0))


def test_jpeg_anew_is_near_and_small(tmp_path):
    source = pyramid(tmp_path / "s.tiff", compression="deflate")
    with open_slide(source) as slide:
        lossless = tile_slide(slide, tmp_path / "zstd.zarr", TileConfig())
        lossy = tile_slide(slide, tmp_path / "jpeg.zarr", TileConfig(codec="jpeg", quality=92))
    assert lossy.bytes < lossless.bytes / 2
    stored = zarr.open_array(tmp_path / "jpeg.zarr" / "0", mode="r")[...].transpose(1, 2, 0)
    assert np.abs(stored.astype(int) - expected(source, 0)).mean() < 6
    with TileStore.open(tmp_path / "jpeg.zarr") as store:
        assert store.meta.parameters["quality"] == 92
        assert store.encoded_tiles(0).encoding.colorspace == "YCBCR"


@pytest.mark.parametrize("lost", [slice(None), slice(-2000, None)])
def test_a_tile_that_is_no_jpeg_or_none_to_its_end_is_masked(tmp_path, lost):
    source = pyramid(tmp_path / "s.tiff")
    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages[0]
        start, length = page.dataoffsets[2 * 6 + 3], page.databytecounts[2 * 6 + 3]
    data = bytearray(source.read_bytes())
    places = range(start, start + length)[lost]
    data[places.start : places.stop] = bytes(len(places))
    source.write_bytes(data)
    with open_slide(source) as slide:
        summary = tile_slide(slide, tmp_path / "s.zarr", TileConfig(codec="passthrough", scores="none"))
    with TileStore.open(tmp_path / "s.zarr") as store:
        assert store.coords()[~store.readable()].tolist() == [[768, 512]]
        assert summary.unreadable_tiles == 1


def test_a_tile_that_does_not_decode_is_found_by_scoring(tmp_path):
    source = pyramid(tmp_path / "s.tiff")
    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages[0]
        start, length = page.dataoffsets[2 * 6 + 3], page.databytecounts[2 * 6 + 3]
    data = bytearray(source.read_bytes())
    data[start + length // 2 : start + length // 2 + 400] = bytes(400)
    source.write_bytes(data)
    with open_slide(source) as slide:
        summary = tile_slide(slide, tmp_path / "s.zarr", TileConfig(codec="passthrough", scores="tissue"))
    assert summary.unreadable_tiles == 1
    with TileStore.open(tmp_path / "s.zarr") as store:
        assert np.isnan(store.scores()[~store.readable()]).all()
    assert len(verify_store(tmp_path / "s.zarr").problems) == 1


def test_a_second_grid_is_added_without_touching_pixels(tmp_path):
    source = pyramid(tmp_path / "s.tiff")
    output = tmp_path / "s.zarr"
    with open_slide(source) as slide:
        tile_slide(slide, output, TileConfig())
        before = {file: file.read_bytes() for file in output.rglob("*") if file.is_file()}
        added = tile_slide(slide, output, TileConfig(tile_size=224, overlap=32, grid="fine", min_tissue=0.5))
        coarse = tile_slide(slide, output, TileConfig(tile_size=64, mpp=1.0, grid="coarse", min_tissue=0))
        again = tile_slide(slide, output, TileConfig(tile_size=64, mpp=1.0, grid="coarse", min_tissue=0))
    assert (added.state, coarse.state, again.state) == ("added", "added", "skipped")
    changed = {file.relative_to(output).as_posix() for file, data in before.items() if file.read_bytes() != data}
    assert changed <= {"zarr.json", "tiles/zarr.json"}  # the metadata that lists the grids and their checksums
    with TileStore.open(output) as store:
        assert store.grids() == ("coarse", "default", "fine")
        assert (np.diff(np.unique(store.coords("fine")[:, 0])) % 192 == 0).all()
        assert store.grid("coarse").extent0 == (128.0, 128.0)
        assert coarse.tiles == 12 * 9
        shown, tissue = expected(source, 0), store.meta.tissue
        scores = store.scores("fine")
        for (x, y), score in list(zip(store.coords("fine").tolist(), scores, strict=True))[::7]:
            inside = shown[y : y + 224, x : x + 224].astype(int)
            assert score == np.float32((inside.max(-1) - inside.min(-1) > tissue.threshold).mean())
    # the store itself, without the slide, takes another
    with TileStore.open(output) as store:
        assert tile_slide(store, output, TileConfig(grid="late", tile_size=512)).state == "added"
