"""The scripts of the experiments import what the package has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.slow
def test_every_script_can_be_imported() -> None:
    names = sorted(path.stem for path in SCRIPTS.glob("*.py"))
    assert "marks" in names
    command = [sys.executable, "-c", f"import {', '.join(names)}"]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
