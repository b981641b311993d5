"""Readers: the pixels that others see, damage that stays local, and refusals that say why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from wsi_attn.errors import RegionError, SlideNotFoundError, SlideReadError, SlideUnsupportedError
from wsi_attn.geometry import Mpp
from wsi_attn.slide import Slide
from wsi_attn.slides.open import open_slide
from wsi_attn.slides.properties import implausible
from wsi_attn.slides.view import read_view


def reference(path: Path, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """OpenSlide's own pixels over white."""
    with openslide.OpenSlide(str(path)) as slide:
        image = slide.read_region(xy, 0, size)
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


@pytest.fixture
def damaged(demo_slide: Path, tmp_path: Path) -> Path:
    """The demo slide with the compressed tile at level-0 (960, 1200) destroyed."""
    path = tmp_path / "damaged.svs"
    shutil.copy(demo_slide, path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        index = 5 * -(-page.imagewidth // page.tilewidth) + 4
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    return path


@pytest.mark.parametrize(("xy", "size"), [((0, 0), (300, 200)), ((700, 1500), (513, 257)), ((2100, 2900), (240, 240))])
def test_pixels_are_openslides(demo_slide: Path, xy: tuple[int, int], size: tuple[int, int]) -> None:
    with open_slide(demo_slide) as slide:
        assert np.array_equal(slide.read_region(xy, 0, size), reference(demo_slide, xy, size))


def test_outside_is_background_and_bad_regions_are_refused(demo_slide: Path) -> None:
    with open_slide(demo_slide) as slide:
        assert (slide.read_region((-50, -50), 0, (50, 50)) == 255).all()
        assert (slide.read_region((2220, 0), 0, (9, 9)) == 255).all()
        for level, size in [(1, (5, 5)), (-1, (5, 5)), (0, (0, 5))]:
            with pytest.raises(RegionError):
                slide.read_region((0, 0), level, size)


def test_threads_read_what_one_reads(demo_slide: Path) -> None:
    places = [(x, y) for y in range(0, 2900, 400) for x in range(0, 2200, 400)]
    with open_slide(demo_slide) as slide, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: slide.read_region(place, 0, (128, 128)), places))
        assert all(np.array_equal(a, slide.read_region(b, 0, (128, 128))) for a, b in zip(found, places, strict=True))


def test_damage_stays_local_also_between_threads(damaged: Path, demo_slide: Path) -> None:
    places = [(x, y) for y in range(0, 2880, 240) for x in range(0, 2160, 240)]

    def readable(slide: Slide, place: tuple[int, int]) -> bool:
        try:
            pixels = slide.read_region((place[0] + 1, place[1] + 1), 0, (238, 238))
        except SlideReadError:
            return False
        return np.array_equal(pixels, reference(demo_slide, (place[0] + 1, place[1] + 1), (238, 238)))

    with open_slide(damaged) as slide, ThreadPoolExecutor(4) as pool:
        bad = [
            place
            for place, good in zip(places, pool.map(lambda p: readable(slide, p), places), strict=True)
            if not good
        ]
        assert bad == [(960, 1200)]
        with pytest.raises(SlideReadError):
            slide.read_region((1000, 1300), 0, (9, 9))


def test_view_masks_damage_and_says_where(damaged: Path) -> None:
    with open_slide(damaged) as slide:
        view = read_view(slide, 8, 8)
    rows, columns = np.nonzero(~view.readable)
    assert rows.min() * 8 + 240 >= 960
    assert (columns.min() * 8 <= 960, columns.max() * 8 + 8 >= 1200) == (True, True)
    assert (rows.min() * 8 <= 1200, rows.max() * 8 + 8 >= 1440) == (True, True)
    assert view.readable.mean() > 0.95
    assert all(
        region.x < 1200 and region.x1 > 960 and region.y < 1440 and region.y1 > 1200 for region in view.unreadable
    )


GREY = (np.arange(60 * 40, dtype=np.uint32).reshape(40, 60) % 251).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_plain_images_are_read_exactly(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(RGB).save(path, **({"lossless": True} if suffix == "webp" else {}))
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_region((0, 0), 0, (60, 40)), RGB)
        assert slide.info.mpp is None
        assert (slide.read_region((50, 30), 0, (20, 20))[10:, 10:] == 255).all()


@pytest.mark.parametrize(
    "options",
    [{"compression": "packbits"}, {"compression": "lzw"}, {"planarconfig": "separate"}, {"compression": "zlib"}],
)
def test_tiff_variants(options: dict[str, str], tmp_path: Path) -> None:
    pixels = np.moveaxis(RGB, -1, 0) if "planarconfig" in options else RGB
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **options)
    with open_slide(tmp_path / "a.tif") as slide:
        assert np.array_equal(slide.read_region((0, 0), 0, (60, 40)), RGB)


def test_inverted_grey(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="miniswhite")
    with open_slide(tmp_path / "a.tif") as slide:
        assert np.array_equal(slide.read_region((0, 0), 0, (60, 40))[..., 1], 255 - GREY)


def test_transparency_lies_over_background(tmp_path: Path) -> None:
    alpha = np.full((40, 60, 1), 255, np.uint8)
    alpha[:, :30] = 0
    Image.fromarray(np.concatenate([RGB, alpha], axis=-1)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        pixels = slide.read_region((0, 0), 0, (60, 40))
    assert (pixels[:, :30] == 255).all()
    assert np.array_equal(pixels[:, 30:], RGB[:, 30:])


def test_orientation_of_photographs_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    with open_slide(tmp_path / "a.png") as slide:
        assert tuple(slide.info.size0) == (40, 60)
        assert np.array_equal(slide.read_region((0, 0), 0, (40, 60)), np.rot90(RGB, -1))
        assert "applied" in slide.info.properties["exif.orientation"]


@pytest.mark.parametrize(
    ("pixels", "options", "said"),
    [
        (GREY.astype(np.uint16) * 200, {}, "16 bits"),
        (RGB.astype(np.float32), {"photometric": "rgb"}, "32 bits"),
        (np.stack([GREY] * 5), {"photometric": "minisblack", "metadata": {"axes": "CYX"}}, "one plane"),
    ],
)
def test_other_pixels_are_refused_with_a_cure(
    pixels: np.ndarray, options: dict[str, object], said: str, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(SlideUnsupportedError, match=said) as caught:
        open_slide(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)


def test_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(SlideNotFoundError):
        open_slide(tmp_path / "none.svs")
    with pytest.raises(SlideUnsupportedError, match="folder"):
        open_slide(tmp_path)
    (tmp_path / "a.svs").write_bytes(b"")
    with pytest.raises(SlideUnsupportedError, match="OpenSlide"):
        open_slide(tmp_path / "a.svs")


@pytest.mark.parametrize(
    ("mpp", "tag", "believed"),
    [
        ((0.25, 0.25), True, True),
        ((0.25, 0.2501), False, True),
        ((352.78, 352.78), True, False),
        ((84.667, 84.667), True, False),
        ((28.97, 28.97), False, True),
        ((0.0, 0.0), False, False),
        ((0.2, 2.0), False, False),
    ],
)
def test_pixel_sizes_that_are_believed(mpp: tuple[float, float], tag: bool, believed: bool) -> None:
    assert (implausible(Mpp(*mpp), from_resolution_tag=tag) == "") == believed


def test_the_users_pixel_size_wins_and_keeps_both_axes(demo_slide: Path) -> None:
    with open_slide(demo_slide, Mpp(0.3, 0.4)) as slide:
        assert slide.info.mpp == (0.3, 0.4)
        assert slide.info.mpp_source == "user"


def test_real_pyramid(collection: Callable[[str], Path]) -> None:
    with open_slide(collection("slides/crc01_he_left.tif")) as slide:
        assert [level.downsample_x for level in slide.info.levels] == [1, 2, 4, 8, 16]
        assert slide.info.mpp is None
