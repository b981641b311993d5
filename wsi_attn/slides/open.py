"""Which reader a file gets: OpenSlide for all it knows, else a plain image; every refusal is reported."""

from __future__ import annotations

from pathlib import Path

from wsi_attn.contract import Slide
from wsi_attn.errors import SlideNotFoundError, SlideUnsupportedError
from wsi_attn.geometry import Mpp
from wsi_attn.slides.image_reader import read_image
from wsi_attn.slides.openslide_reader import OpenSlideReader


def open_slide(path: Path, slide_mpp: Mpp | None = None) -> Slide:
    """Open a slide or plain image.

    Parameters
    ----------
    path
        A file; for formats of several files the one that OpenSlide takes (`.mrxs`, one `.dcm` of a series).
    slide_mpp
        Pixel size of level 0 where the file does not say it; wins over what the file says.

    Raises
    ------
    SlideNotFoundError : there is no such file.
    SlideUnsupportedError : no reader takes it; the message gives each one's reason.
    """
    if not path.exists():
        raise SlideNotFoundError(f"There is no file {path}")
    if path.is_dir():
        raise SlideUnsupportedError(f"Cannot open {path}: it is a folder and no store of ours; name the files in it")
    reasons = []
    for reader in (OpenSlideReader, read_image):
        try:
            return reader(path, slide_mpp)
        except SlideUnsupportedError as error:
            reasons.append(str(error))
        except PermissionError as error:
            raise SlideUnsupportedError(f"Cannot open {path}: permission denied") from error
    raise SlideUnsupportedError(f"Cannot open {path}: {'; '.join(dict.fromkeys(reasons))}")
