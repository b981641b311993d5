"""Decoding of compressed tiles: the required information besides their bytes, and the decoders.

Below slides and store in the layers, since both contain such tiles: a slide's JPEG tiles are copied into a store
unchanged. Decoders release the interpreter lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import NotEncodedError, TileDecodeError
from wsi_attn.geometry import Size
from wsi_attn.packed import Packed
from wsi_attn.slide.jpeg2000 import check_jpeg2000
from wsi_attn.slide.jpeg_decoding import JpegCompletion, decode_jpeg, is_whole
from wsi_attn.slide.jpeg_stream import ColourMemo
from wsi_attn.slide.jpeg_structure import JpegStructure

JPEG, JPEG2000 = "jpeg", "jpeg2000"
CHANNELS = 3


@dataclass(frozen=True)
class TileEncoding:
    """Common properties of all compressed tiles of one level.

    Attributes
    ----------
    codec
        `JPEG` or `JPEG2000`.
    colorspace
        Colour space of a JPEG stream: `RGB`, `YCBCR` or `GRAYSCALE`; overrides markers of the stream. None for JPEG
        2000, whose streams state it reliably.
    tables
        Quantisation and Huffman tables omitted from JPEG tiles, as one stream from SOI to EOI; None if each tile
        contains its own.
    """

    codec: str
    colorspace: str | None = None
    tables: bytes | None = None

    def of_stream(self, data: bytes | memoryview) -> TileEncoding:
        """The same encoding with the colour space that one JPEG stream states itself, if it does."""
        stated = self._memo.of(data) if self.codec == JPEG else None
        return self if stated in (None, self.colorspace) else replace(self, colorspace=stated)

    def covers(self, tiles: Packed) -> NDArray[np.bool_]:
        """(N,): whether `of_stream` of each tile is this encoding."""
        if self.codec != JPEG or not len(tiles):
            return np.ones(len(tiles), np.bool_)
        self.of_stream(tiles[0])
        head, stated = self._memo.known
        usual = tiles.begin_with(head) if head else np.zeros(len(tiles), np.bool_)
        found = usual & (stated in (None, self.colorspace))
        for index in np.flatnonzero(~usual).tolist():
            found[index] = self.of_stream(tiles[index]) is self
        return found

    @cached_property
    def _memo(self) -> ColourMemo:
        return ColourMemo()

    def decode(self, data: bytes | memoryview, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Decode one tile strictly: an error that a lenient decoder would conceal is raised.

        Parameters
        ----------
        out
            uint8 (height, width, 3), contiguous, to decode JPEG into; saves one allocation per tile.

        Returns
        -------
        uint8 (height, width, 3), RGB.

        Raises
        ------
        TileDecodeError : the tile is damaged, or its size differs from that of `out`.
        """
        if self.codec == JPEG:
            return decode_jpeg(self._completion.complete(data), out)
        import imagecodecs  # a tenth of a second that commands without pixels save

        check_jpeg2000(data)  # the decoder fills in missing parts
        try:
            pixels = imagecodecs.jpeg2k_decode(data)  # type: ignore[arg-type]
        except (RuntimeError, ValueError) as error:
            raise TileDecodeError(f"{self.codec} tile of {len(data)} bytes: {error}") from error
        if pixels.ndim != 3 or pixels.shape[2] != CHANNELS or pixels.dtype != np.uint8:
            raise TileDecodeError(f"{self.codec} tile of {pixels.dtype} {pixels.shape}, not 8-bit RGB")
        return np.asarray(pixels)

    def check(self, data: bytes | memoryview, size: Size) -> None:
        """Check that a tile is a complete stream of `size`, without decoding it.

        Detects structural damage; see `JpegStructure` and `check_jpeg2000` for the checks. Altered entropy-coded data
        are mostly detected only by `decode`.

        Raises
        ------
        TileDecodeError : the tile is damaged.
        """
        if self.codec == JPEG:
            self._structure(size).check(data)
        else:
            check_jpeg2000(data, size)

    def are_whole(self, tiles: Sequence[bytes | memoryview], size: Size) -> NDArray[np.bool_]:
        """Check many tiles as `check` does, faster.

        Returns
        -------
        bool (N,): False for damaged tiles.
        """
        if self.codec == JPEG:
            return self._structure(size).are_whole(tiles)
        check = partial(check_jpeg2000, size=size)
        return np.fromiter((is_whole(check, tile) for tile in tiles), np.bool_, len(tiles))

    def complete(self, data: bytes | memoryview) -> bytes:
        """Return a JPEG tile as a complete stream, with its tables and the marker of its colour space.

        Raises
        ------
        NotEncodedError : the tile is not JPEG.
        TileDecodeError : it is damaged.
        """
        if self.codec != JPEG:
            raise NotEncodedError(f"{self.codec} is not JPEG")
        return self._completion.complete(data)

    def _structure(self, size: Size) -> JpegStructure:
        components = {None: (1, CHANNELS), "GRAYSCALE": (1,)}.get(self.colorspace, (CHANNELS,))
        return _structure(size, components, self.tables)

    @cached_property
    def _completion(self) -> JpegCompletion:
        return JpegCompletion(self.colorspace, self.tables)


@lru_cache(maxsize=64)
def _structure(size: Size, components: tuple[int, ...], tables: bytes | None) -> JpegStructure:
    return JpegStructure(size, components, tables)
