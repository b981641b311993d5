"""Checks of the interpreter, the machine and the files that wsi-attn needs."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from wsi_attn import __version__, threads
from wsi_attn.doctor.check import Check, Status
from wsi_attn.doctor.imports import Imported
from wsi_attn.errors import CheckpointError
from wsi_attn.models.zoo import shipped_models, weights_hash

OLDEST_PYTHON = (3, 11)
LITTLE_SPACE = 5 * 2**30
"""Free bytes below which a warning is given: a tiled slide takes about as much space as the slide."""

KERNELS = "wsi_attn.scores.kernels"
REINSTALL = "pip install --force-reinstall --no-deps wsi-attn"

ImportedModules = Mapping[str, Imported]


def check_python() -> Check:
    """Version of the interpreter."""
    detail = f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", Status.FAIL, detail, "Install Python 3.11 or newer and wsi-attn into it")
    return Check("python", Status.PASS, detail)


def check_installation() -> Check:
    """Whether the package metadata belongs to the code that runs."""
    where = Path(__file__).parents[1]
    try:
        version = metadata.version("wsi-attn")
    except metadata.PackageNotFoundError:
        detail = f"{__version__} runs from {where} without being installed; package versions are not checked"
        return Check("wsi-attn", Status.WARN, detail, "pip install wsi-attn, or pip install -e . in a clone")
    if version != __version__:
        detail = f"{__version__} runs from {where}, {version} is installed"
        return Check("wsi-attn", Status.WARN, detail, "Unset PYTHONPATH, or reinstall wsi-attn")
    return Check("wsi-attn", Status.PASS, f"{version}, {where}")


def check_cpu(imported: ImportedModules) -> Check:
    """Processor and the vector instructions that PyTorch uses."""
    machine = platform.machine() or "unknown processor"
    capability = imported["torch"].text("capability")
    if not capability:
        return Check("cpu", Status.WARN, f"{machine}; torch is needed to tell its features", "Repair torch first")
    if capability == "DEFAULT" and machine.lower() in ("x86_64", "amd64"):
        fix = "Use a processor with AVX2; in a virtual machine, pass the host's CPU model through"
        return Check("cpu", Status.WARN, f"{machine} without AVX2: networks run several times slower", fix)
    return Check("cpu", Status.PASS, f"{machine}, {capability}")


def check_threads() -> Check:
    """CPUs that this process may use, by its affinity mask and the quota of its control groups."""
    detail = f"{threads.available_cpus()} of {os.cpu_count() or 1} CPUs may be used"
    if quota := threads.cgroup_quota():
        detail += f", control group quota {quota:g}"
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        detail += f", {name}={os.environ[name]}" if name in os.environ else ""
    return Check("threads", Status.PASS, detail)


def check_gpu(imported: ImportedModules) -> Check:
    """CUDA devices that PyTorch sees."""
    torch = imported["torch"]
    if torch.error:
        return Check("gpu", Status.WARN, "unknown, since torch cannot be imported", "Repair torch first")
    devices = torch.facts.get("devices")
    if isinstance(devices, list) and devices:
        return Check("gpu", Status.PASS, "; ".join(devices))
    if not Path("/dev/nvidiactl").exists():
        return Check("gpu", Status.PASS, "none; everything runs on the CPU")
    build = torch.text("cuda_build")
    if build:
        fix = "Update the NVIDIA driver, and see that CUDA_VISIBLE_DEVICES does not hide the device"
        return Check("gpu", Status.WARN, f"a GPU that PyTorch (built for CUDA {build}) cannot use", fix)
    fix = "Install a CUDA build of torch: https://pytorch.org/get-started/locally"
    return Check("gpu", Status.WARN, "a GPU that is not used: this build of torch is for the CPU only", fix)


def check_fonts(imported: ImportedModules) -> Check:
    """FreeType and the font that heatmaps are labelled in, which Pillow has inside."""
    freetype = imported["PIL.features"].text("freetype")
    if not freetype:
        detail = imported["PIL.features"].error or "Pillow was built without FreeType: heatmaps cannot be labelled"
        return Check("fonts", Status.FAIL, detail, "pip install --force-reinstall pillow")
    return Check("fonts", Status.PASS, f"the font inside Pillow, FreeType {freetype}")


def check_openslide(imported: ImportedModules) -> Check:
    """Version of the OpenSlide library."""
    openslide = imported["openslide"]
    if openslide.error:
        fix = "pip install --force-reinstall openslide-bin openslide-python"
        return Check("openslide", Status.FAIL, openslide.error, fix)
    return Check("openslide", Status.PASS, f"library {openslide.text('library')}")


def check_kernel_cache(imported: ImportedModules) -> Check:
    """Folder in which Numba keeps compiled kernels."""
    name, fix = "kernel cache", "Set NUMBA_CACHE_DIR to a folder that you can write"
    kernels = imported[KERNELS]
    if kernels.error:
        return Check(name, Status.FAIL, kernels.error, "Repair numba and numpy first")
    folder = kernels.text("cache")
    if not folder:
        return Check(name, Status.WARN, "no writable folder: every process compiles the score kernels again", fix)
    wanted = os.environ.get("NUMBA_CACHE_DIR")
    if wanted and not Path(folder).is_relative_to(Path(wanted).absolute()):
        return Check(name, Status.WARN, f"NUMBA_CACHE_DIR={wanted} cannot be written; {folder} is used", fix)
    return Check(name, Status.PASS, folder)


def check_current_folder() -> Check:
    """Whether outputs can be written to the current folder."""
    name, fix = "current folder", "Change to a folder that you can write, or name another with --output"
    try:
        folder = Path.cwd()
        with tempfile.TemporaryFile(dir=folder):
            return Check(name, Status.PASS, str(folder))
    except OSError as error:
        return Check(name, Status.WARN, f"cannot be written: {error.strerror}", fix)


def check_temporary_folder() -> Check:
    """Whether temporary files can be written; `export --to ome-tiff` needs them."""
    name = "temporary folder"
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"\0")
        return Check(name, Status.PASS, tempfile.gettempdir())
    except OSError as error:
        return Check(name, Status.FAIL, str(error), "Set TMPDIR to a folder that you can write")


def check_disk() -> Check:
    """Free space where outputs go."""
    try:
        usage = shutil.disk_usage(Path.cwd())
    except OSError as error:
        return Check("disk", Status.WARN, f"unknown: {error.strerror}", "Change to a folder that exists")
    detail = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free in the current folder"
    if usage.free < LITTLE_SPACE:
        return Check("disk", Status.WARN, detail, "Free space, or name a folder on another disk with --output")
    return Check("disk", Status.PASS, detail)


def check_weights() -> Check:
    """Whether the shipped models are there with the hashes that their configurations state."""
    intact: list[str] = []
    damaged: list[str] = []
    for name, folder in shipped_models().items():
        try:
            weights_hash(folder, json.loads((folder / "config.json").read_text(encoding="utf-8")))
            whole = True
        except (OSError, ValueError, CheckpointError):
            whole = False
        (intact if whole else damaged).append(name)
    if damaged or not intact:
        what = ", ".join(damaged) or "all models"
        return Check("weights", Status.FAIL, f"missing or changed since they were packaged: {what}", REINSTALL)
    return Check("weights", Status.PASS, f"{', '.join(intact)}: hashes match")
