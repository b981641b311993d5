"""The codecs `imagecodecs_jpeg` and `imagecodecs_jpeg2k` for Zarr, registered through entry points of this project.

Names and configuration keys are those of the package imagecodecs-zarr, which requires a newer Python than this project,
so either package can read the stores. Keys that only encoding or unusual streams need are preserved when metadata is
read and rewritten, and refused if they would change pixels.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from wsi_attn.slide.encoding import JPEG, JPEG2000, TileEncoding
from wsi_attn.store.chunk_codec import JPEG2000_NAME, JPEG_NAME

UNKNOWN_TO_US = {"header", "lossless", "predictor", "planar", "skipres"}
"""Keys of the public codecs that change the decoded pixels and never occur in stores of wsi-attn."""


@dataclass(frozen=True)
class _StreamCodec(ArrayBytesCodec):
    """Whole image streams as chunks (height, width, 3)."""

    configuration: dict[str, Any] = field(default_factory=dict)
    is_fixed_size = False
    name = ""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        configuration = dict(data.get("configuration") or {})
        if foreign := sorted(UNKNOWN_TO_US & configuration.keys()):
            raise ValueError(f"codec {cls.name}: keys {foreign} need the package imagecodecs-zarr (Python 3.12)")
        return cls(configuration)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, **({"configuration": self.configuration} if self.configuration else {})}

    def encoding(self) -> TileEncoding:
        raise NotImplementedError

    def compute_encoded_size(self, _input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        raise NotImplementedError("the size of a compressed image is only known after compression")

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        pixels = await asyncio.to_thread(self.encoding().decode, chunk_bytes.to_bytes())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        stream = await asyncio.to_thread(self._encode, np.ascontiguousarray(chunk_array.as_numpy_array()))
        return chunk_spec.prototype.buffer.from_bytes(stream)

    def _encode(self, pixels: np.ndarray[Any, Any]) -> bytes:
        raise NotImplementedError


@dataclass(frozen=True)
class JpegCodec(_StreamCodec):
    """`imagecodecs_jpeg`."""

    name = JPEG_NAME

    def encoding(self) -> TileEncoding:
        """Encoding of the streams, from the configuration."""
        tables = self.configuration.get("tables")
        colorspace = self.configuration.get("colorspace_jpeg")
        return TileEncoding(JPEG, colorspace, base64.b64decode(tables) if tables else None)

    def _encode(self, pixels: np.ndarray[Any, Any]) -> bytes:
        import imagecodecs

        keys = self.configuration
        return bytes(
            imagecodecs.jpeg8_encode(
                pixels,
                level=keys.get("level"),
                colorspace=keys.get("colorspace_data"),
                outcolorspace=keys.get("colorspace_jpeg"),
                subsampling=keys.get("subsampling"),
            )
        )


@dataclass(frozen=True)
class Jpeg2000Codec(_StreamCodec):
    """`imagecodecs_jpeg2k`."""

    name = JPEG2000_NAME

    def encoding(self) -> TileEncoding:
        """Encoding of the streams, which is stored in the streams themselves."""
        return TileEncoding(JPEG2000)

    def _encode(self, pixels: np.ndarray[Any, Any]) -> bytes:
        import imagecodecs

        keys = ("level", "codecformat", "colorspace", "reversible", "resolutions", "mct")
        return bytes(
            imagecodecs.jpeg2k_encode(
                pixels, **{key: self.configuration[key] for key in keys if key in self.configuration}
            )
        )
