"""Every command that looks at a slide, or at its store, looks at the same tissue."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.cli.runner import Result, in_process
from tests.unit.tasks.segmentation.networks import checkpoint, tiny
from wsi_attn.annotations.tissue import tissue_from_geojson
from wsi_attn.api import find_tissue
from wsi_attn.data.bags import make_bag
from wsi_attn.data.large import large_bag
from wsi_attn.data.sources import SlidePatches, open_source
from wsi_attn.export.source import open_export_source
from wsi_attn.geometry import Frame
from wsi_attn.lru import LruCache
from wsi_attn.slide import Slide
from wsi_attn.tasks.segmentation.config import SegmentConfig
from wsi_attn.tasks.segmentation.slide import SlideSegmentation
from wsi_attn.tissue import find
from wsi_attn.tissue.mask import TissueMask
from wsi_attn.tissue.settings import TissueSettings
from wsi_attn.viewer.viewer_slide import ViewerSlide

Command = Callable[..., Result]
TRAINING = (
    *("--epochs", "1", "--mpp", "2", "--batch-size", "2", "--patch-size", "32", "--coarse-factor", "4"),
    *("--instances", "2", "--tissue", "otsu", "--weights", "none", "--quiet"),
)


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[TissueMask]:
    """Every mask that is detected or loaded from a store while the test runs."""
    found: list[TissueMask] = []

    def recorded(function: Callable[..., TissueMask]) -> Callable[..., TissueMask]:
        def record(*arguments: object, **more: object) -> TissueMask:
            found.append(function(*arguments, **more))
            return found[-1]

        return record

    for name in ("detect_tissue", "stored_tissue"):
        monkeypatch.setattr(find, name, recorded(getattr(find, name)))
    return found


@pytest.fixture
def expected(demo_slide: Path) -> TissueMask:
    return find_tissue(demo_slide)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return partial(in_process, capsys)


@pytest.fixture
def store(demo_slide: Path, tmp_path: Path, command: Command) -> Path:
    command("tile", demo_slide, "-o", tmp_path / "demo.zarr", "--scores", "none")
    return tmp_path / "demo.zarr"


@pytest.fixture(params=["slide", "store"])
def source(request: pytest.FixtureRequest, demo_slide: Path, store: Path) -> Iterator[Slide]:
    with open_source(demo_slide if request.param == "slide" else store) as opened:
        yield opened


def equal(found: TissueMask, expected: TissueMask) -> None:
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_array_equal(found.readable, expected.readable)
    assert (found.frame, found.size0, found.method) == (expected.frame, expected.size0, expected.method)
    assert (found.measure, found.threshold) == (expected.measure, expected.threshold)


def test_commands_find_the_same_masks(
    demo_slide: Path, store: Path, tmp_path: Path, command: Command, masks: list[TissueMask], expected: TissueMask
) -> None:
    rows = ["path,label,patient,split"]
    for number, split in enumerate(("train", "train", "train", "train", "val", "val", "test", "test")):
        shutil.copy(demo_slide, tmp_path / f"{number}.svs")
        rows.append(f"{number}.svs,{'ab'[number % 2]},p{number},{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    fractions: list[float] = []
    for lines in (
        ("tissue", demo_slide, "-o", tmp_path / "outlines", "--json"),
        ("tissue", store, "--json"),
        ("tile", demo_slide, "-o", tmp_path / "small.zarr", "--tile-size", "64", "--scores", "none", "--json"),
        ("tile", store, "-o", tmp_path / "again.zarr", "--codec", "zstd", "--scores", "none", "--json"),
        ("predict", demo_slide, "--json"),
        ("predict", store, "--json"),
        ("train", tmp_path / "manifest.csv", "-o", tmp_path / "run", *TRAINING, "--json"),
        ("evaluate", tmp_path / "run", tmp_path / "manifest.csv", "--json"),
    ):
        masks.clear()
        records = command(*lines).json()
        assert masks, lines
        for mask in masks:
            equal(mask, expected)
        fractions += [record["tissue_fraction"] for record in records if "tissue_fraction" in record]
    assert len(fractions) >= 4
    assert {round(fraction, 6) for fraction in fractions} == {round(expected.fraction, 6)}

    outlines = tmp_path / "outlines" / f"{demo_slide.stem}.tissue.geojson"
    drawn = tissue_from_geojson(outlines, expected.frame, expected.size0)
    np.testing.assert_array_equal(drawn.mask, expected.mask)
    for name in ("demo", "small", "again"):
        equal(find_tissue(tmp_path / f"{name}.zarr"), expected)
    equal(open_export_source(store).tissue(), expected)


def test_segmentation_viewer_and_bags_have_it_too(
    source: Slide, tmp_path: Path, masks: list[TissueMask], expected: TissueMask
) -> None:
    model = checkpoint(tiny(), tissue="otsu", mpp=4.0)
    SlideSegmentation(source, model, tmp_path / "segmented", SegmentConfig(workers=1)).write()
    patches = SlidePatches(source, 2.0, 4, workers=1)
    large = large_bag(patches, 4, "otsu")
    small = make_bag(patches, "otsu")
    equal(ViewerSlide(source.info.path, LruCache(0)).tissue(), expected)
    assert len(masks) >= 3
    for found in masks:
        equal(found, expected)
    assert large.frame == expected.frame
    np.testing.assert_array_equal(large.tissue, expected.mask)
    coarse = Frame.covering(expected.size0, patches.downsample_x * 4, patches.downsample_y * 4)
    np.testing.assert_array_equal(small.tissue, expected.on(coarse))
    assert small.fraction == large.fraction == expected.fraction


def test_a_store_detects_only_what_it_does_not_keep(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_source(store) as opened:
        kept = find.find_tissue(opened)
        others = [
            find.find_tissue(opened, settings) for settings in (TissueSettings("robust"), TissueSettings(mpp=4.0))
        ]
    assert [mask.method for mask in others] == ["robust", "otsu"]
    assert others[1].frame != kept.frame
    monkeypatch.setattr(find, "read_view", lambda *_, **__: pytest.fail("the store keeps this mask"))
    with open_source(store) as opened:
        equal(find.find_tissue(opened), kept)
