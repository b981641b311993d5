"""What every command that writes files does with those that are there: skip, refuse, overwrite, wait for nobody."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.calibrated import SPEC, save_drawn
from tests.cli.runner import Result, in_process
from tests.slides import stained
from wsi_attn.models.checkpoint import save_checkpoint
from wsi_attn.models.joint_segmentation import JointSegmentation, JointSegmentationConfig
from wsi_attn.models.spec import ModelSpec
from wsi_attn.outputs.lock import output_lock

Command = Callable[..., Result]
Tree = dict[str, tuple[int, bytes]]


@dataclass(frozen=True)
class Case:
    """One command.

    `{in}` is a folder of inputs, `{out}` that of the output and `{models}` that of the models; `other` are options that
    make another output of the same name, and `locked` is the path whose lock the command takes.
    """

    command: str
    locked: str
    other: str = ""

    def arguments(self, inputs: Path, out: Path, *more: str) -> list[str]:
        """The command line."""
        places = {"in": str(inputs), "out": str(out), "models": str(inputs.parent / "models")}
        return [part.format(**places) for part in self.command.split()] + list(more)


EXPORTS = {
    "png": ("a.attention.png", "--size 300"),
    "geojson": ("a.geojson", "--as-annotations"),
    "ome-tiff": ("a.attention.ome.tiff", "--values"),
    "ome-zarr": ("a.attention.zarr", ""),
    "csv": ("a.csv", ""),
    "parquet": ("a.parquet", ""),
    "dzi": ("a.dzi", "--of attention"),
    "html": ("a.html", "--size 300"),
}

CASES = {
    "tissue": Case("tissue {in}/a.png --slide-mpp 2 -o {out}", "a.tissue.geojson", "--simplify 1"),
    "tile": Case("tile {in}/a.png --slide-mpp 2 --tile-size 64 -o {out}", "a.zarr", "--tile-size 32"),
    "predict": Case("predict {in}/a.png -m {models}/drawn -o {out}", "a.prediction.json", "--slide-mpp 2"),
    "segment": Case("segment {in}/a.png -m {models}/discs -o {out}", "a.segmentation.json", "--simplify 1"),
    "heatmap": Case("heatmap {in}/a.prediction.json -o {out}", "a.heatmap.png", "--size 300"),
    "heatmap of a store": Case("heatmap {in}/a.zarr --of tissue -o {out}", "a.tissue.heatmap.png", "--size 300"),
    "boxes": Case("boxes {in}/a.png -o {out}/boxes", "boxes"),
    "evaluate": Case("evaluate {models}/drawn {in}/m.csv --report {out}/report", "report", "--seed 3"),
    "train": Case(
        "train {in}/m.csv -o {out}/run --epochs 2 --batch-size 4 --patch-size 32 --coarse-factor 4 --instances 2",
        "run",
        "--seed 3",
    ),
    **{
        f"export {to}": Case(f"export {{in}}/a.prediction.json --to {to} -o {{out}}", name, other)
        for to, (name, other) in EXPORTS.items()
    },
}

RESUMED = ("tissue", "tile", "predict", "segment", "heatmap", "boxes", "evaluate", "train", "export dzi")
"""Commands that write several files, so that a killed run leaves some of them."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `one` and `two` of inputs with equal names, and `models`."""
    folder = tmp_path_factory.mktemp("material")
    save_drawn(folder / "models" / "drawn", 0, SPEC)
    spec = ModelSpec(("background", "cell"), None, "any", "none", task="segmentation")
    torch.manual_seed(0)
    save_checkpoint(
        folder / "models" / "discs" / "checkpoint",
        name="discs",
        system="joint-segmentation",
        network=JointSegmentation(JointSegmentationConfig(2, crop=64)).eval(),
        spec=spec,
        card="",
        provenance={},
    )
    for seed, name in enumerate(("one", "two")):
        make_inputs(folder / name, seed)
    return folder


def make_inputs(folder: Path, seed: int) -> None:
    """An image, its store and its prediction, and a manifest of small images."""
    from wsi_attn.cli.app import run

    (folder / "images").mkdir(parents=True)
    Image.fromarray(stained(400, 300, seed)).save(folder / "a.png")
    rng = np.random.default_rng(seed)
    rows = ["path,label,patient,split"]
    for number in range(10):
        pixels = rng.normal(150, 20, (96, 128, 3))
        pixels[..., number % 2] += 60
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{number}.png")
        label, split = ("green" if number % 2 else "red"), ("test" if number > 7 else "train")
        rows.append(f"images/{number}.png,{label},p{seed}{number},{split}")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    image = str(folder / "a.png")
    assert run(["tile", image, "--slide-mpp", "2", "-o", str(folder), "--quiet"]) == 0
    model = str(folder.parent / "models" / "drawn")
    assert run(["predict", image, "-m", model, "-o", str(folder), "--quiet"]) == 0


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return partial(in_process, capsys)


def tree(folder: Path) -> Tree:
    """Every file with its time and content; fails if a temporary file or a lock is left."""
    found = {}
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        assert not name.endswith((".tmp", ".lock", ".part", ".old")), name
        if file.is_file():
            found[name] = (file.stat().st_mtime_ns, file.read_bytes())
    return found


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_new_again_other_and_overwritten(case: Case, material: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    one, two = material / "one", material / "two"
    first = command(*case.arguments(one, out))
    assert "already complete" not in first.stderr
    written = tree(out)
    assert written

    again = command(*case.arguments(one, out))
    assert "is already complete; use --overwrite" in again.stderr
    assert tree(out) == written

    others = [case.arguments(two, out)]
    if case.other:
        others.append(case.arguments(one, out, *case.other.split()))
    for other in others:
        assert "--overwrite" in command(*other, code=3).error()
        assert tree(out) == written

    for other in others:
        replaced = command(*other, "--overwrite")
        assert "already complete" not in replaced.stderr
        assert tree(out) != written
        replaced_by = tree(out)
        command(*other)
        assert tree(out) == replaced_by


def test_another_process_is_writing(case: Case, material: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    with output_lock(out / case.locked):
        assert "Another process is writing" in command(*case.arguments(material / "one", out), code=3).error()
        assert [path.name for path in out.iterdir()] == [f".{case.locked}.lock"]
    assert not out.exists()
    command(*case.arguments(material / "one", out))
    tree(out)


VICTIM = """
import os, signal, sys
from pathlib import Path
from wsi_attn.cli.app import run

def dying(original):
    def renamed(*arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)
    return renamed

left = int(sys.argv[1])
Path.replace, Path.rename = dying(Path.replace), dying(Path.rename)
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("moment", [1, 2])
def test_killed_runs_end_like_others(name: str, moment: int, material: Path, tmp_path: Path, command: Command) -> None:
    """Killed instead of the first or the second renaming of a finished file into place."""
    case, out = CASES[name], tmp_path / "out"
    line = [sys.executable, "-c", VICTIM, str(moment), *case.arguments(material / "one", out)]
    killed = subprocess.run(line, capture_output=True, check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    again = command(*case.arguments(material / "one", out))
    assert "already complete" not in again.stderr
    command(*case.arguments(material / "one", tmp_path / "whole"))
    assert tree(out).keys() == tree(tmp_path / "whole").keys()
    finished = tree(out)
    command(*case.arguments(material / "one", out))
    assert tree(out) == finished


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tile", "predict", "export png"])
def test_two_processes_at_once(name: str, material: Path, tmp_path: Path, command: Command) -> None:
    """Each either writes, finds the finished output, or is told that the other one is writing."""
    case, out = CASES[name], tmp_path / "out"
    line = [sys.executable, "-m", "wsi_attn", *case.arguments(material / "one", out)]
    both = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    messages = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes, messages
    for code, message in zip(codes, messages, strict=True):
        assert code == 0 or (code == 3 and "Another process is writing" in message), message
    assert "already complete" in command(*case.arguments(material / "one", out)).stderr
    command(*case.arguments(material / "one", tmp_path / "whole"))
    assert tree(out).keys() == tree(tmp_path / "whole").keys()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that cannot be written to")
def test_complete_output_in_a_read_only_folder_is_skipped(material: Path, tmp_path: Path, command: Command) -> None:
    case, out = CASES["predict"], tmp_path / "out"
    command(*case.arguments(material / "one", out))
    out.chmod(0o555)
    assert "already complete" in command(*case.arguments(material / "one", out)).stderr
    out.chmod(0o755)
    shutil.rmtree(out)
