"""Imports modules one by one and writes what it finds about each as a JSON line; run as a script in a child process.

A package that is broken may end the process that imports it (a missing CPU instruction, a foreign shared library), so
the report is written by another process. Only the standard library is imported at the top.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from types import ModuleType

Facts = dict[str, str | int | bool | list[str]]


def main(names: list[str]) -> None:
    """Write one line for each module; what the modules themselves print goes to stderr."""
    warnings.simplefilter("ignore")
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for name in names:
            try:
                module = importlib.import_module(name)
                line: dict[str, object] = {"name": name, "facts": FACTS.get(name, _nothing)(module)}
            except BaseException as error:  # SystemExit of a module is a defect like any other
                line = {"name": name, "error": f"{type(error).__name__}: {error}"}
            out.write(json.dumps(line) + "\n")
            out.flush()


def _nothing(module: ModuleType) -> Facts:
    return {}


def _torch(torch: ModuleType) -> Facts:
    facts: Facts = {"cuda_build": torch.version.cuda or "", "capability": torch.backends.cpu.get_cpu_capability()}
    facts["cuda"] = torch.cuda.is_available()
    devices = []
    for index in range(torch.cuda.device_count() if facts["cuda"] else 0):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        devices.append(f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    return {**facts, "devices": devices}


def _openslide(openslide: ModuleType) -> Facts:
    return {"library": openslide.__library_version__}


def _pillow(features: ModuleType) -> Facts:
    return {"freetype": features.version("freetype2") or ""}


def _kernels(kernels: ModuleType) -> Facts:
    return {"cache": kernels.sum_tile.stats.cache_path or ""}


FACTS: dict[str, Callable[[ModuleType], Facts]] = {
    "torch": _torch,
    "openslide": _openslide,
    "PIL.features": _pillow,
    "wsi_attn.scores.kernels": _kernels,
}

if __name__ == "__main__":
    main(sys.argv[1:])
