"""The images in a TIFF: which of them is the slide, which pages are its levels, and the pixel size stated for it.

OME-TIFF may hold several images, such as a macro photograph before the slide: the largest is the slide, and each can be
named by its number or name behind a `#`, as in `slide.ome.tif#0`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile

from wsi_attn.errors import SlideUnsupportedError
from wsi_attn.geometry import Mpp, Size
from wsi_attn.provenance import fingerprint_of
from wsi_attn.slide import name_of
from wsi_attn.slides.ome_metadata import microns_per_unit, ome_pixel_size
from wsi_attn.slides.properties import PixelSize, pixel_size_or_note

MARK = "#"
"""Between the path of a file and the number or name of an image in it."""

MASK = 4
"""Bit of the tag NewSubfileType that marks a transparency mask, which is neither image nor level."""


@dataclass(frozen=True)
class TiffImage:
    """One image of a TIFF: its number, its name (perhaps empty), its extent, and tifffile's series."""

    index: int
    name: str
    size: Size
    series: Any

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"{MARK}{self.index}{name}, {self.size.width} x {self.size.height} px"


@dataclass(frozen=True)
class ImageFacts:
    """What a slide's metadata say of the image it is of a file: `suffix` names it where it is not the default one."""

    suffix: str = ""
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, images: Sequence[TiffImage], chosen: TiffImage) -> ImageFacts:
        """The facts about one of several images."""
        default = chosen is choose_image(images)
        return cls(
            "" if default else f"{MARK}{chosen.index}", tuple(str(image) for image in images if image is not chosen)
        )

    def path_of(self, path: Path) -> Path:
        """The path that opens this image."""
        return path.with_name(path.name + self.suffix)

    def name_of(self, path: Path) -> str:
        """What outputs are named after; empty where that is the stem of the file."""
        return f"{name_of(path)}.image{self.suffix.removeprefix(MARK)}" if self.suffix else ""

    def fingerprint_of(self, path: Path) -> str:
        """The fingerprint of the image."""
        found = fingerprint_of(path)
        return hashlib.sha256(f"{found}{self.suffix}".encode()).hexdigest() if self.suffix else found


def split_image(path: Path) -> tuple[Path, str]:
    """The file of a path such as `slide.ome.tif#0`, and the number or name of the image; "" where none is named."""
    if MARK not in path.name or path.exists():  # a file's name may hold a `#`
        return path, ""
    stem, _, image = path.name.rpartition(MARK)
    file = path.with_name(stem) if stem else path
    return (file, image) if stem and image and file.is_file() else (path, "")


def images_of(tiff: tifffile.TiffFile) -> list[TiffImage]:
    """All images of a file; masks, and thumbnail, label and macro of an Aperio slide left out."""
    found: list[TiffImage] = []
    several = tiff.series if len(tiff.pages) else []
    for index, series in enumerate(several[:1] if tiff.is_svs else several):
        axes, shape = series.axes, series.shape
        if "X" in axes and "Y" in axes and not is_mask(series.keyframe):
            size = Size(shape[axes.index("X")], shape[axes.index("Y")])
            found.append(TiffImage(index, str(series.name or "") if tiff.is_ome else "", size, series))
    return found


def choose_image(images: Sequence[TiffImage], selector: str = "") -> TiffImage:
    """The image with a number or name, by default the largest, of equal ones the first.

    Raises
    ------
    SlideUnsupportedError : there is no such image; the message lists all.
    """
    if not images:
        raise SlideUnsupportedError("a TIFF without any image in it: truncated or damaged")
    if not selector:
        return max(images, key=lambda image: math.prod(image.size))
    for image in images:
        if selector == str(image.index) or (image.name and selector.casefold() == image.name.casefold()):
            return image
    raise SlideUnsupportedError(f"no image {selector!r}; the file holds {'; '.join(map(str, images))}")


def is_mask(page: Any) -> bool:
    """Whether a page of tifffile is a transparency mask."""
    tag = page.keyframe.tags.get(254)
    return tag is not None and bool(int(tag.value) & MASK)


def unclaimed_pages(tiff: tifffile.TiffFile, pages: Iterator[Any]) -> Iterator[Any]:
    """Those of the main pages that belong to no image of the OME-XML: coarser levels, as OpenSlide wants them."""
    claimed = {page.index for series in tiff.series for page in series.pages if page is not None}
    return (page for page in pages if page.index not in claimed)


def stated_pixel_size(tiff: tifffile.TiffFile, image: TiffImage) -> PixelSize | None:
    """What OME-XML, ImageJ's or Aperio's description say of an image; None where there is none of these."""
    if tiff.is_ome and tiff.ome_metadata:
        return ome_pixel_size(tiff.ome_metadata, image.index, image.size)
    if tiff.is_imagej:
        unit = microns_per_unit((tiff.imagej_metadata or {}).get("unit"))
        x, y = image.series.keyframe.resolution
        if unit is None or not (x > 0 and y > 0):
            return None
        return pixel_size_or_note(Mpp(unit / x, unit / y))
    if tiff.is_svs:
        mpp = aperio_facts(tiff).get("MPP")
        return pixel_size_or_note(Mpp(mpp, mpp)) if mpp is not None else None
    return None


def aperio_facts(tiff: tifffile.TiffFile) -> dict[str, float]:
    """The numbers in the description of an Aperio slide by name, such as `MPP` and `AppMag`."""
    facts = {}
    for part in str(tiff.pages.first.description).split("|")[1:]:
        name, _, text = part.partition("=")
        try:
            facts[name.strip()] = float(text)
        except ValueError:
            continue
    return facts
