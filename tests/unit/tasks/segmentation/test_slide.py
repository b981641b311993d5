"""Segmenting a slide: what it leaves, that a cut off run ends as if it had not been, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image_label import ImageLabel

from tests.slides import MPP, ArraySlide, stained
from tests.unit.tasks.segmentation.networks import checkpoint, tiny
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import MissingMppError, OutputExistsError, TissueError, UsageError
from wsi_attn.geometry import Region
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.outputs.policy import decide
from wsi_attn.slide import Slide
from wsi_attn.tasks.segmentation import labels as labels_module
from wsi_attn.tasks.segmentation.config import SegmentConfig
from wsi_attn.tasks.segmentation.slide import SlideSegmentation
from wsi_attn.tasks.segmentation.tiled_inference import TiledInference

CONFIG = SegmentConfig(workers=1)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "BLOCK", 64)
    monkeypatch.setattr(labels_module, "SMALLEST", 64)


def slide(**options: object) -> ArraySlide:
    return ArraySlide(stained(260, 200), **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but records, which say how long it took."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".segmentation.json")
    }


def test_what_a_slide_leaves(tmp_path: Path) -> None:
    model = checkpoint(tiny())
    record = SlideSegmentation(slide(), model, tmp_path, CONFIG).write()
    group = zarr.open_group(tmp_path / "synthetic.segmentation.zarr", mode="r")
    finest = np.asarray(group["0"][...])
    field = TiledInference(model.network, SlidePatches(slide(), None, 1), 64, 32)
    np.testing.assert_array_equal(finest, field.answer(Region(0, 0, 260, 200)).classes)
    np.testing.assert_array_equal(group["1"][...], finest[::2, ::2])
    assert max(group["2"].shape) > 64 >= max(group["3"].shape)
    ImageLabel.from_zarr(group)
    meta = group.attrs["ome"]["multiscales"][0]
    assert meta["datasets"][1]["coordinateTransformations"][0]["scale"] == [2 * MPP.y, 2 * MPP.x]
    for index, name in enumerate(("cell", "gland"), 1):
        area = (finest == index).sum() * MPP.x * MPP.y / 1e6
        assert record["classes"][name]["area"] == pytest.approx(area)
        assert record["classes"][name]["share"] == pytest.approx((finest == index).mean(), abs=1e-6)
    objects = sum(found["objects"] for found in record["classes"].values())
    assert objects == len(json.loads((tmp_path / "synthetic.segmentation.geojson").read_text())["features"])
    assert json.loads((tmp_path / "synthetic.segmentation.json").read_text()) == record
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("blocks", [0, 3, 19])
def test_a_run_that_is_cut_off_ends_as_one_that_is_not(
    blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoint(tiny("joint"))
    SlideSegmentation(slide(), model, tmp_path / "whole", CONFIG).write()
    answer, answered = TiledInference.answer, []

    def cut_off(field: TiledInference, block: Region) -> object:
        if len(answered) == blocks:
            raise KeyboardInterrupt
        answered.append(block)
        return answer(field, block)

    monkeypatch.setattr(TiledInference, "answer", cut_off)
    with pytest.raises(KeyboardInterrupt):
        SlideSegmentation(slide(), model, tmp_path / "cut", CONFIG).write()
    assert not (tmp_path / "cut" / "synthetic.segmentation.zarr").exists()
    monkeypatch.setattr(TiledInference, "answer", lambda field, block: answered.append(block) or answer(field, block))
    assert unfinished(tmp_path / "cut", model)
    SlideSegmentation(slide(), model, tmp_path / "cut", CONFIG).write()
    assert len(answered) == 5 * 4  # no block twice
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def unfinished(folder: Path, model: Checkpoint, config: SegmentConfig = CONFIG, of: Slide | None = None) -> bool:
    output = SlideSegmentation(of or slide(), model, folder, config).output()
    return decide(output, overwrite=False).finished is None


def test_finished_results_are_known_and_others_refused(tmp_path: Path) -> None:
    model = checkpoint(tiny())
    assert unfinished(tmp_path, model)
    SlideSegmentation(slide(), model, tmp_path, CONFIG).write()
    assert not unfinished(tmp_path, model)
    with pytest.raises(OutputExistsError):
        unfinished(tmp_path, model, SegmentConfig(simplify=1.0))
    with pytest.raises(OutputExistsError):
        unfinished(tmp_path, model, of=ArraySlide(stained(260, 200, seed=2)))
    SlideSegmentation(slide(), model, tmp_path, SegmentConfig(simplify=1.0, workers=1)).write(overwrite=True)
    assert not unfinished(tmp_path, model, SegmentConfig(simplify=1.0))


def test_glass_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Region] = []
    answer = TiledInference.answer
    monkeypatch.setattr(TiledInference, "answer", lambda field, block: asked.append(block) or answer(field, block))
    picture = np.full((700, 700, 3), 242, np.uint8)
    picture[:260, :340] = stained(340, 260)
    found = SlideSegmentation(ArraySlide(picture, mpp=None), checkpoint(tiny(), "otsu"), tmp_path, CONFIG).write()
    assert asked
    assert all(block.x < 400 and block.y < 320 for block in asked)
    assert 0.02 < found["tissue_fraction"] < 0.2
    assert found["area_unit"] == "px²"
    glass = ArraySlide(np.full((200, 200, 3), 242, np.uint8))
    with pytest.raises(TissueError):
        SlideSegmentation(glass, checkpoint(tiny(), "otsu"), tmp_path, CONFIG).write()


def test_pixels_are_read_at_the_resolution_of_the_model(tmp_path: Path) -> None:
    record = SlideSegmentation(slide(), checkpoint(tiny(), mpp=1.0), tmp_path, CONFIG).write()
    assert record["label_mpp"] == [1.0, 1.0]
    group = zarr.open_group(tmp_path / "synthetic.segmentation.zarr", mode="r")
    assert group["0"].shape == (100, 130)
    with pytest.raises(MissingMppError):
        SlideSegmentation(slide(mpp=None), checkpoint(tiny(), mpp=1.0), tmp_path, CONFIG).write()


def test_a_label_goes_into_stores_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a store"):
        SlideSegmentation(slide(), checkpoint(tiny()), tmp_path, SegmentConfig(into_store=True))
