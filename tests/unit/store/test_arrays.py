"""What we write as Zarr is what Zarr would write, document by document and key by key."""

import json

import numpy as np
import pytest
import zarr
from zarr.codecs import TransposeCodec, ZstdCodec

from wsi_attn.errors import StoreDamagedError
from wsi_attn.geometry import Size
from wsi_attn.slide import Level
from wsi_attn.slide.encoding import JPEG, JPEG2000, TileEncoding
from wsi_attn.store import sharding
from wsi_attn.store.arrays import put_array, put_group, put_level, read_array
from wsi_attn.store.backend import FolderBackend
from wsi_attn.store.checked_files import CheckedFiles, scan
from wsi_attn.store.chunk_codec import ChunkCodec, jpeg_codec
from wsi_attn.store.schema import FileInfo
from wsi_attn.store.zarr_codecs import Jpeg2000Codec, JpegCodec

ZSTD = ZstdCodec(level=3, checksum=True)
LEVEL = Level(Size(700, 500), 1.0, 1.0, Size(64, 48))

ARRAYS = [
    np.arange(14, dtype=np.int64).reshape(7, 2) * 10**12,
    np.array([0.5, np.nan, -3], np.float32),
    np.array([True, False, True]),
    np.arange(35, dtype=np.uint8).reshape(5, 7),
    np.zeros((0, 2), np.int64),
    np.zeros(0, np.float32),
]


def document(folder):
    return json.loads((folder / "zarr.json").read_text())


@pytest.mark.parametrize(
    "values",
    ARRAYS,
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


def test_a_folder_records_what_it_writes(tmp_path):
    place = FolderBackend(tmp_path)
    put_group(place, "", {})
    put_array(place, "coords", np.arange(12, dtype=np.int64).reshape(6, 2), chunk=4)
    assert place.put("parts", b"x", b"y") == FileInfo(2, sharding.crc32c(b"xy"))
    assert place.get("parts") == b"xy"
    assert place.get("gone") is None
    files = {file.relative_to(tmp_path).as_posix(): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert place.written == {key: FileInfo(len(data), sharding.crc32c(data)) for key, data in files.items()}
    assert scan(tmp_path, "a/b") == {f"a/b/{key}": file for key, file in place.written.items()}


@pytest.mark.parametrize("values", ARRAYS)
@pytest.mark.parametrize("chunk", [None, 3])
def test_arrays_are_read_back(tmp_path, values, chunk):
    put_array(FolderBackend(tmp_path), "a", values, chunk=chunk, attributes={"unit": "µm"})
    found, attributes = read_array(CheckedFiles(tmp_path, None).read, "a", tmp_path)
    assert (found.dtype, attributes) == (values.dtype, {"unit": "µm"})
    np.testing.assert_array_equal(found, values)


def test_a_missing_chunk_is_damage_and_not_the_fill_value(tmp_path):
    put_array(FolderBackend(tmp_path), "a", np.zeros((5, 2), np.int64), chunk=3)
    (tmp_path / "a" / "c" / "1" / "0").unlink()
    with pytest.raises(StoreDamagedError, match="a/c/1/0"):
        read_array(CheckedFiles(tmp_path, None).read, "a", tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("shape", "many", "shape"),
        ("shape", [5], "shape"),
        ("shape", [10**11, 2], "too many chunks"),
        ("shape", [-1, 2], r"shape\[0\]"),
        ("data_type", "float64", "data_type"),
        ("codecs", [{"name": "blosc"}], r"codecs\[0\].name"),
        ("chunk_grid", {}, "chunk_grid"),
        ("attributes", None, "attributes"),
        ("zarr_format", 2, "zarr_format"),
    ],
)
def test_invalid_array_metadata_names_its_field(tmp_path, field, value, named):
    put_array(FolderBackend(tmp_path), "a", np.zeros((5, 2), np.int64), chunk=3)
    changed = {**document(tmp_path / "a"), field: value}
    (tmp_path / "a" / "zarr.json").write_text(json.dumps(changed))
    with pytest.raises(StoreDamagedError, match=rf"a/zarr.json is damaged: .*{named}"):
        read_array(CheckedFiles(tmp_path, None).read, "a", tmp_path)
    (tmp_path / "a" / "zarr.json").write_bytes(b"[" * 100_000)
    with pytest.raises(StoreDamagedError, match=r"a/zarr.json is damaged"):
        read_array(CheckedFiles(tmp_path, None).read, "a", tmp_path)
