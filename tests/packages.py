"""Packages with entry points, as pip leaves them: a folder `NAME-1.0.dist-info` beside their modules."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import DATA

EXAMPLE = DATA / "example_plugin"


def install(folder: Path, name: str, groups: Mapping[str, Mapping[str, str]]) -> None:
    """Write the metadata of a package into a folder of `sys.path`."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def install_example(folder: Path) -> None:
    """Make `tests/data/example_plugin` an installed package of a folder, as `pip install --target` does."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    shutil.copytree(EXAMPLE / "example_plugin", folder / "example_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    install(folder, project["name"], project["entry-points"])
