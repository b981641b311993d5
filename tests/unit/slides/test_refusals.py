"""What is refused, in one line and with the right error; what is read although it is unusual."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_attn.errors import SlideError, SlideTruncatedError, SlideUnsupportedError
from wsi_attn.geometry import Mpp
from wsi_attn.slides import image_reader
from wsi_attn.slides.open import open_slide
from wsi_attn.slides.properties import pixel_size_from

RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
TILED = np.random.default_rng(1).integers(0, 256, (128, 192, 3), dtype=np.uint8)


def refusal(path: Path, kind: type[SlideError] = SlideUnsupportedError) -> str:
    with pytest.raises(kind) as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["slide.svs", "image.png", "image.tif", "slide.mrxs"])
def test_text_by_another_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("Dear all,\nthe slides are in the other folder.\n")
    assert "knows no such format" in refusal(tmp_path / name)


@pytest.mark.parametrize("kept", [4, 9, 1000, 400_000])
@pytest.mark.filterwarnings("ignore")
def test_cut_slide(kept: int, demo_slide: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.svs").write_bytes(demo_slide.read_bytes()[:kept])
    assert f"{kept} of at least" in refusal(tmp_path / "cut.svs", SlideTruncatedError)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_cut_image(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refusal(path, SlideTruncatedError if suffix == "tif" else SlideUnsupportedError)


@pytest.mark.parametrize("pixels", [RGB.astype(np.uint16) * 257, RGB[..., 0].astype(np.uint16) * 257])
def test_sixteen_bits_in_png(pixels: np.ndarray, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    assert "16" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("pixels", "photometric", "said"),
    [
        (TILED.astype(np.uint16) * 257, "rgb", "16 bits"),
        (TILED[..., 0].astype(np.uint16) * 257, "minisblack", "16 bits"),
        (TILED.astype(np.float32), "rgb", "32 bits"),
        (np.stack([TILED[..., 0]] * 5), "minisblack", "5x128x192"),
    ],
)
def test_tiled_tiff_is_refused_as_a_plain_one_is(
    pixels: np.ndarray, photometric: str, said: str, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), photometric=photometric)
    assert said in refusal(tmp_path / "a.tif")


def test_four_bits_a_sample(tmp_path: Path) -> None:
    """A 4 x 2 grey TIFF written by hand: no library at hand writes four bits."""
    tags = [(256, 4), (257, 2), (258, 4), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, 4)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<I", 12) + bytes([0x1F, 0x2E, 0x3D, 0x4C])
    (tmp_path / "a.tif").write_bytes(data + struct.pack("<H", len(tags)) + entries + bytes(4))
    assert "4 bits" in refusal(tmp_path / "a.tif")


def test_colours_that_are_not_rgb(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cmyk.tif", np.dstack([RGB, RGB[..., 0]]), photometric="separated")
    assert "SEPARATED" in refusal(tmp_path / "cmyk.tif")


def test_images_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_reader, "MAX_PIXELS", 2000)
    for name in ("a.png", "a.tif"):
        Image.fromarray(RGB).save(tmp_path / name)
        assert "60 x 40" in refusal(tmp_path / name)


@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_in_a_slides_headers_is_an_error_of_ours(demo_slide: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = demo_slide.read_bytes()
    for attempt in range(12):
        data = bytearray(whole)
        low, high = (0, 400) if attempt % 2 else (len(data) - 6000, len(data))
        for place in rng.integers(low, high, 3):
            data[place] = int(rng.integers(256))
        (tmp_path / "a.svs").write_bytes(data)
        with contextlib.suppress(SlideError), open_slide(tmp_path / "a.svs") as slide:
            assert slide.read_region((0, 0), 0, (64, 64)).shape == (64, 64, 3)


def test_jpeg_is_read_as_its_decoder_says(tmp_path: Path) -> None:
    smooth = cv2.resize(RGB, (240, 160), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    with open_slide(tmp_path / "a.jpg") as slide:
        found = slide.read_region((0, 0), 0, (240, 160))
    assert np.array_equal(found, np.asarray(Image.open(tmp_path / "a.jpg")))
    assert np.abs(found.astype(int) - smooth).mean() < 16  # chroma is stored at half the resolution


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_modes_that_become_rgb(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    with open_slide(path) as slide, Image.open(path) as stored:
        assert np.array_equal(slide.read_region((0, 0), 0, (60, 40)), np.asarray(stored.convert("RGB")))


def test_grey_and_black_and_white_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "grey.tif", RGB[..., 0], compression="packbits")
    tifffile.imwrite(tmp_path / "bits.tif", RGB[..., 0] > 127, photometric="minisblack")
    with open_slide(tmp_path / "grey.tif") as slide:
        assert np.array_equal(slide.read_region((0, 0), 0, (60, 40)), np.repeat(RGB[..., :1], 3, axis=2))
    with open_slide(tmp_path / "bits.tif") as slide:
        assert np.array_equal(slide.read_region((0, 0), 0, (60, 40))[..., 0], np.where(RGB[..., 0] > 127, 255, 0))


def test_transparency_of_a_tiff_lies_over_background(tmp_path: Path) -> None:
    alpha = np.full((40, 60), 255, np.uint8)
    alpha[:, :30] = 0
    pixels = np.dstack([np.zeros_like(RGB), alpha])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    with open_slide(tmp_path / "a.tif") as slide:
        found = slide.read_region((0, 0), 0, (60, 40))
    assert (found[:, :30] == 255).all()
    assert (found[:, 30:] == 0).all()


def test_print_resolution_is_no_pixel_size(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "print.tif", TILED, tile=(64, 64), photometric="rgb", resolution=(72, 72), resolutionunit="INCH"
    )
    tifffile.imwrite(
        tmp_path / "own.tif", TILED, tile=(64, 64), photometric="rgb", resolution=(20000, 40000), resolutionunit=3
    )
    with open_slide(tmp_path / "print.tif") as slide:
        assert slide.info.mpp is None
        assert "72 dpi" in slide.info.mpp_note
    with open_slide(tmp_path / "own.tif") as slide:
        assert slide.info.mpp == pytest.approx((0.5, 0.25))
        assert slide.info.mpp_source == "file"
    with open_slide(tmp_path / "print.tif", Mpp(0.4, 0.4)) as slide:
        assert slide.info.mpp == (0.4, 0.4)


@pytest.mark.parametrize("text", ["", "nan", "inf", "-0.5", "a lot"])
def test_pixel_size_that_is_no_number_is_none(text: str) -> None:
    assert pixel_size_from({"openslide.mpp-x": text, "openslide.mpp-y": "0.5"}, "aperio").mpp is None


def test_demo_slide_says_what_it_is(demo_slide: Path) -> None:
    with open_slide(demo_slide) as slide:
        info = slide.info
    assert info.size0 == (2220, 2967)
    assert info.mpp == pytest.approx((0.499, 0.499))
    assert (info.vendor, info.reader, info.compression, info.name) == (
        "aperio",
        "tifffile",
        "JPEG",
        "cmu1_small_region",
    )
    assert info.levels[0].tile_size == (240, 240)
    assert info.objective_power == 20
