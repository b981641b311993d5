"""Adding a built-in member of a family touches its own file and the one that lists the family: done on a copy."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import wsi_attn
from tests.packages import EXAMPLE

PACKAGE = Path(wsi_attn.__file__).parent
MODULES = EXAMPLE / "example_plugin"

COMMAND = '''"""`wsi-attn hello`."""

from wsi_attn.cli.command import Command
from wsi_attn.cli.output import data


def hello() -> None:
    """Say hello."""
    data("hello")


COMMAND = Command("hello", hello)
'''


@dataclass(frozen=True)
class Addition:
    """A new file, and a line before a line of the file that lists the family; `check` is Python that finds it."""

    file: str
    source: str
    listed_in: str
    before: str
    line: str
    check: str


def member(module: str) -> str:
    return (MODULES / f"{module}.py").read_text()


ADDITIONS = {
    "slide format": Addition(
        "slides/rawrgb.py", member("reader"), "slides/reader.py", '        PLAIN: "',
        '        "rawrgb": "wsi_attn.slides.rawrgb:RAWRGB",',
        "from wsi_attn.slides.reader import READERS as members; assert '.rawrgb' in members.get('rawrgb').suffixes",
    ),
    "score": Addition(
        "scores/redness.py", member("score"), "scores/scores.py", '        "tissue": "',
        '        "redness": "wsi_attn.scores.redness:REDNESS",',
        "from wsi_attn.scores.scores import parse_names; assert 'redness' in parse_names('all')",
    ),
    "exporter": Addition(
        "export/lines.py", member("exporter"), "export/exporter.py", '        "png": "',
        '        "lines": "wsi_attn.export.lines:LINES",',
        "from wsi_attn.export.exporter import EXPORTERS as members; assert members.get('lines').suffixes == ('.txt',)",
    ),
    "model": Addition(
        "models/mean_colour.py", member("model"), "models/configs/__init__.py", '    "cnn": (',
        '    "mean-colour": (*[f"wsi_attn.models.mean_colour:MeanColour{end}" for end in ("", "Config")],),',
        "from wsi_attn.models.systems import build_network as build; assert build('mean-colour', {'classes': 2}).head",
    ),
    "backbone": Addition(
        "nn/patchify.py", member("backbone"), "nn/backbones.py", '        TIMM: "',
        '        "patchify": "wsi_attn.nn.patchify:PATCHIFY",',
        "from wsi_attn.nn.backbones import build_backbone; assert build_backbone('patchify', (8,)).stride == 8",
    ),
    "task": Addition(
        "tasks/amount.py", member("task"), "tasks/base.py", '        "classification": "',
        '        "amount": "wsi_attn.tasks.amount:AMOUNT",',
        "from wsi_attn.tasks.base import TASKS as members; assert members.get('amount').measure",
    ),
    "command": Addition(
        "cli/hello.py", COMMAND, "cli/app.py", '    "doctor",',
        '    "hello",',
        "from wsi_attn.cli.app import run; assert run(['hello']) == 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ADDITIONS)
def test_one_file_plus_its_registration(what: str, tmp_path: Path) -> None:
    addition = ADDITIONS[what]
    copy = tmp_path / "wsi_attn"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / addition.file).write_text(addition.source)
    listing = copy / addition.listed_in
    lines = listing.read_text().splitlines(keepends=True)
    (place,) = (number for number, line in enumerate(lines) if line.startswith(addition.before))
    listing.write_text("".join([*lines[:place], addition.line + "\n", *lines[place:]]))

    checked = subprocess.run(
        [sys.executable, "-c", addition.check],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    changed = [
        str(file.relative_to(copy))
        for file in copy.rglob("*.py")
        if not (PACKAGE / file.relative_to(copy)).exists()
        or not filecmp.cmp(file, PACKAGE / file.relative_to(copy), shallow=False)
    ]
    assert sorted(changed) == sorted([addition.file, addition.listed_in])
