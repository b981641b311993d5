"""Plain images (PNG, JPEG, BMP, TIFF, WebP) as in-memory slides with one level.

Only 8-bit grey or RGB images are supported; error messages state how to convert others. The pixel size is known only if
the user, OME-XML or ImageJ states it, because resolution tags of plain images state a print size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from wsi_attn.errors import (
    SlideTruncatedError,
    SlideUnsupportedError,
    TileDecodeError,
    UnknownFormatError,
)
from wsi_attn.geometry import Mpp, Region, Size
from wsi_attn.provenance import fingerprint_of
from wsi_attn.slide import BACKGROUND, Level, SlideBase, SlideInfo, UInt8Array, background, paste
from wsi_attn.slide.jpeg2000 import check_jpeg2000
from wsi_attn.slide.jpeg_decoding import decode_jpeg, prove_jpeg
from wsi_attn.slides.colour_profile import checked_profile
from wsi_attn.slides.orientation import ORIENTATION_PROPERTY, upright
from wsi_attn.slides.properties import PixelSize
from wsi_attn.slides.reader import Reader
from wsi_attn.slides.tiff_images import ImageFacts, choose_image, images_of, stated_pixel_size
from wsi_attn.slides.tiff_samples import (
    OLD_JPEG,
    is_transparent_grey,
    orientation_of,
    page_pixels,
    profile_of,
    refuse_colours,
    segment_size,
    tag_name,
)

MAX_PIXELS = 400_000_000
"""Maximum pixels of a plain image: 1.2 GB of RGB, less what its decoder holds besides."""

COMPOSITE_ROWS = 512
"""Rows composited over the background at once."""

PILLOW_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
AXES = {"C": "channels", "Z": "focal planes", "T": "time points", "S": "samples a pixel"}
JPEG_FORMATS = ("JPEG", "MPO")
CHECKED_FORMATS = (*JPEG_FORMATS, "JPEG2000")
EXIF_ORIENTATION = 274
FRAME_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats whose further frames are other pictures, not previews (MPO) or layers (PSD) of one."""


class ArraySlide(SlideBase):
    """In-memory image as a slide with one level.

    Parameters
    ----------
    pixels
        uint8 (height, width, 3), RGB.
    info
        Its metadata; the single level has the size of `pixels`.
    """

    not_encoded = "a plain image has no tiles"

    def __init__(self, pixels: UInt8Array, info: SlideInfo) -> None:
        self.pixels = pixels
        self.info = info

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Read the pixels of one region; see `Slide.read_region`."""
        self.check_region(level, size)
        wanted, whole = Region(*xy0, *size), Region(0, 0, *self.info.size0)
        if wanted.intersection(whole) == wanted:
            return self.pixels[wanted.within(whole)].copy()
        pixels = background(size)
        paste(pixels, wanted, self.pixels, whole)
        return pixels


NO_PIXEL_SIZE = PixelSize(None, "none", "a plain image gives no pixel size")
NO_FACTS = ImageFacts()


@dataclass(frozen=True)
class _Picture:
    """Decoded image with the metadata of its file."""

    pixels: UInt8Array
    kind: str
    compression: str
    properties: dict[str, str]
    pixel_size: PixelSize = NO_PIXEL_SIZE
    facts: ImageFacts = NO_FACTS
    icc_profile: bytes | None = None


def read_image(path: Path, slide_mpp: Mpp | None = None, image: str = "") -> ArraySlide:
    """Read a plain image.

    Parameters
    ----------
    image
        Number or name of an image in the file; the largest by default.

    Raises
    ------
    SlideUnsupportedError : no decoder, more than eight bits, channels other than RGB or grey, or too large.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    is_tiff = magic[:2] in (b"II", b"MM") and magic[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+")
    picture = _read_tiff(path, image) if is_tiff else _read_pillow(path)
    pixels = picture.pixels
    pixel_size = PixelSize(slide_mpp, "user") if slide_mpp else picture.pixel_size
    size0 = Size(pixels.shape[1], pixels.shape[0])
    profile, notes = checked_profile(picture.icc_profile)
    info = SlideInfo(
        path=path,
        vendor=picture.kind,
        reader="tifffile" if is_tiff else "pillow",
        size0=size0,
        levels=(Level(size0, 1.0, 1.0, size0),),
        **vars(pixel_size),
        compression=picture.compression,
        icc_profile=profile,
        notes=notes,
        fingerprint=fingerprint_of(path),
        properties=picture.properties,
    )
    return ArraySlide(pixels, picture.facts.identify(info))


def _read_pillow(path: Path) -> _Picture:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # The limit below has a clearer message.
    try:
        with Image.open(path) as image:
            jpeg = image.format in JPEG_FORMATS and image.mode in ("RGB", "L")
            stored = 0 if jpeg else 1 if image.mode in ("1", "L", "P") else 4  # bytes per pixel in Pillow
            kind = "with transparency" if _is_transparent(image) else f"of mode {image.mode} without tiles"
            _refuse_large(image.width, image.height, stored, kind)
            if image.format in FRAME_FORMATS and (frames := getattr(image, "n_frames", 1)) > 1:
                raise SlideUnsupportedError(f"{frames} frames: only a single image is supported, export one of them")
            if image.mode not in PILLOW_MODES:
                raise SlideUnsupportedError(
                    f"pixels of mode {image.mode}: only 8-bit grey or RGB is supported, convert it"
                )
            if any(";16" in str(tile[3]) for tile in image.tile):  # Pillow would silently drop the low byte.
                raise SlideUnsupportedError(
                    "16 bits per channel: only 8-bit images are supported, rescale it to 8 bits"
                )
            properties = {}
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            if orientation not in range(2, 9):
                orientation = 1
            else:
                properties["exif.orientation"] = f"{orientation} (applied)"
            if image.format in CHECKED_FORMATS:
                _check_stream(path, image)
            pixels = decode_jpeg(path.read_bytes()) if jpeg else _over_background(image)
            return _Picture(
                upright(pixels, orientation),
                str(image.format).lower(),
                str(image.format),
                properties,
                icc_profile=image.info.get("icc_profile"),
            )
    except TileDecodeError as error:
        raise SlideUnsupportedError(f"the image is damaged: {error}; copy it again") from error
    except UnidentifiedImageError as error:
        raise UnknownFormatError("Pillow: unknown image format") from error
    except SlideUnsupportedError:
        raise
    except Exception as error:  # Pillow raises many exception types on damaged files and unusual variants of formats.
        raise SlideUnsupportedError(f"Pillow: {str(error) or type(error).__name__}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_stream(path: Path, image: Image.Image) -> None:
    """Check the stream of a format whose damage Pillow does not report.

    Raises
    ------
    TileDecodeError : the file is damaged.
    """
    data = path.read_bytes()
    if image.format in JPEG_FORMATS:
        prove_jpeg(data)
    else:
        check_jpeg2000(data, components=len(image.getbands()))


def _is_transparent(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info


def _over_background(image: Image.Image) -> UInt8Array:
    """Return RGB over the background; in bands, because whole copies would take gigabytes."""
    transparent = _is_transparent(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, COMPOSITE_ROWS):
        band = image.crop((0, top, image.width, min(top + COMPOSITE_ROWS, image.height)))
        if transparent:
            band = band.convert("RGBA")
            background = Image.new("RGBA", band.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
            band = Image.alpha_composite(background, band)
        pixels[top : top + band.height] = np.asarray(band.convert("RGB"))
    return pixels


def _read_tiff(path: Path, selector: str) -> _Picture:
    try:
        with tifffile.TiffFile(path) as tiff:
            images = images_of(tiff)
            image = choose_image(images, selector)
            refuse_channels(image.series)
            series = image.series
            axes, shape = series.axes, series.shape
            page = series.keyframe
            strip = math.prod(segment_size(page)) * page.samplesperpixel
            width, height = shape[axes.index("X")], shape[axes.index("Y")]
            _refuse_large(width, height, strip / max(1, width * height))
            if len(series.pages) != 1:
                raise SlideUnsupportedError(f"its samples are spread over {len(series.pages)} pages: export it as RGB")
            pixels = page_pixels(page)
            properties = {}
            if (orientation := orientation_of(page)) != 1:
                properties[ORIENTATION_PROPERTY] = f"{orientation} (applied)"
            size = stated_pixel_size(tiff, image) or NO_PIXEL_SIZE
            return _Picture(
                upright(pixels, orientation),
                "tiff",
                tag_name(page.compression),
                properties,
                size,
                ImageFacts.of(images, image),
                profile_of(page),
            )
    except (SlideUnsupportedError, SlideTruncatedError):
        raise
    except Exception as error:  # tifffile and its decoders raise many exception types on damaged files.
        raise SlideUnsupportedError(f"tifffile: {error}") from error


def refuse_channels(series: tifffile.TiffPageSeries) -> None:
    """Check that an image of a TIFF is a single 8-bit grey or RGB image.

    Raises
    ------
    SlideUnsupportedError : it is not; the message states its contents and how to convert it.
    """
    refuse_stack(series)
    refuse_depth(series.keyframe)
    if int(series.keyframe.compression) == OLD_JPEG:
        raise SlideUnsupportedError("old-style JPEG (compression 6), whose colours are not defined: convert it to JPEG")
    refuse_colours(series.keyframe)


def refuse_stack(series: tifffile.TiffPageSeries) -> None:
    """Refuse an image with several channels, planes or time points; raises like `refuse_channels`."""
    axes, shape = series.axes, series.shape
    if axes in ("YX", "YXS", "SYX"):
        counts = (2, 3, 4) if is_transparent_grey(series.keyframe) else (3, 4)
        if axes == "YX" or shape[axes.index("S")] in counts:
            return
    what = ", ".join(
        f"{count} {AXES.get(axis, 'pages')}" for axis, count in zip(axes, shape, strict=True) if axis not in "YX"
    )
    raise SlideUnsupportedError(
        f"{what} (a TIFF of shape {'x'.join(map(str, shape))} with axes {axes}): only a single grey or RGB plane is "
        "supported, export one plane as an 8-bit RGB image"
    )


def refuse_depth(page: tifffile.TiffPage) -> None:
    """Refuse samples other than 1 or 8 bits; raises like `refuse_channels`."""
    packed = page.bitspersample == 1 and page.samplesperpixel > 1
    if page.bitspersample not in (1, 8) or packed or page.dtype is None or page.dtype.kind not in "ub":
        raise SlideUnsupportedError(
            f"{page.bitspersample} bits per sample ({page.dtype}): only 8-bit images are supported, "
            "rescale it to 8 bits"
        )


def _refuse_large(width: int, height: int, stored: float, kind: str = "without tiles") -> None:
    """Refuse an image whose decoding takes more memory than `MAX_PIXELS` of RGB.

    Parameters
    ----------
    stored
        Bytes per pixel that the decoder holds besides the RGB pixels.
    """
    if width * height * (stored + 3) > MAX_PIXELS * 3:
        most = MAX_PIXELS * 3 / (stored + 3)
        raise SlideUnsupportedError(
            f"{width} x {height} px {kind}: the limit for such images is {most / 1e6:.0f} megapixels, convert it to a "
            "tiled pyramidal TIFF"
        )


IMAGE = Reader((".png", ".jpg", ".jpeg", ".bmp", ".webp"), lambda path: True, read_image, images=True)
