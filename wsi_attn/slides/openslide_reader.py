"""Vendor formats through OpenSlide.

An OpenSlide handle that failed once fails for all later reads and threads. A failed read therefore replaces the handle
and is retried once on a new handle, so that one damaged tile does not affect the rest of the slide. Reads run in
parallel, because OpenSlide releases the interpreter lock. The JPEG data of NDPI files are proven first.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from wsi_attn.errors import SlideReadError, SlideUnsupportedError, UnknownFormatError
from wsi_attn.geometry import Mpp, Size
from wsi_attn.provenance import fingerprint_of
from wsi_attn.slide import Level, SlideBase, SlideInfo, UInt8Array
from wsi_attn.slides.colour_profile import DAMAGED, checked_profile
from wsi_attn.slides.dicom_series import series_of
from wsi_attn.slides.image_reader import refuse_depth, refuse_stack
from wsi_attn.slides.ndpi_proof import NdpiProof
from wsi_attn.slides.properties import PixelSize, bounds_from, objective_power_from, pixel_size_from
from wsi_attn.slides.reader import Reader
from wsi_attn.slides.tiff_samples import over_background, refuse_colours, tag_name


class OpenSlideReader(SlideBase):
    """Slide read through OpenSlide."""

    not_encoded = "OpenSlide gives no access to compressed tiles"

    def __init__(self, path: Path, slide_mpp: Mpp | None = None) -> None:
        vendor = openslide.OpenSlide.detect_format(str(path))
        if vendor is None:
            raise UnknownFormatError("OpenSlide knows no such format")
        try:
            description = _describe_tiff(path) if vendor == "generic-tiff" else _describe_tiff_compression(path)
        except SlideUnsupportedError:
            raise
        except Exception as error:  # tifffile raises many exception types on damaged files.
            raise SlideUnsupportedError(f"tifffile: {error}") from error
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        self._handle = self._open()
        self._factors = self._handle.level_downsamples
        self._proof = NdpiProof(path) if vendor == "hamamatsu" else None
        try:
            self.info = self._read_info(vendor, description, slide_mpp)
        except (KeyError, ValueError) as error:  # Property names or values that are not text, in damaged files.
            self.close()
            raise SlideUnsupportedError(f"OpenSlide: unreadable properties {error}".rstrip()) from error

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(str(self._path))
        except openslide.OpenSlideError as error:
            raise SlideUnsupportedError(f"OpenSlide: {error}") from error

    def _read_info(self, vendor: str, compression: str, slide_mpp: Mpp | None) -> SlideInfo:
        handle = self._handle
        properties = dict(handle.properties)
        size0 = Size(*handle.dimensions)
        pixel_size = PixelSize(slide_mpp, "user") if slide_mpp else pixel_size_from(properties, vendor)
        try:
            found = handle.color_profile
            profile, notes = checked_profile(found.tobytes() if found is not None else None)
        except ImageCms.PyCMSError:
            profile, notes = None, (DAMAGED,)
        return SlideInfo(
            path=self._path,
            vendor=vendor,
            reader="openslide",
            size0=size0,
            levels=tuple(
                level_of(Size(*size), size0, _tile_size(properties, index))
                for index, size in enumerate(handle.level_dimensions)
            ),
            **vars(pixel_size),
            objective_power=objective_power_from(properties),
            compression=compression,
            bounds=bounds_from(properties),
            associated=tuple(sorted(handle.associated_images)),
            icc_profile=profile,
            notes=notes,
            fingerprint=fingerprint_of(self._path),
            properties=properties,
            given_name=series.name if vendor == "dicom" and (series := series_of(self._path)) else "",
        )

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Read the pixels of one region; see `Slide.read_region`."""
        self.check_region(level, size)
        if self._closed:
            raise SlideReadError(f"{self._path} is closed")
        # OpenSlide averages the factors of both axes and would shift and blur levels of odd sizes: request the position
        # that its own factor maps onto the intended pixel.
        factor = self._factors[level]
        frame = self.info.levels[level]
        x, y = round(xy0[0] / frame.downsample_x), round(xy0[1] / frame.downsample_y)
        corner = round(x * factor), round(y * factor)
        if self._proof is not None:
            self._proof.prove(level, frame.size, (corner[0] / factor, corner[1] / factor), size)
        try:
            image = self._read(corner, level, size)
        except openslide.OpenSlideError as error:
            raise SlideReadError(f"{self._path}: level {level}, region at {xy0}, size {size}: {error}") from error
        rgba = np.asarray(image)
        rgb = rgba[..., :3].copy("C")  # Always a copy: Pillow's memory is read-only.
        return over_background(rgb, rgba[..., 3], associated=False)

    def shifts(self, level: int, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return by how much OpenSlide shifts columns (or rows) of a level, in pixels of the level.

        OpenSlide takes corners in integer level-0 pixels; if its factor is not an integer, it interpolates.
        """
        factor = self._factors[level]
        return np.asarray(np.rint(places * factor) / factor - places)

    def _read(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        handle = self._handle
        try:
            return handle.read_region(xy0, level, size)
        except openslide.OpenSlideError:
            # The error may come from another thread and stick to the shared handle: retry on a new handle.
            self._replace(handle)
            with self._open() as alone:
                return alone.read_region(xy0, level, size)

    def _replace(self, failed: openslide.OpenSlide) -> None:
        with self._lock:
            if self._handle is failed:  # Otherwise another thread has replaced it.
                self._handle = self._open()

    def close(self) -> None:
        """Release the file; may be called repeatedly."""
        if not self._closed:
            self._closed = True
            self._handle.close()
            if self._proof is not None:
                self._proof.close()


def _tile_size(properties: dict[str, str], index: int) -> Size:
    return Size(
        int(properties.get(f"openslide.level[{index}].tile-width", 256)),
        int(properties.get(f"openslide.level[{index}].tile-height", 256)),
    )


def level_of(size: Size, size0: Size, tile_size: Size) -> Level:
    """Return a level whose downsample factors are ratios of sizes per axis.

    OpenSlide averages the two factors, which shifts the edges of odd sizes.
    """
    return Level(size, _ratio(size0.width, size.width), _ratio(size0.height, size.height), tile_size)


def _ratio(extent0: int, extent: int) -> float:
    """Return the downsample of one axis; an integer if `extent` is the floor or ceiling of `extent0` divided by it."""
    ratio = extent0 / extent
    whole = max(1, round(ratio))
    return float(whole) if extent in (extent0 // whole, -(-extent0 // whole)) else ratio


def _describe_tiff(path: Path) -> str:
    """Return the compression of a generic TIFF after checking that it is an image and not a channel stack."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        refuse_depth(page)  # OpenSlide would silently drop the low bits.
        refuse_colours(page)
        if (tiff.is_ome or tiff.is_shaped) and tiff.series:
            refuse_stack(tiff.series[0])
        return tag_name(page.compression)


def _describe_tiff_compression(path: Path) -> str:
    try:
        with tifffile.TiffFile(path) as tiff:
            return tag_name(tiff.pages.first.compression)
    except (tifffile.TiffFileError, OSError, ValueError, IndexError):
        return "unknown"  # DICOM, MIRAX and others store it elsewhere.


CZI_MAGIC = b"ZISRAWFILE"


def _advice(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(len(CZI_MAGIC)) != CZI_MAGIC:
            return ""
    return (
        "Zeiss CZI is supported only for brightfield slides without time points or focal planes: export one plane "
        "as an 8-bit RGB TIFF with ZEN or `bfconvert`"
    )


OPENSLIDE = Reader(
    (".mrxs", ".vms", ".vmu", ".svslide", ".czi"),
    lambda path: True,  # what OpenSlide recognises it finds out while it opens a file
    lambda path, slide_mpp, image: OpenSlideReader(path, slide_mpp),
    advice=_advice,
)
