"""Training for rare classes as a user does it: CARE with every source of boxes, losses and resampling."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.runner import Result, in_process
from wsi_attn.models.base import BagBatch
from wsi_attn.models.checkpoint import save_checkpoint
from wsi_attn.models.configs import SEGMENTATION
from wsi_attn.models.joint_segmentation import JointSegmentation, JointSegmentationConfig
from wsi_attn.models.spec import ModelSpec

TINY = ("--epochs", "2", "--batch-size", "4", "--coarse-factor", "1", "--coarse-widths", "4,8", "--quiet")
CNN = ("--model", "cnn", *TINY)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen common cells and two rare ones; boxes in each of two notations for the rare."""
    folder = tmp_path_factory.mktemp("cells")
    rng = np.random.default_rng(0)
    rows = ["path,label,split,boxes"]
    for number in range(20):
        label = "rare" if number >= 17 else "common"
        pixels = rng.normal((235, 225, 230), 4, (48, 64, 3))
        x, y = int(rng.integers(4, 36)), int(rng.integers(4, 20))
        pixels[y : y + 20, x : x + 20] = (150, 40, 60) if label == "rare" else (110, 60, 140)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        box = f"{x} {y} {x + 20} {y + 20}" if label == "rare" else ""
        if number == 17:
            image = {"id": 1, "file_name": "17.png", "width": 64, "height": 48}
            document = {"images": [image], "annotations": [{"image_id": 1, "bbox": [x, y, 20, 20]}]}
            (folder / "17.json").write_text(json.dumps(document))
            box = "17.json"
        rows.append(f"{number}.png,{label},{'val' if number in (15, 16, 19) else 'train'},{box}")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return folder / "m.csv"


Run = Callable[..., Result]


@pytest.fixture
def wsi_attn(capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(in_process, capsys)


def log_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("source", ["boxes", "saliency"])
def test_attention_is_pulled_and_the_model_is_as_any_other(
    source: str, wsi_attn: Run, manifest: Path, tmp_path: Path
) -> None:
    arguments = ("train", manifest, "--output", tmp_path / "run", *CNN, "--care", source, "--care-weight", "0.1")
    (record,) = wsi_attn(*arguments, "--json").json()
    assert record["n"] == 3
    epochs = log_of(tmp_path / "run")
    assert len(epochs) == 2
    assert not epochs[0]["care"]  # the first half of the epochs trains what there is to explain
    for epoch in epochs[1:]:  # the mean over the steps of 0.1 times the sum over at most two images, each -0.5 to 1
        assert -0.1 <= float(epoch["care"]) <= 0.2
        assert float(epoch["loss"]) == pytest.approx(float(epoch["care"]) + float(epoch["fused"]), rel=1e-4)
    assert float(epochs[1]["care"]) != 0
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (settings["care"], settings["care_weight"], settings["rare_classes"]) == (source, 0.1, [])
    (report,) = wsi_attn("evaluate", tmp_path / "run", manifest, "--split", "val", "--json").json()
    assert report["n"] == 3
    (again,) = wsi_attn(*arguments, "--json").json()
    assert again["state"] == "skipped"


@pytest.fixture(scope="module")
def segmenter(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learned dark from pale, as `train --model joint-segmentation` leaves it."""
    torch.manual_seed(0)
    network = JointSegmentation(JointSegmentationConfig(2, attention="none", crop=64, dropout=0.0)).train()
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    views = [np.asarray(Image.open(manifest.parent / f"{number}.png").convert("RGB")) for number in range(4)]
    pixels = np.stack([np.pad(view, ((0, 16), (0, 0), (0, 0)), mode="edge") for view in views])
    valid, extent = torch.ones(4, 64, 64, dtype=torch.bool), torch.full((4, 2), 64)
    batch = BagBatch(torch.from_numpy(pixels).permute(0, 3, 1, 2), valid, extent, ())
    for _ in range(40):
        terms = network.losses(network(batch), torch.from_numpy((pixels[..., 0] < 180).astype(np.int64)))
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    with torch.no_grad():  # statistics of these images, not of the way there
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        network(batch)
    folder = tmp_path_factory.mktemp("model") / "cells"
    spec = ModelSpec(("background", "cell"), None, "any", "none", task=SEGMENTATION)
    save_checkpoint(
        folder, name="cells", system="joint-segmentation", network=network, spec=spec, card="# cells", provenance={}
    )
    return folder


@pytest.mark.slow
def test_boxes_by_segmentation(wsi_attn: Run, segmenter: Path, manifest: Path, tmp_path: Path) -> None:
    options = ("--method", "segmentation", "--model", segmenter)
    found = wsi_attn("boxes", manifest, "--output", tmp_path / "boxes", *options, "--json").json()
    assert len(found) == 20
    assert np.mean([record["iou"] for record in found if record["iou"] is not None]) > 0.5
    care = ("--care", "segmentation", "--care-model", segmenter)
    wsi_attn("train", manifest, "--output", tmp_path / "run", *CNN, *care)
    assert float(log_of(tmp_path / "run")[1]["care"]) != 0


def test_without_it_there_is_no_term_and_the_same_seed_gives_other_weights(
    wsi_attn: Run, manifest: Path, tmp_path: Path
) -> None:
    weights = []
    for name, options in (("plain", ()), ("care", ("--care", "boxes", "--care-after", "1"))):
        wsi_attn("train", manifest, "--output", tmp_path / name, *CNN, *options)
        weights.append((tmp_path / name / "checkpoint" / "model.safetensors").read_bytes())
    plain, care = log_of(tmp_path / "plain"), log_of(tmp_path / "care")
    assert "care" not in plain[0]
    assert care[0]["care"] == ""
    assert float(care[1]["care"]) != 0
    assert plain[0]["loss"] == care[0]["loss"]  # the first epoch is without it
    assert weights[0] != weights[1]


def test_deep_attention_and_named_classes(wsi_attn: Run, manifest: Path, tmp_path: Path) -> None:
    options = ("--patch-size", "16", "--patch-widths", "4,8", "--instances", "2", "--rare-classes", "rare, common")
    options += (
        "--care",
        "saliency",
        "--care-after",
        "0",
        "--care-tau",
        "0.25",
        "--care-distance",
        "0.5",
        "--care-reduction",
        "mean",
    )
    wsi_attn("train", manifest, "--output", tmp_path / "run", *TINY, *options)
    assert all(float(epoch["care"]) != 0 for epoch in log_of(tmp_path / "run"))
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert settings["rare_classes"] == ["rare", "common"]


def test_losses_and_resampling_go_with_it(wsi_attn: Run, manifest: Path, tmp_path: Path) -> None:
    for name, options in (
        ("focal", ("--loss", "focal", "--gamma", "1", "--resample", "balanced", "--care-second-order")),
        ("balanced", ("--loss", "class-balanced", "--beta", "0.9", "--resample", "root", "--precision", "bf16-mixed")),
    ):
        wsi_attn("train", manifest, "--output", tmp_path / name, *CNN, "--epochs", "1", "--care", "boxes", *options)
        (epoch,) = log_of(tmp_path / name)
        assert float(epoch["fused"]) > 0
        assert float(epoch["care"]) != 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--care", "box"), 2, "boxes"),
        (("--care", "boxes", "--rare-classes", "rar"), 2, "did you mean rare"),
        (("--care", "boxes", "--rare-classes", "common"), 3, "m.csv, --care: no training row of common has boxes"),
        (("--care", "segmentation"), 2, "segmentation model"),
        (("--loss", "focus"), 2, "focal"),
        (("--loss", "focal", "--model", "joint-segmentation"), 2, "--model joint-segmentation has no option --"),
        (("--resample", "all"), 2, "balanced"),
    ],
)
def test_options_that_cannot_be(
    options: tuple[str, ...], code: int, said: str, wsi_attn: Run, manifest: Path, tmp_path: Path
) -> None:
    assert said in wsi_attn("train", manifest, "--output", tmp_path / "run", *CNN, *options, code=code).error()


def test_no_class_is_rare(wsi_attn: Run, manifest: Path, tmp_path: Path) -> None:
    header, *rows = manifest.read_text().splitlines()
    even = [f"{manifest.parent}/{row}" for row in (*rows[:2], *rows[15:16], *rows[18:])]
    (tmp_path / "even.csv").write_text("\n".join([header, *even]).replace(",17.json", ",") + "\n")
    arguments = ("train", tmp_path / "even.csv", "--output", tmp_path / "run", *CNN, "--care", "boxes")
    assert "--rare-classes" in wsi_attn(*arguments, code=2).error()


def test_boxes_on_a_copy_of_another_size_stop_training(wsi_attn: Run, manifest: Path, tmp_path: Path) -> None:
    document = json.loads((manifest.parent / "17.json").read_text())
    document["images"][0] |= {"width": 640, "height": 480}
    (tmp_path / "17.json").write_text(json.dumps(document))
    header, *rows = manifest.read_text().splitlines()
    moved = [f"{manifest.parent}/{row}" for row in rows]
    (tmp_path / "m.csv").write_text("\n".join([header, *moved]) + "\n")
    arguments = ("train", tmp_path / "m.csv", "--output", tmp_path / "run", *CNN, "--care", "boxes")
    error = wsi_attn(*arguments, code=3).error()
    assert "m.csv, row 19" in error
    assert "belong to an image of 640 x 480 px" in error
