"""Selection of the reader: TIFF tiles directly, OpenSlide for its other formats, otherwise a plain image.

The error message lists the reason of every reader. A truncated file is an error at once, so that no other reader shows
a part of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from wsi_attn.errors import SlideNotFoundError, SlideUnsupportedError
from wsi_attn.geometry import Mpp
from wsi_attn.slide import Slide
from wsi_attn.slides.dicom_reader import open_dicom
from wsi_attn.slides.dicom_series import MAGIC as DICOM_MAGIC
from wsi_attn.slides.dicom_series import PREAMBLE as DICOM_PREAMBLE
from wsi_attn.slides.dicom_series import is_dicom, series_of
from wsi_attn.slides.image_reader import read_image
from wsi_attn.slides.openslide_reader import UNKNOWN_FORMAT, OpenSlideReader
from wsi_attn.slides.tiff_images import MARK, split_image
from wsi_attn.slides.tiff_pages import is_tiff
from wsi_attn.slides.tiff_reader import TiffStructureError, open_tiff

CZI_MAGIC = b"ZISRAWFILE"


def open_slide(path: Path, slide_mpp: Mpp | None = None) -> Slide:
    """Open a slide or plain image.

    Parameters
    ----------
    path
        A file; for multi-file formats the one that OpenSlide opens (`.mrxs`). Any file of a DICOM series, and a
        folder with one series, represent the same slide. `FILE#IMAGE` selects an image of an OME-TIFF by number or
        name; by default the largest is used.
    slide_mpp
        Pixel size of level 0; overrides that of the file.

    Raises
    ------
    SlideNotFoundError : the file does not exist.
    SlideTruncatedError : a TIFF that ends before its tiles do.
    SlideUnsupportedError : no reader supports it; the message gives the reason of each.
    """
    path, image = split_image(path)
    if not path.exists():
        raise SlideNotFoundError(f"file not found: {path}")
    if not (path.is_file() or path.is_dir()):
        raise SlideUnsupportedError(f"Cannot open {path}: a pipe, socket or device, not a file")
    try:
        series = series_of(path)
    except PermissionError as error:
        raise SlideUnsupportedError(f"Cannot open {path}: permission denied") from error
    given = path  # Named in messages.
    if series is not None:
        path = series.main
    if path.is_dir():
        raise SlideUnsupportedError(
            f"Cannot open {path}: it is a folder, but neither a store nor a DICOM series; use the files in it"
        )
    tiff = is_tiff(path)
    if image and not tiff:
        raise SlideUnsupportedError(f"Cannot open {path}{MARK}{image}: only TIFF files can contain several images")
    readers: list[Callable[[Path, Mpp | None], Slide]] = [
        open_tiff if tiff else open_dicom if is_dicom(path) else OpenSlideReader,
        read_image,
    ]
    if image:
        readers = [partial(open_tiff, image=image), partial(read_image, image=image)]
    reasons: list[str] = []
    try:
        for reader in readers:  # `open_tiff` uses OpenSlide itself; files refused there must not reach it.
            try:
                return reader(path, slide_mpp)
            except SlideUnsupportedError as error:
                if isinstance(error, TiffStructureError) and not image:
                    readers.insert(1, OpenSlideReader)
                reasons += str(error).split("; ")  # Split, so that equal reasons are reported once.
    except PermissionError as error:
        raise SlideUnsupportedError(f"Cannot open {path}: permission denied") from error
    if tiff and len(reasons) > 1:
        reasons = [reason for reason in reasons if reason != UNKNOWN_FORMAT]  # It is known to be a TIFF.
    if cure := _cure(path):
        reasons = [*(reason for reason in reasons if not reason.startswith("Pillow")), cure]
    raise SlideUnsupportedError(f"Cannot open {given}: {'; '.join(dict.fromkeys(reasons))}")


def slide_exists(path: Path) -> bool:
    """Return whether the file or folder of a path exists; the path may select an image (`FILE#IMAGE`)."""
    return os.path.exists(split_image(path)[0])  # noqa: PTH110 - Path.exists raises for names that are too long


def _cure(path: Path) -> str:
    """Return advice on partly supported formats; empty for others."""
    with path.open("rb") as file:
        head = file.read(DICOM_PREAMBLE + len(DICOM_MAGIC))
    if head.startswith(CZI_MAGIC):
        return (
            "Zeiss CZI is supported only for brightfield slides without time points or focal planes: export one plane "
            "as an 8-bit RGB TIFF with ZEN or `bfconvert`"
        )
    if head[DICOM_PREAMBLE:] == DICOM_MAGIC:
        return (
            "DICOM is supported only for brightfield whole-slide volumes that OpenSlide reads: convert the file to a "
            "tiled 8-bit RGB TIFF with `bfconvert`"
        )
    return ""
