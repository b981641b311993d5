"""Provenance of files: software versions, arguments, seed and hashes."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

BLOCK = 1 << 20


def software() -> dict[str, str]:
    """Versions of the toolkit and of the libraries that determine pixels and weights."""
    found = {"python": platform.python_version()}
    for package in ("wsi-attn", "torch", "zarr", "numba", "openslide-python", "openslide-bin", "tifffile"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a whole file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fingerprint_of(path: Path) -> str:
    """Identity of a large file from its size and its first, middle and last mebibyte.

    Sufficient to detect that a path contains another slide, at the cost of three reads; not a checksum.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in sorted({0, max(0, size // 2 - BLOCK // 2), max(0, size - BLOCK)}):
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()
