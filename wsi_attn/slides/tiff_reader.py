"""TIFF slides tile by tile, several times faster than OpenSlide, which reads what is left.

OpenSlide says what the slide is: levels, pixel size, associated images. Each level whose tiles lie in one page is read
from the file directly, after one of its tiles was compared with OpenSlide's, which shows that it is the right page;
what colours a tile holds is decided by the tile itself. Any other level is OpenSlide's. OME-TIFF, and tiles compressed
as OpenSlide does not know, are read by tifffile and imagecodecs alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsi_attn.errors import SlideUnsupportedError, WsiAttnError
from wsi_attn.file_bytes import FileBytes
from wsi_attn.geometry import Mpp
from wsi_attn.provenance import fingerprint_of
from wsi_attn.slide import Level, Slide, SlideInfo
from wsi_attn.slides.ome_metadata import ome_objective_power, ome_pixel_size
from wsi_attn.slides.openslide_reader import UNKNOWN_FORMAT, OpenSlideReader
from wsi_attn.slides.orientation import upright_slide
from wsi_attn.slides.properties import PixelSize, pixel_size_from_tags
from wsi_attn.slides.tiff_levels import (
    PLAIN_GRID_VENDORS,
    LevelSource,
    orientation_of_levels,
    sources_beside_openslide,
    sources_of_series,
)
from wsi_attn.slides.tiff_pages import (
    main_pages,
    refuse_absurd_tiles,
    refuse_cut_off,
    refuse_tiles_beyond,
    tiled_page,
)
from wsi_attn.slides.tiff_samples import tag_name
from wsi_attn.slides.tiled_reader import TiledReader

ICC_PROFILE_TAG = 34675


def open_tiff(path: Path, slide_mpp: Mpp | None = None) -> Slide:
    """A slide in a TIFF, upright; errors as `TiffReader`."""
    reader = TiffReader(path, slide_mpp)
    return upright_slide(reader, reader.orientation)


class TiffStructureError(SlideUnsupportedError):
    """tifffile cannot read the directories; OpenSlide may."""


class TiffReader(TiledReader):
    """A slide in a TIFF as it is stored; owns the file and, where OpenSlide knows it, OpenSlide's handle.

    Raises
    ------
    SlideTruncatedError : the file ends before its tiles do.
    SlideUnsupportedError : no tiles, no picture, or a compression that nothing decodes.
    TiffStructureError : tifffile fails on it.
    """

    def __init__(self, path: Path, slide_mpp: Mpp | None = None) -> None:
        refuse_cut_off(path)
        self._referee: OpenSlideReader | None = None
        try:
            with tifffile.TiffFile(path) as tiff:
                info, sources = self._describe(path, tiff, slide_mpp)
        except BaseException as error:
            if self._referee is not None:
                self._referee.close()
            if isinstance(error, WsiAttnError | PermissionError) or not isinstance(error, Exception):
                raise
            # tifffile raises nearly anything on damaged files
            raise TiffStructureError(f"tifffile: {error}") from error
        file = FileBytes(path)
        super().__init__(info, sources, [file] * len(sources), self._referee)

    def _describe(
        self, path: Path, tiff: tifffile.TiffFile, slide_mpp: Mpp | None
    ) -> tuple[SlideInfo, list[LevelSource]]:
        for index, page in enumerate(main_pages(tiff)):
            refuse_absurd_tiles(path, page)
            if index == 0 or page.keyframe.is_tiled:
                refuse_tiles_beyond(path, np.asarray(page.dataoffsets), np.asarray(page.databytecounts))
        refusal = ""
        try:
            self._referee = OpenSlideReader(path, slide_mpp)
        except SlideUnsupportedError as error:
            refusal = str(error)
        if self._referee is None or tiff.is_ome:
            try:
                levels, sources = sources_of_series(tiff)
            except SlideUnsupportedError as error:
                if self._referee is None:
                    reasons = [str(error), *([refusal] if refusal != UNKNOWN_FORMAT else [])]
                    raise SlideUnsupportedError("; ".join(dict.fromkeys(reasons))) from error
            else:
                for source in sources:
                    if source.page is not None:
                        refuse_tiles_beyond(path, source.page.offsets, source.page.lengths)
                # OpenSlide sees more where a pyramid lies in pages of its own, beside the one that OME-XML names.
                if self._referee is None or len(levels) >= len(self._referee.info.levels):
                    self.orientation = orientation_of_levels(sources, [])
                    return _info_of_tags(path, tiff, slide_mpp, levels, sources), sources
        info = self._referee.info
        sources = sources_beside_openslide(tiff, info.vendor, info.levels)
        if info.vendor in PLAIN_GRID_VENDORS:
            pages = [page for page in map(tiled_page, main_pages(tiff)) if page is not None]
            self.orientation = orientation_of_levels(sources, pages)
        reader = "tifffile" if any(source.page is not None for source in sources) else info.reader
        return replace(info, reader=reader, properties={**info.properties, **_compressions(sources)}), sources


def _compressions(sources: list[LevelSource]) -> dict[str, str]:
    return {
        f"tiff.level[{index}].compression": source.compression
        for index, source in enumerate(sources)
        if source.compression
    }


def _info_of_tags(
    path: Path, tiff: tifffile.TiffFile, slide_mpp: Mpp | None, levels: list[Level], sources: list[LevelSource]
) -> SlideInfo:
    """What the tags and the OME-XML say, for files that OpenSlide reads not at all or not as a pyramid."""
    page: Any = tiff.pages.first
    xml = tiff.ome_metadata if tiff.is_ome else None
    if slide_mpp:
        pixel_size = PixelSize(slide_mpp, "user")
    else:
        x, y = page.resolution
        pixel_size = ome_pixel_size(xml) if xml else pixel_size_from_tags(x, y, int(page.resolutionunit))
    profile = page.tags.valueof(ICC_PROFILE_TAG)
    return SlideInfo(
        path=path,
        vendor="ome-tiff" if xml else "tiff",
        reader="tifffile",
        size0=levels[0].size,
        levels=tuple(levels),
        mpp=pixel_size.mpp,
        mpp_source=pixel_size.source,
        mpp_note=pixel_size.note,
        objective_power=ome_objective_power(xml) if xml else None,
        compression=tag_name(page.compression),
        bounds=None,
        associated=(),
        icc_profile=bytes(profile) if profile else None,
        fingerprint=fingerprint_of(path),
        properties=_compressions(sources),
    )
