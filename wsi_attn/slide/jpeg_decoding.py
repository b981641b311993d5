"""Strict decoding of JPEG tiles, and completion of abbreviated streams.

Lenient decoders replace undecodable data with grey or remains of the previous block and report success. Here every
warning of libjpeg-turbo is an error, so altered pixels are never used. A stream may still decode without a warning
although bits of it have changed: Huffman codes resynchronise, and JPEG has no checksum.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import TileDecodeError

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
TRANSFORMS = {"RGB": 0, "YCBCR": 1}
"""Adobe's codes of the colour transform of three components; a grey stream needs none."""

SOS, APP0, APP14 = 0xDA, 0xE0, 0xEE

PROOF_FACTOR = 8
"""The smallest output scale of libjpeg-turbo."""


def decode_jpeg(stream: bytes, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Decode a complete JPEG stream to the same pixels as libjpeg-turbo with its default settings.

    Releases the interpreter lock.

    Parameters
    ----------
    stream
        From SOI to EOI, with its tables and the markers of its colour space; see `JpegCompletion`.
    out
        uint8 (height, width, 3), contiguous, to decode into. Its content is undefined after an error.

    Returns
    -------
    uint8 (height, width, 3), RGB; `out` if given.

    Raises
    ------
    TileDecodeError : libjpeg-turbo reports an error or a warning, or the image does not fit `out`.
    """
    import simplejpeg

    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(stream, "RGB", buffer=out, strict=True)
    except (ValueError, MemoryError) as error:
        raise damage(stream, error) from error
    if out is None:
        return pixels
    if pixels.shape != out.shape:
        raise damage(stream, f"it is {pixels.shape[1]} x {pixels.shape[0]} px, not {out.shape[1]} x {out.shape[0]}")
    return out


def prove_jpeg(stream: bytes) -> None:
    """Decode a complete stream as strictly as `decode_jpeg` at an eighth of its size, in about half the time.

    All entropy-coded data are read, so the same streams are rejected.

    Raises
    ------
    TileDecodeError : as `decode_jpeg`.
    """
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(stream, "GRAY", min_height=1, min_width=1, min_factor=PROOF_FACTOR, strict=True)
    except (ValueError, MemoryError) as error:
        raise damage(stream, error) from error


class JpegCompletion:
    """Complete the tiles of one level with shared tables and the marker of their colour space.

    Tiles in slides often omit their tables, which are stored once per file, and nearly always the marker. The image
    data stay unchanged.

    Parameters
    ----------
    colorspace
        `RGB`, `YCBCR` or `GRAYSCALE`: written as an Adobe marker; contradicting markers of the streams are removed.
        None relies on the markers of the streams.
    tables
        Tables omitted from the streams, as one stream from SOI to EOI.
    """

    def __init__(self, colorspace: str | None, tables: bytes | None) -> None:
        self._recolour = colorspace in TRANSFORMS
        self._head = SOI + _adobe(colorspace) + (_segments(tables) if tables else b"")
        self._plain = self._head == SOI

    def complete(self, data: bytes | memoryview) -> bytes:
        """Return the tile as a complete stream.

        Raises
        ------
        TileDecodeError : the bytes are not a JPEG stream.
        """
        if bytes(data[:2]) != SOI:
            raise damage(data, "it does not begin with a start of image")
        if self._plain:
            return bytes(data)
        parts: list[bytes | memoryview] = [self._head]
        start = place = 2
        while self._recolour:
            marker, _, end = read_segment(data, place)
            if marker == SOS:
                break
            # JFIF's marker would override Adobe's, and a second Adobe marker would be ambiguous
            if marker in (APP0, APP14):
                parts.append(data[start:place])
                start = end
            place = end
        parts.append(data[start:])
        return b"".join(parts)


def _adobe(colorspace: str | None) -> bytes:
    if colorspace not in TRANSFORMS:
        return b""
    return struct.pack(">BBH5sHHHB", 0xFF, APP14, 14, b"Adobe", 100, 0, 0, TRANSFORMS[colorspace])


def _segments(tables: bytes) -> bytes:
    """A stream of tables without its SOI and EOI."""
    return tables[2:-2] if tables.endswith(EOI) else tables[2:]


def read_segment(data: bytes | memoryview, place: int) -> tuple[int, int, int]:
    """Marker of the segment at `place`, and the start and end of its content.

    Raises
    ------
    TileDecodeError : there is none, or it extends beyond the data.
    """
    while place + 1 < len(data) and data[place] == data[place + 1] == 0xFF:
        place += 1  # markers may be preceded by fill bytes
    if place + 4 > len(data) or data[place] != 0xFF:
        raise damage(data, f"there is no marker at byte {place}")
    length = int.from_bytes(data[place + 2 : place + 4], "big")
    if length < 2 or place + 2 + length > len(data):
        raise damage(data, f"its segment at byte {place} has an impossible length of {length} bytes")
    return int(data[place + 1]), place + 4, place + 2 + length


def damage(data: bytes | memoryview, reason: object) -> TileDecodeError:
    """The error that states why a tile is damaged."""
    return TileDecodeError(f"JPEG stream of {len(data)} bytes: {reason}")
