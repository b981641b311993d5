"""How a compressed tile becomes pixels: what must be known besides its bytes, and the decoding itself.

Stands below slides and store, since both hold such tiles: a slide's JPEG tiles are copied into a store as they are.
Decoders release the interpreter lock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import NotEncodedError, TileDecodeError
from wsi_attn.geometry import Size
from wsi_attn.jpeg2000 import check_jpeg2000
from wsi_attn.jpeg_decoding import JpegCompletion, decode_jpeg
from wsi_attn.jpeg_stream import ColourMemo
from wsi_attn.jpeg_structure import JpegStructure

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
        """Pixels of one tile, decoded strictly: what a lenient decoder would repair is an error.

        Parameters
        ----------
        out
            uint8 (height, width, 3), contiguous, to decode JPEG into; spares an allocation a tile.

        Returns
        -------
        uint8 (height, width, 3), RGB.

        Raises
        ------
        TileDecodeError : the tile is damaged, or of other size than `out`.
        """
        if self.codec == JPEG:
            return decode_jpeg(self._completion.complete(data), out)
        import imagecodecs  # a tenth of a second that commands without pixels need not pay

        check_jpeg2000(data)  # the decoder fills in what is missing
        try:
            pixels = imagecodecs.jpeg2k_decode(data)  # type: ignore[arg-type]
        except (RuntimeError, ValueError) as error:
            raise TileDecodeError(f"{self.codec} tile of {len(data)} bytes: {error}") from error
        if pixels.ndim != 3 or pixels.shape[2] != CHANNELS or pixels.dtype != np.uint8:
            raise TileDecodeError(f"{self.codec} tile of {pixels.dtype} {pixels.shape}, not 8-bit RGB")
        return np.asarray(pixels)

    def check(self, data: bytes | memoryview, size: Size) -> None:
        """Make sure that a tile is a whole stream of `size`, without decoding it.

        Finds damage of the structure; see `JpegStructure` and `check_jpeg2000` for what that is. Altered
        entropy-coded data are mostly found by `decode` alone.

        Raises
        ------
        TileDecodeError : the tile is damaged.
        """
        if self.codec == JPEG:
            components = {None: (1, CHANNELS), "GRAYSCALE": (1,)}.get(self.colorspace, (CHANNELS,))
            _structure(size, components, self.tables).check(data)
        else:
            check_jpeg2000(data, size)

    def complete(self, data: bytes | memoryview) -> bytes:
        """A JPEG tile as a whole stream, with its tables and the marker that tells its colours.

        Raises
        ------
        NotEncodedError : the tile is not JPEG.
        TileDecodeError : it is damaged.
        """
        if self.codec != JPEG:
            raise NotEncodedError(f"{self.codec} is not JPEG")
        return self._completion.complete(data)

    @cached_property
    def _completion(self) -> JpegCompletion:
        return JpegCompletion(self.colorspace, self.tables)


@lru_cache(maxsize=64)
def _structure(size: Size, components: tuple[int, ...], tables: bytes | None) -> JpegStructure:
    return JpegStructure(size, components, tables)
