"""Small TIFF slides as scanners and converters write them, out of real pixels; for tests of readers and of tiling.

Streams are abbreviated where scanners abbreviate them, and component numbers are the scanners', not libjpeg's.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
from PIL import Image

JPEG_TABLES = 347
SOI, EOI = b"\xff\xd8", b"\xff\xd9"
DQT, DHT, SOF0, SOS, APP0, APP14 = 0xDB, 0xC4, 0xC0, 0xDA, 0xE0, 0xEE
APERIO = "Aperio Image Library v11.2.1 \r\n"


@dataclass(frozen=True)
class Streams:
    """How tiles become JPEG: what a stream holds, and what the file says that it holds."""

    colours: str = "YCBCR"
    said: str = ""
    quality: int = 90
    abbreviated: bool = True
    progressive: bool = False

    @property
    def photometric(self) -> str:
        return (self.said or self.colours).lower()

    @property
    def subsampling(self) -> str:
        return "420" if self.colours == "YCBCR" else "444"

    def encode(self, tile: np.ndarray) -> bytes:
        """One whole stream, component numbers 0, 1, 2 for RGB and no marker that says the colours."""
        if self.progressive:
            file = io.BytesIO()
            Image.fromarray(tile).save(file, "JPEG", quality=self.quality, progressive=True, subsampling="4:2:0")
            whole = file.getvalue()
        else:
            whole = imagecodecs.jpeg8_encode(
                np.ascontiguousarray(tile),
                level=self.quality,
                colorspace="RGB",
                outcolorspace=self.colours,
                subsampling=self.subsampling,
            )
        return SOI + b"".join(
            part for marker, part in parts_of(whole) if marker not in (APP0, APP14) and not self._left_out(marker)
        )

    def tables(self) -> bytes | None:
        """What abbreviated streams leave out."""
        if not self.abbreviated:
            return None
        whole = Streams(self.colours, quality=self.quality, abbreviated=False).encode(np.zeros((16, 16, 3), np.uint8))
        return SOI + b"".join(part for marker, part in parts_of(whole) if marker in (DQT, DHT)) + EOI

    def _left_out(self, marker: int) -> bool:
        return self.abbreviated and marker in (DQT, DHT)


def parts_of(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes of each segment; the last takes the scan with it. RGB component numbers become 0, 1, 2."""
    place = 2
    while True:
        marker, length = stream[place + 1], int.from_bytes(stream[place + 2 : place + 4], "big")
        part = bytearray(stream[place : place + 2 + length])
        if marker in (SOF0, SOF0 + 2) and part[10:11] == b"R":
            part[10], part[13], part[16] = 0, 1, 2
        if marker == SOS and part[5:6] == b"R":
            part[5], part[7], part[9] = 0, 1, 2
        place += 2 + length
        if marker == SOS:
            yield marker, bytes(part) + stream[place:]
            return
        yield marker, bytes(part)


def pyramid_of(pixels: np.ndarray, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """The picture, and it reduced to each (width, height)."""
    return [pixels, *(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) for size in sizes)]


def halves(pixels: np.ndarray, count: int, factor: float = 2) -> list[tuple[int, int]]:
    """Sizes of `count` coarser levels, rounded down as scanners do."""
    height, width = pixels.shape[:2]
    return [(int(width / factor**step), int(height / factor**step)) for step in range(1, count + 1)]


def tiles_of(pixels: np.ndarray, tile: tuple[int, int]) -> Iterator[np.ndarray]:
    """Tiles of (width, height) row by row, the last ones padded with their edge."""
    (width, height), (rows, columns) = tile, pixels.shape[:2]
    padded = np.pad(pixels, ((0, -rows % height), (0, -columns % width), (0, 0)), mode="edge")
    for y in range(0, rows, height):
        for x in range(0, columns, width):
            yield padded[y : y + height, x : x + width]


def write_level(
    writer: tifffile.TiffWriter,
    pixels: np.ndarray,
    tile: tuple[int, int],
    streams: Streams,
    missing: Sequence[int] = (),
    **options: object,
) -> None:
    """One page of JPEG tiles; `missing` are running numbers of tiles that are left out."""
    tables = streams.tables()
    if tables is not None:
        options["extratags"] = [(JPEG_TABLES, 7, len(tables), tables, True)]
    if streams.photometric == "ycbcr":
        options["subsampling"] = (2, 2) if streams.subsampling == "420" else (1, 1)
    else:
        options["compressionargs"] = {"outcolorspace": "rgb"}  # else tifffile writes YCbCr as the tag
    encoded = (b"" if index in missing else streams.encode(part) for index, part in enumerate(tiles_of(pixels, tile)))
    writer.write(
        encoded,
        shape=pixels.shape,
        dtype="uint8",
        tile=tile[::-1],
        compression="jpeg",
        photometric=streams.photometric,
        metadata=None,
        software=False,
        **options,
    )


def write_svs(
    path: Path,
    levels: Sequence[np.ndarray],
    tile: tuple[int, int] = (256, 256),
    streams: Streams = Streams(),
    missing: Sequence[int] = (),
    facts: str = "AppMag = 20|MPP = 0.4990",
) -> Path:
    """An Aperio slide: level 0, a thumbnail in strips, coarser levels; `missing` tiles of level 0."""
    height, width = levels[0].shape[:2]
    facts = f"|{facts}|OriginalWidth = {width}|OriginalHeight = {height}"
    with tifffile.TiffWriter(path) as writer:
        said = f"{APERIO}{width}x{height} [0,0 {width}x{height}] ({tile[0]}x{tile[1]}) JPEG/RGB Q=90{facts}"
        write_level(writer, levels[0], tile, streams, missing, description=said)
        small = np.ascontiguousarray(levels[0][::8, ::8])
        said = f"{APERIO}{width}x{height} -> {small.shape[1]}x{small.shape[0]} - {facts}"
        writer.write(small, photometric="rgb", compression="jpeg", rowsperstrip=16, metadata=None, description=said)
        for level in levels[1:]:
            said = (
                f"{APERIO}{width}x{height} [0,0 {width}x{height}] ({tile[0]}x{tile[1]}) -> "
                f"{level.shape[1]}x{level.shape[0]} JPEG/RGB Q=90{facts}"
            )
            write_level(writer, level, tile, streams, description=said, subfiletype=0)
    return path


def write_svs_jpeg2000(path: Path, levels: Sequence[np.ndarray], compression: int, tile: int = 256) -> Path:
    """An Aperio slide in JPEG 2000: 33005 holds RGB, 33003 YCbCr without saying so."""
    height, width = levels[0].shape[:2]
    with tifffile.TiffWriter(path) as writer:
        for level in levels:
            pixels = cv2.cvtColor(level, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]] if compression == 33003 else level
            encoded = [
                imagecodecs.jpeg2k_encode(
                    np.ascontiguousarray(part), codecformat="j2k", level=40, mct=False, colorspace="SRGB"
                )
                for part in tiles_of(pixels, (tile, tile))
            ]
            writer.write(
                iter(encoded),
                shape=level.shape,
                dtype="uint8",
                tile=(tile, tile),
                compression=compression,
                photometric="rgb",
                metadata=None,
                software=False,
                subfiletype=0,
                description=f"{APERIO}{width}x{height} ({tile}x{tile}) J2K/KDU Q=70|AppMag = 40|MPP = 0.25",
            )
    return path


def write_generic(
    path: Path,
    levels: Sequence[np.ndarray],
    tile: tuple[int, int] = (256, 256),
    compression: str = "deflate",
    streams: Streams | None = None,
    missing: Sequence[int] = (),
) -> Path:
    """A tiled BigTIFF pyramid as libvips and others write it; JPEG streams where `streams` says how."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for index, level in enumerate(levels):
            reduced = {"subfiletype": 1} if index else {}
            if streams is not None:
                write_level(writer, level, tile, streams, missing if not index else (), **reduced)
            else:
                writer.write(
                    level,
                    tile=tile[::-1],
                    compression=compression,
                    photometric="rgb" if level.ndim == 3 else "minisblack",
                    metadata=None,
                    software=False,
                    **reduced,
                )
    return path


def write_sparse(
    path: Path, pixels: np.ndarray, tiles: tuple[int, int] = (8, 8), corner: tuple[int, int] = (4, 4), side: int = 256
) -> Path:
    """A tiled TIFF of 0.5 µm/px without tiles around the picture, for which OpenSlide states bounds.

    `tiles` counts columns and rows of the whole, `corner` is the first column and row of the picture, whose height and
    width are multiples of `side`.
    """
    columns, rows = tiles
    count_y, count_x = pixels.shape[0] // side, pixels.shape[1] // side

    def streams() -> Iterator[bytes]:
        for row in range(rows):
            for column in range(columns):
                y, x = row - corner[1], column - corner[0]
                there = 0 <= y < count_y and 0 <= x < count_x
                part = pixels[y * side : (y + 1) * side, x * side : (x + 1) * side]
                yield zlib.compress(part.tobytes()) if there else b""

    with tifffile.TiffWriter(path) as writer:
        writer.write(
            streams(),
            shape=(rows * side, columns * side, 3),
            dtype="uint8",
            photometric="rgb",
            tile=(side, side),
            compression="deflate",
            metadata=None,
            resolution=(20000, 20000),
            resolutionunit="CENTIMETER",
        )
    return path


def write_ome(
    path: Path,
    levels: Sequence[np.ndarray],
    tile: int = 256,
    mpp: tuple[float, float] = (0.25, 0.26),
    unit: str = "µm",
    compression: str = "jpeg",
) -> Path:
    """An OME-TIFF with its coarser levels in SubIFDs, as Bio-Formats and QuPath write it."""
    metadata = {
        "axes": "YXS",
        "Name": "small region",
        "PhysicalSizeX": mpp[0],
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": mpp[1],
        "PhysicalSizeYUnit": unit,
    }
    options = {"photometric": "rgb", "tile": (tile, tile), "compression": compression}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        writer.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, metadata=None, **options)
    return path


def write_philips(path: Path, pixels: np.ndarray, count: int = 3, tile: int = 512, mpp: float = 0.25) -> Path:
    """A Philips TIFF: pages padded to whole tiles, their true sizes told by pixel spacings in XML."""
    streams = Streams("YCBCR")
    levels = [pixels]
    for _ in range(count - 1):
        last = levels[-1]
        levels.append(cv2.resize(last, (last.shape[1] // 2, last.shape[0] // 2), interpolation=cv2.INTER_AREA))
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for index, level in enumerate(levels):
            rows, columns = level.shape[:2]
            padded = np.pad(level, ((0, -rows % tile), (0, -columns % tile), (0, 0)), mode="edge")
            said = {"description": _philips_xml(pixels, len(levels), mpp)} if not index else {"subfiletype": 1}
            tags = {"extratags": [(305, 2, 0, "Philips DP v1.0", True)]} if not index else {}
            tables = streams.tables() or b""
            writer.write(
                (streams.encode(part) for part in tiles_of(padded, (tile, tile))),
                shape=padded.shape,
                dtype="uint8",
                tile=(tile, tile),
                compression="jpeg",
                photometric="ycbcr",
                subsampling=(2, 2),
                metadata=None,
                software=False,
                **said,
                extratags=[(JPEG_TABLES, 7, len(tables), tables, True), *tags.get("extratags", [])],
            )
    return path


def _philips_xml(pixels: np.ndarray, count: int, mpp: float) -> str:
    def attribute(name: str, value: str, kind: str = "IString") -> str:
        return f'<Attribute Name="{name}" Group="0x0028" Element="0x0030" PMSVR="{kind}">{value}</Attribute>'

    def spacing(factor: int) -> str:
        return f"&quot;{mpp * factor / 1000:.9f}&quot; &quot;{mpp * factor / 1000:.9f}&quot;"

    parts = "".join(
        '<DataObject ObjectType="PixelDataRepresentation">'
        + attribute("DICOM_PIXEL_SPACING", spacing(2**index))
        + attribute("PIIM_PIXEL_DATA_REPRESENTATION_NUMBER", str(index), "IUInt16")
        + "</DataObject>"
        for index in range(count)
    )
    sequence = (
        '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" Element="0x8B01" '
        f'PMSVR="IDataObjectArray"><Array>{parts}</Array></Attribute>'
    )
    image = (
        '<DataObject ObjectType="DPScannedImage">'
        + attribute("PIM_DP_IMAGE_TYPE", "WSI")
        + attribute("DICOM_PIXEL_SPACING", spacing(1))
        + sequence
        + "</DataObject>"
    )
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        + attribute("DICOM_MANUFACTURER", "PHILIPS")
        + '<Attribute Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array>'
        + image
        + "</Array></Attribute></DataObject>"
    )


def write_leica(path: Path, levels: Sequence[np.ndarray], offset_nm: int = 0, tile: int = 256) -> Path:
    """A Leica SCN collection with one main area, `offset_nm` from its corner, and a macro image of all of it."""
    nm = 500
    height, width = levels[0].shape[:2]
    extent = f'sizeX="{width * nm + offset_nm}" sizeY="{height * nm + offset_nm}"'
    macro = cv2.resize(levels[0], (128, 128), interpolation=cv2.INTER_AREA)
    dimensions = "".join(
        f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{index}" ifd="{index + 1}"/>'
        for index, level in enumerate(levels)
    )
    illumination = "<scanSettings><illuminationSettings><illuminationSource>brightfield</illuminationSource>"
    settings = (
        f"{illumination}</illuminationSettings><objectiveSettings><objective>20</objective></objectiveSettings>"
        "</scanSettings>"
    )
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" uuid="urn:uuid:0" {extent}><barcode>0</barcode>'
        f'<image name="macro" uuid="urn:uuid:1"><pixels sizeX="128" sizeY="128">'
        '<dimension sizeX="128" sizeY="128" r="0" ifd="0"/></pixels>'
        f'<view {extent} offsetX="0" offsetY="0"/>{settings}</image>'
        f'<image name="main" uuid="urn:uuid:2"><pixels sizeX="{width}" sizeY="{height}">{dimensions}</pixels>'
        f'<view sizeX="{width * nm}" sizeY="{height * nm}" offsetX="{offset_nm}" offsetY="{offset_nm}"/>'
        f"{settings}</image></collection></scn>"
    )
    streams = Streams("YCBCR", abbreviated=False)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        write_level(writer, macro, (tile, tile), streams, description=xml)
        for level in levels:
            write_level(writer, level, (tile, tile), streams)
    return path


def damage_tile(path: Path, page: int, index: int) -> None:
    """Overwrite one compressed tile with zeros."""
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[page].dataoffsets[index], tiff.pages[page].databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
