"""Assignment of tiled TIFF pages to levels, and whether their tiles can be decoded or copied.

If OpenSlide reads the file, its levels are authoritative: a page provides the level of the same size, or the level of
the glass around it. OME-TIFF, files with transparency masks, and files unknown to OpenSlide take their levels from
tifffile series.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tifffile

from wsi_attn.errors import SlideTruncatedError, SlideUnsupportedError
from wsi_attn.slide import Level
from wsi_attn.slide.encoding import CHANNELS, JPEG, JPEG2000, TileEncoding
from wsi_attn.slides.image_reader import refuse_channels
from wsi_attn.slides.leica_metadata import scanned_area
from wsi_attn.slides.openslide_reader import level_of
from wsi_attn.slides.tiff_images import TiffImage, is_mask, unclaimed_pages
from wsi_attn.slides.tiff_pages import TiledPage, main_pages, tiled_page
from wsi_attn.slides.tiff_samples import GREY, JPEG_COLOURS

PLAIN_GRID_VENDORS = {"aperio", "generic-tiff", "philips", "leica"}
"""Vendors whose levels may be single pages; for others OpenSlide joins overlapping or scattered areas."""

VENDOR_KINDS = {"scn", "philips", "bif", "ndpi", "avs"}
"""tifffile names of formats with their own way to state which image is the slide."""

MIN_TILE_SIDE = 64
"""Minimum side of copied tiles; smaller tiles are decoded, because small chunks make a store slow."""

JPEG2000_RGB = {"APERIO_JP2000_RGB", "JPEG2000"}
JPEG2000_YCBCR = "APERIO_JP2000_YCBC"
COLOURS_OF_JPEG = {colours for colours, _ in JPEG_COLOURS}
COLOUR_SPACES = {"YCBCR": 3, "RGB": 3, "GRAYSCALE": 1}
"""Samples per pixel of the colour spaces of JPEG tiles."""

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
    """Source of the pixels of one level.

    Attributes
    ----------
    page
        Page with the tiles; None leaves the level to OpenSlide.
    encoding
        Encoding of its JPEG or JPEG 2000 tiles, unless a JPEG stream states another colour space; None if
        `page.decode` decodes them, or if they cannot be decoded.
    not_copied
        Why compressed tiles cannot be copied; empty if they can.
    compression
        Name of the compression in the file, for display.
    corner
        Pixel (x, y) of the level where the page begins.
    tagged
        `encoding` according to the photometric tag alone, as OpenSlide decodes it.
    is_jpeg
        Whether the tiles are JPEG or JPEG 2000, or are no tiles.
    """

    page: TiledPage | None
    encoding: TileEncoding | None
    not_copied: str
    compression: str
    corner: tuple[int, int] = (0, 0)
    tagged: TileEncoding | None = None
    is_jpeg: bool = True


def sources_beside_openslide(tiff: tifffile.TiffFile, vendor: str, levels: tuple[Level, ...]) -> list[LevelSource]:
    """Return a source for each level of OpenSlide."""
    pages_by_number = enumerate(main_pages(tiff))
    numbered = {
        number: tiled
        for number, page in pages_by_number
        if not is_mask(page) and (tiled := tiled_page(page)) is not None
    }
    area = scanned_area(tiff.scn_metadata or "") if vendor == "leica" else {}
    inside = [(numbered[number], corner) for number, corner in area.items() if number in numbered and corner != (0, 0)]
    inside.sort(key=lambda found: -found[0].size.width)  # In the order of the levels.
    pages = list(numbered.values())
    sources = []
    lacking = False
    for index, level in enumerate(levels):
        matching = [page for page in pages if _makes(page, level, vendor)]
        if not matching and len(inside) == len(levels):
            sources.append(_within(*inside[index], level))
            continue
        if not matching:
            sources.append(LevelSource(None, None, "OpenSlide composes it from several parts of the file", ""))
            continue
        page = matching[0]
        pages.remove(page)  # Two levels of equal size take two pages in file order.
        source = source_of(page)
        if vendor not in PLAIN_GRID_VENDORS and not source.not_copied:
            reason = f"OpenSlide composes the levels of {vendor} slides from several areas"
            source = LevelSource(None, None, reason, source.compression)
        elif vendor == "aperio":
            lacking = lacking or bool((page.lengths == 0).any())
            if lacking and index > 0:
                reason = "tiles are missing on this or a finer level, which OpenSlide fills from finer levels"
                source = LevelSource(None, None, reason, source.compression)
        sources.append(source)
    return sources


def sources_of_image(tiff: tifffile.TiffFile, image: TiffImage) -> tuple[list[Level], list[LevelSource]]:
    """Return the levels of an image and their sources from tifffile, for files that OpenSlide does not read as a
    pyramid.

    Raises
    ------
    SlideUnsupportedError : no tiles, unsupported channels, or unsupported compression.
    """
    series = image.series
    refuse_channels(series)
    if series.kind in VENDOR_KINDS:
        raise SlideUnsupportedError(f"{series.kind.upper()} slides are supported only if OpenSlide reads them")
    found: list[TiledPage] = []
    for part in series.levels:
        if part.pages[0] is None or part.pages[0].parent is not tiff:
            raise SlideUnsupportedError("its image is in another file of the same OME set: open that file")
        page = tiled_page(part.pages[0])
        if page is None:
            break  # A last level in strips is only an overview.
        found.append(page)
    if not found:
        raise SlideUnsupportedError("it has no tiles")
    if len(found) == 1 and tiff.is_ome:
        found += _coarser_pages(tiff, found[0])
    found.sort(key=lambda page: -page.size.width)  # Some writers do not order them.
    levels, sources = [], []
    for page in found:
        source = source_of(page)
        if source.page is None:
            reason = source.not_copied if source.is_jpeg else f"its tiles are compressed as {source.compression}"
            raise SlideUnsupportedError(f"{reason}, which is not supported: convert it to RGB with JPEG tiles")
        sources.append(source)
        levels.append(level_of(page.size, found[0].size, page.tile_size))
    return levels, sources


def _coarser_pages(tiff: tifffile.TiffFile, finest: TiledPage) -> list[TiledPage]:
    """Return coarser levels of an image in separate pages that the OME-XML does not mention."""
    pages = (tiled_page(page) for page in unclaimed_pages(tiff, main_pages(tiff)) if not is_mask(page))
    found = [finest]
    for page in pages:
        if page is None or page.size.width >= found[-1].size.width:
            continue
        ratio = finest.size.width / page.size.width
        if abs(finest.size.height / ratio - page.size.height) <= 1 and page.samples == finest.samples:
            found.append(page)
    return found[1:]


def orientation_of_levels(sources: list[LevelSource], pages: list[TiledPage]) -> int:
    """Return the common orientation tag of all levels.

    Parameters
    ----------
    pages
        Pages of the file that may be levels.

    Raises
    ------
    SlideUnsupportedError : the tags of the pages differ, or OpenSlide reads a level with another orientation, which
        it reorients tile by tile.
    """
    used = {source.page.orientation for source in sources if source.page is not None}
    found = used if all(source.page is not None for source in sources) else {page.orientation for page in pages}
    if len(found) > 1:
        tags = ", ".join(map(str, sorted(found)))
        raise SlideUnsupportedError(
            f"its levels have different orientation tags ({tags}): rewrite it in upright orientation"
        )
    orientation = found.pop() if found else 1
    reasons = [source.not_copied for source in sources if source.page is None]
    if orientation != 1 and reasons:
        raise SlideUnsupportedError(
            f"its orientation tag is {orientation}, and {reasons[0]}: rewrite it in upright orientation"
        )
    return orientation


def source_of(page: TiledPage) -> LevelSource:
    """Return how the tiles of a page can be decoded and copied."""
    name = NAMES.get(page.compression, page.compression)
    if reason := _not_pictures(page):
        return LevelSource(None, None, reason, name)
    if not page.interleaved:
        apart = "its samples are stored in separate planes"
        return LevelSource(page if page.decode_planes else None, None, apart, name)
    if page.compression == "JPEG":
        source = _jpeg_source(page, name)
    elif page.compression == JPEG2000_YCBCR:
        return LevelSource(None, None, "its JPEG 2000 tiles contain YCbCr without stating it", name)
    elif page.compression in JPEG2000_RGB and page.samples == 3:
        source = LevelSource(page, TileEncoding(JPEG2000), "", name)
    elif page.compression in JPEG2000_RGB:
        source = _decoded_here(page, f"its JPEG 2000 tiles have {page.samples} samples", name)
    else:
        source = replace(_decoded_here(page, f"its tiles are {name}, not JPEG", name), is_jpeg=False)
    if not source.not_copied and min(page.tile_size) < MIN_TILE_SIDE and page.lengths.size > 1:
        width, height = page.tile_size
        return replace(source, not_copied=f"its tiles of {width} x {height} px are too small for chunks of a store")
    return source


def _jpeg_source(page: TiledPage, name: str) -> LevelSource:
    """Return the source of JPEG tiles; the colour space stated by the streams has priority over the photometric tag."""
    tagged = JPEG_COLOURS.get((page.colours, page.samples))
    found = {stated or tagged for stated in page.stated} or {tagged}
    if len(found) > 1 and all(COLOUR_SPACES.get(space or "") == page.samples for space in found):
        encoding = TileEncoding(JPEG, tagged or min(space for space in found if space), page.tables)
        reason = f"its JPEG tiles have different colour spaces ({', '.join(sorted(space or '' for space in found))})"
        by_tag = replace(encoding, colorspace=tagged) if tagged else None
        return LevelSource(page, encoding, reason, name, tagged=by_tag)
    space = next(iter(found)) if len(found) == 1 else None
    if space is None and page.samples == CHANNELS and page.colours in GREY:
        raise SlideTruncatedError(  # not "unsupported": it would be read as a plain image, with the colours of the tag
            f"its tag states grey ({page.colours}), but its JPEG tiles have {CHANNELS} components of unknown colours: "
            "the tag is damaged, copy or convert it again"
        )
    if space is None or COLOUR_SPACES.get(space) != page.samples or page.colours not in COLOURS_OF_JPEG:
        return _decoded_here(page, f"its JPEG tiles have {page.colours} in {page.samples} samples", name)
    by_tag = TileEncoding(JPEG, tagged, page.tables) if tagged else None
    return LevelSource(page, TileEncoding(JPEG, space, page.tables), "", name, tagged=by_tag)


def _decoded_here(page: TiledPage, reason: str, name: str) -> LevelSource:
    return LevelSource(page if page.decode is not None else None, None, reason, name)


def _within(page: TiledPage, corner: tuple[int, int], level: Level) -> LevelSource:
    """Return the source of a level that shows the glass around one page."""
    source = source_of(page)
    if corner[0] + page.size.width > level.size.width or corner[1] + page.size.height > level.size.height:
        return LevelSource(None, None, "its area extends beyond the edge of the glass", source.compression)
    reason = f"its tiles start at pixel {corner[0]}, {corner[1]} of the glass, not at its corner"
    return replace(source, corner=corner, not_copied=source.not_copied or reason)


def _not_pictures(page: TiledPage) -> str:
    width, height = page.tile_size
    if height < MIN_TILE_SIDE and height < page.size.height and width >= page.size.width:
        # Restart intervals of Hamamatsu, which would not be faster.
        return f"its strips of {width} x {height} px are not tiles"
    if page.bits != 8:
        return f"its samples have {page.bits} bits"
    return ""


def _makes(page: TiledPage, level: Level, vendor: str) -> bool:
    if vendor != "philips":
        return page.size == level.size
    # Philips pads its pages to whole tiles; OpenSlide corrects the size and keeps the origin of the grid.
    return (
        page.tile_size == level.tile_size
        and 0 <= page.size.width - level.size.width < page.tile_size.width * 2
        and 0 <= page.size.height - level.size.height < page.tile_size.height * 2
    )
