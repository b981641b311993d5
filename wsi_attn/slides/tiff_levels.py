"""Which tiled page of a TIFF makes which level, and whether its tiles can be decoded or copied here.

Where OpenSlide reads the file its levels are the truth: a page serves the level that has its size, or that is glass
around it. OME-TIFF with pyramids in SubIFDs, and compressions that OpenSlide does not know, take their levels from
tifffile's series.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tifffile

from wsi_attn.encoding import JPEG, JPEG2000, TileEncoding
from wsi_attn.errors import SlideUnsupportedError
from wsi_attn.slide import Level
from wsi_attn.slides.image_reader import refuse_channels
from wsi_attn.slides.leica_metadata import scanned_area
from wsi_attn.slides.openslide_reader import level_of
from wsi_attn.slides.tiff_pages import TiledPage, main_pages, tiled_page

PLAIN_GRID_VENDORS = {"aperio", "generic-tiff", "philips", "leica"}
"""Vendors whose levels OpenSlide may take from one page as it is; of others it joins overlapping or scattered areas."""

VENDOR_KINDS = {"svs", "scn", "philips", "bif", "ndpi", "avs"}
"""tifffile's names of formats that say in ways of their own which image is the slide."""

MIN_TILE_HEIGHT = 64
"""Below, tiles are strips: Hamamatsu's restart intervals, a whole row wide, gain nothing over OpenSlide."""

JPEG2000_RGB = {"APERIO_JP2000_RGB", "JPEG2000"}
JPEG2000_YCBCR = "APERIO_JP2000_YCBC"
JPEG_COLOURS = {("YCBCR", 3): "YCBCR", ("RGB", 3): "RGB", ("MINISBLACK", 1): "GRAYSCALE"}
PLAIN_COLOURS = {("RGB", 3), ("MINISBLACK", 1)}
NAMES = {
    JPEG2000_YCBCR: "JPEG 2000",
    "APERIO_JP2000_RGB": "JPEG 2000",
    "JPEG2000": "JPEG 2000",
    "ADOBE_DEFLATE": "deflate",
    "DEFLATE": "deflate",
    "NONE": "uncompressed",
}


@dataclass(frozen=True)
class LevelSource:
    """Where the pixels of one level come from.

    Attributes
    ----------
    page
        Tiles to decode here; None leaves the level to OpenSlide.
    encoding
        How its JPEG or JPEG 2000 tiles decode; None where tifffile decodes them, or nobody here.
    not_copied
        Why compressed tiles cannot be handed out; empty where they can.
    compression
        Its name in the file, for display.
    corner
        Pixel (x, y) of the level where the page begins.
    """

    page: TiledPage | None
    encoding: TileEncoding | None
    not_copied: str
    compression: str
    corner: tuple[int, int] = (0, 0)


def sources_beside_openslide(tiff: tifffile.TiffFile, vendor: str, levels: tuple[Level, ...]) -> list[LevelSource]:
    """A source for each of OpenSlide's levels."""
    numbered = {number: page for number, page in enumerate(map(tiled_page, main_pages(tiff))) if page is not None}
    area = scanned_area(tiff.scn_metadata or "") if vendor == "leica" else {}
    inside = [(numbered[number], corner) for number, corner in area.items() if number in numbered and corner != (0, 0)]
    inside.sort(key=lambda found: -found[0].size.width)  # as the levels are
    pages = list(numbered.values())
    sources = []
    lacking = False
    for index, level in enumerate(levels):
        matching = [page for page in pages if _makes(page, level, vendor)]
        if not matching and len(inside) == len(levels):
            sources.append(_within(*inside[index], level))
            continue
        if not matching:
            sources.append(LevelSource(None, None, "OpenSlide composes it, no page of the file holds it", ""))
            continue
        page = matching[0]
        pages.remove(page)  # two levels of one size take two pages, in the order of the file
        source = source_of(page)
        if vendor not in PLAIN_GRID_VENDORS and not source.not_copied:
            reason = f"OpenSlide composes the levels of {vendor} slides from several areas"
            source = LevelSource(None, None, reason, source.compression)
        elif vendor == "aperio":
            lacking = lacking or bool((page.lengths == 0).any())
            if lacking and index > 0:
                reason = "tiles are missing here or above, which OpenSlide draws from finer levels"
                source = LevelSource(None, None, reason, source.compression)
        sources.append(source)
    return sources


def sources_of_series(tiff: tifffile.TiffFile) -> tuple[list[Level], list[LevelSource]]:
    """Levels and their sources as tifffile finds them, for files that OpenSlide does not read as a pyramid.

    Raises
    ------
    SlideUnsupportedError : no tiles, channels that are no picture, or a compression that nothing here decodes.
    """
    refuse_channels(tiff)
    if (kind := tiff.series[0].kind) in VENDOR_KINDS:  # their first series may be a macro image
        raise SlideUnsupportedError(f"of {kind.upper()} slides only those are read that OpenSlide reads")
    found = []
    for part in tiff.series[0].levels:
        if part.pages[0] is None or part.pages[0].parent is not tiff:
            raise SlideUnsupportedError("its image lies in another file of the same OME set: open that one")
        page = tiled_page(part.pages[0])
        if page is None:
            break  # a last level in strips is only an overview
        found.append(page)
    if not found:
        raise SlideUnsupportedError("it has no tiles")
    levels, sources = [], []
    for page in found:
        source = source_of(page)
        if source.page is None:
            plain = source.not_copied.endswith("not JPEG") and page.decode is None
            reason = f"its tiles are compressed as {source.compression}" if plain else source.not_copied
            raise SlideUnsupportedError(f"{reason}, which nothing here decodes: convert it to RGB with JPEG tiles")
        sources.append(source)
        levels.append(level_of(page.size, found[0].size, page.tile_size))
    return levels, sources


def source_of(page: TiledPage) -> LevelSource:
    """What can be done with the tiles of a page."""
    name = NAMES.get(page.compression, page.compression)
    reason = _not_pictures(page)
    if reason:
        return LevelSource(None, None, reason, name)
    if page.compression == "JPEG":
        colorspace = JPEG_COLOURS.get((page.colours, page.samples))
        if colorspace is None:
            return LevelSource(None, None, f"its JPEG tiles hold {page.colours} in {page.samples} samples", name)
        return LevelSource(page, TileEncoding(JPEG, colorspace, page.tables), "", name)
    if page.compression == JPEG2000_YCBCR:
        return LevelSource(None, None, "its JPEG 2000 tiles hold YCbCr and do not say so", name)
    if page.compression in JPEG2000_RGB:
        if page.samples != 3:
            return LevelSource(None, None, f"its JPEG 2000 tiles hold {page.samples} samples", name)
        return LevelSource(page, TileEncoding(JPEG2000), "", name)
    reason = f"its tiles are {name}, not JPEG"
    plain = (page.colours, page.samples) in PLAIN_COLOURS and page.decode is not None
    return LevelSource(page if plain else None, None, reason, name)


def _within(page: TiledPage, corner: tuple[int, int], level: Level) -> LevelSource:
    """The source of a level that is glass around one page."""
    source = source_of(page)
    if corner[0] + page.size.width > level.size.width or corner[1] + page.size.height > level.size.height:
        return LevelSource(None, None, "its area reaches over the edge of the glass", source.compression)
    reason = f"its tiles are counted from pixel {corner[0]}, {corner[1]} of the glass, not from its corner"
    return replace(source, corner=corner, not_copied=source.not_copied or reason)


def _not_pictures(page: TiledPage) -> str:
    width, height = page.tile_size
    if height < MIN_TILE_HEIGHT and height < page.size.height:
        return f"its strips of {width} x {height} px are no tiles"
    if page.bits != 8:
        return f"its samples have {page.bits} bits"
    if not page.interleaved:
        return "its colours are stored apart"
    return ""


def _makes(page: TiledPage, level: Level, vendor: str) -> bool:
    if vendor != "philips":
        return page.size == level.size
    # Philips pads its pages to whole tiles; OpenSlide corrects the size and keeps the grid's origin.
    return (
        page.tile_size == level.tile_size
        and 0 <= page.size.width - level.size.width < page.tile_size.width * 2
        and 0 <= page.size.height - level.size.height < page.tile_size.height * 2
    )
