"""Which reader a file gets: tiles of a TIFF directly, OpenSlide for all else it knows, else a plain image.

Every refusal is reported, except of a file that is cut off: that is said at once, no other reader may show its rest.
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
        A file; for formats of several files the one that OpenSlide takes (`.mrxs`). Any file of a DICOM series, and a
        folder with one series, stand for the same slide. `FILE#IMAGE` is an image of an OME-TIFF by its number or name;
        by default the largest is taken.
    slide_mpp
        Pixel size of level 0 where the file does not say it; wins over what the file says.

    Raises
    ------
    SlideNotFoundError : there is no such file.
    SlideTruncatedError : a TIFF that ends before its tiles do.
    SlideUnsupportedError : no reader takes it; the message gives each one's reason.
    """
    path, image = split_image(path)
    if not path.exists():
        raise SlideNotFoundError(f"There is no file {path}")
    if not (path.is_file() or path.is_dir()):
        raise SlideUnsupportedError(f"Cannot open {path}: a pipe, socket or device, not a file")
    try:
        series = series_of(path)
    except PermissionError as error:
        raise SlideUnsupportedError(f"Cannot open {path}: permission denied") from error
    given = path  # what messages name
    if series is not None:
        path = series.main
    if path.is_dir():
        raise SlideUnsupportedError(
            f"Cannot open {path}: it is a folder, not a store or a DICOM series; name the files in it"
        )
    tiff = is_tiff(path)
    if image and not tiff:
        raise SlideUnsupportedError(f"Cannot open {path}{MARK}{image}: only TIFF files hold several images")
    readers: list[Callable[[Path, Mpp | None], Slide]] = [
        open_tiff if tiff else open_dicom if is_dicom(path) else OpenSlideReader,
        read_image,
    ]
    if image:
        readers = [partial(open_tiff, image=image), partial(read_image, image=image)]
    reasons: list[str] = []
    try:
        for reader in readers:  # OpenSlide has its say in `open_tiff`, and must not read what is refused there
            try:
                return reader(path, slide_mpp)
            except SlideUnsupportedError as error:
                if isinstance(error, TiffStructureError) and not image:
                    readers.insert(1, OpenSlideReader)
                reasons += str(error).split("; ")  # so that what two readers say alike is said once
    except PermissionError as error:
        raise SlideUnsupportedError(f"Cannot open {path}: permission denied") from error
    if tiff and len(reasons) > 1:
        reasons = [reason for reason in reasons if reason != UNKNOWN_FORMAT]  # that it is a TIFF is known
    if cure := _cure(path):
        reasons = [*(reason for reason in reasons if not reason.startswith("Pillow")), cure]
    raise SlideUnsupportedError(f"Cannot open {given}: {'; '.join(dict.fromkeys(reasons))}")


def slide_exists(path: Path) -> bool:
    """Whether there is a file or folder for a path, which may name an image in the file (`FILE#IMAGE`)."""
    return os.path.exists(split_image(path)[0])  # noqa: PTH110 - Path.exists raises for names that are too long


def _cure(path: Path) -> str:
    """What to do about formats that are read in part only; empty for others."""
    with path.open("rb") as file:
        head = file.read(DICOM_PREAMBLE + len(DICOM_MAGIC))
    if head.startswith(CZI_MAGIC):
        return (
            "of Zeiss CZI only brightfield slides without time points and focal planes are read: export the plane "
            "wanted as an 8-bit RGB TIFF, with ZEN or `bfconvert`"
        )
    if head[DICOM_PREAMBLE:] == DICOM_MAGIC:
        return (
            "of DICOM only brightfield whole-slide volumes as OpenSlide reads them are read: convert others to a tiled "
            "8-bit RGB TIFF, with `bfconvert`"
        )
    return ""
