"""How colours are decided: JPEG streams against tags, YCbCr without JPEG, transparency, orientation, small tiles."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from tests import tiff_files
from tests.cli.runner import wsi_attn
from wsi_attn.errors import NotEncodedError, SlideUnsupportedError
from wsi_attn.slide.encoding import JPEG, TileEncoding
from wsi_attn.slide.jpeg_stream import colorspace_of, has_frame
from wsi_attn.slides.open import open_slide
from wsi_attn.slides.orientation import TURNS

HERE = Path(__file__).parents[2]
PIXELS = tifffile.imread(HERE / "data" / "cmu1_small_region.svs", key=0)[900:1412, 700:1084]
"""Real tissue, 384 x 512 px: whole tiles of 128."""

HALF = np.ascontiguousarray(PIXELS.reshape(256, 2, 192, 2, 3).mean((1, 3)).astype(np.uint8))
ORIENTATION, SUBSAMPLING, REFERENCE = 274, 530, 532


def stream_of(tile: np.ndarray, kind: str, subsampling: str = "444") -> bytes:
    """One JPEG stream: `jfif`, `adobe-rgb`, `adobe-ycbcr`, `letters` (R, G, B), `numbers` (1, 2, 3) or `bare` RGB.

    `bare` and `bare-ycbcr` have component numbers 0, 1, 2 and no marker.
    """
    ycbcr = kind in ("jfif", "adobe-ycbcr", "numbers", "bare-ycbcr")
    whole = imagecodecs.jpeg8_encode(
        np.ascontiguousarray(tile),
        level=92,
        colorspace="RGB",
        outcolorspace="YCBCR" if ycbcr else "RGB",
        subsampling=subsampling,
    )
    if kind == "jfif":
        return whole
    numbers = {"letters": b"RGB", "numbers": b"\1\2\3"}.get(kind, b"\0\1\2")
    head = tiff_files.SOI
    if kind.startswith("adobe"):
        head += struct.pack(">BBH5sHHHB", 0xFF, 0xEE, 14, b"Adobe", 100, 0, 0, int(ycbcr))
    parts = [
        renumbered(marker, part, numbers)
        for marker, part in tiff_files.parts_of(whole)
        if marker not in (tiff_files.APP0, tiff_files.APP14)
    ]
    return head + b"".join(parts)


def renumbered(marker: int, part: bytes, numbers: bytes) -> bytes:
    """A segment with other component numbers."""
    changed = bytearray(part)
    if marker == tiff_files.SOF0:
        changed[10], changed[13], changed[16] = numbers
    if marker == tiff_files.SOS:
        changed[5], changed[7], changed[9] = numbers
    return bytes(changed)


STATED = {
    "jfif": "YCBCR",
    "adobe-rgb": "RGB",
    "adobe-ycbcr": "YCBCR",
    "letters": "RGB",
    "numbers": "YCBCR",
    "bare": None,
    "bare-ycbcr": None,
}


@pytest.mark.parametrize("kind", STATED)
def test_what_a_stream_states(kind: str) -> None:
    stream = stream_of(PIXELS[:128, :128], kind)
    assert colorspace_of(stream) == STATED[kind]
    assert colorspace_of(memoryview(stream)) == STATED[kind]
    assert has_frame(stream)
    for end in range(0, 700, 7):
        assert colorspace_of(stream[:end]) in (STATED[kind], None)
    encoding = TileEncoding(JPEG, "GRAYSCALE")
    assert encoding.of_stream(stream).colorspace == (STATED[kind] or "GRAYSCALE")


def test_grey_streams_and_subsampled_chroma_say_what_they_are() -> None:
    assert colorspace_of(imagecodecs.jpeg8_encode(np.ascontiguousarray(PIXELS[..., 0]))) == "GRAYSCALE"
    assert colorspace_of(stream_of(PIXELS[:128, :128], "bare-ycbcr", "420")) == "YCBCR"
    assert colorspace_of(b"") is colorspace_of(b"\xff\xd8\xff") is colorspace_of(b"no JPEG") is None
    assert colorspace_of(b"\xff\xd8\xff" + stream_of(PIXELS[:128, :128], "letters")[2:]) == "RGB"  # a fill byte


def jpeg_tiff(
    path: Path, levels: list[list[bytes]], tag: int, description: bytes | None = None, tile: int = 128
) -> Path:
    """A pyramid of complete JPEG streams under any photometric tag."""
    places = []
    with tifffile.TiffWriter(path) as writer:
        for index, streams in enumerate(levels):
            shape = (PIXELS.shape[0] >> index, PIXELS.shape[1] >> index, 3)
            options = {"description": description} if description and not index else {}
            writer.write(
                iter(streams),
                shape=shape,
                dtype="uint8",
                photometric="ycbcr",
                subsampling=(1, 1),
                tile=(tile, tile),
                compression="jpeg",
                metadata=None,
                subfiletype=min(index, 1),
                **options,
            )
    with tifffile.TiffFile(path) as tiff:
        places = [page.tags[262].valueoffset for page in tiff.pages]
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(struct.pack("<H", tag))
    return path


def tiles_of(pixels: np.ndarray) -> list[np.ndarray]:
    return list(tiff_files.tiles_of(pixels, (128, 128)))


def error_of(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found.astype(int) - wanted).mean())


def whole(path: Path, level: int = 0) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read_region((0, 0), level, slide.info.levels[level].size)


@pytest.mark.parametrize("tag", [2, 6])
@pytest.mark.parametrize("kind", [kind for kind, stated in STATED.items() if stated])
@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".svs"])
def test_stream_decides_against_the_tag(kind: str, tag: int, suffix: str, tmp_path: Path) -> None:
    levels = [[stream_of(tile, kind) for tile in tiles_of(level)] for level in (PIXELS, HALF)]
    said = {".svs": (tiff_files.APERIO + "x|MPP = 0.5").encode(), ".ome.tif": OME}.get(suffix)
    path = jpeg_tiff(tmp_path / f"a{suffix}", levels, tag, said)
    with open_slide(path) as slide:
        assert slide.info.reader == "tifffile"
        for index, level in enumerate((PIXELS, HALF)):
            assert error_of(slide.read_region((0, 0), index, level.shape[1::-1]), level) < 4
            assert slide.encoded_tiles(index).encoding.colorspace == STATED[kind]
            wanted = decoded(levels[index][0], STATED[kind])
            assert np.array_equal(slide.read_region((0, 0), index, (128, 128)), wanted)


OME = (
    b'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    b'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="384" SizeY="512" SizeC="3" SizeZ="1" SizeT="1">'
    b'<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
)


def decoded(stream: bytes, colorspace: str | None) -> np.ndarray:
    return imagecodecs.jpeg8_decode(stream, colorspace=colorspace, outcolorspace="RGB")


@pytest.mark.parametrize(("tag", "kind"), [(2, "bare"), (6, "bare-ycbcr")])
def test_tag_decides_where_the_stream_says_nothing(tag: int, kind: str, tmp_path: Path) -> None:
    """Aperio's streams have component numbers 0, 1, 2 and no marker."""
    path = jpeg_tiff(tmp_path / "a.tif", [[stream_of(tile, kind) for tile in tiles_of(PIXELS)]], tag)
    assert error_of(whole(path), PIXELS) < 4


@pytest.mark.parametrize("kinds", [("jfif", "letters"), ("bare", "jfif"), ("adobe-rgb", "adobe-ycbcr", "bare")])
def test_tiles_of_one_level_that_differ(kinds: tuple[str, ...], tmp_path: Path) -> None:
    streams = [stream_of(tile, kinds[index % len(kinds)]) for index, tile in enumerate(tiles_of(PIXELS))]
    path = jpeg_tiff(tmp_path / "a.tif", [streams], 2)
    assert error_of(whole(path), PIXELS) < 4
    with open_slide(path) as slide, pytest.raises(NotEncodedError, match="different colour spaces"):
        slide.encoded_tiles(0)


def test_jpeg_strips_are_read_as_tiles_are(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    streams = [stream_of(PIXELS[at : at + 128], "adobe-ycbcr") for at in range(0, 512, 128)]
    options = {"photometric": "ycbcr", "subsampling": (1, 1), "rowsperstrip": 128, "compression": "jpeg"}
    tifffile.imwrite(path, iter(streams), shape=PIXELS.shape, dtype="uint8", metadata=None, **options)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].tags[262].valueoffset
    data = bytearray(path.read_bytes())
    data[place : place + 2] = b"\2\0"
    path.write_bytes(data)
    assert error_of(whole(path), PIXELS) < 4


def write_tiff(path: Path, tags: dict[int, tuple[str, tuple[float, ...]]], segments: list[bytes], tiled: bool) -> Path:
    """A little-endian TIFF of one page from its tags; what tifffile does not write."""
    places, counts = (324, 325) if tiled else (273, 279)
    tags = {**tags, places: ("I", (0,) * len(segments)), counts: ("I", tuple(map(len, segments)))}
    sizes = {"H": 2, "I": 4, "R": 8}
    end = 8 + 2 + 12 * len(tags) + 4
    at = end + sum(sizes[kind] * len(values) for kind, values in tags.values())
    offsets = []
    for segment in segments:
        offsets.append(at)
        at += len(segment)
    tags[places] = ("I", tuple(offsets))
    entries, extra = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        if kind == "R":
            data = b"".join(struct.pack("<II", round(value * 10000), 10000) for value in values)
        else:
            data = struct.pack(f"<{len(values)}{kind}", *map(int, values))
        entries += struct.pack("<HHI", tag, {"H": 3, "I": 4, "R": 5}[kind], len(values))
        entries += data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", end + len(extra))
        extra += data if len(data) > 4 else b""
    extra = extra.ljust(offsets[0] - end, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + extra + b"".join(segments))
    return path


def units_of(samples: np.ndarray, across: int, down: int) -> bytes:
    """Y, Cb, Cr interleaved as TIFF stores them with subsampled chroma."""
    rows, columns = samples.shape[:2]
    padded = np.pad(samples, ((0, -rows % down), (0, -columns % across), (0, 0)), mode="edge")
    high, wide = padded.shape[0] // down, padded.shape[1] // across
    blocks = padded.reshape(high, down, wide, across, 3).transpose(0, 2, 1, 3, 4)
    luma = blocks[..., 0].reshape(high, wide, down * across)
    chroma = blocks[..., 1:].reshape(high, wide, down * across, 2).mean(2).round().astype(np.uint8)
    return np.concatenate([luma, chroma], axis=-1).tobytes()


PACK: dict[int, Callable[[bytes], bytes]] = {1: bytes, 5: imagecodecs.lzw_encode, 8: imagecodecs.deflate_encode}


def ycbcr_tiff(
    path: Path,
    across: int,
    down: int,
    compression: int = 1,
    tiled: bool = False,
    samples: np.ndarray | None = None,
    **more: tuple[str, tuple[float, ...]],
) -> Path:
    """YCbCr without JPEG, of 250 x 200 px."""
    image = np.asarray(Image.fromarray(PIXELS[:200, :250]).convert("YCbCr")) if samples is None else samples
    parts = list(tiff_files.tiles_of(image, (128, 128))) if tiled else [image[at : at + 48] for at in range(0, 200, 48)]
    shape = {322: ("I", (128,)), 323: ("I", (128,))} if tiled else {278: ("I", (48,))}
    tags = {
        256: ("I", (250,)),
        257: ("I", (200,)),
        258: ("H", (8, 8, 8)),
        259: ("H", (compression,)),
        262: ("H", (6,)),
        277: ("H", (3,)),
        284: ("H", (1,)),
        SUBSAMPLING: ("H", (across, down)),
        **shape,
        **{int(tag[1:]): value for tag, value in more.items()},
    }
    return write_tiff(path, tags, [PACK[compression](units_of(part, across, down)) for part in parts], tiled)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("sampling", [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_ycbcr_without_jpeg(sampling: tuple[int, int], compression: int, tiled: bool, tmp_path: Path) -> None:
    path = ycbcr_tiff(tmp_path / "a.tif", *sampling, compression, tiled)
    found = whole(path)
    assert error_of(found, PIXELS[:200, :250]) < (1 if sampling == (1, 1) else 5)
    if compression != 1 or sampling == (1, 1):  # Pillow's raw decoder knows no subsampling
        with Image.open(path) as image:
            assert np.abs(found.astype(int) - np.asarray(image.convert("RGB"))).max() <= 3


def test_ycbcr_coefficients_and_reference_levels(tmp_path: Path) -> None:
    """ITU-R BT.709 in the studio range, 16 to 235 and 16 to 240."""
    red, green, blue = 0.2126, 0.7152, 0.0722
    rgb = PIXELS[:200, :250].astype(float)
    luma = rgb @ np.array([red, green, blue])
    chroma = [(rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)]
    samples = np.stack([16 + luma * 219 / 255, *(128 + part * 112 / 127 for part in chroma)], axis=-1)
    reference = ("R", (16.0, 235.0, 128.0, 240.0, 128.0, 240.0))
    tags = {"t529": ("R", (red, green, blue)), f"t{REFERENCE}": reference}
    for tiled in (False, True):
        path = ycbcr_tiff(tmp_path / "a.tif", 1, 1, tiled=tiled, samples=samples.round().astype(np.uint8), **tags)
        found = whole(path)
        assert error_of(found, PIXELS[:200, :250]) < 2
        with Image.open(path) as image:
            assert image.size == (250, 200)


def opacity(side: int = 256) -> np.ndarray:
    rows, columns = np.mgrid[-side // 2 : side // 2, -side // 2 : side // 2]
    return np.clip(255 - (np.hypot(rows, columns) - 30) * 2, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 32}, {"tile": (64, 64)}])
@pytest.mark.parametrize("compression", [None, "deflate", "lzw"])
@pytest.mark.parametrize("kind", ["ASSOCALPHA", "UNASSALPHA", "UNSPECIFIED"])
def test_transparency(kind: str, compression: str | None, layout: dict[str, object], tmp_path: Path) -> None:
    alpha, path = opacity(), tmp_path / "a.tif"
    share, tissue = alpha[..., None] / 255, PIXELS[:256, :256]
    stored = (tissue * share).round().astype(np.uint8) if kind == "ASSOCALPHA" else tissue
    options = {"photometric": "rgb", "extrasamples": [kind], "compression": compression, "metadata": None, **layout}
    tifffile.imwrite(path, np.dstack([stored, alpha]), **options)
    over_white = tissue * share + 255 * (1 - share)
    assert np.abs(whole(path) - (tissue if kind == "UNSPECIFIED" else over_white)).max() <= 1


@pytest.mark.parametrize("layout", [{}, {"tile": (48, 48)}])
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("kind", [None, "ASSOCALPHA", "UNASSALPHA", "UNSPECIFIED"])
def test_samples_that_are_stored_apart(
    kind: str | None, compression: str | None, layout: dict[str, object], tmp_path: Path
) -> None:
    tissue, path, share = PIXELS[:256, :256], tmp_path / "a.tif", opacity()[..., None] / 255
    stored = (tissue * share).round().astype(np.uint8) if kind == "ASSOCALPHA" else tissue
    planes = np.moveaxis(np.dstack([stored, opacity()]) if kind else stored, -1, 0)
    options = {"photometric": "rgb", "planarconfig": "separate", "compression": compression, "metadata": None}
    options |= {"extrasamples": [kind]} if kind else {}
    tifffile.imwrite(path, np.ascontiguousarray(planes), **options, **layout)
    over_white = tissue * share + 255 * (1 - share)
    wanted = tissue if kind in (None, "UNSPECIFIED") else over_white
    assert np.abs(whole(path) - wanted).max() <= 1
    with open_slide(path) as slide:
        part = slide.read_region((50, 30), 0, (100, 120))
    assert np.abs(part - wanted[30:150, 50:150]).max() <= 1


@pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}])
def test_grey_with_opacity_is_no_pair_of_channels(layout: dict[str, object], tmp_path: Path) -> None:
    grey, share = PIXELS[:256, :256, 0], opacity() / 255
    pair = np.dstack([grey, opacity()])
    options = {"photometric": "minisblack", "planarconfig": "contig", **layout}
    tifffile.imwrite(tmp_path / "a.tif", pair, extrasamples=["UNASSALPHA"], **options)
    wanted = grey * share + 255 * (1 - share)
    assert np.abs(whole(tmp_path / "a.tif") - wanted[..., None]).max() <= 1
    tifffile.imwrite(tmp_path / "b.tif", pair, extrasamples=["UNSPECIFIED"], **options)
    with pytest.raises(SlideUnsupportedError, match="2 samples a pixel"):
        open_slide(tmp_path / "b.tif")


def test_transparency_of_sixteen_bits_is_refused(tmp_path: Path) -> None:
    for layout in ({}, {"tile": (64, 64)}):
        pixels = np.zeros((128, 128, 4), np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["ASSOCALPHA"], **layout)
        with pytest.raises(SlideUnsupportedError, match="16 bits"):
            open_slide(tmp_path / "a.tif")


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The stored picture upright, by the words of TIFF 6.0: where row 0 and column 0 are."""
    return {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: np.rot90(a, 2),
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation](pixels)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("layout", ["strips", "deflate", "jpeg", "planes"])
def test_orientation_turns_the_whole_page(orientation: int, layout: str, tmp_path: Path) -> None:
    path, upright = tmp_path / "a.tif", tmp_path / "upright.tif"
    levels = [PIXELS[:500, :370], HALF[:250, :185]]
    options: dict[str, object] = {"photometric": "rgb", "metadata": None, "resolution": (20000, 10000)}
    options |= {"resolutionunit": "CENTIMETER"}
    options |= {} if layout == "strips" else {"tile": (64, 64), "compression": "deflate"}
    if layout == "jpeg":
        options |= {"compression": "jpeg"}
    if layout in ("strips", "planes"):
        levels = levels[:1]
    for file, tag in ((path, orientation), (upright, 1)):
        with tifffile.TiffWriter(file) as writer:
            for index, level in enumerate(levels):
                pixels = np.ascontiguousarray(level)
                if layout == "planes":
                    pixels = np.ascontiguousarray(np.moveaxis(level, -1, 0))
                    options |= {"planarconfig": "separate"}
                tags = [(ORIENTATION, 3, 1, tag, True)]
                writer.write(pixels, extratags=tags, subfiletype=min(index, 1), **options)
    with open_slide(path) as slide, open_slide(upright) as stored:
        assert len(slide.info.levels) == (len(levels) if layout != "planes" or orientation == 1 else 1)
        for index, level in enumerate(slide.info.levels):
            wanted = turned(stored.read_region((0, 0), index, stored.info.levels[index].size), orientation)
            assert np.array_equal(slide.read_region((0, 0), index, level.size), wanted)
            padded = np.pad(wanted, ((40, 900), (40, 900), (0, 0)), constant_values=255)
            for x, y, width, height in ((-40, -30, 120, 90), (33, 77, 130, 61), (level.size.width - 20, 5, 70, 70)):
                corner0 = round(x * level.downsample_x), round(y * level.downsample_y)
                found = slide.read_region(corner0, index, (width, height))
                assert np.array_equal(found, padded[y + 40 :, x + 40 :][:height, :width])
        if orientation != 1:
            assert slide.info.properties["tiff.orientation"] == f"{orientation} (applied)"
            with pytest.raises(NotEncodedError):
                slide.encoded_tiles(0)
        if stored.info.mpp and slide.info.mpp:
            mpp = tuple(stored.info.mpp)
            assert slide.info.mpp == (mpp if orientation < 5 else mpp[::-1])


def test_levels_of_different_orientation_are_no_pyramid(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for index, level in enumerate((PIXELS, HALF)):
            tags = [(ORIENTATION, 3, 1, 3 - 2 * index, True)]
            options = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "subfiletype": index}
            writer.write(level, extratags=tags, compression="deflate", **options)
    with open_slide(path) as slide:  # as a plain image, of one level
        assert len(slide.info.levels) == 1
        assert np.array_equal(slide.read_region((0, 0), 0, slide.info.size0), np.rot90(PIXELS, 2))


def test_orientation_of_a_real_pyramid(collection: Callable[[str], Path]) -> None:
    """Two files that differ in the tag alone."""
    paths = [collection(f"slides/orientation{tag}.tif") for tag in (1, 3)]
    with open_slide(paths[0]) as plain, open_slide(paths[1]) as slide:
        for index, level in enumerate(plain.info.levels):
            wanted = np.rot90(plain.read_region((0, 0), index, level.size), 2)
            assert np.array_equal(slide.read_region((0, 0), index, level.size), wanted)


@pytest.mark.parametrize("side", [16, 48, 64, 240])
@pytest.mark.parametrize("samples", [1, 3])
def test_uncompressed_tiles_of_any_size(side: int, samples: int, tmp_path: Path) -> None:
    """OpenSlide 4.0.1 cannot read those whose bytes are no multiple of 1024."""
    pixels = PIXELS[:480, :] if samples == 3 else PIXELS[:480, :, 0]
    photometric = "rgb" if samples == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(side, side), photometric=photometric, metadata=None)
    wanted = pixels if samples == 3 else np.repeat(pixels[..., None], 3, axis=-1)
    with open_slide(tmp_path / "a.tif") as slide:
        assert np.array_equal(slide.read_region((0, 0), 0, slide.info.size0), wanted)
        assert np.array_equal(slide.read_region((35, 61), 0, (200, 130)), wanted[61:191, 35:235])
        assert (slide.read_region((300, 400), 0, (200, 130))[80:] == 255).all()


@pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}])
def test_white_is_zero_and_palettes(layout: dict[str, object], tmp_path: Path) -> None:
    grey, path = PIXELS[:256, :256, 0], tmp_path / "a.tif"
    for compression in (None, "deflate"):
        tifffile.imwrite(path, grey, photometric="miniswhite", metadata=None, compression=compression, **layout)
        assert np.array_equal(whole(path), np.repeat(255 - grey[..., None], 3, axis=-1))
        colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
        options = {"photometric": "palette", "colormap": colours * 257, "compression": compression}
        tifffile.imwrite(path, grey, metadata=None, **options, **layout)
        assert np.array_equal(whole(path), colours.T[grey].astype(np.uint8))


@pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}])
@pytest.mark.parametrize(("photometric", "samples"), [("separated", 4), ("cielab", 3)])
def test_colours_that_need_a_profile_are_refused(
    photometric: str, samples: int, layout: dict[str, object], tmp_path: Path
) -> None:
    pixels = np.zeros((128, 128, samples), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, metadata=None, **layout)
    with pytest.raises(SlideUnsupportedError, match=f"{photometric.upper()} colours"):
        open_slide(tmp_path / "a.tif")


def test_a_plain_jpeg_is_left_to_its_decoder(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", quality=95, subsampling=0)
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    assert error_of(whole(tmp_path / "a.jpg"), PIXELS) < 4


@pytest.mark.parametrize("kinds", [("letters", "jfif"), ("jfif", "adobe-rgb")])
def test_few_tiles_of_other_colours_are_compressed_again(kinds: tuple[str, str], tmp_path: Path) -> None:
    """Too few to be among those that are looked at before the copy."""
    parts = list(tiff_files.tiles_of(PIXELS, (64, 64)))
    streams = [stream_of(tile, kinds[index == 9]) for index, tile in enumerate(parts)]
    path = jpeg_tiff(tmp_path / "a.tif", [streams], 6, tile=64)
    with open_slide(path) as slide:
        wanted = slide.read_region((0, 0), 0, slide.info.size0)
        assert error_of(wanted, PIXELS) < 4
    made = wsi_attn("tile", path, "-o", tmp_path / "a.zarr", "--tile-size", "64", "--codec", "passthrough")
    assert "level 0: 1 of its tiles state different colours" in made.stderr
    found = np.moveaxis(np.asarray(zarr.open_group(tmp_path / "a.zarr", mode="r")["0"][:]), 0, -1)
    differs = np.abs(found.astype(int) - wanted)
    assert error_of(found, PIXELS) < 4
    assert set(zip(*(axis // 64 for axis in np.nonzero(differs.max(axis=-1))), strict=True)) <= {(1, 3)}


def test_a_store_of_contradicted_tags_is_right_for_plain_readers(tmp_path: Path) -> None:
    """The codec in the metadata of the store names the colours that the streams hold."""
    levels = [[stream_of(tile, "jfif") for tile in tiles_of(level)] for level in (PIXELS, HALF)]
    path = jpeg_tiff(tmp_path / "a.ome.tif", levels, 2, OME)
    wsi_attn("tile", path, "-o", tmp_path / "a.zarr", "--tile-size", "128", "--codec", "passthrough")
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert error_of(np.moveaxis(np.asarray(group["0"][:]), 0, -1), PIXELS) < 4
    chain = json.loads((tmp_path / "a.zarr" / "0" / "zarr.json").read_text())["codecs"][0]["configuration"]["codecs"]
    assert chain[-1]["configuration"]["colorspace_jpeg"] == "YCBCR"


def test_info_names_the_orientation(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "jpeg", "metadata": None}
    tifffile.imwrite(path, PIXELS, extratags=[(ORIENTATION, 3, 1, 6, True)], **options)
    said = wsi_attn("info", path).stdout
    assert "512 x 384 px" in said
    assert "tiff.orientation 6 (applied)" in said
    assert "orientation tag is 6" in said


def test_colour_streams_under_a_grey_tag(tmp_path: Path) -> None:
    """The streams state YCbCr; OpenSlide shows their first component as grey."""
    tissue, path = np.ascontiguousarray(PIXELS[:256, :256]), tmp_path / "a.tif"
    stream = io.BytesIO()
    Image.fromarray(tissue).save(stream, "JPEG", quality=95, subsampling="4:4:4")
    options = {"photometric": "minisblack", "planarconfig": "contig", "tile": (256, 256), "compression": "jpeg"}
    tifffile.imwrite(path, iter([stream.getvalue()]), shape=tissue.shape, dtype="uint8", metadata=None, **options)
    with Image.open(stream) as image:
        assert np.abs(whole(path) - np.asarray(image).astype(float)).max() <= 2
