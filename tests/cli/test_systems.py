"""Systems with a single look: trained, evaluated, used and drawn, as a user does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import wsi_attn
from wsi_attn.cli import app
from wsi_attn.errors import ExitCode

pytestmark = pytest.mark.slow

OPTIONS = {
    "global-spatial": ("--view-size", "32", "--coarse-widths", "8,8", "--map-after", "input", "--anchors", "4"),
    "dual-cross": (
        "--backbone", "small", "--second-backbone", "small-vgg", "--coarse-widths", "4,4,8,8", "--fusion", "cross",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one layout whose square is reddish or greenish, two a patient, with a test part."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = ["path,label,patient,split"]
    for number in range(20):
        label = "red" if number % 2 else "green"
        pixels = rng.normal(150, 20, (48, 40, 3))
        pixels[:24] += 40
        pixels[8:20, 10:22, 0 if label == "red" else 1] += 60
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{label},p{number // 2},{'test' if number > 13 else 'train'}")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return folder / "m.csv"


@pytest.fixture(scope="module", params=OPTIONS)
def run(request: pytest.FixtureRequest, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / request.param
    common = ("--epochs", "2", "--batch-size", "4", "--output", run, "--quiet", "--json")
    (record,) = wsi_attn("train", manifest, "--model", request.param, *OPTIONS[request.param], *common).json()
    assert record["state"] == "trained"
    assert f"A {request.param} model" in (run / "checkpoint" / "card.md").read_text()
    return run


def test_evaluated_with_its_uncertainty(run: Path, manifest: Path, tmp_path: Path) -> None:
    command = ("evaluate", run, manifest, "--report", tmp_path / "report", "--mc-dropout", "6", "--json")
    (found,) = wsi_attn(*command).json()
    assert found["n"] == 6
    section = found["uncertainty"]
    assert (section["by"], section["passes"]) == ("predictive_entropy", 6)
    assert set(section["terms"]) == {"entropy", "predictive_entropy", "expected_entropy", "mutual_information"}
    assert set(section["referral"]) == {"0", "0.1", "0.2", "0.3"}
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<img") == 6
    assert "Risk over coverage" in page
    header = (tmp_path / "report" / "predictions.csv").read_text().splitlines()[0]
    assert "predictive_entropy,expected_entropy,mutual_information" in header
    assert wsi_attn(*command).json() == [found]  # the report already complete
    assert "--overwrite" in wsi_attn(*command[:-2], "7", code=3).error()


def test_predicted_and_drawn(run: Path, manifest: Path, tmp_path: Path) -> None:
    images = [manifest.parent / f"{number}.png" for number in (0, 1)]
    command = ("predict", *images, "--model", run, "--output", tmp_path, "--allow-out-of-distribution", "--quiet")
    found = wsi_attn(*command, "--mc-dropout", "8", "--refer-above", "0", "--json").json()
    for record in found:
        terms = record["uncertainty"]
        assert 0 <= terms["mutual_information"] <= terms["predictive_entropy"] <= np.log(2)
        assert (record["refer"], record["mc_dropout"]) == (True, 8)
        assert record["attention"] == []
    assert "--overwrite" in wsi_attn(*command, code=3).stderr
    by = ("--refer-by", "mutual_information")
    lines = wsi_attn(*command, "--overwrite", "--mc-dropout", "8", "--refer-above", "0.69", *by).stdout.splitlines()
    assert all(line.endswith("\tkeep") for line in lines)
    assert "--mc-dropout" in wsi_attn(*command, "--refer-above", "0.5", *by, code=2).error()
    (picture, *_) = wsi_attn("heatmap", tmp_path / "0.prediction.json", "--output", tmp_path, "--json").json()
    with Image.open(picture["heatmap"]) as drawn:
        assert drawn.size[0] >= 40
    wsi_attn("heatmap", tmp_path / "0.prediction.json", "--of", "evidence:red", "--output", tmp_path)


def test_the_learned_map_is_written(run: Path, tmp_path: Path) -> None:
    command = ("export", run, "--to", "attention-map", "--output", tmp_path / "maps", "--json")
    if run.name != "global-spatial":
        assert "only global-spatial" in wsi_attn(*command, code=3).error()
        assert not (tmp_path / "maps").exists()
        return
    (record,) = wsi_attn(*command).json()
    with Image.open(record["output"]) as alone:
        assert (alone.size, alone.mode) == ((32, 32), "L")
        assert np.asarray(alone).max() == round(record["largest"] * 255)
    with Image.open(record["overlay"]) as over:
        assert over.size[0] >= 512
        words = json.loads(over.text["wsi-attn"])
    assert words["model"]["name"] == "global-spatial"
    assert record["alignment"] > 0.3
    first = Path(record["output"]).read_bytes()
    again = wsi_attn(*command)
    assert again.json()[0]["state"] == "skipped"
    assert "already complete" in again.stderr
    Path(record["output"]).write_bytes(b"another")
    assert "--overwrite" in wsi_attn(*command, code=3).error()
    wsi_attn(*command, "--overwrite")
    assert Path(record["output"]).read_bytes() == first


@pytest.mark.parametrize(
    ("system", "option", "value", "said"),
    [
        ("global-spatial", "--fusion", "concat", "no option --fusion"),
        ("dual-cross", "--map-by", "free", "no option --map-by"),
        ("global-spatial", "--map-after", "first", "--map-after takes"),
        ("global-spatial", "--view-size", "30", "is not a multiple of"),
    ],
)
def test_options_that_a_system_does_not_have(
    system: str, option: str, value: str, said: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(manifest), "--output", str(tmp_path / "run"), "--model", system, option, value]
    assert app.run(command) == ExitCode.USAGE
    assert said in capsys.readouterr().err
