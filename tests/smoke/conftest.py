"""Runs the `wsi-attn` executable of another environment, the one that WSI_ATTN_EXECUTABLE names, as a user does.

Nothing here imports wsi_attn: pytest and Pillow come from the development environment, the program from an environment
that has the runtime dependencies only. `make smoke` and `make smoke-lowest` set both up.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

EXECUTABLE = os.environ.get("WSI_ATTN_EXECUTABLE", "")
TIMEOUT = 600
"""Seconds after which one command counts as hanging; the first call of a fresh environment compiles kernels."""

Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder's tests where no executable is named."""
    if not EXECUTABLE:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="WSI_ATTN_EXECUTABLE names no executable; run `make smoke`"))


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what would let the development environment shine through."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | dict(extra)


def _hear_interrupts() -> None:
    """Undo what a shell does to the background jobs of a script: it makes them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def start() -> Start:
    """Start `wsi-attn ARGUMENTS` and return the process."""

    def start(*arguments: str | Path, cwd: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [EXECUTABLE, *map(str, arguments)],
            cwd=cwd,
            env=_environment(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_hear_interrupts,
        )

    return start


@pytest.fixture(scope="session")
def run(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run `wsi-attn ARGUMENTS` in an empty folder, check its exit code and that nothing it prints is a traceback."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(
        *arguments: str | Path, code: int = 0, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        process = start(*arguments, cwd=elsewhere, environment=environment)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
        told = f"wsi-attn {' '.join(map(str, arguments))}: exit {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in out + err, told
        assert process.returncode == code, told
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run
