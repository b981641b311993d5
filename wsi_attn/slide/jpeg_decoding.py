"""Strict decoding and encoding of JPEG tiles, and completion of abbreviated streams.

Lenient decoders replace undecodable data with grey or remains of the previous block and report success. Here every
warning of libjpeg-turbo is an error, so altered pixels are never used. A stream may still decode without a warning
although bits of it have changed: Huffman codes resynchronise, and JPEG has no checksum.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import TileDecodeError

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
TRANSFORMS = {"RGB": 0, "YCBCR": 1}
"""Adobe's codes of the colour transform of three components; a grey stream needs none."""

SOS, APP0, APP14, DHT = 0xDA, 0xE0, 0xEE, 0xC4
BASELINE = (0xC0, 0xC1)
FRAMES = (*BASELINE, 0xC2, 0xC3, 0xC9, 0xCA)

ZEROS = bytes(12)
"""Zeros that no sound scan contains if the code of zeros is a coefficient: about thirty of them, all equal to -1."""


_AFTER_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""A marker that is not one of the restart markers within entropy-coded data."""

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

    refuse_zeroed(stream)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(stream, "RGB", buffer=out, strict=True)
    except (ValueError, MemoryError) as error:
        raise damage(stream, error) from error
    if out is None:
        return pixels
    if pixels.shape != out.shape:
        raise damage(stream, f"it is {pixels.shape[1]} x {pixels.shape[0]} px, not {out.shape[1]} x {out.shape[0]}")
    return out


def encode_jpeg(pixels: NDArray[np.uint8], quality: int | None, colorspace: str | None = "YCBCR") -> bytes:
    """Compress pixels, uint8 (height, width, 3); chroma keeps full resolution, since halving it would lose more."""
    import imagecodecs  # a tenth of a second that commands without pixels save

    return bytes(
        imagecodecs.jpeg8_encode(pixels, level=quality, colorspace="RGB", outcolorspace=colorspace, subsampling="444")
    )


def prove_jpeg(stream: bytes) -> None:
    """Decode a complete stream as strictly as `decode_jpeg` at an eighth of its size, in about half the time.

    All entropy-coded data are read, so the same streams are rejected.

    Raises
    ------
    TileDecodeError : as `decode_jpeg`.
    """
    import simplejpeg

    refuse_zeroed(stream)
    try:
        simplejpeg.decode_jpeg(stream, "GRAY", min_height=1, min_width=1, min_factor=PROOF_FACTOR, strict=True)
    except (ValueError, MemoryError) as error:
        raise damage(stream, error) from error


def refuse_zeroed(stream: bytes) -> None:
    """Check that no part of the entropy-coded data was zeroed, as after an incomplete download or a defective sector.

    Zeros may decode to blocks without a warning. A run of them is sound only if, in all Huffman tables of a scan, the
    code of zeros ends a block: blank areas in streams with optimised tables. Others are progressive or arithmetic.

    Raises
    ------
    TileDecodeError : it was.
    """
    if ZEROS not in stream:
        return
    ends_block: dict[int, bool] = {}
    place = len(SOI)
    while True:
        marker, begin, place = read_segment(stream, place)
        body = stream[begin:place]
        if marker in FRAMES and marker not in BASELINE:
            return
        if marker == DHT:
            ends_block |= _codes_of_zeros(body)
        if marker == SOS:
            used = {table & 15 for table in body[2 : 1 + 2 * (body or b"\0")[0] : 2]}
            end = _AFTER_SCAN.search(stream, place)
            zeros = stream.find(ZEROS, place, end.start() if end else len(stream))
            if zeros >= 0 and not all(ends_block.get(name, True) for name in used):
                raise damage(stream, f"its data are zeroed at byte {zeros}")
            return


def _codes_of_zeros(body: bytes) -> dict[int, bool]:
    """Return, for each AC table of a segment, whether its code of zeros is that of 16 zeros or the end of the block."""
    found = {}
    while len(body) > 17:
        if body[0] >> 4:
            found[body[0] & 15] = body[17] in (0x00, 0xF0)
        body = body[17 + sum(body[1:17]) :]
    return found


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


def is_whole(check: Callable[[bytes | memoryview], None], data: bytes | memoryview) -> bool:
    """Whether a tile passes a check that raises `TileDecodeError`."""
    try:
        check(data)
    except TileDecodeError:
        return False
    return True


def damage(data: bytes | memoryview, reason: object) -> TileDecodeError:
    """The error that states why a tile is damaged."""
    return TileDecodeError(f"JPEG stream of {len(data)} bytes: {reason}")
