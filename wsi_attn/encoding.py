"""How a compressed tile becomes pixels: what must be known besides its bytes, and the decoding itself.

Stands below slides and store, since both hold such tiles: a slide's JPEG tiles are copied into a store as they are.
Decoders release the interpreter lock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import TileDecodeError
from wsi_attn.jpeg_stream import ColourMemo

JPEG, JPEG2000 = "jpeg", "jpeg2000"
CHANNELS = 3


@dataclass(frozen=True)
class TileEncoding:
    """What all compressed tiles of one level have in common.

    Attributes
    ----------
    codec
        `JPEG` or `JPEG2000`.
    colorspace
        What a JPEG stream holds: `RGB`, `YCBCR` or `GRAYSCALE`; wins over markers of the stream. None for JPEG 2000,
        whose streams state it reliably.
    tables
        Quantisation and Huffman tables that JPEG tiles leave out, as one stream from SOI to EOI; None where each tile
        carries its own.
    """

    codec: str
    colorspace: str | None = None
    tables: bytes | None = None

    def of_stream(self, data: bytes | memoryview) -> TileEncoding:
        """The same with the colour space that one JPEG stream states itself, where it states one."""
        stated = self._memo.of(data) if self.codec == JPEG else None
        return self if stated in (None, self.colorspace) else replace(self, colorspace=stated)

    @cached_property
    def _memo(self) -> ColourMemo:
        return ColourMemo()

    def decode(self, data: bytes | memoryview, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Pixels of one tile.

        Parameters
        ----------
        out
            uint8 (height, width, 3), contiguous, to decode JPEG into; spares an allocation a tile.

        Returns
        -------
        uint8 (height, width, 3), RGB.

        Raises
        ------
        TileDecodeError : the bytes are no such tile.
        """
        import imagecodecs  # a tenth of a second that commands without pixels need not pay

        try:
            if self.codec == JPEG:
                pixels = imagecodecs.jpeg8_decode(  # any buffer will do, whatever its signature says
                    data,  # type: ignore[arg-type]
                    tables=self.tables,
                    colorspace=self.colorspace,
                    outcolorspace="RGB",
                    out=out,
                )
            else:
                pixels = imagecodecs.jpeg2k_decode(data)  # type: ignore[arg-type]
        except (RuntimeError, ValueError) as error:
            raise TileDecodeError(f"{self.codec} tile of {len(data)} bytes: {error}") from error
        if pixels.ndim != 3 or pixels.shape[2] != CHANNELS or pixels.dtype != np.uint8:
            raise TileDecodeError(f"{self.codec} tile of {pixels.dtype} {pixels.shape}, not 8-bit RGB")
        return np.asarray(pixels)
