"""Every command, exit code and missing extra in an environment that has the runtime dependencies only."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.smoke.conftest import EXECUTABLE, TIMEOUT, Run, Start

STEM = "cmu1_small_region"
DEMO = Path(__file__).parents[1] / "data" / f"{STEM}.svs"
TINY = ("--weights", "none", "--batch-size", "4", "--patch-size", "32", "--coarse-factor", "4", "--instances", "2")
MASKS = ("--model", "joint-segmentation", "--batch-size", "4", "--crop", "64", "--mpp", "4")

CASES: dict[str, tuple[str, ...]] = {
    "doctor": ("--json",),
    "info": ("{slide}",),
    "tissue": ("{slide}", "-o", "{work}/tissue"),
    "tile": ("{slide}", "-o", "{work}/{stem}.zarr"),
    "verify": ("{work}/{stem}.zarr",),
    "predict": ("{slide}", "-o", "{work}/predicted"),
    "heatmap": ("{work}/predicted/{stem}.prediction.json", "-o", "{work}/heatmap"),
    "export": ("{work}/predicted", "--to", "csv", "-o", "{work}/csv"),
    "boxes": ("{work}/colours/0.png", "-o", "{work}/boxes"),
    "train": ("{work}/colours/manifest.csv", "-o", "{work}/run", "--epochs", "2", *TINY),
    "evaluate": ("{work}/run", "{work}/colours/manifest.csv"),
    "segment": ("{work}/colours/0.png", "-m", "{work}/masks-run", "-o", "{work}/segmented", "--slide-mpp", "4"),
    "models list": (),
    "models show": ("cellularity-he",),
}
"""One successful call of each command, in an order in which each finds what it reads."""

CANNOT_SUCCEED_HERE = {"view": "needs the extra view", "models build": "needs data sets"}


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve small images in two colours, discs on them, and masks of the discs."""
    work = tmp_path_factory.mktemp("work")
    folder = work / "colours"
    folder.mkdir()
    rows, masks = ["path,label,patient,split"], ["path,mask,label,patient,split,mpp"]
    for index in range(12):
        label = "red" if index // 2 % 2 else "green"
        image = Image.effect_noise((128, 96), 40).convert("RGB")
        image = Image.blend(image, Image.new("RGB", image.size, label), 0.3)
        mask = Image.new("L", image.size)
        for number, x in enumerate(range(20, 120, 30), 1):
            ImageDraw.Draw(image).ellipse((x - 8, 30 + index, x + 8, 46 + index), "black")
            ImageDraw.Draw(mask).ellipse((x - 8, 30 + index, x + 8, 46 + index), number)
        image.save(folder / f"{index}.png")
        mask.save(folder / f"{index}_mask.png")
        split = "test" if index > 7 else "train"
        rows.append(f"{index}.png,{label},p{index // 2},{split}")
        masks.append(f"{index}.png,{index}_mask.png,,p{index // 2},{split},4")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    (folder / "masks.csv").write_text("\n".join(masks) + "\n")
    return work


def members(run: Run, *group: str) -> Iterator[str]:
    """Full names of the commands that `--help` lists, those of groups instead of the groups."""
    listed = run(*group, "--help").stdout.partition("\nCommands:\n")[2]
    for name in re.findall(r"^  (\w[\w-]*)", listed, re.MULTILINE):
        inner = list(members(run, *group, name))
        yield from inner or [" ".join([*group, name])]


def test_every_command_has_help_and_a_case(run: Run) -> None:
    commands = list(members(run))
    assert commands == list(dict.fromkeys(commands))
    assert set(commands) == set(CASES) | set(CANNOT_SUCCEED_HERE)
    for name in commands:
        assert run(*name.split(), "--help").stdout.startswith("Usage: ")


@pytest.mark.parametrize("name", CASES)
def test_command_succeeds(name: str, run: Run, work: Path) -> None:
    if name == "segment":
        run("train", work / "colours" / "masks.csv", "-o", work / "masks-run", "--epochs", "2", *MASKS)
    arguments = [text.format(slide=DEMO, work=work, stem=STEM) for text in CASES[name]]
    assert run(*name.split(), *arguments).stdout


def test_package_is_not_the_working_tree(tmp_path: Path) -> None:
    """The suite would prove nothing if it ran the files beside it."""
    python = Path(EXECUTABLE).parent / "python"
    show = (
        "import wsi_attn, sys; print(wsi_attn.__file__); print([n for n in ('pytest', 'uvicorn') if n in sys.modules])"
    )
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", show], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    file, loaded = done.stdout.splitlines()
    assert "site-packages" in file
    assert loaded == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "tiel {slide}",
        "tile",
        "predict",
        "train",
        "segment {slide}",
        "export {slide} --to gif",
        "tile {slide} --no-such-option",
        "tile {slide} --tile-size many",
        "models no-such",
        "models show no-such",
        "predict {slide} -o x --model no-such",
        "--config no-such.toml info {slide}",
    ],
)
def test_wrong_usage_is_2(arguments: str, run: Run) -> None:
    done = run(*arguments.format(slide=DEMO).split(), code=2)
    assert done.stdout == ""
    assert "wsi-attn: error: " in done.stderr or "Usage: " in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "info no-such.svs",
        "tile no-such.svs -o {work}/none",
        "verify {slide}",
        "train {slide} -o {work}/none",
        "evaluate {work}/colours {work}/colours/manifest.csv",
        "models build cellularity-he --data {work}/none -o {work}/built",
    ],
)
def test_bad_input_is_3(arguments: str, run: Run, work: Path) -> None:
    error = run(*arguments.format(slide=DEMO, work=work).split(), code=3).stderr
    assert error.count("wsi-attn: error: ") == 1


def test_some_failed_is_4(run: Run) -> None:
    done = run("info", DEMO, "no-such.svs", code=4)
    assert STEM in done.stdout
    assert "no-such.svs" in done.stderr


def extra_is_here(name: str) -> bool:
    python = Path(EXECUTABLE).parent / "python"
    return subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("extra", "module", "arguments"),
    [
        ("view", "uvicorn", "view {slide}"),
        ("tables", "pyarrow", "export {work}/predicted --to parquet -o {work}/parquet"),
        ("logs", "tensorboard", "train {work}/colours/manifest.csv -o {work}/logs --epochs 1 --tensorboard"),
        ("encoders", "timm", "train {work}/colours/manifest.csv -o {work}/timm --epochs 1 --backbone timm:resnet18"),
    ],
)
def test_missing_extra_is_5(extra: str, module: str, arguments: str, run: Run, work: Path) -> None:
    assert not extra_is_here(module), f"{module} is installed; this suite is for an environment without extras"
    if extra == "tables" and not (work / "predicted").exists():
        run("predict", DEMO, "-o", work / "predicted")
    error = run(*arguments.format(slide=DEMO, work=work).split(), code=5).stderr
    assert f"pip install 'wsi-attn[{extra}]'" in error


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_training_ends_quietly(
    number: signal.Signals, code: int, start: Start, run: Run, work: Path
) -> None:
    output = work / f"interrupted-{code}"
    arguments = ("train", work / "colours" / "manifest.csv", "-o", output, *TINY, "--epochs")
    process = start(*arguments, "5000", cwd=work)
    wait_for(lambda: (output / "log.csv").exists() or process.poll() is not None)
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT)
    assert "Traceback" not in out + err
    assert process.returncode in (code, 128 - code), err  # a shell reports death by signal N as 128 + N
    shutil.rmtree(output)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
