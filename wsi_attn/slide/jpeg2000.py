"""Structural check of JPEG 2000 tiles without decoding.

The arithmetic decoder accepts any bits, so damage within the data of a tile-part is detected only if it violates the
rules for bytes after 0xFF.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from functools import lru_cache

from wsi_attn.errors import TileDecodeError

SOC, SIZ, COD, COC, QCD, SOT, SOD, EOC = 0xFF4F, 0xFF51, 0xFF52, 0xFF53, 0xFF5C, 0xFF90, 0xFF93, 0xFFD9
HEADER_MARKERS = range(0xFF50, 0xFF70)
"""Markers with a length that may occur in the headers of a codestream and its tile-parts."""

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
"""First box of a JP2 file."""

CODESTREAM_BOX = b"jp2c"
PADDING_BYTES = 16
"""Maximum padding after the end of a stream, which some writers add to align the next tile."""

ZERO_BYTES = 16
"""Zeros that the data of a sound packet never contain in a row; an empty packet is a single zero."""

MAX_LEVELS = 32
BYPASS = 1
"""Style of code blocks with uncoded bits, which may all be zero."""

_ILLEGAL = re.compile(rb"\xff[\x90-\xff]")
"""Byte sequences that packets never contain: bit stuffing keeps the byte after 0xFF below 0x90."""

_ILLEGAL_BESIDE_PACKET_MARKERS = re.compile(rb"\xff[\x90\x93-\xff]")
"""The same for streams with start-of-packet and end-of-packet-header markers."""


def check_jpeg2000(data: bytes | memoryview, size: tuple[int, int] | None = None, components: int = 3) -> None:
    """Check that a tile is a complete codestream, raw or in a JP2 file.

    Checks the main header, size, number and depth of components, the chain of tile-parts with their headers and
    numbers, codes that are illegal within packets, and the end of the codestream.

    Parameters
    ----------
    size
        Required width and height; None accepts any.

    Raises
    ------
    TileDecodeError : the tile is damaged; the message states how.
    """
    try:
        _Codestream(data, _codestream_start(data)).check(size, components)
    except (struct.error, IndexError) as error:
        raise _damage(data, "it is cut off within a header") from error


class _Codestream:
    """One codestream; `data` is the tile, which ends with it."""

    def __init__(self, data: bytes | memoryview, start: int) -> None:
        self.data, self.start = data, start

    def check(self, size: tuple[int, int] | None, components: int) -> None:
        data = self.data
        if self._number(self.start) != SOC or self._number(self.start + 2) != SIZ:
            raise _damage(data, "it does not begin with a main header")
        tiles = self._check_size(self.start + 4, size, components)
        place, found = self.start + 2, {}
        while (marker := self._number(place)) != SOT:
            found[marker] = place
            place = self._after_segment(place)
        if COD not in found or QCD not in found:
            raise _damage(data, "its main header lacks coding or quantisation parameters")
        packet_markers = data[found[COD] + 4] & 0b110
        zeros = None if COC in found else self._most_zeros(found[COD], self.start + 4, int(tiles > 1))
        self._check_tile_parts(place, tiles, _ILLEGAL_BESIDE_PACKET_MARKERS if packet_markers else _ILLEGAL, zeros)

    def _most_zeros(self, place: int, size_place: int, edges: int) -> int | None:
        """Return how many zeros in a row a sound tile-part may contain: that of its packets, if all are empty.

        Parameters
        ----------
        place, size_place
            Places of the segments COD and SIZ.
        edges
            1 if precincts may be cut by the edges of tiles.

        Returns
        -------
        None if there is no limit.
        """
        data = self.data
        own_precincts, layers, levels = data[place + 4] & 1, self._number(place + 6), data[place + 9]
        if data[place + 12] & BYPASS or levels > MAX_LEVELS:
            return None
        _, _, right, bottom, _, _, across, down, _, _, count = struct.unpack_from(">HHIIIIIIIIH", data, size_place)
        across, down = min(across, right), min(down, bottom)
        packets = 0
        for level in range(levels + 1):
            sides = data[place + 14 + level] if own_precincts else 0xFF
            width, height = (-(-side >> levels - level) for side in (across, down))
            packets += (-(-width >> (sides & 15)) + edges) * (-(-height >> (sides >> 4)) + edges)
        return int(packets * layers * count) + ZERO_BYTES

    def _check_size(self, place: int, size: tuple[int, int] | None, components: int) -> int:
        """Check the segment SIZ; returns the number of tiles of the codestream."""
        length, _, right, bottom, left, top, across, down, x, y, count = struct.unpack_from(
            ">HHIIIIIIIIH", self.data, place
        )
        if count != components or length != 38 + 3 * count:
            raise _damage(self.data, f"it has {count} components, not {components}")
        if size is not None and (right - left, bottom - top) != size:
            raise _damage(self.data, f"it is {right - left} x {bottom - top} px, not {size[0]} x {size[1]}")
        depths = [self.data[place + 38 + 3 * index] for index in range(count)]
        if any(depth != 7 for depth in depths):
            raise _damage(self.data, "its samples do not have 8 bits")
        if not across or not down or x > left or y > top or right <= left or bottom <= top:
            raise _damage(self.data, "its size is damaged")
        return int(-(-(right - x) // across) * -(-(bottom - y) // down))

    def _check_tile_parts(self, place: int, tiles: int, illegal: re.Pattern[bytes], zeros: int | None) -> None:
        data = self.data
        parts, announced = dict[int, int](), dict[int, int]()
        while self._number(place) == SOT:
            length, tile, part_bytes, part, count = struct.unpack_from(">HHIBB", data, place + 2)
            end = place + part_bytes if part_bytes else self._end_of_data()
            if length != 10 or tile >= tiles or part != parts.get(tile, 0) or (part_bytes and part_bytes < 14):
                raise _damage(data, f"the header of its tile-part at byte {place} is damaged")
            if end > len(data) - 2:
                raise _damage(data, f"its tile-part at byte {place} reaches beyond its end")
            parts[tile] = part + 1
            if count and announced.setdefault(tile, count) != count:
                raise _damage(data, f"the header of its tile-part at byte {place} is damaged")
            inside = place + 12
            while self._number(inside) != SOD:
                inside = self._after_segment(inside)
            if inside + 2 > end:
                raise _damage(data, f"the header of its tile-part at byte {place} is longer than the part")
            if found := illegal.search(data, inside + 2, end):
                raise _damage(data, f"its packets hold an illegal code at byte {found.start()}")
            if inside == place + 12 and zeros is not None and (found := _zeroed(zeros).search(data, inside + 2, end)):
                raise _damage(data, f"its packets are zeroed at byte {found.start()}")
            place = end
        if self._number(place) != EOC:
            raise _damage(data, f"there is neither a tile-part nor the end of the codestream at byte {place}")
        if len(parts) != tiles or any(parts[tile] != count for tile, count in announced.items()):
            raise _damage(data, "it lacks tile-parts")
        if len(data) - place - 2 > PADDING_BYTES:
            raise _damage(data, f"it ends {len(data) - place - 2} bytes before the tile does")

    def _end_of_data(self) -> int:
        """Position of the end marker; the last tile-part may omit its length."""
        tail = bytes(self.data[-PADDING_BYTES - 2 :])
        at = tail.rfind(b"\xff\xd9")
        if at < 0:
            raise _damage(self.data, "it is cut off before the end of its codestream")
        return len(self.data) - len(tail) + at

    def _after_segment(self, place: int) -> int:
        if self._number(place) not in HEADER_MARKERS:
            raise _damage(self.data, f"there is no marker segment at byte {place}")
        length = self._number(place + 2)
        if length < 2:
            raise _damage(self.data, f"the segment at byte {place} has an impossible length")
        return place + 2 + length

    def _number(self, place: int) -> int:
        return int(struct.unpack_from(">H", self.data, place)[0])


@lru_cache
def _zeroed(most: int) -> re.Pattern[bytes]:
    return re.compile(rb"\x00{%d}" % (most + 1))


def _codestream_start(data: bytes | memoryview) -> int:
    """Start of the codestream: the first byte, or the content of its box."""
    if bytes(data[: len(SIGNATURE)]) != SIGNATURE:
        return 0
    for name, start in _boxes(data):
        if name == CODESTREAM_BOX:
            return start
    raise _damage(data, "it holds no codestream")


def _boxes(data: bytes | memoryview) -> Iterator[tuple[bytes, int]]:
    """Names of the boxes of a JP2 file, and the start of their content."""
    place = 0
    while place + 8 <= len(data):
        length, name, start = int.from_bytes(data[place : place + 4], "big"), bytes(data[place + 4 : place + 8]), 8
        if length == 1:
            length, start = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        yield name, place + start
        if length < start:  # 0 means that the box extends to the end
            return
        place += length


def _damage(data: bytes | memoryview, reason: str) -> TileDecodeError:
    return TileDecodeError(f"JPEG 2000 codestream of {len(data)} bytes: {reason}")
