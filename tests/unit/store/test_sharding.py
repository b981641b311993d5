"""Shards written here are read by Zarr."""

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from wsi_attn.geometry import Size
from wsi_attn.store.sharding import SHARD_BYTES, crc32c, encode_chunk, encode_shard, shard_chunks


def test_crc32c_check_value():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720


@given(width=st.integers(1, 300_000), height=st.integers(1, 300_000), tile=st.sampled_from([16, 224, 256, 1000, 8192]))
def test_shards_are_bounded_and_fill_levels_that_fit(width, height, tile):
    rows, columns = shard_chunks(Size(width, height), tile)
    count_x, count_y = -(-width // tile), -(-height // tile)
    most = max(1, SHARD_BYTES // (3 * tile * tile))
    assert 1 <= rows <= count_y
    assert 1 <= columns <= count_x
    assert rows * columns <= most
    assert rows * columns >= min(count_x * count_y, most) / 2 or most < 9  # few chunks do not make a square


def test_a_slide_is_hundreds_of_files_at_most():
    rows, columns = shard_chunks(Size(100_000, 80_000), 256)
    assert -(-391 // columns) * -(-313 // rows) < 250


@pytest.mark.parametrize("present", [(), (0,), (1, 2, 5), range(6)])
def test_zarr_reads_our_shards(tmp_path, present):
    tile, rng = 16, np.random.default_rng(0)
    array = zarr.create_array(
        tmp_path / "a",
        shape=(3, 2 * tile, 3 * tile),
        chunks=(3, tile, tile),
        shards=(3, 2 * tile, 3 * tile),
        dtype="uint8",
        compressors=zarr.codecs.ZstdCodec(level=3, checksum=True),
        fill_value=255,
    )
    chunks, expected = [], np.full((2 * tile, 3 * tile, 3), 255, np.uint8)
    for number in range(6):
        pixels = rng.integers(0, 255, (tile, tile, 3)).astype(np.uint8)
        chunks.append(encode_chunk(pixels) if number in present else None)
        if number in present:
            row, column = divmod(number, 3)
            expected[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile] = pixels
    shard = encode_shard(chunks)
    if shard is None:
        assert not present
    else:
        file = tmp_path / "a" / "c" / "0" / "0" / "0"
        file.parent.mkdir(parents=True)
        file.write_bytes(shard)
    np.testing.assert_array_equal(array[...].transpose(1, 2, 0), expected)


def test_background_chunks_are_absent():
    assert encode_chunk(np.full((16, 16, 3), 255, np.uint8)) is None
    assert encode_shard([None, None]) is None
