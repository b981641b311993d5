"""The versions of tests/smoke/lowest.txt are the lower bounds of pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def test_lowest_versions_are_the_bounds() -> None:
    """`make lowest` resolves them again."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [Requirement(line) for line in (ROOT / "tests/smoke/lowest.txt").read_text().splitlines() if line[0] != "#"]
    versions = {pin.name: next(iter(pin.specifier)).version for pin in pins}
    for requirement in map(Requirement, project["dependencies"]):
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        pinned = versions[requirement.name]
        assert requirement.specifier.contains(pinned)
        assert f"{pinned}.0".startswith(f"{bound.version}."), (
            f"{requirement}: lowest.txt has {pinned}; run `make lowest`"
        )
