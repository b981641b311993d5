"""Tile-wise reader of TIFF slides, several times faster than OpenSlide, which reads the remaining levels.

OpenSlide provides the structure: levels, pixel size, associated images. A level whose tiles lie in one page is read
directly from the file after one of its tiles was compared with OpenSlide, which confirms the page; the
colour space is that stated by the tile. OpenSlide reads all other levels. OME-TIFF, and tiles with a compression
unknown to OpenSlide, are read by tifffile and imagecodecs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile

from wsi_attn.errors import SlideUnsupportedError, UnknownFormatError, WsiAttnError
from wsi_attn.file_bytes import FileBytes
from wsi_attn.geometry import Mpp
from wsi_attn.provenance import fingerprint_of
from wsi_attn.slide import Level, Slide, SlideInfo
from wsi_attn.slides.colour_profile import checked_profile
from wsi_attn.slides.ome_metadata import ome_objective_power
from wsi_attn.slides.openslide_reader import OpenSlideReader
from wsi_attn.slides.orientation import OrientedSlide
from wsi_attn.slides.properties import PixelSize, pixel_size_from_tags
from wsi_attn.slides.reader import Reader
from wsi_attn.slides.tiff_images import (
    ImageFacts,
    TiffImage,
    aperio_facts,
    choose_image,
    contradictions,
    images_of,
    is_mask,
    refuse_unrecognised,
    stated_pixel_size,
)
from wsi_attn.slides.tiff_levels import (
    PLAIN_GRID_VENDORS,
    LevelSource,
    orientation_of_levels,
    sources_beside_openslide,
    sources_of_image,
)
from wsi_attn.slides.tiff_pages import (
    is_tiff,
    main_pages,
    refuse_absurd_tiles,
    refuse_contradiction,
    refuse_cut_off,
    refuse_tiles_beyond,
    tiled_page,
)
from wsi_attn.slides.tiff_places import refuse_all_missing
from wsi_attn.slides.tiff_samples import key_of, profile_of, tag_name
from wsi_attn.slides.tiled_reader import TiledReader

GENERIC = "generic-tiff"


def open_tiff(path: Path, slide_mpp: Mpp | None = None, image: str = "") -> Slide:
    """Open a slide in a TIFF, reoriented upright; parameters and errors are those of `TiffReader`."""
    reader = TiffReader(path, slide_mpp, image)
    return reader if reader.orientation == 1 else OrientedSlide(reader, reader.orientation)


class TiffStructureError(SlideUnsupportedError):
    """tifffile cannot read the directories, but OpenSlide may."""


class TiffReader(TiledReader):
    """Slide in a TIFF as stored; owns the file and, if OpenSlide supports it, the OpenSlide handle.

    Parameters
    ----------
    image
        Number or name of an image in the file; the largest by default.

    Raises
    ------
    SlideTruncatedError : the file ends before its tiles do.
    SlideUnsupportedError : no tiles, not an image, or unsupported compression.
    TiffStructureError : tifffile fails on it.
    """

    def __init__(self, path: Path, slide_mpp: Mpp | None = None, image: str = "") -> None:
        refuse_cut_off(path)
        self._openslide: OpenSlideReader | None = None
        try:
            with tifffile.TiffFile(path) as tiff:
                info, sources = self._describe(path, tiff, slide_mpp, image)
        except BaseException as error:
            if self._openslide is not None:
                self._openslide.close()
            if isinstance(error, WsiAttnError | PermissionError) or not isinstance(error, Exception):
                raise
            # tifffile raises many exception types on damaged files.
            raise TiffStructureError(f"tifffile: {error}") from error
        file = FileBytes(path)
        super().__init__(info, sources, [file] * len(sources), self._openslide)

    def _describe(
        self, path: Path, tiff: tifffile.TiffFile, slide_mpp: Mpp | None, selector: str
    ) -> tuple[SlideInfo, list[LevelSource]]:
        for index, page in enumerate(main_pages(tiff)):
            refuse_absurd_tiles(path, page)
            if not (tiff.is_ndpi or tiff.is_stk or tiff.is_lsm):  # Their tile lists have a private layout.
                refuse_contradiction(path, page, strips=index == 0)
            if index == 0 or key_of(page).is_tiled:
                refuse_tiles_beyond(path, np.asarray(page.dataoffsets), np.asarray(page.databytecounts))
        images = images_of(tiff)
        image = choose_image(images, selector)
        refusal: tuple[str, ...] = ()
        try:
            self._openslide = OpenSlideReader(path, slide_mpp)
        except UnknownFormatError:
            pass
        except SlideUnsupportedError as error:
            refusal = error.reasons
        refuse_unrecognised(path, tiff, self._openslide.info.vendor if self._openslide else "")
        bounds = None
        if self._openslide is not None and (selector or _levels_are_mixed(tiff, images, image, self._openslide.info)):
            bounds = None if selector or tiff.is_ome else self._openslide.info.bounds
            self._openslide.close()
            self._openslide = None
        if self._openslide is None or tiff.is_ome:
            try:
                levels, sources = sources_of_image(tiff, image)
            except SlideUnsupportedError as error:
                if self._openslide is None:
                    raise SlideUnsupportedError(*dict.fromkeys((*error.reasons, *refusal))) from error
            else:
                for source in sources:
                    if source.page is not None:
                        refuse_tiles_beyond(path, source.page.offsets, source.page.lengths)
                        refuse_all_missing(path, source.page.lengths)
                # OpenSlide finds more levels if a pyramid lies in separate pages that the OME-XML does not mention.
                if self._openslide is None or len(levels) >= len(self._openslide.info.levels):
                    self.orientation = orientation_of_levels(sources, [])
                    info = replace(_info_of_tags(path, tiff, image, slide_mpp, levels, sources), bounds=bounds)
                    info = replace(info, notes=(*info.notes, *contradictions(tiff, info.vendor)))
                    return ImageFacts.of(images, image).identify(info), sources
        info = self._openslide.info
        if info.mpp_source != "user" and (stated := stated_pixel_size(tiff, image)) and stated.mpp:
            info = replace(info, **vars(stated))
        sources = sources_beside_openslide(tiff, info.vendor, info.levels)
        for source in sources:
            if source.page is not None:
                refuse_all_missing(path, source.page.lengths)
        if info.vendor in PLAIN_GRID_VENDORS:
            pages = [page for page in map(tiled_page, main_pages(tiff)) if page is not None]
            self.orientation = orientation_of_levels(sources, pages)
        reader = "tifffile" if any(source.page is not None for source in sources) else info.reader
        notes = *info.notes, *contradictions(tiff, info.vendor)
        properties = {**info.properties, **_compressions(sources)}
        return replace(info, reader=reader, properties=properties, notes=notes), sources


def _compressions(sources: list[LevelSource]) -> dict[str, str]:
    return {
        f"tiff.level[{index}].compression": source.compression
        for index, source in enumerate(sources)
        if source.compression
    }


def _levels_are_mixed(tiff: tifffile.TiffFile, images: Sequence[TiffImage], image: TiffImage, info: SlideInfo) -> bool:
    """Return whether OpenSlide treats masks or other images of a generic TIFF as levels."""
    if info.vendor != GENERIC:
        return False
    several = tiff.is_ome and len(images) > 1
    return several or info.size0 != image.size or any(map(is_mask, main_pages(tiff)))


def _info_of_tags(
    path: Path,
    tiff: tifffile.TiffFile,
    image: TiffImage,
    slide_mpp: Mpp | None,
    levels: list[Level],
    sources: list[LevelSource],
) -> SlideInfo:
    """Return the metadata from tags and descriptions, for files that OpenSlide does not read as a pyramid."""
    page = image.series.keyframe
    xml = tiff.ome_metadata if tiff.is_ome else None
    if slide_mpp:
        pixel_size = PixelSize(slide_mpp, "user")
    else:
        x, y = page.resolution
        pixel_size = stated_pixel_size(tiff, image) or pixel_size_from_tags(x, y, int(page.resolutionunit))
    profile, notes = checked_profile(profile_of(page))
    return SlideInfo(
        path=path,
        vendor="ome-tiff" if xml else "aperio" if tiff.is_svs else "tiff",
        reader="tifffile",
        size0=levels[0].size,
        levels=tuple(levels),
        **vars(pixel_size),
        objective_power=ome_objective_power(xml) if xml else aperio_facts(tiff).get("AppMag"),
        compression=tag_name(page.compression),
        icc_profile=profile,
        notes=notes,
        fingerprint=fingerprint_of(path),
        properties=_compressions(sources),
    )


def _open(path: Path, slide_mpp: Mpp | None, image: str) -> Slide:
    """Open a TIFF; slides of a vendor through OpenSlide alone if tifffile cannot read their directories."""
    try:
        return open_tiff(path, slide_mpp, image)
    except TiffStructureError as error:
        if image:
            raise
        try:
            slide = OpenSlideReader(path, slide_mpp)
        except UnknownFormatError:
            raise error from None
        except SlideUnsupportedError as other:
            raise SlideUnsupportedError(*error.reasons, *other.reasons) from error
        if slide.info.vendor == GENERIC:  # it would show masks or a macro image as levels
            slide.close()
            raise
        return slide


TIFF = Reader((".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif"), is_tiff, _open, images=True)
