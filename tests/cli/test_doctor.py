"""`wsi-attn doctor` on a sound installation, and with one thing after another really broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import wsi_attn as package

Checks = dict[str, dict[str, Any]]


def doctor(*paths: Path, code: int = 0, cwd: Path | None = None, **environment: str) -> Checks:
    """Checks of `doctor --json` by name, with `paths` before everything else on the module path."""
    root = Path(package.__file__).parents[1]
    variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(map(str, [*paths, root]))}
    command = [sys.executable, "-P", "-m", "wsi_attn", "doctor", "--json"]
    done = subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(check["fix"] for check in checks if check["status"] != "PASS")
    return {check["check"]: check for check in checks}


def test_sound_installation(tmp_path: Path) -> None:
    checks = doctor(cwd=tmp_path)
    for name in ("python", "torch", "cpu", "threads", "fonts", "openslide", "weights", "current folder", "disk"):
        assert checks[name]["status"] == "PASS", checks[name]
    assert checks["current folder"]["detail"] == str(tmp_path)
    assert checks["gpu"]["status"] in ("PASS", "WARN")


@pytest.mark.slow
def test_packages_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "zarr.py").write_text("raise OSError('libfoo.so.1: cannot open\\nshared object file')")
    (tmp_path / "sklearn.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    (tmp_path / "openslide.py").write_text("raise SystemExit(7)")
    (tmp_path / "tensorboard.py").write_text("print('noise on stdout'); import no_such_module")
    checks = doctor(tmp_path, code=3)
    assert checks["zarr"]["status"] == checks["scikit-learn"]["status"] == checks["openslide"]["status"] == "FAIL"
    assert "OSError: libfoo.so.1: cannot open shared object file" in checks["zarr"]["detail"]
    assert "SIGILL" in checks["scikit-learn"]["detail"]
    assert "pip install" in checks["scikit-learn"]["fix"]
    assert checks["extra logs"]["status"] == "WARN"
    assert checks["torch"]["status"] == "PASS"


@pytest.mark.slow
def test_kernel_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """A path below a file cannot be written, not even by root."""
    (tmp_path / "file").touch()
    blocked = str(tmp_path / "file" / "cache")
    found = doctor(NUMBA_CACHE_DIR=blocked)["kernel cache"]
    assert found["status"] == "WARN"
    assert f"NUMBA_CACHE_DIR={blocked} cannot be written" in found["detail"]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package, to be damaged."""
    source = Path(package.__file__).parent
    shutil.copytree(source, tmp_path / "copy" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


@pytest.mark.slow
def test_no_folder_for_the_kernel_cache(copied: Path) -> None:
    """As in a container with a read-only installation and no home folder: kernels are compiled without a cache."""
    (copied / "wsi_attn" / "scores" / "__pycache__").touch()
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "PYTHONDONTWRITEBYTECODE": "1"}
    found = doctor(copied, **nowhere)["kernel cache"]
    assert found["status"] == "WARN"
    assert "NUMBA_CACHE_DIR" in found["fix"]
    script = (
        "import numpy as np; from wsi_attn.scores.kernels import log2_of; print(log2_of(np.full(3, 2, np.float32)))"
    )
    environment = {**os.environ, **nowhere, "PYTHONPATH": str(copied)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "3.0\n"), done.stderr


def test_damaged_weights_and_folders(copied: Path, tmp_path: Path) -> None:
    weights = copied / "wsi_attn" / "models" / "shipped" / "fungi" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    shutil.rmtree(weights.parents[1] / "cellularity-he")
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"rmdir {gone}; exec {sys.executable} -P -m wsi_attn doctor"
    environment = {**os.environ, "PYTHONPATH": str(copied)}
    done = subprocess.run(["sh", "-c", command], env=environment, cwd=gone, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "FAIL  weights" in done.stdout
    assert "WARN  current folder" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.endswith(" FAIL\n")
