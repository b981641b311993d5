"""Many paths: a bad one costs only itself, finished ones are skipped, no answer overwrites another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.progress import RecordedProgress
from tests.slides import stained
from wsi_attn.data.inputs import Input
from wsi_attn.errors import ManifestError, MissingMppError, OutputExistsError, SlideNotFoundError, SlideUnsupportedError
from wsi_attn.geometry import Mpp
from wsi_attn.inference.batch import Batch, Outcome, run_inputs
from wsi_attn.inference.evaluation import evaluate_into
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig
from wsi_attn.models.spec import ModelSpec
from wsi_attn.store.predictions import read_prediction
from wsi_attn.tasks.base import EvaluationJob, inference_of
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.config import EvaluateConfig

CONFIG = PredictConfig(workers=1)


def checkpoint(sha256: str = "0" * 64, mpp: float | None = None) -> Checkpoint:
    torch.manual_seed(0)
    config = DeepAttentionConfig(
        classes=2, coarse_factor=4, patch_size=32, instances=2, coarse_widths=(4, 4), patch_widths=(4, 4), hidden=4
    )
    spec = ModelSpec(("a", "b"), mpp, "any", "none")
    return Checkpoint("tiny", sha256, "deep-attention", spec, DeepAttention(config).eval())


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for seed, path in enumerate(paths):
        Image.fromarray(stained(120, 80, seed)).save(path)
    return paths


def run(paths: list[Path], output: Path, model: Checkpoint | None = None, **options: Any) -> list[Outcome]:
    inference = inference_of(model or checkpoint(), CONFIG)
    return list(run_inputs([Input(path) for path in paths], inference, Batch(output, **options)))


def states(outcomes: list[Outcome]) -> list[str]:
    return [outcome.state for outcome in outcomes]


def test_bad_paths_do_not_stop_the_rest(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.svs").write_text("no slide")
    paths = [images[0], tmp_path / "none.svs", images[1], tmp_path / "text.svs", images[2]]
    found = run(paths, tmp_path / "out")
    assert states(found) == ["predicted", "failed", "predicted", "failed", "predicted"]
    assert [outcome.path for outcome in found] == paths
    assert isinstance(found[1].error, SlideNotFoundError)
    assert isinstance(found[3].error, SlideUnsupportedError)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{name}.prediction.{ending}" for name in "abc" for ending in ("json", "zarr")
    ]
    assert read_prediction(found[4].answer.file).probabilities == found[4].answer.drawable.probabilities


def test_finished_answers_are_skipped_and_kept(images: list[Path], tmp_path: Path) -> None:
    first = run(images[:2], tmp_path / "out")
    before = [outcome.answer.file.stat().st_mtime_ns for outcome in first]
    again = run(images, tmp_path / "out")
    assert states(again) == ["skipped", "skipped", "predicted"]
    assert [outcome.answer.file.stat().st_mtime_ns for outcome in again[:2]] == before
    assert again[0].answer.drawable.probabilities == first[0].answer.drawable.probabilities
    assert states(run(images, tmp_path / "out", overwrite=True)) == ["predicted"] * 3


def test_one_name_for_two_slides_is_refused(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "a.jpg"
    Image.fromarray(stained(120, 80, 9)).save(other)
    for overwrite in (False, True):
        found = run([images[0], other, images[1]], tmp_path / f"out{overwrite}", overwrite=overwrite)
        assert states(found) == ["predicted", "failed", "predicted"]
        assert isinstance(found[1].error, OutputExistsError)
        assert str(other) in str(found[1].error)
        assert str(images[0]) in str(found[1].error)
        assert read_prediction(found[0].answer.file).slide == str(images[0])


def test_a_path_named_twice_is_answered_once(images: list[Path], tmp_path: Path) -> None:
    assert states(run([images[0], Path(str(images[0]))], tmp_path / "out")) == ["predicted", "skipped"]


@pytest.mark.parametrize("change", ["slide", "model", "mpp", "other file"])
def test_what_lies_there_of_another_is_refused_until_overwritten(
    change: str, images: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    (first,) = run(images[:1], output)
    model, options = checkpoint(), {}
    if change == "slide":
        Image.fromarray(stained(120, 80, 5)).save(images[0])
    elif change == "model":
        model = checkpoint("1" * 64)
    elif change == "mpp":
        options = {"slide_mpp": Mpp(0.5, 0.5)}
    else:
        first.answer.file.write_text("my notes")
    before = first.answer.file.read_bytes()
    (found,) = run(images[:1], output, model, **options)
    assert found.state == "failed"
    assert isinstance(found.error, OutputExistsError)
    assert "--overwrite" in str(found.error)
    assert first.answer.file.read_bytes() == before
    assert states(run(images[:1], output, model, overwrite=True, **options)) == ["predicted"]


def test_pixel_size_by_hand_is_enough(images: list[Path], tmp_path: Path) -> None:
    model = checkpoint(mpp=0.5)
    (found,) = run(images[:1], tmp_path / "out", model)
    assert isinstance(found.error, MissingMppError)
    (found,) = run(images[:1], tmp_path / "out", model, slide_mpp=Mpp(0.25, 0.5))
    assert found.state == "predicted"
    assert found.answer.drawable.mpp == (0.25, 0.5)


def write_manifest(folder: Path, rows: list[str]) -> Path:
    (folder / "m.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    return folder / "m.csv"


def test_cohort_counts_what_failed_and_measures_the_rest(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n")
    manifest = write_manifest(tmp_path, ["a.png,a,test", "b.png,b,test", "bad.png,a,test", "c.png,b,train"])
    report, failures = evaluate_into(None, [checkpoint()], EvaluationJob(manifest, EvaluateConfig(), workers=1))
    assert (report["n"], report["split"]) == (2, "test")
    (failure,) = failures
    assert "bad.png" in str(failure)
    progress = RecordedProgress()
    report, _ = evaluate_into(
        None, [checkpoint()], EvaluationJob(manifest, EvaluateConfig("all"), workers=1), progress=progress
    )
    assert report["n"] == 3
    assert [(item.number, item.count, item.name, item.state) for item in progress.items] == [
        (1, 4, "a.png", "done"),
        (2, 4, "b.png", "done"),
        (3, 4, "bad.png", "failed"),
        (4, 4, "c.png", "done"),
    ]
    assert {"reading", "coarse view"} <= set(progress.items[0].phases)
    assert np.isfinite(report["accuracy"]["value"])


def test_cohorts_that_cannot_be_measured(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n")
    for rows, split, said in [
        (["a.png,a,train"], "test", "no rows of split 'test'"),
        (["a.png,z,test"], "test", "row 2: 'z' is not a label of tiny"),
        (["bad.png,a,test"], "test", "none of 1 rows"),
    ]:
        with pytest.raises(ManifestError, match=said):
            evaluate_into(
                None, [checkpoint()], EvaluationJob(write_manifest(tmp_path, rows), EvaluateConfig(split), workers=1)
            )
