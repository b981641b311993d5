"""Regions of slides as other readers see them: OpenSlide, tifffile, libvips and Pillow, and pydicom for DICOM.

Each takes a place in pixels of a level, and a size; the region lies inside the level. A reader that cannot read a file
or level raises `CannotReadError`, whatever it raises itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pydicom
import pyvips
import tifffile
import zarr
from PIL import Image
from pydicom.encaps import generate_frames

YCBCR, JPEG = 6, 7
"""PhotometricInterpretation and Compression."""

LARGEST = 8_000_000
"""Pixels of an image that Pillow may decode: it has no regions."""

Read = Callable[[Path, int, int, int, int, int], np.ndarray]


class CannotReadError(Exception):
    """A reader has no such level, or fails on it."""


def by_openslide(path: Path, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    """Over white, at places that need no interpolation: OpenSlide takes corners in whole pixels of level 0."""
    try:
        with openslide.OpenSlide(str(path)) as slide:
            if level >= slide.level_count:
                raise CannotReadError("no such level")
            factor = slide.level_downsamples[level]
            corner = round(x * factor), round(y * factor)
            if max(abs(corner[0] / factor - x), abs(corner[1] / factor - y)) > 1 / 300:
                raise CannotReadError("interpolates there")
            image = slide.read_region(corner, level, (width, height))
    except openslide.OpenSlideError as error:
        raise CannotReadError(str(error)) from error
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def by_tifffile(path: Path, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    """The samples as they are stored; YCbCr that tifffile does not convert goes through Pillow."""
    with _tiff(path) as tiff:
        page = _page(tiff, level)
        rows, columns = slice(y, y + height), slice(x, x + width)
        try:
            array = zarr.open(page.aszarr(), mode="r")
            if page.axes == "SYX":
                found = np.moveaxis(np.asarray(array[:, rows, columns]), 0, -1)
            else:
                found = np.asarray(array[rows, columns])
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise CannotReadError(str(error)) from error
        if page.photometric == YCBCR and page.compression != JPEG:
            found = np.asarray(Image.fromarray(found, "YCbCr").convert("RGB"))
    if found.ndim == 3 and found.shape[2] == 4:
        raise CannotReadError("returns transparency as it is")
    return found if found.ndim == 3 else np.repeat(found[..., None], 3, axis=-1)


def by_libvips(path: Path, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    """libtiff as libvips calls it, on the page that tifffile says makes the level; turned as its tag says."""
    with _tiff(path) as tiff:
        page = _page(tiff, level)
        place = {"page": page.index} if not page.is_subifd else {"subifd": page._index[-1]}
    try:
        image = pyvips.Image.tiffload(str(path), access="random", **place).autorot()
        if image.hasalpha():
            image = image.flatten(background=255)
        found = image.crop(x, y, width, height).colourspace("srgb").numpy()
    except pyvips.Error as error:
        raise CannotReadError(str(error)) from error
    return found[..., :3] if found.shape[-1] >= 3 else np.repeat(found[..., :1], 3, axis=-1)


def by_streams(path: Path, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    """Complete JPEG streams of tiles, each read by Pillow as a file of its own: no tag has a say."""
    with _tiff(path) as tiff, path.open("rb") as file:
        page = _page(tiff, level)
        if page.compression != JPEG or page.jpegtables or not page.is_tiled:
            raise CannotReadError("no complete streams")
        across = -(-page.imagewidth // page.tilewidth)
        rows = range(y // page.tilelength, -(-(y + height) // page.tilelength))
        columns = range(x // page.tilewidth, -(-(x + width) // page.tilewidth))
        tiles = []
        for row in rows:
            for column in columns:
                file.seek(page.dataoffsets[row * across + column])
                stream = io.BytesIO(file.read(page.databytecounts[row * across + column]))
                try:
                    tiles.append(np.asarray(Image.open(stream).convert("RGB")))
                except OSError as error:  # restart intervals of Hamamatsu are parts of a stream
                    raise CannotReadError(str(error)) from error
    lines = [np.concatenate(tiles[at : at + len(columns)], axis=1) for at in range(0, len(tiles), len(columns))]
    left, top = x - columns[0] * page.tilewidth, y - rows[0] * page.tilelength
    return np.concatenate(lines)[top : top + height, left : left + width]


def by_pillow(path: Path, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    """libtiff as Pillow calls it; pages of the main chain of directories only."""
    with _tiff(path) as tiff:
        page = _page(tiff, level)
        index = None if page.is_subifd else page.index
        small = max(each.imagewidth * each.imagelength for each in (page, tiff.pages.first)) <= LARGEST
    if index is None or not small:
        raise CannotReadError("too large, or not in the main chain")
    try:
        with Image.open(path) as image:
            image.seek(index)
            found = image.convert("RGBA" if "A" in image.getbands() else "RGB")
            over = Image.new("RGBA", found.size, (255, 255, 255, 255))
            flat = Image.alpha_composite(over, found).convert("RGB") if found.mode == "RGBA" else found
            return np.asarray(flat.crop((x, y, x + width, y + height)))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError) as error:
        raise CannotReadError(str(error)) from error


def by_pydicom(path: Path, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    """Frames by pydicom, each decoded by Pillow in the colours that its stream states; level 0 alone."""
    if path.suffix != ".dcm" or level:
        raise CannotReadError("no DICOM, or another file")
    file = pydicom.dcmread(path)
    across = -(-file.TotalPixelMatrixColumns // file.Columns)
    count = int(file.NumberOfFrames)
    if file.file_meta.TransferSyntaxUID.is_encapsulated:
        streams = list(generate_frames(file.PixelData, number_of_frames=count))
        frames = [np.asarray(Image.open(io.BytesIO(stream)).convert("RGB")) for stream in streams]
    else:
        frames = list(file.pixel_array.reshape(count, file.Rows, file.Columns, 3))
    rows = [np.concatenate(frames[at : at + across], axis=1) for at in range(0, count, across)]
    return np.concatenate(rows)[y : y + height, x : x + width]


READERS: dict[str, Read] = {
    "openslide": by_openslide,
    "tifffile": by_tifffile,
    "libvips": by_libvips,
    "pillow": by_pillow,
    "streams": by_streams,
    "pydicom": by_pydicom,
}


def _tiff(path: Path) -> tifffile.TiffFile:
    try:
        return tifffile.TiffFile(path)
    except tifffile.TiffFileError as error:
        raise CannotReadError(str(error)) from error


def _page(tiff: tifffile.TiffFile, level: int) -> tifffile.TiffPage:
    """The page of a level of the first series; without a pyramid in it, the tiled pages in the order of their sizes."""
    levels = tiff.series[0].levels
    if len(levels) == 1:
        pages = [page.aspage() for page in tiff.pages if page.aspage().is_tiled] or [tiff.pages.first]
        pages.sort(key=lambda page: -page.imagewidth)
    else:
        pages = [part.pages[0].aspage() for part in levels]
    if level >= len(pages):
        raise CannotReadError("no such level")
    return pages[level]
