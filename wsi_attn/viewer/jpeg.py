"""Stored JPEG tiles made complete for a browser, without decoding a pixel.

Tiles in slides often leave their tables to the file, and nearly always the marker that says which colours they hold.
A browser sees one stream alone, so both are put in front of the picture data.
"""

from __future__ import annotations

import struct

from wsi_attn.encoding import JPEG, TileEncoding
from wsi_attn.errors import NotEncodedError, TileDecodeError

SOI = b"\xff\xd8"
SOS, APP0, APP14 = 0xDA, 0xE0, 0xEE
TRANSFORMS = {"RGB": 0, "YCBCR": 1}
"""Adobe's numbers for what three components are; a grey stream needs none."""


class JpegCompletion:
    """Completes the tiles of one level.

    Raises
    ------
    NotEncodedError : no JPEG, or of colours that browsers do not know.
    """

    def __init__(self, encoding: TileEncoding) -> None:
        if encoding.codec != JPEG:
            raise NotEncodedError(f"browsers do not show {encoding.codec}")
        if encoding.colorspace not in (*TRANSFORMS, "GRAYSCALE"):
            raise NotEncodedError(f"browsers do not show JPEG of {encoding.colorspace}")
        self._head = SOI + _adobe(encoding.colorspace) + (_segments(encoding.tables) if encoding.tables else b"")

    def complete(self, data: bytes | memoryview) -> bytes:
        """The tile as a whole stream: same picture data, colours said once, by us.

        Raises
        ------
        TileDecodeError : the bytes are no JPEG stream.
        """
        if bytes(data[:2]) != SOI:
            raise TileDecodeError(f"jpeg tile of {len(data)} bytes does not begin like one")
        parts: list[bytes | memoryview] = [self._head]
        start = place = 2
        while (marker := _marker(data, place)) not in (SOS, None):
            end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
            if marker in (APP0, APP14):  # JFIF's marker would win over Adobe's, and a second of either confuses
                parts.append(data[start:place])
                start = end
            place = end
        if marker is None:
            raise TileDecodeError(f"jpeg tile of {len(data)} bytes is damaged at byte {place}")
        parts.append(data[start:])
        return b"".join(parts)


def _adobe(colorspace: str) -> bytes:
    if colorspace not in TRANSFORMS:
        return b""
    return struct.pack(">BBH5sHHHB", 0xFF, APP14, 14, b"Adobe", 100, 0, 0, TRANSFORMS[colorspace])


def _segments(tables: bytes) -> bytes:
    """A tables stream without its SOI and EOI."""
    return tables[2:-2] if tables.endswith(b"\xff\xd9") else tables[2:]


def _marker(data: bytes | memoryview, place: int) -> int | None:
    return int(data[place + 1]) if place + 4 <= len(data) and data[place] == 0xFF else None
