"""Running the command line as a user does: another process, its streams and its exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wsi_attn.cli.app import run


@dataclass(frozen=True)
class Result:
    """What one command left behind."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> list[dict[str, Any]]:
        """The JSON lines of stdout."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def error(self) -> str:
        """The one line of error; fails where there is none, more than one, or a traceback."""
        assert "Traceback" not in self.stderr, self.stderr
        lines = [line for line in self.stderr.splitlines() if line.startswith("wsi-attn: error:")]
        assert len(lines) == 1, self.stderr
        return lines[0]


def restore_interrupts() -> None:
    """For a child before it begins: a shell that runs the tests in the background makes all of them deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def in_process(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> Result:
    """The same command line without a process of its own, for tests of what is said and done and not of streams."""
    capsys.readouterr()
    found = run([str(argument) for argument in arguments])
    streams = capsys.readouterr()
    assert found == code, f"{arguments}: exit {found}\n{streams.out}\n{streams.err}"
    return Result(found, streams.out, streams.err)


def wsi_attn(*arguments: str | Path, stdin: str = "", code: int | None = 0, timeout: float = 300) -> Result:
    """Run `wsi-attn ARGUMENTS` and check its exit code, unless `code` is None."""
    command = [sys.executable, "-W", "error", "-m", "wsi_attn", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    result = Result(done.returncode, done.stdout, done.stderr)
    if code is not None:
        assert result.code == code, f"{command}: exit {result.code}\n{result.stdout}\n{result.stderr}"
    return result
