"""Shards written here are read by Zarr, and chunks of every codec come back."""

import msgspec
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from wsi_attn.errors import StoreSchemaError, TileDecodeError
from wsi_attn.geometry import Size
from wsi_attn.store.chunk_codec import ChunkCodec, CodecDocument, jpeg_codec
from wsi_attn.store.sharding import (
    SHARD_BYTES,
    crc32c,
    decode_index,
    encode_shard,
    index_bytes,
    shard_chunks,
    shard_key,
    shard_of,
)


def test_crc32c_check_value():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720
    assert crc32c(b"1234", memoryview(b"56789")) == 0xE3069283
    assert crc32c() == crc32c(b"") == 0


TILES = st.sampled_from([16, 224, 256, 1000, 8192])


@given(width=st.integers(1, 300_000), height=st.integers(1, 300_000), across=TILES, down=TILES)
def test_shards_are_bounded_and_fill_levels_that_fit(width, height, across, down):
    rows, columns = shard_chunks(Size(width, height), Size(across, down))
    count_x, count_y = -(-width // across), -(-height // down)
    most = max(1, SHARD_BYTES // (3 * across * down))
    assert 1 <= rows <= count_y
    assert 1 <= columns <= count_x
    assert rows * columns <= most
    assert rows * columns >= min(count_x * count_y, most) / 2 or most < 9  # few chunks do not make a square


def test_a_slide_is_hundreds_of_files_at_most():
    rows, columns = shard_chunks(Size(100_000, 80_000), Size(256, 256))
    assert -(-391 // columns) * -(-313 // rows) < 400


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
    for number in present:
        pixels = rng.integers(0, 255, (tile, tile, 3)).astype(np.uint8)
        chunks.append(ChunkCodec().encode(pixels))
        row, column = divmod(number, 3)
        expected[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile] = pixels
    shard = b"".join(encode_shard(np.array(present, np.int64), chunks, 6))
    if not shard:
        assert not present
    else:
        file = tmp_path / "a" / "c" / "0" / "0" / "0"
        file.parent.mkdir(parents=True)
        file.write_bytes(shard)
        offsets, lengths = decode_index(shard[-index_bytes(6) :], 6)
        assert np.flatnonzero(lengths).tolist() == list(present)
        assert [shard[offsets[n] : offsets[n] + lengths[n]] for n in present] == chunks
    np.testing.assert_array_equal(array[...].transpose(1, 2, 0), expected)


def test_a_damaged_index_is_noticed():
    shard = b"".join(encode_shard(np.array([1]), [b"chunk"], 4))
    for damaged in (shard[:-1] + b"?", shard[-index_bytes(4) + 1 :], b"\0" * index_bytes(4)):
        with pytest.raises(ValueError, match="index"):
            decode_index(damaged[-index_bytes(4) :], 4)


def test_keys_name_their_shard():
    assert shard_of(shard_key(3, 14, 15)) == (3, 14, 15)


def test_background_chunks_are_absent():
    assert ChunkCodec().encode(np.full((16, 16, 3), 255, np.uint8)) is None
    assert encode_shard(np.zeros(0, np.int64), [], 2) == []


@pytest.mark.parametrize("codec", [ChunkCodec(), jpeg_codec(95)])
def test_codecs_return_what_they_were_given_and_notice_damage(codec):
    smooth = np.indices((40, 56)).sum(axis=0).astype(np.uint8)[..., None].repeat(3, axis=2)
    data = codec.encode(smooth)
    error = np.abs(codec.decode(data, Size(56, 40)).astype(int) - smooth).max()
    assert error <= (0 if codec.encoding is None else 4)
    for damaged in (data[: len(data) // 20], b"", b"no such thing"):
        with pytest.raises(TileDecodeError):
            codec.decode(damaged, Size(56, 40))
    with pytest.raises(TileDecodeError):
        codec.decode(data, Size(40, 40))
    assert ChunkCodec.from_chain(msgspec.convert(codec.chain(), list[CodecDocument])) == codec


def test_foreign_codecs_are_refused():
    with pytest.raises(StoreSchemaError, match="blosc"):
        ChunkCodec.from_chain([CodecDocument("bytes"), CodecDocument("blosc")])
