"""Required and optional packages: installed, within the bounds of the package metadata, and importable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from wsi_attn.doctor.check import Check, Status
from wsi_attn.doctor.imports import Imported

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "wsi-attn"
MODULES = {"opencv-python-headless": "cv2", "openslide-python": "openslide", "pillow": "PIL", "scikit-learn": "sklearn"}
"""Module of each package whose module is not named like the package."""

EXTRAS = {
    "view": "wsi-attn view",
    "tables": "export --to parquet",
    "encoders": "backbones of timm",
    "logs": "train --tensorboard",
}
"""What each extra is for; those of developers are not checked."""


@dataclass(frozen=True)
class Needed:
    """A package that wsi-attn or one of its extras requires."""

    requirement: Requirement
    extra: str = ""

    @property
    def name(self) -> str:
        """Name of the distribution, as in `pip install`."""
        return self.requirement.name

    @property
    def module(self) -> str:
        """Name to import."""
        return MODULES.get(self.name, self.name.replace("-", "_"))

    @property
    def version(self) -> str:
        """Installed version; empty where there is none."""
        try:
            return metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return ""

    def problem(self, imported: Mapping[str, Imported]) -> str:
        """What is wrong with it; empty where nothing is."""
        if not self.version:
            return "not installed"
        if not self.requirement.specifier.contains(self.version, prereleases=True):
            return f"{self.version}, but {self.requirement.specifier} is required"
        found = imported.get(self.module)
        return f"{self.version}, which cannot be imported: {found.error}" if found and found.error else ""


def required() -> list[Needed]:
    """The packages that the installed metadata requires on this platform.

    Raises
    ------
    metadata.PackageNotFoundError : wsi-attn runs from a folder and is not installed.
    ImportError : `packaging` is missing.
    """
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, metadata.requires(DISTRIBUTION) or ()):
        for extra in ("", *EXTRAS):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                found.append(Needed(requirement, extra))
                break
    return found


def check_packages(needed: Sequence[Needed], imported: Mapping[str, Imported]) -> Iterator[Check]:
    """One check for each required package, then one for each extra."""
    for package in needed:
        if not package.extra:
            yield _check(package, imported)
    for extra, purpose in EXTRAS.items():
        yield _check_extra(extra, purpose, [package for package in needed if package.extra == extra], imported)


def _check(package: Needed, imported: Mapping[str, Imported]) -> Check:
    if problem := package.problem(imported):
        fix = f"pip install --force-reinstall '{package.requirement.name}{package.requirement.specifier}'"
        return Check(package.name, Status.FAIL, _line(problem), fix)
    return Check(package.name, Status.PASS, f"{package.version} ({package.requirement.specifier} required)")


def _check_extra(extra: str, purpose: str, packages: Sequence[Needed], imported: Mapping[str, Imported]) -> Check:
    name, fix = f"extra {extra}", f"pip install '{DISTRIBUTION}[{extra}]'"
    if not any(package.version for package in packages):
        return Check(name, Status.PASS, f"not installed; only {purpose} needs it: {fix}")
    problems = [f"{package.name} {problem}" for package in packages if (problem := package.problem(imported))]
    if problems:
        return Check(name, Status.WARN, _line(f"{purpose}: {'; '.join(problems)}"), fix)
    return Check(name, Status.PASS, ", ".join(f"{package.name} {package.version}" for package in packages))


def _line(text: str) -> str:
    return " ".join(text.split())
