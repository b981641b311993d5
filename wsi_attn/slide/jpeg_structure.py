"""Fast structural check of JPEG tiles without decoding."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wsi_attn.packed import Packed
from wsi_attn.slide.jpeg_decoding import EOI, SOI, SOS, damage, is_whole, read_segment

PADDING_BYTES = 16
"""Maximum padding after the end of a stream, which some writers add to align the next tile and decoders ignore."""

DHT, DQT, DRI, COM, DAC = 0xC4, 0xDB, 0xDD, 0xFE, 0xCC
RST0 = 0xD0
SEQUENTIAL, PROGRESSIVE, LOSSLESS, ARITHMETIC = {0xC0, 0xC1}, {0xC2}, {0xC3}, {0xC9, 0xCA}
FRAMES = SEQUENTIAL | PROGRESSIVE | LOSSLESS | ARITHMETIC
"""Frame types supported by libjpeg-turbo."""

BATCH_BYTES = 1 << 20
"""Bytes searched at once: more would cost page faults, less would cost waits for the interpreter lock."""

LEAST_BITS = 2
"""Minimum bits of a block in a sequential frame: one code each for the DC coefficient and the end of the block."""

_MARKER = re.compile(rb"\xff[^\x00]", re.DOTALL)
"""A marker within entropy-coded data, in which a data byte of 0xFF is followed by a stuffed 0."""


class JpegStructure:
    """Checks of the tiles of one level; thread-safe.

    Checks the order of markers and the lengths of segments; the frame: 8 bits, size and number of components; the
    presence of all tables used by scans; byte stuffing within entropy-coded data; number and order of restart markers;
    and the end of image. The meaning of entropy-coded data is not checked, which requires a decoder.

    Parameters
    ----------
    size
        Width and height of every tile in pixels.
    components
        Allowed numbers of components.
    tables
        Tables omitted from the tiles, as one stream from SOI to EOI.
    """

    def __init__(self, size: tuple[int, int], components: tuple[int, ...], tables: bytes | None) -> None:
        self._size, self._components, self._tables = size, components, tables
        self._known: tuple[bytes, _Scan] | None = None

    def check(self, data: bytes | memoryview) -> None:
        """Check that a tile is a complete stream.

        Raises
        ------
        TileDecodeError : the tile is damaged; the message states how.
        """
        known = self._known  # tiles of a level mostly have identical headers
        if known is not None and bytes(data[: len(known[0])]) == known[0]:
            end = _end_of_scan(data, len(known[0]), known[1])
            if data[end + 1] == EOI[1]:
                return _check_padding(data, end)
        try:
            return self._parse(data)
        except struct.error as error:
            raise damage(data, "a segment is shorter than its content") from error

    def are_whole(self, tiles: Sequence[bytes | memoryview]) -> NDArray[np.bool_]:
        """Check many tiles; the result is that of `check` for each.

        Markers of several tiles are searched at once in NumPy, which releases the interpreter lock: tiles with the
        usual header followed by the expected markers are whole, and only the others are checked one by one.

        Returns
        -------
        bool (N,): False for damaged tiles.
        """
        packed = Packed.of(tiles)
        whole = np.zeros(len(packed), np.bool_)
        batch = max(1, BATCH_BYTES * len(packed) // (1 + len(packed.data)))
        for start in range(0, len(packed), batch):
            part, fits = packed[start : start + batch], whole[start : start + batch]
            if self._known is not None:
                fits[:] = _have_markers(part, *self._known)
            for index in np.flatnonzero(~fits).tolist():
                fits[index] = is_whole(self.check, part[index])
        return whole

    def _parse(self, data: bytes | memoryview) -> None:
        if bytes(data[:2]) != SOI:
            raise damage(data, "it does not begin with a start of image")
        header = _Header(data)
        for marker, body in _table_segments(self._tables or b""):
            header.read(marker, body)
        place, scans = 2, 0
        while True:
            scan, start = None, place
            while scan is None:
                marker, begin, start = read_segment(data, start)
                scan = header.read(marker, bytes(data[begin:start]))
                if header.frame is not None:
                    self._check_frame(data, header.frame)
            place = _end_of_scan(data, start, scan)
            scans += 1
            if data[place + 1] == EOI[1]:
                break
        _check_padding(data, place)
        if header.frame is None or header.scanned != set(header.frame.components):
            raise damage(data, "it lacks the scan of a component")
        if scans == 1:
            self._known = bytes(data[:start]), scan

    def _check_frame(self, data: bytes | memoryview, frame: _Frame) -> None:
        if frame.bits != 8:
            raise damage(data, f"its samples have {frame.bits} bits, not 8")
        if frame.size != self._size:
            raise damage(data, f"it is {frame.size[0]} x {frame.size[1]} px, not {self._size[0]} x {self._size[1]}")
        if len(frame.components) not in self._components:
            raise damage(data, f"it has {len(frame.components)} components")


@dataclass(frozen=True)
class _Component:
    """Sampling factors of a component, and the number of its quantisation table."""

    across: int
    down: int
    table: int


@dataclass(frozen=True)
class _Frame:
    """Content of a frame header."""

    kind: int
    bits: int
    size: tuple[int, int]
    components: dict[int, _Component]

    def blocks(self, names: tuple[int, ...]) -> tuple[int, int]:
        """Minimum coded units of a scan of these components, and the blocks in each."""
        unit = 1 if self.kind in LOSSLESS else 8
        across = max(part.across for part in self.components.values())
        down = max(part.down for part in self.components.values())
        width, height = self.size
        parts = [self.components[name] for name in names]
        if len(parts) > 1:
            columns, rows = _ceil_div(width, unit * across), _ceil_div(height, unit * down)
            return columns * rows, sum(part.across * part.down for part in parts)
        columns = _ceil_div(_ceil_div(width * parts[0].across, across), unit)
        rows = _ceil_div(_ceil_div(height * parts[0].down, down), unit)
        return columns * rows, 1


@dataclass(frozen=True)
class _Scan:
    """Requirements for the data of a scan: number of restart markers and minimum size in bytes."""

    restarts: int
    least_bytes: int


@dataclass
class _Header:
    """State defined by the segments read so far; `data` is the tile, for error messages."""

    data: bytes | memoryview
    frame: _Frame | None = None
    interval: int = 0
    quantisation: set[int] = field(default_factory=set)
    huffman: set[tuple[int, int]] = field(default_factory=set)
    scanned: set[int] = field(default_factory=set)

    def read(self, marker: int, body: bytes) -> _Scan | None:
        """Process one segment; a scan header returns the requirements for its data."""
        if marker == SOS:
            return self._read_scan(body)
        if marker == DQT:
            self._read_quantisation(body)
        elif marker == DHT:
            self._read_huffman(body)
        elif marker == DRI:
            (self.interval,) = struct.unpack(">H", body)
        elif marker in FRAMES:
            self._read_frame(marker, body)
        elif not (0xE0 <= marker <= 0xEF or marker in (COM, DAC)):
            raise damage(self.data, f"marker 0x{marker:02X} does not belong into its header")
        return None

    def _read_quantisation(self, body: bytes) -> None:
        while body:
            wide, name = body[0] >> 4, body[0] & 15
            length = 64 * (1 + wide)
            values = body[1 : 1 + length]
            if wide > 1 or name > 3 or len(values) < length or (not wide and 0 in values):
                raise damage(self.data, "a quantisation table is damaged")
            self.quantisation.add(name)
            body = body[1 + length :]

    def _read_huffman(self, body: bytes) -> None:
        while body:
            kind, name, counts = body[0] >> 4, body[0] & 15, body[1:17]
            total, room = sum(counts), 1 << 16
            for length, count in enumerate(counts, 1):
                room -= count << 16 - length
            values = body[17 : 17 + total]
            wrong = kind > 1 or name > 3 or len(counts) < 16 or total > 256 or room < 0 or len(values) < total
            if wrong or (kind == 0 and max(values, default=0) > 16):
                raise damage(self.data, "a Huffman table is damaged")
            self.huffman.add((kind, name))
            body = body[17 + total :]

    def _read_frame(self, kind: int, body: bytes) -> None:
        bits, height, width, count = struct.unpack_from(">BHHB", body)
        parts = list(struct.iter_unpack("BBB", body[6:]))
        components = {name: _Component(factors >> 4, factors & 15, table) for name, factors, table in parts}
        factors = [factor for part in components.values() for factor in (part.across, part.down)]
        if self.frame is not None or not count or not len(parts) == len(components) == count:
            raise damage(self.data, "its frame header is damaged")
        if not all(1 <= factor <= 4 for factor in factors) or not width or not height:
            raise damage(self.data, "its frame header is damaged")
        self.frame = _Frame(kind, bits, (width, height), components)

    def _read_scan(self, body: bytes) -> _Scan:
        frame = self.frame
        if frame is None:
            raise damage(self.data, "a scan comes before the frame header")
        count = body[0] if body else 0
        if not 1 <= count <= len(frame.components) or len(body) != 4 + 2 * count:
            raise damage(self.data, "a scan header is damaged")
        tables = {body[at]: (body[at + 1] >> 4, body[at + 1] & 15) for at in range(1, 1 + 2 * count, 2)}
        first, last, bits = body[-3:]
        sequential = frame.kind in SEQUENTIAL or frame.kind == 0xC9
        if len(tables) != count or not tables.keys() <= frame.components.keys():
            raise damage(self.data, "a scan header names components that the frame does not have")
        if sequential and ((first, last, bits) != (0, 63, 0) or self.scanned & tables.keys()):
            raise damage(self.data, "a scan header is damaged")
        if not sequential and frame.kind not in LOSSLESS and not (first <= last <= 63 and (first > 0) == (last > 0)):
            raise damage(self.data, "a scan header is damaged")
        for name, (dc, ac) in tables.items():
            self._check_tables(frame, name, dc=dc, ac=ac, first=first, refines=bits >> 4 > 0)
        self.scanned |= tables.keys()
        units, blocks = frame.blocks(tuple(tables))
        least = units * blocks * LEAST_BITS // 8 if frame.kind in SEQUENTIAL else 0
        return _Scan(-(-units // self.interval) - 1 if self.interval else 0, least)

    def _check_tables(self, frame: _Frame, name: int, *, dc: int, ac: int, first: int, refines: bool) -> None:
        if frame.kind not in LOSSLESS and frame.components[name].table not in self.quantisation:
            raise damage(self.data, "a quantisation table is missing")
        if frame.kind in ARITHMETIC:
            return
        wanted = set()
        if frame.kind in SEQUENTIAL:
            wanted = {(0, dc), (1, ac)}
        elif frame.kind in LOSSLESS or (first == 0 and not refines):
            wanted = {(0, dc)}
        elif first > 0:
            wanted = {(1, ac)}
        if not wanted <= self.huffman:
            raise damage(self.data, "a Huffman table is missing")


def _table_segments(tables: bytes) -> Iterator[tuple[int, bytes]]:
    place = 2
    while place + 4 <= len(tables):
        marker, begin, place = read_segment(tables, place)
        yield marker, tables[begin:place]


def _have_markers(tiles: Packed, head: bytes, scan: _Scan) -> NDArray[np.bool_]:
    """Whether each tile is `head`, one scan with exactly its restart markers, and the end of image."""
    values = tiles.data
    starts, ends = tiles.starts - tiles.starts[0], tiles.ends - tiles.starts[0]
    is_marker = values[:-1] == 0xFF
    np.logical_and(is_marker, values[1:], out=is_marker)
    places: NDArray[np.int64] = np.flatnonzero(is_marker)
    codes = values[places + 1].tobytes()
    first, last = np.searchsorted(places, starts + len(head)), np.searchsorted(places, ends - 1)
    end_of_image = places[np.maximum(last - 1, 0)] if len(places) else ends
    sized = (end_of_image - starts - len(head) >= scan.least_bytes) & (ends - end_of_image - len(EOI) <= PADDING_BYTES)
    expected = bytes(RST0 + number % 8 for number in range(scan.restarts)) + EOI[1:]
    marked = (codes[begin:end] == expected for begin, end in zip(first.tolist(), last.tolist(), strict=True))
    found: NDArray[np.bool_] = sized & np.fromiter(marked, np.bool_, len(starts)) & tiles.begin_with(head)
    return found


def _end_of_scan(data: bytes | memoryview, start: int, scan: _Scan) -> int:
    """Position of the marker that ends the entropy-coded data starting at `start`."""
    place = _next_marker(data, start)
    for number in range(scan.restarts):
        if data[place + 1] != RST0 + number % 8:
            raise damage(data, f"at byte {place} restart marker {number} of {scan.restarts} is missing")
        place = _next_marker(data, place + 2)
    if RST0 <= data[place + 1] < RST0 + 8:
        raise damage(data, f"at byte {place} is an unexpected restart marker")
    if place - start < scan.least_bytes:
        raise damage(data, f"the data of its scan end after {place - start} bytes")
    return place


def _next_marker(data: bytes | memoryview, start: int) -> int:
    found = _MARKER.search(data, start)
    place = found.start() if found else len(data)
    while place + 1 < len(data) and data[place + 1] == 0xFF:  # fill bytes
        place += 1
    if place + 1 >= len(data):
        raise damage(data, "it is cut off before its end of image")
    if data[place + 1] < 0xC0 or data[place + 1] in FRAMES:
        raise damage(data, f"its entropy-coded data hold an illegal code at byte {place}")
    return place


def _check_padding(data: bytes | memoryview, end: int) -> None:
    """Check that the end of image is at the end of the tile."""
    rest = len(data) - end - len(EOI)
    if rest > PADDING_BYTES:
        raise damage(data, f"its end of image comes {rest} bytes before the end of the tile")


def _ceil_div(number: int, by: int) -> int:
    return -(-number // by)
