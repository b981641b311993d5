"""A small package with a member of every family keeps the contracts and is found by the commands."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.packages import EXAMPLE, install, install_example
from wsi_attn.export.exporter import EXPORTERS
from wsi_attn.models.configs import CONFIGS
from wsi_attn.models.systems import SYSTEMS
from wsi_attn.nn.backbones import BACKBONES
from wsi_attn.registry import Registry
from wsi_attn.scores.scores import SCORES
from wsi_attn.slides.reader import READERS, slide_suffixes
from wsi_attn.tasks.base import TASKS
from wsi_attn.testing.encoders import BackboneContract
from wsi_attn.testing.exporters import ExporterContract
from wsi_attn.testing.models import ModelContract
from wsi_attn.testing.readers import ReaderContract
from wsi_attn.testing.scores import ScoreContract
from wsi_attn.testing.tasks import MANIFEST, TaskContract

FAMILIES: tuple[Registry, ...] = (READERS, EXPORTERS, SCORES, SYSTEMS, CONFIGS, BACKBONES, TASKS)


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of `sys.path` with the package."""
    folder = tmp_path_factory.mktemp("site")
    install_example(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for registry in FAMILIES:  # what they know before stays as it is
            patch.setattr(registry, "_plugins", None)
        slide_suffixes.cache_clear()
        yield folder
    slide_suffixes.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "example_plugin"]:
        del sys.modules[name]


class TestReader(ReaderContract):
    name = "rawrgb"

    def slide_file(self, folder: Path) -> Path:
        return rawrgb(folder / "slide.rawrgb")


class TestExporter(ExporterContract):
    name = "lines"


class TestScore(ScoreContract):
    name = "redness"


class TestModel(ModelContract):
    name = "mean-colour"


class TestBackbone(BackboneContract):
    name = "patchify"


class TestTask(TaskContract):
    name, system = "amount", "colour-sum"

    def manifest(self, folder: Path) -> None:
        write_amounts(folder)


def write_amounts(folder: Path) -> None:
    """Grey images whose amount is a linear function of their brightness."""
    lines = ["path,patient,split,amount"]
    for number, split in enumerate(["train"] * 8 + ["val"] * 4 + ["test"] * 4):
        grey = 30 + 47 * number % 200
        Image.fromarray(np.full((20 + number, 30, 3), grey, np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,p{number},{split},{3 * grey / 255 + 1:.4f}")
    (folder / MANIFEST).write_text("\n".join(lines) + "\n")


def rawrgb(path: Path) -> Path:
    pixels = np.full((600, 700, 3), 240, np.uint8)
    pixels[100:500, 100:600] = np.random.default_rng(0).integers(90, 250, (400, 500, 3))
    path.write_bytes(struct.pack("<6sII", b"RAWRGB", 700, 600) + pixels.tobytes())
    return path


def wsi_attn(site: Path, *arguments: str | Path, code: int | None = 0) -> tuple[str, str]:
    """Streams of a command in an environment where the package is installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "wsi_attn", *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert code is None or done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_each_member_is_small() -> None:
    for module in (EXAMPLE / "example_plugin").glob("*.py"):
        code = [line for line in module.read_text().splitlines() if line.strip() and not line.startswith(('"""', "#"))]
        statements = [line for line in code if not line.startswith(("from ", "import "))]
        assert len(statements) <= 20, f"{module.name} has {len(statements)} lines"


def test_commands_open_its_slides_compute_its_score_and_export(site: Path, tmp_path: Path) -> None:
    rawrgb(tmp_path / "slide.rawrgb")
    stdout, _ = wsi_attn(site, "info", tmp_path)
    assert "700 x 600" in stdout
    store = tmp_path / "slide.zarr"
    wsi_attn(site, "tile", tmp_path / "slide.rawrgb", "--scores", "tissue,redness", "-o", tmp_path, "--tile-size", "64")
    from wsi_attn.store.tile_store import TileStore

    with TileStore.open(store) as opened:
        values = opened.scores("default", "redness")
        assert ((values > 90) & (values < 250)).all()
    wsi_attn(site, "export", store, "--to", "lines", "--top", "3", "-o", tmp_path / "best.txt")
    assert len((tmp_path / "best.txt").read_text().splitlines()) == 3


def test_its_model_and_backbone_train(site: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = ["path,label,patient"]
    for index in range(8):
        colour = (220, 120, 160) if index % 2 else (120, 140, 220)
        pixels = np.clip(random.normal(colour, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{'b' if index % 2 else 'a'},p{index}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    short = ("--epochs", "1", "--batch-size", "4", "--coarse-factor", "1", "--quiet")
    wsi_attn(site, "train", tmp_path / "m.csv", "--model", "mean-colour", "-o", tmp_path / "run", *short)
    stdout, _ = wsi_attn(site, "predict", tmp_path / "0.png", "--model", tmp_path / "run")
    assert "0.png" in stdout
    options = ("--model", "cnn", "--backbone", "patchify", "--coarse-widths", "8")
    wsi_attn(site, "train", tmp_path / "m.csv", *options, "-o", tmp_path / "other", *short)


def test_its_task_is_trained_evaluated_and_answers(site: Path, tmp_path: Path) -> None:
    write_amounts(tmp_path)
    manifest, run, image = tmp_path / MANIFEST, tmp_path / "run", tmp_path / "15.png"
    options = ("--epochs", "80", "--batch-size", "4", "--learning-rate", "0.2", "--averaging", "0.5", "--quiet")
    stdout, _ = wsi_attn(site, "train", manifest, "--model", "colour-sum", "-o", run, *options)
    assert stdout.split("\t")[1] == "mean_absolute_error"
    stdout, _ = wsi_attn(site, "evaluate", run, manifest, "--json", "--report", tmp_path / "report")
    report = json.loads(stdout)
    assert report["n"] == 4
    assert report["mean_absolute_error"]["value"] < 0.1
    stdout, _ = wsi_attn(site, "predict", image, "--model", run)
    assert abs(float(stdout.split("\t")[1]) - 3 * (30 + 47 * 15 % 200) / 255 - 1) < 0.1
    stdout, _ = wsi_attn(site, "predict", image, "--model", run, "-o", tmp_path / "out", "--json")
    assert json.loads(stdout) == json.loads((tmp_path / "out" / "15.amount.json").read_text())
    _, stderr = wsi_attn(site, "predict", image, "--model", run, "--mc-dropout", "4", code=2)
    assert "amount, which has no --mc-dropout" in stderr
    more = ("--model", "colour-sum", "-o", tmp_path / "other", "--quiet")
    _, stderr = wsi_attn(site, "train", manifest, *more, "--mpp", "1", code=2)
    assert "has no option --mpp" in stderr
    manifest.write_text(manifest.read_text().replace(",train,", ",train,x", 1))
    _, stderr = wsi_attn(site, "train", manifest, *more, code=3)
    assert "0.png needs a number in the column amount" in stderr


def test_doctor_lists_its_members(site: Path) -> None:
    stdout, _ = wsi_attn(site, "doctor", code=None)
    (line,) = (line for line in stdout.splitlines() if "example-plugin" in line)
    assert line.startswith("PASS")
    members = (
        "readers rawrgb",
        "exporters lines",
        "scores redness",
        "models mean-colour",
        "colour-sum",
        "tasks amount",
    )
    assert all(member in line for member in members)


def test_a_broken_package_gives_one_line(site: Path, tmp_path: Path) -> None:
    (tmp_path / "broken_reader.py").write_text("import no_such_module\n")
    install(tmp_path, "broken-package", {"wsi_attn.readers": {"broken": "broken_reader:READER"}})
    (tmp_path / "note.xyz").write_text("text")
    _, stderr = wsi_attn(tmp_path, "info", tmp_path / "note.xyz", code=3)
    assert "Traceback" not in stderr
    warned = [line for line in stderr.splitlines() if "warning" in line]
    assert len(warned) == 1
    assert "broken-package 1.0" in warned[0]
    stdout, stderr = wsi_attn(tmp_path, "info", EXAMPLE.parent / "cmu1_small_region.svs")
    assert "2220" in stdout
    assert "broken" not in stderr
