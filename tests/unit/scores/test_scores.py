"""All scores against their NumPy twins, and against what they are meant to say about pixels."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config

from tests.conftest import COLLECTION, DATA
from tests.unit.scores.twins import STAINS, TWINS, twin
from wsi_attn.errors import UnknownNameError, UsageError
from wsi_attn.scores.fused import MEASURE_CODES
from wsi_attn.scores.scores import SCORES, parse_names, score_tiles, warm_up
from wsi_attn.tissue.rules import MEASURES

NAMES = SCORES.built_in
RULE = ("chroma", 20)
EXACT = {"tissue", "pen", "fold", "focus", "sharpness"}
"""Counts and sums of integers; the others are sums of float32 products or logarithms."""

SIDE = 16 if config.DISABLE_JIT else 128
"""Of tiles that are scored interpreted or compiled."""

interpreted = pytest.mark.skipif(
    bool(config.DISABLE_JIT), reason="needs more pixels than an interpreter scores in time"
)


def assert_equal(got, expected):
    assert set(got) == set(expected)
    for name, values in got.items():
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        if name in EXACT:
            np.testing.assert_allclose(values, expected[name], rtol=2e-7, atol=0, err_msg=name)
        else:
            np.testing.assert_allclose(values, expected[name], rtol=2e-6, atol=2e-6, err_msg=name)


def whole(tiles):
    return np.tile(np.array(tiles.shape[2:0:-1], np.int64), (len(tiles), 1))


def score(tile, *names):
    """Scores of one tile: one number, or one for each name."""
    found = score_tiles(tile[None], whole(tile[None]), names, RULE, parallel=False)
    return float(found[names[0]][0]) if len(names) == 1 else [float(found[name][0]) for name in names]


@pytest.fixture(scope="module")
def real_tiles():
    """Tissue of the demo slide, (n, SIDE, SIDE, 3)."""
    import tifffile

    pixels = tifffile.imread(DATA / "cmu1_small_region.svs", key=0)
    corners = [(2000, 1200), (2500, 1700), (1200, 1500), (1500, 700), (1037, 1811)]
    return np.stack([pixels[y : y + SIDE, x : x + SIDE] for y, x in corners])


@settings(max_examples=30 if not config.DISABLE_JIT else 12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(0, 3), st.integers(1, 19), st.integers(1, 19)),
    measure=st.sampled_from(sorted(MEASURE_CODES)),
    threshold=st.integers(-1, 255),
    names=st.lists(st.sampled_from(NAMES), unique=True),
    parallel=st.booleans(),
    spread=st.sampled_from([1, 40, 256]),
)
def test_equals_twin(seed, shape, measure, threshold, names, parallel, spread):
    rng = np.random.default_rng(seed)
    tiles = (rng.integers(0, 257 - spread) + rng.integers(0, spread, (*shape, 3))).astype(np.uint8)
    valid = np.stack([rng.integers(0, shape[2] + 1, shape[0]), rng.integers(0, shape[1] + 1, shape[0])], axis=1)
    got = score_tiles(tiles, valid, names, (measure, threshold), parallel=parallel)
    assert_equal(got, twin(tiles, valid, names, (measure, threshold)))
    for name, values in got.items():
        assert (values >= np.float32(SCORES.get(name).low)).all()
        assert (values <= np.float32(SCORES.get(name).high)).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 31), (31, 17), (16, 64), (1, 40), (40, 1), (33, 32)])
def test_odd_sizes(size):
    tiles = np.random.default_rng(1).integers(0, 256, (1, *size, 3)).astype(np.uint8)
    assert_equal(score_tiles(tiles, whole(tiles), NAMES, RULE), twin(tiles, whole(tiles), NAMES, RULE))


@interpreted
@pytest.mark.parametrize("size", [(5000, 6), (10_000, 2), (3, 5003), (6, 4096), (1040, 130)])
def test_tall_and_wide_tiles_overflow_no_counter(size):
    tiles = np.zeros((2, *size, 3), np.uint8)
    tiles[0, ::2, ::2] = tiles[0, 1::2, 1::2] = 255  # the largest Laplacian everywhere
    tiles[1] = (250, 10, 10)  # ink and fold and tissue everywhere
    assert_equal(score_tiles(tiles, whole(tiles), NAMES, RULE), twin(tiles, whole(tiles), NAMES, RULE))


def test_real_tiles_and_partial_ones(real_tiles):
    valid = whole(real_tiles)
    valid[1:3] = [(SIDE - 1, SIDE - 5), (7, SIDE)]
    assert_equal(score_tiles(real_tiles, valid, NAMES, RULE), twin(real_tiles, valid, NAMES, RULE))


@pytest.mark.parametrize("value", [0, 255])
def test_constant_tiles(value):
    tiles = np.full((1, 18, 18, 3), value, np.uint8)
    got = score_tiles(tiles, whole(tiles), NAMES, RULE)
    assert_equal(got, twin(tiles, whole(tiles), NAMES, RULE))
    assert got["focus"] == got["sharpness"] == got["entropy"] == got["fold"] == 0
    assert got["optical_density"] == pytest.approx(0 if value else SCORES.get("optical_density").high)


def test_nothing_valid_scores_zero():
    tiles = np.full((3, 4, 4, 3), 7, np.uint8)
    valid = np.array([[0, 0], [4, 0], [0, 3]])
    for values in score_tiles(tiles, valid, NAMES, RULE).values():
        assert values.tolist() == [0, 0, 0]


@settings(max_examples=15 if not config.DISABLE_JIT else 5, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_and_what_lies_outside_change_nothing(seed):
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (4, 18, 21, 3)).astype(np.uint8)
    valid = np.stack([rng.integers(0, 22, 4), rng.integers(0, 19, 4)], axis=1)
    order = rng.permutation(4)
    first = score_tiles(tiles, valid, NAMES, RULE, parallel=False)
    moved = score_tiles(tiles[order], valid[order], NAMES, RULE, parallel=True)
    other = tiles.copy()
    for tile, (width, height) in zip(other, valid, strict=True):
        outside = np.ones(tile.shape[:2], bool)
        outside[:height, :width] = False
        tile[outside] = rng.integers(0, 256, 3)
    again = score_tiles(other, valid, NAMES, RULE)
    for name in NAMES:
        alone = score_tiles(tiles, valid, [name], RULE)
        np.testing.assert_array_equal(first[name][order], moved[name])
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name], alone[name])


def noisy(tile, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, tile.shape[:2])[..., None]
    return np.clip(np.rint(tile + noise), 0, 255).astype(np.uint8)


@interpreted
def test_blur_lowers_both_and_noise_moves_sharpness_far_less(real_tiles):
    for tile in real_tiles:
        blurred = [tile] + [cv2.GaussianBlur(tile, (0, 0), sigma) for sigma in (0.7, 1, 1.5, 2, 3, 5)]
        for name in ("focus", "sharpness"):
            values = [score(each, name) for each in blurred]
            assert all(after < before for before, after in itertools.pairwise(values)), (name, values)
        clear, grainy = [score(each, "focus", "sharpness") for each in (tile, noisy(tile, 8))]
        moved = [abs(after / before - 1) for before, after in zip(clear, grainy, strict=True)]
        assert moved[0] > 0.4
        assert moved[1] < min(0.03, moved[0] / 20), moved
    clear, blurred = real_tiles[1], noisy(cv2.GaussianBlur(real_tiles[1], (0, 0), 3), 8)
    assert score(blurred, "focus") > score(clear, "focus")  # what focus gets wrong
    assert score(blurred, "sharpness") < 0.5 * score(clear, "sharpness")


def test_turning_a_tile_changes_neither_focus_nor_sharpness():
    tile = np.random.default_rng(3).integers(0, 256, (16, 22, 3)).astype(np.uint8)
    for turned in (tile[::-1], tile[:, ::-1], tile.transpose(1, 0, 2)):
        assert score(np.ascontiguousarray(turned), *NAMES[1:3]) == pytest.approx(score(tile, *NAMES[1:3]), rel=1e-7)


@interpreted
def test_entropy_of_noise_is_eight_bits():
    grey = np.random.default_rng(0).integers(0, 256, (256, 256, 1)).astype(np.uint8)
    assert score(np.repeat(grey, 3, axis=2), "entropy") == pytest.approx(8, abs=0.02)


@pytest.mark.parametrize("amounts", [(0.6, 0.0), (0.0, 0.5), (0.4, 0.3), (0.9, 0.2)])
def test_concentrations_are_recovered_through_beer_and_lambert(amounts):
    pixel = np.rint(256 * 10 ** -(np.array(amounts) @ STAINS) - 1).astype(np.uint8)
    tile = np.broadcast_to(pixel, (8, 8, 3))
    found = score(np.ascontiguousarray(tile), "haematoxylin", "eosin")
    assert found == pytest.approx(amounts, abs=0.01)  # a grey value is up to 0.005 of density here
    assert (found[0] > found[1]) == (amounts[0] > amounts[1])


INKS = {
    "blue": (40, 90, 190), "ultramarine": (30, 30, 170), "cyan": (60, 160, 200), "green": (40, 140, 70),
    "light green": (120, 190, 130), "red": (210, 30, 50), "black": (25, 25, 30),
}  # fmt: skip


@pytest.mark.parametrize("ink", sorted(INKS))
def test_ink_is_pen(ink):
    tile = np.broadcast_to(np.array(INKS[ink], np.uint8), (6, 6, 3))
    assert score(np.ascontiguousarray(tile), "pen") == 1


@interpreted
@pytest.mark.parametrize(
    "source", ["slides/cmu1_small_region.svs", "slides/crc01_he_left.tif", "images/tcga_tiles",
               "mil/crchisto/crchisto_nuclei.npz", "classify/ucsb_breast"]
)  # fmt: skip
def test_tissue_is_not_pen(source):
    """Shares over all of a real set; single dark-blue or blood-red nuclei may look like ink, areas may not."""
    tiles = _collected(source)
    pen = score_tiles(tiles, whole(tiles), ["pen"], RULE)["pen"]
    assert pen.mean() < 0.005
    assert np.quantile(pen, 0.95) < 0.02


def _collected(source, side=128):
    """Up to 400 tiles spread over a slide or a folder of pictures of the collection."""
    import tifffile

    path = COLLECTION / source
    if not path.exists():
        pytest.skip(f"{source} is not in the data collection (WSI_ATTN_DATA)")
    if path.suffix == ".npz":
        return np.load(path)["images"][::20]
    if path.is_dir():
        files = [f for f in sorted(path.rglob("*")) if f.suffix in (".jpg", ".png", ".bmp", ".tif", ".tiff")]
        files = [f for f in files if "mask" not in f.as_posix()][:40]
        pictures = [cv2.imread(str(file))[..., ::-1] for file in files]
    else:
        pictures = [tifffile.imread(path, key=0)]
    found = [
        picture[y : y + side, x : x + side]
        for picture in pictures
        for y in range(0, picture.shape[0] - side + 1, side)
        for x in range(0, picture.shape[1] - side + 1, side)
    ]
    return np.stack(found[:: max(1, len(found) // 400)])


def test_folds_are_dark_and_saturated():
    tile = np.empty((8, 8, 3), np.uint8)
    for colour, expected in {(70, 15, 80): 1, (200, 120, 170): 0, (120, 90, 160): 0, (240, 240, 240): 0}.items():
        tile[:] = colour
        assert score(tile, "fold") == expected


def test_edge_tiles_count_only_what_is_inside():
    tiles = np.full((2, 4, 4, 3), 255, np.uint8)
    tiles[:, :2, :1] = (200, 100, 150)
    assert score_tiles(tiles, np.array([[1, 2], [4, 4]]), ("tissue",), ("chroma", 20))["tissue"].tolist() == [
        1.0,
        0.125,
    ]


def test_measures_are_those_of_masks_and_every_score_has_a_twin():
    assert set(MEASURES) == set(MEASURE_CODES)
    assert set(SCORES.built_in) == {"tissue", *TWINS}
    assert all(score.low < score.high and score.unit for _, score in SCORES.all())


def test_names():
    assert parse_names("all") == NAMES
    assert parse_names("none") == ()
    assert parse_names("pen, tissue,pen") == ("tissue", "pen")
    for text, unknown in {"": "", "focs": "focs", "focus,": "", "all,pen": "all"}.items():
        with pytest.raises(UnknownNameError) as caught:
            parse_names(text)
        assert caught.value.name == unknown
        assert set(SCORES.built_in) <= set(caught.value.known)


def test_refuses_what_it_cannot_mean():
    tiles = np.zeros((1, 4, 4, 3), np.uint8)
    with pytest.raises(UsageError):
        score_tiles(tiles.astype(np.float32), np.array([[4, 4]]), ("tissue",), ("chroma", 20))["tissue"]
    with pytest.raises(UsageError):
        score_tiles(tiles, np.array([[5, 4]]), ("tissue",), ("chroma", 20))["tissue"]
    with pytest.raises(UnknownNameError) as caught:
        score_tiles(tiles, np.array([[4, 4]]), ("tissue",), ("croma", 20))["tissue"]
    assert "chroma" in caught.value.known
    with pytest.raises(UnknownNameError) as caught:
        score_tiles(tiles, np.array([[4, 4]]), ["focsu"], RULE)
    assert "focus" in caught.value.known


def test_nothing_asked_nothing_computed():
    tiles = np.zeros((2, 4, 4, 3), np.uint8)
    assert score_tiles(tiles, whole(tiles), (), RULE) == {}
    warm_up(())
    warm_up(NAMES)


def test_package_loads_no_numba():
    code = "import sys, wsi_attn.scores, wsi_attn.scores.scores; raise SystemExit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


def test_scoring_loads_no_blas_and_leaves_it_to_others():
    code = (
        "import sys; from wsi_attn.scores.scores import warm_up; warm_up(['focus']); "
        "early = 'scipy.linalg' in sys.modules; import scipy.linalg.cython_blas; raise SystemExit(early)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


@interpreted
def test_kernels_mean_the_same_interpreted():
    """The tests that compare with twins, in a process that compiles nothing."""
    root = Path(__file__).parents[3]
    chosen = ["-k", "equals_twin or odd_sizes or real_tiles or constant", "-p", "no:cacheprovider", "-q"]
    command = [sys.executable, "-m", "pytest", str(Path(__file__).relative_to(root)), *chosen]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
