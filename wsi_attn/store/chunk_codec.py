"""Encoding and decoding of pixel chunks, and their codecs in Zarr metadata.

A chunk is one tile of a level. Lossless chunks are planes (3, height, width) compressed with Zstandard; JPEG and JPEG
2000 chunks are complete streams of interleaved pixels, which the public codecs `imagecodecs_jpeg` and
`imagecodecs_jpeg2k` of the package imagecodecs-zarr read (`zarr_codecs.py` provides them to Zarr if that package is
missing).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

from wsi_attn.errors import StoreSchemaError, TileDecodeError
from wsi_attn.geometry import Size
from wsi_attn.json_types import JsonObject
from wsi_attn.slide import BACKGROUND, UInt8Array
from wsi_attn.slide.encoding import JPEG, JPEG2000, TileEncoding
from wsi_attn.slide.jpeg_decoding import encode_jpeg

ZSTD_LEVEL = 3
"""Higher levels gain a few per cent on tissue and take several times as long."""

ZSTD_CHAIN: JsonObject = {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": True}}
JPEG_NAME, JPEG2000_NAME = "imagecodecs_jpeg", "imagecodecs_jpeg2k"
INTERLEAVED: JsonObject = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
"""Axes c, y, x of the array to y, x, c of the streams."""


class CodecConfiguration(msgspec.Struct, frozen=True):
    """Keys of the configuration of a codec that change how chunks decode."""

    colorspace_jpeg: str | msgspec.UnsetType | None = msgspec.UNSET
    tables: bytes | None = None
    level: int | None = None


class CodecDocument(msgspec.Struct, frozen=True):
    """A codec in the metadata of an array."""

    name: str
    configuration: CodecConfiguration = CodecConfiguration()


@dataclass(frozen=True)
class ChunkCodec:
    """Compression of the chunks of one level: `encoding` for JPEG and JPEG 2000, None for Zstandard.

    `quality` is that of a JPEG encoded by wsi-attn, None for streams copied from a slide.
    """

    encoding: TileEncoding | None = None
    quality: int | None = None

    @property
    def name(self) -> str:
        """`zstd`, `jpeg` or `jpeg2000`."""
        return self.encoding.codec if self.encoding else "zstd"

    def encode(self, pixels: UInt8Array) -> bytes | None:
        """Encode the pixels (height, width, 3) of a chunk; None if all of it is background."""
        if (pixels == BACKGROUND).all():
            return None
        if self.encoding is None:
            return zstd(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return encode_jpeg(pixels, self.quality)

    def decode(self, data: bytes | memoryview, tile: Size, out: UInt8Array | None = None) -> UInt8Array:
        """Decode a chunk to pixels (height, width, 3); raises `TileDecodeError` if that fails.

        `out` may be filled and returned, which saves one allocation per chunk.
        """
        if self.encoding is not None:
            pixels = self.encoding.decode(data, out)
        else:
            try:
                planes = np.frombuffer(Zstd().decode(data), np.uint8).reshape(3, tile.height, tile.width)
            except (RuntimeError, ValueError) as error:
                raise TileDecodeError(f"zstd chunk of {len(data)} bytes: {error}") from error
            pixels = planes.transpose(1, 2, 0)
        if pixels.shape[:2] != (tile.height, tile.width):
            raise TileDecodeError(
                f"a tile of {pixels.shape[1]} x {pixels.shape[0]} px, not {tile.width} x {tile.height}"
            )
        return pixels

    def chain(self) -> list[JsonObject]:
        """The codecs of a chunk as Zarr's metadata lists them."""
        if self.encoding is None:
            return [{"name": "bytes"}, ZSTD_CHAIN]
        if self.encoding.codec == JPEG2000:
            return [INTERLEAVED, {"name": JPEG2000_NAME}]
        configuration: JsonObject = {"colorspace_data": "RGB", "colorspace_jpeg": self.encoding.colorspace}
        if self.quality is not None:
            configuration["level"] = self.quality
        if self.encoding.tables is not None:
            configuration["tables"] = base64.b64encode(self.encoding.tables).decode()
        return [INTERLEAVED, {"name": JPEG_NAME, "configuration": configuration}]

    @classmethod
    def from_chain(cls, chain: Sequence[CodecDocument]) -> ChunkCodec:
        """Inverse of `chain`; raises `StoreSchemaError` for codecs that this project does not write,
        ValueError for a missing key.
        """
        last = chain[-1]
        if last.name == "zstd":
            return cls()
        if last.name == JPEG2000_NAME:
            return cls(TileEncoding(JPEG2000))
        if last.name == JPEG_NAME:
            found = last.configuration
            if isinstance(found.colorspace_jpeg, msgspec.UnsetType):
                raise ValueError(f"the codec {JPEG_NAME} states no colorspace_jpeg")
            return cls(TileEncoding(JPEG, found.colorspace_jpeg, found.tables), found.level)
        raise StoreSchemaError(f"chunks of the codec {last.name} are not supported by this version of wsi-attn")


def jpeg_codec(quality: int) -> ChunkCodec:
    """Codec of JPEG chunks encoded by wsi-attn."""
    return ChunkCodec(TileEncoding(JPEG, "YCBCR"), quality)


def zstd(data: UInt8Array | bytes) -> bytes:
    """Compress with Zstandard and a checksum, so damage is detected when the chunk is read."""
    return bytes(Zstd(level=ZSTD_LEVEL, checksum=True).encode(data))


def unzstd(data: bytes | memoryview) -> bytes:
    """Inverse of `zstd`; raises RuntimeError if the data is damaged."""
    return bytes(Zstd().decode(data))
