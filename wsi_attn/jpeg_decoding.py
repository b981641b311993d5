"""JPEG streams of tiles: strict decoding, and completion of abbreviated streams.

Lenient decoders replace what they cannot decode with grey or with remains of the block before and report success.
Here every warning of libjpeg-turbo is an error, so that altered pixels are never used. A stream may still decode
without a warning although bits of it have changed: Huffman codes resynchronise, and JPEG has no checksum.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import TileDecodeError

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
TRANSFORMS = {"RGB": 0, "YCBCR": 1}
"""Adobe's numbers for what three components are; a grey stream needs none."""

SOS, APP0, APP14 = 0xDA, 0xE0, 0xEE

PROOF_FACTOR = 8
"""The smallest of the sizes that libjpeg-turbo decodes to."""


def decode_jpeg(stream: bytes, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Pixels of a complete JPEG stream, equal to those of libjpeg-turbo with its default settings.

    Releases the interpreter lock.

    Parameters
    ----------
    stream
        From SOI to EOI, with its tables, and with the markers that tell its colours; see `JpegCompletion`.
    out
        uint8 (height, width, 3), contiguous, to decode into. It may hold anything after an error.

    Returns
    -------
    uint8 (height, width, 3), RGB; `out` where it was given.

    Raises
    ------
    TileDecodeError : libjpeg-turbo reports an error or a warning, or the picture does not fit `out`.
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

    All entropy-coded data are read, so that the same streams are refused.

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
    """Completes the tiles of one level: shared tables and the marker that tells their colours go in front.

    Tiles in slides often leave their tables to the file, and nearly always the marker. The data of the picture stay
    as they are.

    Parameters
    ----------
    colorspace
        `RGB`, `YCBCR` or `GRAYSCALE`: said by an Adobe marker, and contradicting markers of the streams are left out.
        None leaves it to the markers of the streams.
    tables
        Tables that the streams leave out, as one stream from SOI to EOI.
    """

    def __init__(self, colorspace: str | None, tables: bytes | None) -> None:
        self._recolour = colorspace in TRANSFORMS
        self._head = SOI + _adobe(colorspace) + (_segments(tables) if tables else b"")
        self._plain = self._head == SOI

    def complete(self, data: bytes | memoryview) -> bytes:
        """The tile as a whole stream.

        Raises
        ------
        TileDecodeError : the bytes are no JPEG stream.
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
            if marker in (APP0, APP14):  # JFIF's marker would win over Adobe's, and a second of either confuses
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
    """Marker of the segment at `place`, where its content begins, and where it ends.

    Raises
    ------
    TileDecodeError : there is none, or it reaches beyond the data.
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
    """The error that says why a tile is damaged."""
    return TileDecodeError(f"JPEG stream of {len(data)} bytes: {reason}")
