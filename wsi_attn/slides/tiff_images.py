"""Images in a TIFF: which image is the slide, which pages are its levels, and its stated pixel size.

OME-TIFF may contain several images, such as a macro photograph before the slide. The largest is the slide; `#` followed
by a number or name selects another, as in `slide.ome.tif#0`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tifffile

from wsi_attn.errors import SlideTruncatedError, SlideUnsupportedError
from wsi_attn.geometry import Mpp, Size
from wsi_attn.slide import SlideInfo
from wsi_attn.slides.ome_metadata import microns_per_unit, ome_pixel_size
from wsi_attn.slides.properties import PixelSize, pixel_size_or_note
from wsi_attn.slides.tiff_samples import Page, key_of

MARK = "#"
"""Separates the path of a file from the number or name of an image in it."""

APERIO_REGION = re.compile(r"\[-?\d+,-?\d+ (\d+)x(\d+)\]")
"""Corner, width and height of the scanned region in the description of an Aperio slide; it is the whole first page."""

PHILIPS_ROOT = "DPUfsImport"
"""Root element of the XML of Philips slides."""

MASK = 4
"""Bit of the tag NewSubfileType of transparency masks, which are neither images nor levels."""


@dataclass(frozen=True)
class TiffImage:
    """One image of a TIFF: number, name (may be empty), size, and tifffile series."""

    index: int
    name: str
    size: Size
    series: tifffile.TiffPageSeries

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"{MARK}{self.index}{name}, {self.size.width} x {self.size.height} px"


@dataclass(frozen=True)
class ImageFacts:
    """Identity of the image in a file; `suffix` selects it if it is not the default image."""

    suffix: str = ""
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, images: Sequence[TiffImage], chosen: TiffImage) -> ImageFacts:
        """The facts about one of several images."""
        default = chosen is choose_image(images)
        return cls(
            "" if default else f"{MARK}{chosen.index}", tuple(str(image) for image in images if image is not chosen)
        )

    def identify(self, info: SlideInfo) -> SlideInfo:
        """Return the metadata of a file with the path, name and fingerprint of this image in it."""
        info = replace(info, other_images=self.others)
        if not self.suffix:
            return info
        return replace(
            info,
            path=info.path.with_name(info.path.name + self.suffix),
            given_name=f"{info.name}.image{self.suffix.removeprefix(MARK)}",
            fingerprint=hashlib.sha256(f"{info.fingerprint}{self.suffix}".encode()).hexdigest(),
        )


def split_image(path: Path) -> tuple[Path, str]:
    """Split a path such as `slide.ome.tif#0` into the file and the number or name of the image ("" if none)."""
    if MARK not in path.name or path.exists():  # A file name may contain `#`.
        return path, ""
    stem, _, image = path.name.rpartition(MARK)
    file = path.with_name(stem) if stem else path
    return (file, image) if stem and image and file.is_file() else (path, "")


def images_of(tiff: tifffile.TiffFile) -> list[TiffImage]:
    """Return all images of a file except masks and the thumbnail, label and macro of Aperio slides."""
    found: list[TiffImage] = []
    several = tiff.series if len(tiff.pages) else []
    for index, series in enumerate(several[:1] if tiff.is_svs else several):
        axes, shape = series.axes, series.shape
        if "X" in axes and "Y" in axes and not is_mask(series.keyframe):
            size = Size(shape[axes.index("X")], shape[axes.index("Y")])
            found.append(TiffImage(index, str(series.name or "") if tiff.is_ome else "", size, series))
    return found


def choose_image(images: Sequence[TiffImage], selector: str = "") -> TiffImage:
    """Return the image with a number or name; by default the largest, or the first of equal size.

    Raises
    ------
    SlideUnsupportedError : the image does not exist; the message lists all images.
    """
    if not images:
        raise SlideUnsupportedError("the TIFF has no image: truncated or damaged")
    if not selector:
        return max(images, key=lambda image: math.prod(image.size))
    for image in images:
        if selector == str(image.index) or (image.name and selector.casefold() == image.name.casefold()):
            return image
    raise SlideUnsupportedError(f"no image {selector!r}; the file contains {'; '.join(map(str, images))}")


def is_mask(page: Page) -> bool:
    """Return whether a tifffile page is a transparency mask."""
    tag = key_of(page).tags.get(254)
    return tag is not None and bool(int(tag.value) & MASK)


def unclaimed_pages(tiff: tifffile.TiffFile, pages: Iterator[Page]) -> Iterator[Page]:
    """Return the main pages that belong to no image of the OME-XML: coarser levels in the layout of OpenSlide."""
    claimed = {page.index for series in tiff.series for page in series.pages if page is not None}
    return (page for page in pages if page.index not in claimed)


def stated_pixel_size(tiff: tifffile.TiffFile, image: TiffImage) -> PixelSize | None:
    """Return the pixel size stated by OME-XML, ImageJ or Aperio descriptions; None without these."""
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


def refuse_unrecognised(path: Path, tiff: tifffile.TiffFile, vendor: str) -> None:
    """Refuse a slide of several areas that OpenSlide does not recognise: only its own metadata place them.

    Parameters
    ----------
    vendor
        Vendor according to OpenSlide; empty if it does not open the file.

    Raises
    ------
    SlideTruncatedError : the description or suffix is that of a Leica SCN or Ventana BIF slide, and OpenSlide reads
        none.
    """
    suffix = path.suffix.lower()
    for states, expected in ((tiff.is_scn or suffix == ".scn", "leica"), (tiff.is_bif or suffix == ".bif", "ventana")):
        if states and vendor != expected:
            raise SlideTruncatedError(
                f"{path} is damaged or of an unknown variant: OpenSlide does not read it as a slide of {expected}; "
                "copy it again, or export it as a tiled TIFF"
            )


def contradictions(tiff: tifffile.TiffFile, vendor: str) -> list[str]:
    """Return notes on metadata that contradict the pages, as single flipped bits cause."""
    found = []
    if PHILIPS_ROOT in str(tiff.pages.first.description) and vendor != "philips":
        found.append(
            "its description is that of a Philips slide but cannot be read: pixel size and levels may be missing"
        )
    page = tiff.pages.first
    stated = APERIO_REGION.search(str(page.description)) if tiff.is_svs else None
    if stated and (page.imagewidth, page.imagelength) != tuple(map(int, stated.groups())):
        found.append(
            f"its description states {stated[1]} x {stated[2]} px, but its first image has {page.imagewidth} x "
            f"{page.imagelength} px: one of them is damaged, compare it with the original"
        )
    return found


def aperio_facts(tiff: tifffile.TiffFile) -> dict[str, float]:
    """Return the numbers in the description of an Aperio slide by name, such as `MPP` and `AppMag`."""
    facts = {}
    for part in str(tiff.pages.first.description).split("|")[1:]:
        name, _, text = part.partition("=")
        try:
            facts[name.strip()] = float(text)
        except ValueError:
            continue
    return facts
