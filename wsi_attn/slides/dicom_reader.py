"""DICOM slides: structure from OpenSlide, JPEG frames read from the files with the colour space stated by the streams.

OpenSlide 4.0 decodes frames with the colour space in PhotometricInterpretation, even if the streams state another. Some
writers, such as Bio-Formats, compress RGB to YCbCr streams but leave the attribute at RGB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import SlideUnsupportedError
from wsi_attn.file_bytes import FileBytes
from wsi_attn.geometry import Mpp, Size
from wsi_attn.slide import Level, Slide
from wsi_attn.slide.jpeg_stream import RGB, YCBCR
from wsi_attn.slides.dicom_series import is_dicom, series_of
from wsi_attn.slides.openslide_reader import OpenSlideReader
from wsi_attn.slides.reader import Reader
from wsi_attn.slides.tiff_levels import LevelSource, source_of
from wsi_attn.slides.tiff_pages import TiledPage, refuse_large_tiles, stated_colours
from wsi_attn.slides.tiled_reader import TiledReader

JPEG_SYNTAXES = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
JPEG2000_SYNTAXES = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}
COLOURS = {"RGB": RGB, "YBR_FULL_422": YCBCR, "YBR_FULL": YCBCR, "MONOCHROME2": "MINISBLACK"}
"""PhotometricInterpretation as TIFF colour spaces."""

PIXEL_DATA, EXTENDED_OFFSETS, EXTENDED_LENGTHS = 0x7FE00010, 0x7FE00001, 0x7FE00002
ITEM = struct.Struct("<HHI")
ITEM_TAG = (0xFFFE, 0xE000)
ELEMENT_HEADER_BYTES = 12
"""Tag, VR, two reserved bytes and length of the pixel data element, in explicit VR."""

UNDEFINED_LENGTH = 0xFFFFFFFF
COD_MARKER, COD_BYTES = b"\xff\x52", 9
"""JPEG 2000 coding style marker, and the offset of its component transform flag."""


def open_dicom(path: Path, slide_mpp: Mpp | None = None) -> Slide:
    """Open a DICOM slide; raises like `OpenSlideReader`.

    Raises
    ------
    SlideUnsupportedError : also if the colour space of its frames is unknown.
    """
    openslide = OpenSlideReader(path, slide_mpp)
    try:
        sources, files = _sources(path, openslide.info.levels)
    except BaseException:
        openslide.close()
        raise
    if all(source.page is None for source in sources):
        return openslide
    info = replace(openslide.info, reader="pydicom", compression="JPEG")
    own = [FileBytes(file or path) for file in files]
    return TiledReader(info, sources, own, openslide)


def _sources(path: Path, levels: tuple[Level, ...]) -> tuple[list[LevelSource], list[Path | None]]:
    """Return a source and a file for each level of OpenSlide."""
    series = series_of(path)
    found: dict[Size, list[tuple[Path, LevelSource]]] = {}
    for file in series.files if series else (path,):
        if (described := _describe(file)) is not None:
            size, source = described
            found.setdefault(size, []).append((file, source))
    lacking = [(None, LevelSource(None, None, "OpenSlide reads this level", ""))]
    matching = (found.get(level.size, []) for level in levels)
    chosen = [(files if len(files) == 1 else lacking)[0] for files in matching]
    return [source for _, source in chosen], [file for file, _ in chosen]


def _describe(path: Path) -> tuple[Size, LevelSource] | None:
    """Return the size of the level in a file and how its frames can be read; None if it has no level."""
    from pydicom.filereader import read_partial

    with path.open("rb") as file:
        try:
            header = read_partial(file, lambda tag, _vr, _length: tag >= PIXEL_DATA)
            at = file.tell()
            size = Size(int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows))
            if list(header.ImageType)[2:3] != ["VOLUME"]:
                return None
            tile = Size(int(header.Columns), int(header.Rows))
            page = _page(header, size, file, at)
        except (
            Exception
        ):  # pydicom raises many exception types on damaged files; OpenSlide reads them or reports why not.
            return None
        refuse_large_tiles(path, tile, int(header.get("SamplesPerPixel", 3)))
        syntax, colours = str(header.file_meta.TransferSyntaxUID), str(header.PhotometricInterpretation)
        if syntax in JPEG2000_SYNTAXES and colours in ("YBR_ICT", "YBR_RCT") and not _is_transformed(file, at):
            raise SlideUnsupportedError(
                f"{path.name} states {colours}, but its JPEG 2000 frames have no colour transform, so their "
                "colour space is unknown: convert the original slide again"
            )
    if page is None:
        return size, LevelSource(None, None, "OpenSlide gives no access to compressed tiles", "")
    return size, source_of(page)


def _page(header: Any, size: Size, file: BinaryIO, at: int) -> TiledPage | None:
    """Return the frames of a file as tiles; None if they are not one JPEG stream per tile of a full grid."""
    tile = Size(int(header.Columns), int(header.Rows))
    rows, columns = -(-size.height // tile.height), -(-size.width // tile.width)
    full = str(header.get("DimensionOrganizationType", "")) == "TILED_FULL"
    planes = int(header.get("TotalPixelMatrixFocalPlanes", 1)) * int(header.get("NumberOfOpticalPaths", 1))
    samples, colours = int(header.SamplesPerPixel), COLOURS.get(str(header.PhotometricInterpretation))
    if str(header.file_meta.TransferSyntaxUID) not in JPEG_SYNTAXES or colours is None or int(header.BitsStored) != 8:
        return None
    if not full or planes != 1 or int(header.NumberOfFrames) != rows * columns:
        return None
    places = _frames(header, file, at, rows * columns)
    if places is None:
        return None
    offsets, lengths = places
    return TiledPage(
        size=size,
        tile_size=tile,
        compression="JPEG",
        colours=colours,
        samples=samples,
        bits=8,
        interleaved=True,
        offsets=offsets.reshape(rows, columns),
        lengths=lengths.reshape(rows, columns),
        tables=None,
        decode=None,
        stated=stated_colours(file, offsets, lengths),
    )


def _frames(header: Any, file: BinaryIO, at: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return offset and length of each frame, from an offset table or by scanning; None if frames are fragmented."""
    file.seek(at)
    element = file.read(ELEMENT_HEADER_BYTES)
    if struct.unpack_from("<I", element, 8)[0] != UNDEFINED_LENGTH:
        return None
    table = _item(file)
    if table is None:
        return None
    first = file.tell() + table
    if EXTENDED_OFFSETS in header and EXTENDED_LENGTHS in header:
        starts = np.frombuffer(header[EXTENDED_OFFSETS].value, "<u8").astype(np.int64)
        lengths = np.frombuffer(header[EXTENDED_LENGTHS].value, "<u8").astype(np.int64)
    elif table == 4 * count:
        starts = np.frombuffer(file.read(table), "<u4").astype(np.int64)
        file.seek(first + int(starts[-1]))
        last = _item(file)
        if last is None or (np.diff(starts) < ITEM.size).any():  # Beyond 4 GB the table overflows.
            return None
        lengths = np.append(np.diff(starts) - ITEM.size, last)
    else:
        walked = np.array(list(_walk(file, first)), np.int64).reshape(-1, 2)
        starts, lengths = walked[:, 0] - first - ITEM.size, walked[:, 1]
    if len(starts) != count or len(lengths) != count:
        return None
    return first + starts + ITEM.size, lengths


def _walk(file: BinaryIO, place: int) -> Iterator[tuple[int, int]]:
    file.seek(place)
    while (length := _item(file)) is not None:
        yield file.tell(), length
        file.seek(length, 1)


def _item(file: BinaryIO) -> int | None:
    """Return the length of the item at this position; None at the end of the sequence."""
    head = file.read(ITEM.size)
    if len(head) < ITEM.size:
        return None
    group, element, length = ITEM.unpack(head)
    return int(length) if (group, element) == ITEM_TAG else None


def _is_transformed(file: BinaryIO, at: int) -> bool:
    """Return whether the first JPEG 2000 frame has a component transform; True if it cannot be determined."""
    file.seek(at + ELEMENT_HEADER_BYTES)
    table = _item(file)
    if table is None:
        return True
    file.seek(table, 1)
    length = _item(file)
    head = file.read(min(length or 0, 1 << 16))
    cod = head.find(COD_MARKER)
    return cod < 0 or cod + COD_BYTES >= len(head) or head[cod + COD_BYTES - 1] != 0


DICOM = Reader(
    (".dcm",),
    is_dicom,
    lambda path, slide_mpp, image: open_dicom(path, slide_mpp),
    advice=lambda path: (
        "DICOM is supported only for brightfield whole-slide volumes that OpenSlide reads: convert the file to a "
        "tiled 8-bit RGB TIFF with `bfconvert`"
    ),
)
