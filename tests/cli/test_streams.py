"""Closed, full and broken standard streams and log files: the inputs are processed, and the exit code is documented."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.runner import in_process
from wsi_attn.slides import open as opening

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no full device")


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which `wsi-attn` is the command."""
    command = f'wsi-attn() {{ {shlex.quote(sys.executable)} -m wsi_attn "$@"; }}; set -o pipefail; {line}'
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip


@pytest.fixture
def folder(demo_slide: Path, tmp_path: Path) -> Path:
    for name in ("a.svs", "b.svs"):
        os.link(demo_slide, tmp_path / name) if demo_slide.stat().st_dev == tmp_path.stat().st_dev else (
            tmp_path / name
        ).write_bytes(demo_slide.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("streams", "code"),
    [
        ("| head -n 1", 0),
        (">&-", 0),
        ("2>&-", 0),
        ("<&- >&- 2>&-", 0),
        pytest.param("> /dev/full", 3, marks=needs_full),
        pytest.param("2> /dev/full", 0, marks=needs_full),
    ],
)
def test_all_inputs_are_processed(streams: str, code: int, folder: Path) -> None:
    done = shell(f"wsi-attn tissue a.svs b.svs -o out {streams}", folder)
    assert done.returncode == code, done.stderr
    assert {path.name for path in (folder / "out").iterdir()} >= {"a.tissue.geojson", "b.tissue.geojson"}
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Cannot write the results to stdout: No space left on device") == (code == 3)


def test_usage_errors_keep_their_code_without_stderr(folder: Path) -> None:
    assert shell("wsi-attn inf 2>&-", folder).returncode == 2
    assert shell("wsi-attn info - <&-", folder).returncode == 2


@needs_full
def test_a_full_log_costs_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = in_process(capsys, "--log-file", FULL, "info", folder / "a.svs", folder / "b.svs")
    assert found.stderr.count("Cannot write the log /dev/full: No space left on device") == 1
    assert found.stderr.count("done in") == 2


def test_a_pipe_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "pipe" in in_process(capsys, "--log-file", tmp_path / "pipe", "info", "a.svs", code=2).error()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(5, "Input/output error"), 4, "Input/output error"),
        (MemoryError(), 4, "Not enough memory"),
        (ZeroDivisionError("odd"), 1, "unexpected ZeroDivisionError: odd"),
    ],
)
@pytest.mark.parametrize("command", ["info", "tile", "predict"])
def test_an_error_of_one_input_does_not_stop_the_others(
    command: str,
    error: Exception,
    code: int,
    words: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = opening.open_slide

    def fail(path: Path, *rest: object, **more: object) -> object:
        if Path(path).name == "a.svs":
            raise error
        return sound(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("wsi_attn.data.sources.open_slide", fail)
    output = () if command == "info" else ("-o", folder / "out")
    found = in_process(capsys, command, folder / "a.svs", folder / "b.svs", *output, code=code)
    assert words in found.error()
    assert "a.svs" in found.error()
    assert "b.svs" in found.stdout
