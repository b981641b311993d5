"""Usage errors: one line on stderr and exit code 2, without the separate package click."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.runner import in_process

WITHOUT_CLICK = "import sys; sys.modules['click'] = None; from wsi_attn.cli.app import main; main()"


@pytest.mark.parametrize(
    "arguments",
    ["tile", "tile --no-such-option x.svs", "tiel", "tile x.svs --tile-size many", "models no-such", "--config"],
)
def test_usage_error_is_one_line(arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CLICK, *arguments.split()], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("wsi-attn: error: ")
    assert done.stderr.count("\n") == 1


def test_no_command_prints_the_help_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    done = in_process(capsys, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: ")
