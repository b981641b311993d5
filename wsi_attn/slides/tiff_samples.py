"""Conversion of TIFF samples to RGB: PhotometricInterpretation, ExtraSamples and related tags.

All TIFF readers use this module, so that strips and tiles of one kind give the same pixels. JPEG streams are converted
by their decoder (`wsi_attn.slide.encoding`); this module only removes their transparency.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_attn.errors import SlideUnsupportedError
from wsi_attn.slide import BACKGROUND, UInt8Array
from wsi_attn.slide.encoding import JPEG, TileEncoding
from wsi_attn.slide.jpeg_decoding import JpegCompletion, prove_jpeg
from wsi_attn.slides.tiff_places import proven_lengths, refuse_all_missing
from wsi_attn.threads import thread_limit

Decode = Callable[[bytes, int], UInt8Array]
"""Decodes the bytes and index of a strip or tile to pixels, uint8 (height, width, 3)."""

DecodePlanes = Callable[[Sequence[bytes], int], UInt8Array]
"""Decodes the bytes of each plane of a tile, and its index in the first plane, to pixels."""

Page: TypeAlias = tifffile.TiffPage | tifffile.TiffFrame
"""A page of a TIFF; its `keyframe` has the tags."""

GREY = ("MINISBLACK", "MINISWHITE")
COLOURS = ("RGB", "YCBCR", *GREY, "PALETTE")
"""Supported values of PhotometricInterpretation; others need a colour profile."""

JPEG_COMPRESSION, OLD_JPEG = 7, 6
"""Decoders disagree about the colours of JPEG as it was before TIFF Technical Note 2."""

UNCOMPRESSED = 1
LOSSLESS = frozenset({UNCOMPRESSED, 5, 8, 32946, 32773, 34925, 50000})
"""Compressions whose data have the length of the samples: LZW, deflate, PackBits, LZMA and Zstandard."""

MAX_PADDING = 4
"""Some writers align the data of strips and tiles to fewer bytes than this."""

ASSOCIATED, UNASSOCIATED = 1, 2
"""Values of ExtraSamples that mean transparency; 0 is unspecified and ignored."""

YCBCR_COEFFICIENTS, YCBCR_SUBSAMPLING, REFERENCE_BLACK_WHITE, COLOR_MAP, ORIENTATION = 529, 530, 532, 320, 274
ICC_PROFILE = 34675
LUMA = (0.299, 0.587, 0.114)
"""Default YCbCrCoefficients: ITU-R BT.601, as in JPEG."""

FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
"""Default ReferenceBlackWhite: no headroom and no footroom, as in JPEG and libtiff."""

JPEG_COLOURS = {("YCBCR", 3): "YCBCR", ("RGB", 3): "RGB", ("MINISBLACK", 1): "GRAYSCALE"}
"""Colour space of JPEG streams by PhotometricInterpretation and number of samples, if they do not state it."""

DECODED_AS_RGB = frozenset({6, 7, 34892, 33007, 33003, 33004, 33005, 34712, 22610, 34934, 50001, 50002, 52546, 34933})
"""Compressions whose decoders return RGB regardless of the tag."""


def key_of(page: Page) -> tifffile.TiffPage:
    """Return the page whose tags describe a page, itself or the first of its series."""
    if page.keyframe is None:
        raise SlideUnsupportedError("tifffile: a page without tags")
    return page.keyframe


def tag_name(value: object) -> str:
    """Return the name of a TIFF tag value; the number if tifffile has no name for it."""
    return str(getattr(value, "name", value))


def orientation_of(page: Page) -> int:
    """Return the value of the orientation tag; 1 if it is missing or invalid."""
    value = key_of(page).tags.valueof(ORIENTATION)
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def profile_of(page: Page) -> bytes | None:
    """Return the ICC profile of a page, unchecked; None if it has none."""
    value = key_of(page).tags.valueof(ICC_PROFILE)
    return bytes(value) if value else None


def refuse_colours(page: tifffile.TiffPage) -> None:
    """Refuse colours that cannot be converted to RGB without a colour profile.

    Raises
    ------
    SlideUnsupportedError : unsupported colours; the message states how to convert them.
    """
    colours = tag_name(page.photometric)
    if colours == "MINISWHITE" and page.samplesperpixel - len(page.extrasamples) > 1:
        raise SlideUnsupportedError(
            f"its tag states inverted grey ({colours}), but pixels have {page.samplesperpixel} samples: the tag is "
            "damaged, copy or convert it again"
        )
    if colours not in COLOURS:
        raise SlideUnsupportedError(
            f"{colours} colours: only RGB, YCbCr, grey and palette are supported, convert it to RGB"
        )


def is_transparent_grey(page: tifffile.TiffPage) -> bool:
    """Return whether two samples per pixel are grey and opacity; otherwise they are channels."""
    extra = [int(value) for value in page.extrasamples]
    return tag_name(page.photometric) in GREY and extra in ([ASSOCIATED], [UNASSOCIATED])


def over_background(pixels: UInt8Array, alpha: UInt8Array, *, associated: bool) -> UInt8Array:
    """Composite over `BACKGROUND`.

    Parameters
    ----------
    pixels
        uint8 (height, width, 3).
    alpha
        uint8 (height, width); 255 is opaque.
    associated
        Whether the pixels are already multiplied by alpha.
    """
    if (alpha == 255).all():
        return pixels
    opacity = alpha[..., None].astype(np.uint16)
    colour = pixels if associated else (pixels * opacity + 127) // 255
    glass = (BACKGROUND * (255 - opacity) + 127) // 255
    return np.asarray(np.minimum(colour + glass, 255), np.uint8)


@dataclass(frozen=True)
class YCbCr:
    """Conversion to RGB as TIFF 6.0 defines it: YCbCrCoefficients and ReferenceBlackWhite."""

    coefficients: tuple[float, ...] = LUMA
    reference: tuple[float, ...] = FULL_RANGE

    @classmethod
    def of(cls, page: tifffile.TiffPage) -> YCbCr:
        """Read the tags of a page; missing or invalid tags take defaults."""
        coefficients = _rationals(page, YCBCR_COEFFICIENTS, 3)
        reference = _rationals(page, REFERENCE_BLACK_WHITE, 6)
        usable = coefficients is not None and coefficients[1] > 0
        plausible = reference is not None and all(reference[at] != reference[at + 1] for at in (0, 2, 4))
        return cls(
            coefficients if usable and coefficients else LUMA, reference if plausible and reference else FULL_RANGE
        )

    def rgb(self, samples: UInt8Array) -> UInt8Array:
        """Convert uint8 (..., 3) samples Y, Cb, Cr to RGB."""
        red, green, blue = self.coefficients
        y_black, y_white, cb_black, cb_white, cr_black, cr_white = self.reference
        codes = np.arange(256, dtype=np.float32)
        luma = ((codes - y_black) * 255 / (y_white - y_black))[samples[..., 0]]
        cb = ((codes - cb_black) * 127 / (cb_white - cb_black))[samples[..., 1]]
        cr = ((codes - cr_black) * 127 / (cr_white - cr_black))[samples[..., 2]]
        found = np.empty((*samples.shape[:-1], 3), np.float32)
        found[..., 0] = luma + cr * (2 - 2 * red)
        found[..., 2] = luma + cb * (2 - 2 * blue)
        found[..., 1] = (luma - blue * found[..., 2] - red * found[..., 0]) / green
        return np.clip(found + 0.5, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Photometry:
    """Interpretation of the decoded samples of a page.

    `alpha` is the value of ExtraSamples for transparency, 0 for none; `palette` is uint8 (colours, 3).
    """

    colours: str
    alpha: int = 0
    palette: UInt8Array | None = None
    ycbcr: YCbCr | None = None

    @classmethod
    def of(cls, page: tifffile.TiffPage) -> Photometry:
        """Read the tags of a page; raises like `refuse_colours`."""
        refuse_colours(page)
        colours = tag_name(page.photometric)
        extra = [int(value) for value in page.extrasamples]
        alpha = extra[0] if extra and extra[0] in (ASSOCIATED, UNASSOCIATED) else 0
        if colours == "YCBCR" and int(page.compression) in DECODED_AS_RGB:
            colours = "RGB"
        if colours == "PALETTE":
            table = np.asarray(page.tags.valueof(COLOR_MAP, ()), np.uint16).reshape(3, -1)
            if table.shape[1] < 2 ** min(page.bitspersample, 8):
                raise SlideUnsupportedError("its palette is incomplete: convert it to RGB")
            return cls(colours, palette=np.ascontiguousarray((table.T >> 8).astype(np.uint8)))
        return cls(colours, alpha, ycbcr=YCbCr.of(page) if colours == "YCBCR" else None)

    def rgb(self, samples: UInt8Array | NDArray[np.bool_]) -> UInt8Array:
        """Convert samples to RGB over the background.

        Parameters
        ----------
        samples
            uint8 or bool (height, width) or (height, width, samples).

        Returns
        -------
        uint8 (height, width, 3).
        """
        if self.palette is not None:
            return np.ascontiguousarray(self.palette[samples.reshape(samples.shape[:2]).astype(np.uint8)])
        values = np.asarray(samples, np.uint8)
        if samples.dtype == np.bool_:
            values = values * np.uint8(255)
        if values.ndim == 2:
            values = values[..., None]
        count = 3 if values.shape[-1] >= 3 else 1
        pixels = values[..., :count]
        if self.ycbcr is not None:
            pixels = self.ycbcr.rgb(pixels)
        if self.colours == "MINISWHITE":
            pixels = 255 - pixels
        if count == 1:
            pixels = np.repeat(pixels, 3, axis=-1)
        if self.alpha and values.shape[-1] == count + 1:
            pixels = over_background(pixels, values[..., count], associated=self.alpha == ASSOCIATED)
        return np.ascontiguousarray(pixels)


def segment_size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return the width and height of the strips or tiles of a page (tifffile keyframe)."""
    if page.is_tiled:
        return int(page.tilewidth), int(page.tilelength)
    return int(page.imagewidth), min(int(page.rowsperstrip), int(page.imagelength))


def segment_decoder(page: tifffile.TiffPage) -> Decode | None:
    """Return the decoder of strips or tiles of a page (tifffile keyframe) to RGB; None if unsupported.

    Colours that cannot be converted raise `SlideUnsupportedError` when they are decoded.
    """
    if page.compression not in tifffile.TIFF.DECOMPRESSORS or page.bitspersample not in (1, 8):
        return None
    if int(page.compression) == OLD_JPEG:
        return None
    tables = page.jpegtables
    colorspace = JPEG_COLOURS.get((tag_name(page.photometric), page.samplesperpixel))
    if int(page.compression) == JPEG_COMPRESSION and colorspace is not None:
        encoding = TileEncoding(JPEG, colorspace, tables)
        return lambda data, _index: encoding.of_stream(data).decode(data)
    try:
        photometry = Photometry.of(page)
    except SlideUnsupportedError:
        return None
    if photometry.ycbcr is not None and _subsampling(page) != (1, 1):
        return _subsampled_decoder(page, photometry)
    if (exact := _exact_decoder(page, page.samplesperpixel)) is not None:
        return lambda data, index: photometry.rgb(exact(data, index))
    decode = page.decode  # Reads the file on first access, so fetch it now.
    options = {"jpegtables": tables} if tables else {}
    completion = JpegCompletion(None, tables) if int(page.compression) == JPEG_COMPRESSION else None

    def pixels(data: bytes, index: int) -> UInt8Array:
        if completion is not None:
            prove_jpeg(completion.complete(data))
        return photometry.rgb(np.asarray(decode(data, index, **options)[0])[0])  # (1, height, width, samples)

    return pixels


def planes_decoder(page: tifffile.TiffPage) -> DecodePlanes | None:
    """Like `segment_decoder`, for pages whose samples are stored in separate planes."""
    if page.compression not in tifffile.TIFF.DECOMPRESSORS or page.bitspersample != 8:
        return None
    if (photometry := _full_photometry(page)) is None:
        return None
    decode, tiles = page.decode, len(page.dataoffsets) // page.samplesperpixel
    grey = TileEncoding(JPEG, "GRAYSCALE", page.jpegtables) if int(page.compression) == JPEG_COMPRESSION else None

    exact = _exact_decoder(page, 1)

    def plane(data: bytes, index: int) -> UInt8Array:
        if exact is not None:
            return exact(data, index % tiles)[..., 0]
        if grey is not None:  # tifffile's decoder ignores warnings
            return grey.decode(data)[:, :, 0]
        return np.asarray(decode(data, index)[0])[0, :, :, 0]

    def pixels(planes: Sequence[bytes], index: int) -> UInt8Array:
        found = [plane(data, number * tiles + index) for number, data in enumerate(planes)]
        return photometry.rgb(np.stack(found, axis=-1))

    return pixels


def raw_samples(page: tifffile.TiffPage) -> Photometry | None:
    """Return the layout of a tile whose bytes are uncompressed samples; otherwise None."""
    plain = int(page.compression) == UNCOMPRESSED and int(page.predictor) == 1 and int(page.fillorder) == 1
    if not plain or page.bitspersample != 8 or int(page.planarconfig) != 1:
        return None
    return _full_photometry(page)


def _full_photometry(page: tifffile.TiffPage) -> Photometry | None:
    """Return the interpretation of samples; None if it is unsupported, or if there are fewer of chroma."""
    try:
        photometry = Photometry.of(page)
    except SlideUnsupportedError:
        return None
    return None if photometry.ycbcr is not None and _subsampling(page) != (1, 1) else photometry


def page_pixels(page: tifffile.TiffPage) -> UInt8Array:
    """Read all pixels of one page (tifffile keyframe); its file must be open. Missing strips or tiles are background.

    Raises
    ------
    SlideUnsupportedError : unsupported colours or compression.
    ValueError : a strip or tile is damaged.
    """
    planes = 1 if int(page.planarconfig) == 1 else int(page.samplesperpixel)
    decode, decode_planes = (segment_decoder(page), None) if planes == 1 else (None, planes_decoder(page))
    if decode is None and decode_planes is None:
        refuse_colours(page)
        raise SlideUnsupportedError(
            f"its pixels are compressed as {tag_name(page.compression)}, which is not supported"
        )
    width, height = segment_size(page)
    across = -(-page.imagewidth // width)
    pixels = np.full((page.imagelength, page.imagewidth, 3), BACKGROUND, np.uint8)
    offsets, lengths = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
    lengths = proven_lengths(offsets, lengths, packed=int(page.compression) != UNCOMPRESSED)
    refuse_all_missing(Path(page.parent.filehandle.path), lengths)
    offsets, lengths = offsets.reshape(planes, -1), lengths.reshape(planes, -1)
    file, lock = page.parent.filehandle, threading.Lock()

    def stored(plane: int, index: int) -> bytes:
        with lock:
            file.seek(int(offsets[plane, index]))
            return bytes(file.read(int(lengths[plane, index])))

    def place(index: int) -> None:
        if not lengths[:, index].any():
            return
        data = [stored(plane, index) for plane in range(planes)]
        part = decode(data[0], index) if decode is not None else decode_planes(data, index) if decode_planes else None
        y, x = index // across * height, index % across * width
        target = pixels[y : y + height, x : x + width]
        if part is None or part.shape[0] < target.shape[0] or part.shape[1] != width:
            raise ValueError(f"strip or tile {index} is not {width} x {target.shape[0]} px")
        target[:] = part[: target.shape[0], : target.shape[1]]

    with ThreadPoolExecutor(thread_limit()) as pool:
        for _ in pool.map(place, range(lengths.shape[1])):
            pass
    return pixels


def _exact_decoder(page: tifffile.TiffPage, samples: int) -> Decode | None:
    """Return the decoder of lossless 8-bit strips or tiles to uint8 (height, width, samples); None for others.

    Raises on data of another length, which other decoders pad or cut: the size or the number of samples is damaged.
    """
    compression, predictor = int(page.compression), int(page.predictor)
    plain = page.bitspersample == 8 and int(page.fillorder) == 1 and predictor in (1, 2)
    if not plain or compression not in LOSSLESS or (compression == UNCOMPRESSED and predictor != 1):
        return None
    decompress = tifffile.TIFF.DECOMPRESSORS[page.compression]
    unpredict = tifffile.TIFF.UNPREDICTORS[predictor] if predictor != 1 else None
    width, height = segment_size(page)

    def pixels(data: bytes, index: int) -> UInt8Array:
        rows = height if page.is_tiled else min(height, page.imagelength - index * height)
        needed, whole = rows * width * samples, height * width * samples  # some writers fill up the last strip
        values = data if compression == UNCOMPRESSED else decompress(data, out=whole + MAX_PADDING)
        if not any(0 <= len(values) - length < MAX_PADDING for length in (needed, whole)):
            raise ValueError(f"{len(values)} bytes of samples, not {needed}: {rows} x {width} px of {samples}")
        found = np.frombuffer(values, np.uint8, needed).reshape(rows, width, samples)
        return found if unpredict is None else np.asarray(unpredict(found, axis=-2))

    return pixels


def _subsampling(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return the chroma subsampling in columns and rows; 2, 2 if the file does not state it."""
    value = page.tags.valueof(YCBCR_SUBSAMPLING)
    return (int(value[0]), int(value[1])) if isinstance(value, tuple) and len(value) == 2 else (2, 2)


def _subsampled_decoder(page: tifffile.TiffPage, photometry: Photometry) -> Decode | None:
    """Decode data units of several Y samples, one Cb and one Cr; chroma is repeated as in libtiff."""
    across, down = _subsampling(page)
    simple = page.samplesperpixel == 3 and page.predictor == 1 and page.fillorder == 1 and page.bitspersample == 8
    if not simple or int(page.planarconfig) != 1 or across not in (1, 2, 4) or down not in (1, 2, 4):
        return None
    decompress = tifffile.TIFF.DECOMPRESSORS[page.compression]
    width, height = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)

    def pixels(data: bytes, index: int) -> UInt8Array:
        rows = height if page.is_tiled else min(height, page.imagelength - index * height)
        units = -(-rows // down), -(-width // across)
        values = data if int(page.compression) == UNCOMPRESSED else decompress(data)
        if not 0 <= len(values) - units[0] * units[1] * (across * down + 2) < MAX_PADDING:
            raise ValueError(f"{len(values)} bytes of samples do not fit {rows} x {width} px")
        flat = np.frombuffer(values, np.uint8, units[0] * units[1] * (across * down + 2))
        unit = flat.reshape(*units, across * down + 2)
        luma = unit[..., :-2].reshape(*units, down, across).transpose(0, 2, 1, 3)
        samples = np.empty((units[0] * down, units[1] * across, 3), np.uint8)
        samples[..., 0] = luma.reshape(samples.shape[:2])
        samples[..., 1:] = unit[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
        return photometry.rgb(samples[:rows, :width])

    return pixels


def _rationals(page: tifffile.TiffPage, tag: int, count: int) -> tuple[float, ...] | None:
    value = page.tags.valueof(tag)
    if not isinstance(value, tuple):
        return None
    if len(value) == 2 * count:
        pairs = zip(value[::2], value[1::2], strict=True)
        return None if any(not below for below in value[1::2]) else tuple(above / below for above, below in pairs)
    return tuple(map(float, value)) if len(value) == count else None
