"""The calls from a slide to its prediction are those of docs/how-it-works.md, and go down the floors of the package."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from types import FrameType

import pytest

from wsi_attn.cli.app import run

ROOT = Path(__file__).parents[2]
PACKAGE = str(ROOT / "wsi_attn") + "/"
GIVEN = {"BarItem.__call__", "BatchBar.item", "SlidePatches.read_patches", "NoProgress.__call__", "_files_of", "folder"}
GIVEN |= {"TiledReader.close"}
"""Functions that lower floors were given, beside lambdas: progress, pixels of a bag, files of a mark, a check; and what
a slide does at the end of a `with`."""

Call = tuple[str, str, str, str]


def calls_of(arguments: list[str]) -> list[Call]:
    """File and function of caller and callee for each call between files of the package, in order."""
    found: list[Call] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code, caller = frame.f_code, frame.f_back
        if event != "call" or not code.co_filename.startswith(PACKAGE) or code.co_name == "<module>":
            return
        while caller is not None and not caller.f_code.co_filename.startswith(PACKAGE):
            caller = caller.f_back
        if caller is None or caller.f_code.co_name == "<module>":
            return
        files = [place.co_filename.removeprefix(PACKAGE) for place in (caller.f_code, code)]
        found.append((files[0], caller.f_code.co_qualname, files[1], code.co_qualname))

    sys.setprofile(note)
    try:
        assert run(arguments) == 0
    finally:
        sys.setprofile(None)
    return found


def longest_ways(arguments: list[str]) -> dict[str, int]:
    """Largest number of functions that receive one object from each other, by the name of its type.

    Neither the constructor that keeps the object nor its own methods count.
    """
    ways: dict[FrameType, dict[int, int]] = {}
    longest: dict[str, int] = {}

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code, caller = frame.f_code, frame.f_back
        if not code.co_filename.startswith(PACKAGE):
            return
        if event == "return":
            ways.pop(frame, None)
        if event != "call":
            return
        while caller is not None and caller not in ways:
            caller = caller.f_back
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        received = [frame.f_locals[name] for name in names if name != "self"]
        before, one = ways[caller] if caller else {}, int(code.co_name != "__init__")
        ways[frame] = {id(value): before.get(id(value), 0) + one for value in received}
        for value in received:
            name = type(value).__name__
            longest[name] = max(longest.get(name, 0), ways[frame][id(value)])

    sys.setprofile(note)
    try:
        assert run(arguments) == 0
    finally:
        sys.setprofile(None)
    return longest


def floors() -> dict[str, int]:
    """Floor of each room, 0 for the highest."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    rooms = ((number, room) for number, layer in enumerate(layers) for room in layer.split(" | "))
    return {room.removeprefix("wsi_attn."): number for number, room in rooms}


def room_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


@pytest.mark.slow
def test_the_calls_are_those_described_and_none_goes_up(demo_slide: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    listed = re.findall(
        r"^ *([A-Za-z_.]+) +(\w+(?:/\w+)*\.py)", text.split("## One slide, call by call")[1], re.MULTILINE
    )
    assert len(listed) > 20
    calls = calls_of(["predict", str(demo_slide), "--output", str(tmp_path), "--heatmap", "--quiet"])
    made = iter([("predict", "cli/predict.py"), *((name, file) for _, _, file, name in calls)])
    for call in listed:
        assert any(call == each for each in made), f"{call} is not made after those listed before it"
    floor = floors()
    up = {
        call
        for call in calls
        if "<" not in call[3].rpartition(".")[2]
        and call[3] not in GIVEN
        and floor.get(room_of(call[2]), 99) < floor.get(room_of(call[0]), 99)
    }
    assert not up


@pytest.mark.slow
def test_settings_checkpoint_and_progress_are_held_after_three_functions(demo_slide: Path, tmp_path: Path) -> None:
    longest = longest_ways(["predict", str(demo_slide), "--output", str(tmp_path), "--quiet", "--json"])
    assert all(longest[name] <= 3 for name in ("PredictConfig", "Checkpoint", "BarItem")), longest
