"""Selection of the reader: that of the format, otherwise a plain image, otherwise a reader of another package.

The error message lists the reason of every reader. A truncated file is an error at once, so that no other reader shows
a part of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from wsi_attn.errors import SlideNotFoundError, SlideUnsupportedError, UnknownFormatError
from wsi_attn.geometry import Mpp
from wsi_attn.slide import Slide
from wsi_attn.slides.dicom_series import series_of
from wsi_attn.slides.reader import PLAIN, READERS, Reader
from wsi_attn.slides.tiff_images import MARK, split_image


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
    refused: dict[str, SlideUnsupportedError] = {}
    asked: list[Reader] = []
    try:
        for name, reader in _readers(path):
            asked.append(reader)
            if image and not reader.images:
                raise SlideUnsupportedError(
                    f"Cannot open {path}{MARK}{image}: only TIFF files can contain several images"
                )
            try:
                return reader.open(path, slide_mpp, image)
            except SlideUnsupportedError as error:
                refused[name] = error
    except PermissionError as error:
        raise SlideUnsupportedError(f"Cannot open {path}: permission denied") from error
    advice = [text for reader in asked if (text := reader.advice(path))]
    if advice:
        refused.pop(PLAIN, None)
    elif any(name not in READERS.built_in for name in refused):  # its reader knows more than those that do not
        refused = {name: error for name, error in refused.items() if not isinstance(error, UnknownFormatError)}
    reasons = [reason for error in refused.values() for reason in error.reasons]
    raise SlideUnsupportedError(f"Cannot open {given}: {'; '.join(dict.fromkeys([*reasons, *advice]))}")


def _readers(path: Path) -> Iterator[tuple[str, Reader]]:
    """The reader that recognises a file, that of plain images, and those of other packages that recognise it.

    An installed package therefore never changes how a file is read that wsi-attn reads itself.
    """
    recognised = next(name for name in READERS.built_in if READERS.get(name).recognises(path))
    for name in dict.fromkeys((recognised, PLAIN)):
        yield name, READERS.get(name)
    for name, reader in READERS.all():
        if name not in READERS.built_in and reader.recognises(path):
            yield name, reader


def slide_exists(path: Path) -> bool:
    """Return whether the file or folder of a path exists; the path may select an image (`FILE#IMAGE`)."""
    return os.path.exists(split_image(path)[0])  # noqa: PTH110 - Path.exists raises for names that are too long
