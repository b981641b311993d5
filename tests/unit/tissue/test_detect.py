"""Detection on pictures whose tissue is known."""

import numpy as np
import pytest
from PIL import Image

from wsi_attn.data.sources import open_source
from wsi_attn.errors import MissingMppError, UnknownNameError
from wsi_attn.geometry import Frame, Mpp, Size
from wsi_attn.tissue.detect import detect_tissue, fill_holes
from wsi_attn.tissue.find import find_tissue
from wsi_attn.tissue.mask import drop_specks
from wsi_attn.tissue.rules import CHROMA_RANGE
from wsi_attn.tissue.settings import TissueSettings

GLASS, EOSIN, NUCLEI = (242, 241, 243), (225, 160, 195), (110, 70, 150)


def frame_of(pixels, downsample=16.0):
    return Frame(Size(pixels.shape[1], pixels.shape[0]), downsample, downsample)


def noisy(colour, shape, sigma=4.0, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, (*shape, 3))
    return np.clip(np.asarray(colour) + noise, 0, 255).astype(np.uint8)


def with_disc(background, colour, radius=40):
    """The picture and the truth: a disc in the middle."""
    rows, columns = background.shape[:2]
    y, x = np.mgrid[:rows, :columns]
    truth = (x - columns / 2) ** 2 + (y - rows / 2) ** 2 < radius**2
    picture = background.copy()
    picture[truth] = noisy(colour, picture.shape[:2], seed=1)[truth]
    return picture, truth


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("mpp", [Mpp(0.5, 0.5), None])
def test_stained_tissue(mpp):
    pixels, truth = with_disc(noisy(GLASS, (160, 200)), EOSIN)
    found = detect_tissue(pixels, frame_of(pixels), mpp)
    assert found.measure == "chroma"
    assert CHROMA_RANGE[0] <= found.threshold <= CHROMA_RANGE[1]
    assert overlap(found.mask, truth) > 0.9


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((100, 120, 3), 255, np.uint8),
        np.full((100, 120, 3), 238, np.uint8),
        noisy(GLASS, (100, 120)),
        noisy((246, 244, 238), (100, 120), sigma=6),
        np.random.default_rng(0).integers(235, 256, (100, 120, 3)).astype(np.uint8),
        np.zeros((100, 120, 3), np.uint8),
        np.random.default_rng(0).integers(0, 16, (100, 120, 3)).astype(np.uint8),
    ],
    ids=["white", "grey", "glass", "tinted", "coarse noise", "black", "black noise"],
)
def test_empty_slides_have_no_tissue(pixels):
    assert not detect_tissue(pixels, frame_of(pixels), Mpp(0.5, 0.5)).mask.any()


def test_full_slides_are_all_tissue():
    rng = np.random.default_rng(0)
    share = rng.random((100, 120, 1))
    stained = (share * np.array(EOSIN) + (1 - share) * np.array(NUCLEI)).astype(np.uint8)
    grey = np.repeat(rng.integers(60, 150, (100, 120, 1)), 3, axis=-1).astype(np.uint8)
    for pixels in (stained, noisy(EOSIN, (100, 120)), grey):
        assert detect_tissue(pixels, frame_of(pixels), Mpp(0.5, 0.5)).fraction > 0.99


def test_grey_picture_is_tissue_where_darker_than_glass():
    grey = np.repeat(noisy((240,) * 3, (160, 200))[..., :1], 3, axis=-1)
    pixels, truth = with_disc(grey, (150,) * 3)
    pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    found = detect_tissue(pixels, frame_of(pixels), None)
    assert found.measure == "darkness"
    assert overlap(found.mask, truth) > 0.9


@pytest.mark.parametrize("colour", [(10, 20, 120), (70, 70, 70), (20, 160, 30)])
def test_fluorescence_is_tissue_where_brighter_than_black(colour):
    pixels, truth = with_disc(noisy((6, 5, 9), (160, 200)), colour)
    found = detect_tissue(pixels, frame_of(pixels), Mpp(0.5, 0.5))
    assert found.measure == "brightness"
    assert overlap(found.mask, truth) > 0.85


def test_unreadable_is_not_tissue_and_does_not_pale_its_neighbours():
    pixels = noisy(EOSIN, (100, 120))
    readable = np.ones((100, 120), bool)
    readable[20:40, 30:70] = False
    pixels[~readable] = 255
    found = detect_tissue(pixels, frame_of(pixels), Mpp(0.5, 0.5), readable)
    np.testing.assert_array_equal(found.mask, readable)
    assert found.unknown(np.array([[30 * 16, 20 * 16, 40 * 16, 20 * 16], [0, 0, 16, 16]])).tolist() == [1.0, 0.0]
    assert not detect_tissue(pixels, frame_of(pixels), None, np.zeros_like(readable)).mask.any()


def test_method_none_is_everything():
    pixels = np.full((5, 7, 3), 255, np.uint8)
    found = detect_tissue(pixels, frame_of(pixels), None, method="none")
    assert found.mask.all()
    assert (found.fraction, found.threshold) == (1.0, -1)


def test_unknown_method_names_near_ones():
    pixels = np.full((5, 7, 3), 255, np.uint8)
    with pytest.raises(UnknownNameError) as caught:
        detect_tissue(pixels, frame_of(pixels), None, method="otzu")
    assert "otsu" in caught.value.known


def test_specks_and_holes_by_area():
    mask = np.zeros((20, 20), bool)
    mask[2:12, 2:12] = True
    mask[5:7, 5:7] = False  # a hole of 4
    mask[15, 15] = True  # a speck of 1
    assert not drop_specks(mask, 2)[15, 15]
    assert drop_specks(mask, 1)[15, 15]
    assert fill_holes(mask, 5)[5:7, 5:7].all()
    assert not fill_holes(mask, 4)[5:7, 5:7].any()
    open_gap = np.ones((5, 5), bool)
    open_gap[0, 0] = False
    assert not fill_holes(open_gap, 10)[0, 0]


def test_area_thresholds_are_physical():
    pixels, _ = with_disc(noisy(GLASS, (400, 400)), EOSIN, radius=6)  # about 113 px
    fine, coarse = Mpp(0.1, 0.1), Mpp(1.0, 1.0)
    assert not detect_tissue(pixels, frame_of(pixels), fine).mask.any()  # 290 µm²
    assert detect_tissue(pixels, frame_of(pixels), coarse).mask.any()  # 29,000 µm²


def full_view(size0, downsample, colour=EOSIN):
    """The view that `read_view` makes of a slide all tissue: its last pixels are partly fill."""
    frame = Frame.covering(size0, downsample, downsample)
    pixels = noisy(colour, (frame.size.height, frame.size.width)).astype(np.float64)
    for axis, (extent, count) in enumerate(zip(size0[::-1], frame.size[::-1], strict=True)):
        share = extent / downsample - (count - 1)
        last = [slice(None)] * 2
        last[axis] = -1
        pixels[tuple(last)] = pixels[tuple(last)] * share + 255 * (1 - share)
    return pixels.round().astype(np.uint8), frame


@pytest.mark.parametrize("method", ["otsu", "robust", "none"])
@pytest.mark.parametrize("size0", [Size(1601, 1203), Size(1600, 1200), Size(1615, 1214)])
def test_a_slide_all_tissue_is_so_to_its_last_pixel(method, size0):
    for colour in (EOSIN, (230, 190, 214)):
        pixels, frame = full_view(size0, 16.0, colour)
        assert detect_tissue(pixels, frame, Mpp(0.5, 0.5), method=method, size0=size0).fraction == 1.0


@pytest.mark.parametrize("method", ["otsu", "robust"])
def test_fill_beyond_the_edge_of_fluorescence_is_no_tissue(method):
    size0 = Size(1601, 1203)
    pixels, frame = full_view(size0, 16.0, (5, 5, 9))
    assert detect_tissue(pixels, frame, Mpp(0.5, 0.5), method=method, size0=size0).fraction == 0.0


@pytest.mark.parametrize("method", ["otsu", "robust", "none"])
def test_nothing_readable_is_no_tissue(method):
    pixels = np.full((9, 7, 3), 255, np.uint8)
    found = detect_tissue(pixels, frame_of(pixels), None, np.zeros((9, 7), bool), method)
    assert (found.fraction, found.mask.shape) == (0.0, (9, 7))
    assert found.unknown(np.array([[0, 0, 112, 144]])).tolist() == [1.0]


def test_areas_can_be_chosen():
    pixels, truth = with_disc(noisy(GLASS, (200, 200)), EOSIN, radius=30)
    pixels[95:105, 95:105] = GLASS
    frame, mpp = frame_of(pixels), Mpp(0.5, 0.5)  # 8 µm: the disc is 181,000 µm², its hole 6,400 µm²
    assert detect_tissue(pixels, frame, mpp).mask[100, 100]
    open_hole = detect_tissue(pixels, frame, mpp, max_hole_um2=1_000).mask
    assert not open_hole[100, 100]
    assert open_hole.any()
    assert not detect_tissue(pixels, frame, mpp, min_area_um2=250_000).mask.any()
    assert overlap(detect_tissue(pixels, frame, mpp, min_area_um2=0, max_hole_um2=1e9).mask, truth) > 0.9
    for areas in ({"min_area_um2": 1.0}, {"max_hole_um2": 1.0}):
        with pytest.raises(MissingMppError):
            detect_tissue(pixels, frame, None, **areas)


def test_a_single_pixel_and_a_single_row():
    for shape in ((1, 1), (1, 40), (40, 1)):
        for colour, share in ((EOSIN, 1.0), ((244, 244, 244), 0.0)):
            pixels = np.full((*shape, 3), colour, np.uint8)
            for method in ("otsu", "robust"):
                assert detect_tissue(pixels, frame_of(pixels), Mpp(0.5, 0.5), method=method).fraction == share


@pytest.mark.parametrize("method", ["otsu", "robust"])
def test_slides_without_a_pyramid(method, demo_slide, tmp_path):
    """One level only, as image and as tiled slide: the same tissue."""
    with open_source(demo_slide) as slide:
        assert len(slide.info.levels) == 1
        first = find_tissue(slide, TissueSettings(method), workers=1)
        width, height = slide.info.size0
        Image.fromarray(slide.read_region((0, 0), 0, (width, height))).save(tmp_path / "flat.png")
        mpp = slide.info.mpp
    with open_source(tmp_path / "flat.png", mpp) as image:
        second = find_tissue(image, TissueSettings(method), workers=1)
    assert 0.25 < first.fraction < 0.5
    np.testing.assert_array_equal(first.mask, second.mask)
