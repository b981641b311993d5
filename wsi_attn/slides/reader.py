"""`Reader`: how the files of one family of slide formats are recognised and opened, and the registry of all readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from wsi_attn.geometry import Mpp
from wsi_attn.registry import Registry
from wsi_attn.slide import Slide


class Opener(Protocol):
    """Opens one file."""

    def __call__(self, path: Path, slide_mpp: Mpp | None, image: str) -> Slide:
        """Open a slide.

        Parameters
        ----------
        slide_mpp
            Pixel size of level 0, which overrides that of the file; None without one.
        image
            Number or name of an image in the file; empty for the default one, always so without `Reader.images`.

        Raises
        ------
        SlideUnsupportedError : the reader cannot open this file; the message states why, without the path.
        SlideTruncatedError : the file is damaged, and no other reader may show a part of it.
        """
        ...


@dataclass(frozen=True)
class Reader:
    """One family of slide formats.

    Attributes
    ----------
    suffixes
        Suffixes of its files in lower case, ".svs"; they decide which files of a folder are slides. A file that is
        given by name may have any suffix.
    recognises
        Whether a file is of this family, from its first bytes.
    open
        Opens a file that it recognises.
    images
        Whether a file may contain several images, of which ``FILE#IMAGE`` selects one.
    advice
        What to do about a file of the family that no reader opens; empty for other files.
    """

    suffixes: tuple[str, ...]
    recognises: Callable[[Path], bool]
    open: Opener
    images: bool = False
    advice: Callable[[Path], str] = lambda path: ""


PLAIN = "image"
"""The reader of plain images, which may open what the reader of a slide format refuses."""

READERS: Registry[Reader] = Registry(
    "reader",
    "wsi_attn.readers",
    {
        "tiff": "wsi_attn.slides.tiff_reader:TIFF",
        "dicom": "wsi_attn.slides.dicom_reader:DICOM",
        "openslide": "wsi_attn.slides.openslide_reader:OPENSLIDE",
        PLAIN: "wsi_attn.slides.image_reader:IMAGE",
    },
    lambda member: isinstance(member, Reader),
)
"""All readers in the order in which they are asked whether they recognise a file."""


@cache
def slide_suffixes() -> frozenset[str]:
    """Suffixes of the files in a folder that are slides or images."""
    return frozenset(suffix for _, reader in READERS.all() for suffix in reader.suffixes)
