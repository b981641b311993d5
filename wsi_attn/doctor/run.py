"""All checks in the order of the report."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import metadata

from wsi_attn.doctor import machine
from wsi_attn.doctor.check import Check, Status, guarded
from wsi_attn.doctor.extensions import check_extensions, extensions
from wsi_attn.doctor.imports import Imported, import_all
from wsi_attn.doctor.packages import Needed, check_packages, required

ALWAYS = ("torch", "openslide", "PIL.features", machine.KERNELS)
"""Modules whose facts other checks need."""


def run_checks() -> Iterator[Check]:
    """Yield the checks as they finish; never raises."""
    yield guarded("python", machine.check_python)
    yield guarded("wsi-attn", machine.check_installation)
    needed: list[Needed] = []
    try:
        needed = required()
    except metadata.PackageNotFoundError:
        pass  # the check of the installation has said so
    except Exception as error:
        yield Check(
            "packages", Status.FAIL, f"{type(error).__name__}: {error}", "pip install --force-reinstall packaging"
        )
    added = extensions()
    modules = [package.module for package in needed if package.version] + [point.module for point in added]
    imported: dict[str, Imported] = {name: Imported(name, "not checked") for name in ALWAYS}
    imported |= {found.name: found for found in import_all(list(dict.fromkeys([*modules, *ALWAYS])))}
    yield from check_packages(needed, imported) if needed else ()
    yield from check_extensions(added, imported)
    yield guarded("cpu", partial(machine.check_cpu, imported))
    yield guarded("threads", machine.check_threads)
    yield guarded("gpu", partial(machine.check_gpu, imported))
    yield guarded("fonts", partial(machine.check_fonts, imported))
    yield guarded("openslide", partial(machine.check_openslide, imported))
    yield guarded("kernel cache", partial(machine.check_kernel_cache, imported))
    yield guarded("weights", machine.check_weights)
    yield guarded("current folder", machine.check_current_folder)
    yield guarded("temporary folder", machine.check_temporary_folder)
    yield guarded("disk", machine.check_disk)
