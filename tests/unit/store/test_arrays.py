"""What we write as Zarr is what Zarr would write, document by document and key by key."""

import json

import numpy as np
import pytest
import zarr
from zarr.codecs import TransposeCodec, ZstdCodec
from zarr.storage import MemoryStore

from wsi_attn.encoding import JPEG, JPEG2000, TileEncoding
from wsi_attn.geometry import Size
from wsi_attn.slide import Level
from wsi_attn.store import sharding
from wsi_attn.store.arrays import put_array, put_group, put_level
from wsi_attn.store.backend import FolderBackend, ZarrBackend
from wsi_attn.store.chunk_codec import ChunkCodec, jpeg_codec
from wsi_attn.store.zarr_codecs import Jpeg2000Codec, JpegCodec

ZSTD = ZstdCodec(level=3, checksum=True)
LEVEL = Level(Size(700, 500), 1.0, 1.0, Size(64, 48))


def document(folder):
    return json.loads((folder / "zarr.json").read_text())


@pytest.mark.parametrize(
    "values",
    [
        np.arange(14, dtype=np.int64).reshape(7, 2) * 10**12,
        np.array([0.5, np.nan, -3], np.float32),
        np.array([True, False, True]),
        np.arange(35, dtype=np.uint8).reshape(5, 7),
        np.zeros((0, 2), np.int64),
        np.zeros(0, np.float32),
    ],
)
@pytest.mark.parametrize("chunk", [None, 3])
def test_arrays_are_zarrs(tmp_path, values, chunk):
    put_array(FolderBackend(tmp_path), "ours", values, chunk=chunk, attributes={"unit": "µm"})
    chunks = tuple(max(1, min(chunk or extent, extent)) for extent in values.shape)
    fill = np.nan if values.dtype.kind == "f" else values.dtype.type(0)
    options = {"chunks": chunks, "compressors": ZSTD, "fill_value": fill, "attributes": {"unit": "µm"}}
    theirs = zarr.create_array(tmp_path / "theirs", shape=values.shape, dtype=values.dtype, **options)
    theirs[...] = values
    assert document(tmp_path / "ours") == document(tmp_path / "theirs")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "ours", mode="r")[...], values)


@pytest.mark.parametrize(
    ("codec", "theirs"),
    [
        (ChunkCodec(), {"compressors": ZSTD}),
        (
            ChunkCodec(TileEncoding(JPEG, "RGB", b"\xff\xd8tables\xff\xd9")),
            {
                "serializer": JpegCodec(
                    {"colorspace_data": "RGB", "colorspace_jpeg": "RGB", "tables": "/9h0YWJsZXP/2Q=="}
                )
            },
        ),
        (
            jpeg_codec(88),
            {"serializer": JpegCodec({"colorspace_data": "RGB", "colorspace_jpeg": "YCBCR", "level": 88})},
        ),
        (ChunkCodec(TileEncoding(JPEG2000)), {"serializer": Jpeg2000Codec()}),
    ],
)
def test_levels_are_zarrs(tmp_path, codec, theirs):
    put_level(FolderBackend(tmp_path), "ours", LEVEL, codec)
    if codec.encoding is not None:
        theirs = {**theirs, "filters": [TransposeCodec(order=(1, 2, 0))], "compressors": None}
    rows, columns = sharding.shard_chunks(LEVEL.size, LEVEL.tile_size)
    zarr.create_array(
        tmp_path / "theirs",
        shape=(3, 500, 700),
        chunks=(3, 48, 64),
        shards=(3, rows * 48, columns * 64),
        dtype="uint8",
        fill_value=255,
        dimension_names=("c", "y", "x"),
        **theirs,
    )
    assert document(tmp_path / "ours") == document(tmp_path / "theirs")


def test_groups_are_zarrs(tmp_path):
    put_group(FolderBackend(tmp_path), "ours", {"a": [1, "é"]})
    zarr.create_group(tmp_path / "theirs", zarr_format=3, attributes={"a": [1, "é"]})
    assert document(tmp_path / "ours") == document(tmp_path / "theirs")


def test_a_store_of_zarr_is_a_place_like_a_folder(tmp_path):
    memory = MemoryStore()
    values = np.arange(12, dtype=np.int64).reshape(6, 2)
    for place in (FolderBackend(tmp_path), ZarrBackend(memory)):
        put_group(place, "", {})
        put_array(place, "coords", values)
        place.put("gone", b"x")
        assert place.get("gone") == b"x"
        place.delete("gone")
        place.delete("gone")
        assert place.get("gone") is None
    np.testing.assert_array_equal(zarr.open_group(memory, mode="r")["coords"][...], values)
    files = {file.relative_to(tmp_path).as_posix(): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert {key: ZarrBackend(memory).get(key) for key in files} == files
