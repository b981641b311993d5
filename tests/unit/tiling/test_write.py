"""Stores against the slides they were made of."""

import numpy as np
import pytest
import zarr

from tests.slides import ArraySlide, stained
from wsi_attn.errors import MissingMppError, OutputBusyError, OutputExistsError, SlideReadError, UsageError
from wsi_attn.geometry import Mpp, Region
from wsi_attn.outputs.lock import output_lock
from wsi_attn.slide import BACKGROUND
from wsi_attn.slides.resample import halve
from wsi_attn.store import sharding
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.write import TileConfig, tile_slide
from wsi_attn.tissue.rules import measure_of


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Shards of 4 x 4 chunks of 32, so that small slides have several."""
    monkeypatch.setattr(sharding, "SHARD_BYTES", 3 * 128 * 128)


def config(**options):
    return TileConfig(**{"tile_size": 32, "workers": 2, **options})


def tree(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("size", "levels"), [((301, 205), (1, 2, 4)), ((256, 128), (1,)), ((333, 417), (1, 2.7, 5.3))])
def test_own_levels_are_copied_exactly(tmp_path, size, levels):
    slide = ArraySlide(stained(*size), levels=levels)
    summary = tile_slide(slide, tmp_path / "s.zarr", config())
    assert summary.state == "written"
    assert summary.levels == len(levels)
    with TileStore.open(tmp_path / "s.zarr") as store:
        assert store.info.size0 == slide.info.size0
        assert [level.size for level in store.info.levels] == [level.size for level in slide.info.levels]
        for index, array in enumerate(slide.arrays):
            stored = zarr.open_array(tmp_path / "s.zarr" / str(index), mode="r")[...].transpose(1, 2, 0)
            np.testing.assert_array_equal(stored, array)
        for index, xy0, extent in [
            (0, (-7, -9), (400, 90)),
            (len(levels) - 1, (37, 50), (40, 30)),
            (0, (9999, 0), (3, 2)),
        ]:
            expected = slide.read_region(xy0, index, extent)
            np.testing.assert_array_equal(store.read_region(xy0, index, extent), expected)


def test_halves_until_small(tmp_path, monkeypatch):
    monkeypatch.setattr("wsi_attn.tiling.levels.SMALLEST_SIDE", 60)
    slide = ArraySlide(stained(301, 205))
    assert tile_slide(slide, tmp_path / "s.zarr", config()).levels == 4
    with TileStore.open(tmp_path / "s.zarr") as store:
        expected = slide.arrays[0]
        for index, level in enumerate(store.info.levels):
            assert level.downsample_x == level.downsample_y == 2**index
            np.testing.assert_array_equal(store.read_level(index, Region(0, 0, *level.size)), expected)
            expected = halve(expected)
        assert max(store.info.levels[-1].size) <= 60


def test_halve_is_the_mean_of_squares():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    even = np.pad(pixels, ((0, 1), (0, 1), (0, 0)), mode="edge").astype(int)
    expected = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) // 4
    np.testing.assert_array_equal(halve(pixels), expected)


@pytest.mark.parametrize("overlap", [0, 8])
def test_grid_coords_and_scores(tmp_path, overlap):
    slide = ArraySlide(stained(300, 210))
    summary = tile_slide(slide, tmp_path / "s.zarr", config(overlap=overlap))
    with TileStore.open(tmp_path / "s.zarr") as store:
        assert store.grids() == ("default",)
        assert store.grid().extent0 == (32.0, 32.0)
        coords, scores, tissue = store.coords(), store.scores(), store.meta.tissue
        assert (coords % (32 - overlap) == 0).all()
        assert coords.tolist() == sorted(coords.tolist(), key=lambda xy: (xy[1], xy[0]))
        assert 0 < summary.tiles == len(coords) < summary.tiles_total
        for (x, y), score in zip(coords, scores, strict=True):
            inside = slide.arrays[0][y : y + 32, x : x + 32]
            expected = (measure_of(inside, tissue.measure) > tissue.threshold).mean()
            assert score == np.float32(expected)
        mask, frame = store.tissue()
        assert mask.shape == (frame.size.height, frame.size.width)
        assert 0.3 < summary.tissue_fraction < 0.45  # the ellipse is 0.385 of the slide


def test_tissue_none_keeps_every_tile_and_empty_slides_none(tmp_path):
    slide = ArraySlide(stained(100, 70))
    summary = tile_slide(slide, tmp_path / "all.zarr", config(tissue="none", min_tissue=1.0))
    assert summary.tiles == summary.tiles_total == 12
    glass = ArraySlide(np.full((70, 100, 3), 240, np.uint8))
    summary = tile_slide(glass, tmp_path / "none.zarr", config())
    assert (summary.tiles, summary.tissue_fraction) == (0, 0.0)
    with TileStore.open(tmp_path / "none.zarr") as store:
        assert store.coords().shape == (0, 2)
        assert store.scores().shape == store.readable().shape == (0,)


def test_resampled_to_an_mpp(tmp_path):
    slide = ArraySlide(stained(300, 210), mpp=Mpp(0.25, 0.5))
    summary = tile_slide(slide, tmp_path / "s.zarr", config(mpp=0.75))
    assert summary.mpp == Mpp(0.75, 0.75)
    with TileStore.open(tmp_path / "s.zarr") as store:
        level = store.info.levels[0]
        assert (level.size, level.downsample_x, level.downsample_y) == ((100, 140), 3.0, 1.5)
        assert store.info.mpp == Mpp(0.25, 0.5)
        x, y = store.coords()[-1].tolist()
        from wsi_attn.slides.view import read_region_at

        expected = read_region_at(slide, (x, y), 3.0, 1.5, (32, 32))
        inside = (min(32, 100 - x // 3), min(32, 140 - round(y / 1.5)))
        got = store.read_region((x, y), 0, (32, 32))
        np.testing.assert_array_equal(got[: inside[1], : inside[0]], expected[: inside[1], : inside[0]])


def test_resampled_without_seams(tmp_path):
    """Where chunks meet, pixels are what one read of everything gives."""
    from wsi_attn.slides.view import read_region_at

    slide = ArraySlide(stained(301, 207), mpp=Mpp(0.5, 0.5))
    tile_slide(slide, tmp_path / "s.zarr", config(mpp=0.63))
    with TileStore.open(tmp_path / "s.zarr") as store:
        level = store.info.levels[0]
        whole = read_region_at(slide, (0, 0), level.downsample_x, level.downsample_y, level.size)
        stored = store.read_level(0, Region(0, 0, *level.size))
        assert np.abs(stored.astype(int) - whole).max() <= 1


def test_a_level_of_that_mpp_is_copied(tmp_path):
    slide = ArraySlide(stained(300, 210), levels=(1, 2, 4), mpp=Mpp(0.2502, 0.2502))
    summary = tile_slide(slide, tmp_path / "s.zarr", config(mpp=0.5))
    assert summary.mpp == Mpp(0.5004, 0.5004)
    with TileStore.open(tmp_path / "s.zarr") as store:
        assert [level.downsample_x for level in store.info.levels] == [2, 4]
        np.testing.assert_array_equal(store.read_region((0, 0), 0, (150, 105)), slide.arrays[1])
        assert store.grid().extent0 == (64.0, 64.0)


def test_mpp_that_cannot_be_had(tmp_path):
    with pytest.raises(MissingMppError):
        tile_slide(ArraySlide(stained(64, 64), mpp=None), tmp_path / "s.zarr", config(mpp=0.5))
    with pytest.raises(UsageError, match="finest"):
        tile_slide(ArraySlide(stained(64, 64)), tmp_path / "s.zarr", config(mpp=0.25))
    assert list(tmp_path.iterdir()) == []


def test_unreadable_stays_local_and_is_never_white(tmp_path, monkeypatch):
    monkeypatch.setattr("wsi_attn.tiling.levels.SMALLEST_SIDE", 100)
    broken = Region(140, 100, 10, 5)  # inside chunk row 3, column 4
    slide = ArraySlide(stained(300, 210), tile=16, broken_regions=[(0, broken)])
    summary = tile_slide(slide, tmp_path / "s.zarr", config())
    assert summary.unreadable_tiles == 1
    with TileStore.open(tmp_path / "s.zarr") as store:
        lost = store.coords()[~store.readable()]
        assert lost.tolist() == [[128, 96]]
        assert np.isnan(store.scores()).tolist() == (~store.readable()).tolist()
        assert [list(box) for box in store.meta.unreadable] == [
            [0, 128, 96, 32, 32],
            [1, 128, 96, 32, 32],
            [2, 128, 96, 32, 32],
        ]
        for level in range(3):
            with pytest.raises(SlideReadError):
                store.read_region((130, 100), level, (4, 4))
        np.testing.assert_array_equal(store.read_region((160, 96), 0, (32, 32)), slide.arrays[0][96:128, 160:192])
        np.testing.assert_array_equal(store.read_region((96, 96), 0, (32, 32)), slide.arrays[0][96:128, 96:128])


def test_wholly_unreadable_is_all_counted(tmp_path):
    slide = ArraySlide(stained(100, 70), broken_regions=[(0, Region(0, 0, 100, 70))])
    summary = tile_slide(slide, tmp_path / "s.zarr", config(background="skip"))
    assert summary.unreadable_tiles == summary.tiles == summary.tiles_total
    assert summary.tissue_fraction == 0.0


def test_background_skip_leaves_out_chunks(tmp_path):
    slide = ArraySlide(stained(300, 210), levels=(1, 4))
    kept = tile_slide(slide, tmp_path / "keep.zarr", config())
    skipped = tile_slide(slide, tmp_path / "skip.zarr", config(background="skip"))
    assert skipped.bytes < kept.bytes
    with TileStore.open(tmp_path / "keep.zarr") as keep, TileStore.open(tmp_path / "skip.zarr") as skip:
        np.testing.assert_array_equal(keep.scores(), skip.scores())
        assert (skip.read_region((0, 0), 0, (32, 32)) == BACKGROUND).all()
        assert (keep.read_region((0, 0), 0, (32, 32)) != BACKGROUND).any()
        for x, y in keep.coords().tolist():
            np.testing.assert_array_equal(keep.read_region((x, y), 0, (32, 32)), skip.read_region((x, y), 0, (32, 32)))


def test_threads_do_not_change_the_bytes(tmp_path):
    slide = ArraySlide(stained(300, 210), levels=(1, 2))
    tile_slide(slide, tmp_path / "a" / "s.zarr", config(workers=1))
    tile_slide(slide, tmp_path / "b" / "s.zarr", config(workers=4))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert not [name for name in tree(tmp_path) if "journal" in name or ".tmp" in name or ".lock" in name]


def test_complete_is_skipped_and_other_things_are_refused(tmp_path):
    slide, output = ArraySlide(stained(100, 70)), tmp_path / "s.zarr"
    first = tile_slide(slide, output, config())
    before, reads = tree(output), slide.reads
    again = tile_slide(slide, output, config(workers=1))
    assert again.state == "skipped"
    assert (again.tiles, again.bytes, again.tissue_fraction) == (first.tiles, first.bytes, first.tissue_fraction)
    assert (tree(output), slide.reads) == (before, reads)
    with pytest.raises(OutputExistsError, match=r"tile_size 32 instead of 64.*--overwrite"):
        tile_slide(slide, output, config(tile_size=64))
    with pytest.raises(OutputExistsError, match="other pixels"):
        tile_slide(ArraySlide(stained(100, 70, seed=1)), output, config())
    with pytest.raises(OutputExistsError, match="slide mpp"):
        tile_slide(ArraySlide(stained(100, 70), mpp=Mpp(1, 1)), output, config())
    assert tree(output) == before
    assert tile_slide(slide, output, config(tile_size=64), overwrite=True).state == "written"


def test_foreign_things_are_replaced_only_on_request(tmp_path):
    slide = ArraySlide(stained(100, 70))
    file, folder, foreign = tmp_path / "f.zarr", tmp_path / "d.zarr", tmp_path / "z.zarr"
    file.write_text("mine")
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    zarr.create_group(foreign)
    for path, what in ((file, "a file of 4 bytes"), (folder, "a folder of 1 entries"), (foreign, "not a store")):
        with pytest.raises(OutputExistsError, match=what):
            tile_slide(slide, path, config())
        tile_slide(slide, path, config(), overwrite=True)
        TileStore.open(path).close()


def test_second_writer_is_refused(tmp_path):
    slide, output = ArraySlide(stained(100, 70)), tmp_path / "s.zarr"
    with output_lock(output), pytest.raises(OutputBusyError):
        tile_slide(slide, output, config())
    (tmp_path / ".s.zarr.lock").write_text("left by a process that died")
    assert tile_slide(slide, output, config()).state == "written"
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.parametrize(
    "options",
    [
        {"tile_size": 0},
        {"overlap": 32},
        {"overlap": -1},
        {"mpp": 0.0},
        {"mpp": float("nan")},
        {"min_tissue": 1.5},
        {"background": "drop"},
        {"codec": "gif"},
        {"tissue": "magic"},
        {"workers": 0},
        {"grid": "../x"},
    ],
)
def test_config_refuses(options):
    with pytest.raises(UsageError):
        config(**options)
