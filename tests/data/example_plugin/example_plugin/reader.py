"""Slides that are a signature, width, height and bytes of red, green and blue."""

import struct
from pathlib import Path

import numpy as np

from wsi_attn.errors import SlideTruncatedError
from wsi_attn.geometry import Mpp, Size
from wsi_attn.provenance import fingerprint_of
from wsi_attn.slide import Level, Slide, SlideInfo
from wsi_attn.slides.image_reader import ArraySlide
from wsi_attn.slides.reader import Reader

HEAD = struct.Struct("<6sII")


def is_rawrgb(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"RAWRGB"


def open_rawrgb(path: Path, slide_mpp: Mpp | None, image: str) -> Slide:
    data = path.read_bytes()
    _, width, height = HEAD.unpack_from(data)
    if len(data) != HEAD.size + 3 * width * height:
        raise SlideTruncatedError(f"{path} ends before its pixels do; copy it again")
    pixels = np.frombuffer(data, np.uint8, offset=HEAD.size).reshape(height, width, 3)
    size, source = Size(width, height), "user" if slide_mpp else "none"
    facts = {"path": path, "vendor": "example", "reader": "example-plugin", "fingerprint": fingerprint_of(path)}
    shape = {"size0": size, "levels": (Level(size, 1, 1, size),), "mpp": slide_mpp, "mpp_source": source}
    return ArraySlide(pixels, SlideInfo(**facts, **shape))


RAWRGB = Reader((".rawrgb",), is_rawrgb, open_rawrgb)
