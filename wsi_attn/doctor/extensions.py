"""Packages that extend wsi-attn: whether the modules of their entry points can be imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from wsi_attn.doctor.check import Check, Status
from wsi_attn.doctor.imports import Imported
from wsi_attn.registry import FAMILIES, package_of


def extensions() -> list[EntryPoint]:
    """All members that installed packages add, by package."""
    found = [point for family in FAMILIES for point in entry_points(group=f"wsi_attn.{family}")]
    return sorted(found, key=package_of)


def check_extensions(points: Sequence[EntryPoint], imported: Mapping[str, Imported]) -> Iterator[Check]:
    """One check for each package."""
    for package in dict.fromkeys(map(package_of, points)):
        own = [point for point in points if package_of(point) == package]
        name, version = package.partition(" ")[::2]
        problems = {point.module: error for point in own if (error := imported[point.module].error)}
        if problems:
            said = "; ".join(f"{module} cannot be imported: {error}" for module, error in problems.items())
            yield Check(name, Status.WARN, f"{version}: {said}", f"Update {name}, or pip uninstall {name}")
        else:
            members = ", ".join(f"{point.group.removeprefix('wsi_attn.')} {point.name}" for point in own)
            yield Check(name, Status.PASS, f"{version} adds {members}")
