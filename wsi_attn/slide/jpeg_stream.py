"""Colour space of a JPEG stream according to its own markers, read without decoding.

Containers state the colour space too (TIFF's PhotometricInterpretation, the DICOM attribute of that name) and are often
wrong: Bio-Formats and QuPath write YCbCr streams with an RGB tag. The stream's own statement therefore has priority,
and the container's is used only if the stream makes none.
"""

from __future__ import annotations

from collections.abc import Iterator

RGB, YCBCR, GRAYSCALE, CMYK, YCCK = "RGB", "YCBCR", "GRAYSCALE", "CMYK", "YCCK"

SOI = b"\xff\xd8"
APP0, APP14, SOS, EOI = 0xE0, 0xEE, 0xDA, 0xD9
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of frame headers (SOF0 to SOF15); the other three of that range are tables."""

STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""

ADOBE_TRANSFORMS = {0: RGB, 1: YCBCR}


class ColourMemo:
    """Cached `colorspace_of` for streams with equal headers, such as the tiles of a level. Thread-safe.

    Attributes
    ----------
    known
        Header up to the end of the frame header, empty at first, and the colour space it states.
    """

    def __init__(self) -> None:
        self.known: tuple[bytes, str | None] = b"", None

    def of(self, stream: bytes | memoryview) -> str | None:
        """As `colorspace_of`."""
        head, found = self.known
        if head and stream[: len(head)] == head:
            return found
        found = colorspace_of(stream)
        for marker, _, end in segments(stream):
            if marker in FRAMES and end <= len(stream):
                self.known = bytes(stream[:end]), found
                break
        return found


def colorspace_of(stream: bytes | memoryview) -> str | None:
    """Colour space that a stream states itself.

    The order of evidence is that of libjpeg-turbo: the JFIF marker, the transform in Adobe's APP14 marker, then the
    component identifiers 1, 2, 3 (YCbCr) or `R`, `G`, `B`. Chroma with a lower resolution than the first component also
    means YCbCr. Streams in TIFF often have none of these, such as those of Aperio scanners with identifiers 0, 1, 2.

    Parameters
    ----------
    stream
        Start of a JPEG stream, at least up to its frame header.

    Returns
    -------
    `RGB`, `YCBCR`, `GRAYSCALE`, `CMYK` or `YCCK`; None if the stream states none or has no frame header.
    """
    jfif, adobe = False, None
    for marker, start, end in segments(stream):
        if end > len(stream):
            return None
        if marker == APP0 and bytes(stream[start : start + 5]) == b"JFIF\0":
            jfif = True
        elif marker == APP14 and end - start >= 12 and bytes(stream[start : start + 5]) == b"Adobe":
            adobe = stream[start + 11]
        elif marker in FRAMES:
            return _of_frame(bytes(stream[start:end]), jfif, adobe)
    return None


def has_frame(stream: bytes | memoryview) -> bool:
    """Whether the bytes extend to the end of the stream's frame header."""
    return any(marker in FRAMES and end <= len(stream) for marker, _, end in segments(stream))


def segments(stream: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Marker, and first and last byte + 1 of the payload, of each segment before the image data."""
    if bytes(stream[:2]) != SOI:
        return
    place, size = 2, len(stream)
    while place + 4 <= size and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker == 0xFF or marker in STANDALONE:  # fill bytes may precede any marker
            place += 1 if marker == 0xFF else 2
            continue
        if marker in (SOS, EOI):
            return
        end = place + 2 + (stream[place + 2] << 8 | stream[place + 3])
        yield marker, place + 4, end
        place = end


def _of_frame(frame: bytes, jfif: bool, adobe: int | None) -> str | None:
    count = frame[5] if len(frame) > 5 else 0
    if len(frame) < 6 + 3 * count:
        return None
    components = [frame[6 + 3 * index : 9 + 3 * index] for index in range(count)]
    if count == 1:
        return GRAYSCALE
    if count == 4:
        return YCCK if adobe == 2 else CMYK if adobe == 0 else None
    if count != 3:
        return None
    if jfif:
        return YCBCR
    if adobe is not None:
        return ADOBE_TRANSFORMS.get(adobe, YCBCR)
    identifiers = bytes(component[0] for component in components)
    if identifiers in (b"\1\2\3", b"RGB"):
        return YCBCR if identifiers == b"\1\2\3" else RGB
    sampling = [component[1] for component in components]
    return YCBCR if sampling[1] == sampling[2] != sampling[0] else None
