"""`wsi-attn view` as a process: one line on stdout when it answers, pages over HTTP, an end without noise."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.runner import restore_interrupts, wsi_attn

SECONDS = 60


@contextmanager
def viewer(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running process and the address that it printed."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "wsi_attn",
        "view",
        *map(str, arguments),
        "--port",
        "0",
        "--no-open",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=restore_interrupts
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def get(address: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=SECONDS) as answer:
        return answer.read()


def test_serves_and_ends(demo_slide: Path) -> None:
    with viewer(demo_slide) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        (slide,) = json.loads(get(f"{address}slides.json"))["slides"]
        assert slide["name"] == "cmu1_small_region.svs"
        assert get(f"{address}slides/{slide['id']}/tiles/0/0_0.jpg")[:2] == b"\xff\xd8"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        assert out == ""
        assert err.splitlines() == ["1 slides; press Ctrl-C to stop", "wsi-attn: interrupted"]


def test_elsewhere_than_loopback_needs_the_token(demo_slide: Path) -> None:
    with viewer(demo_slide, "--host", "0.0.0.0", "--quiet") as (_, address):
        place, _, token = address.partition("?token=")
        assert len(token) >= 32
        here = f"http://127.0.0.1:{place.rstrip('/').rpartition(':')[2]}/slides.json"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(here)
        port = here.split(":")[2].split("/")[0]
        assert json.loads(get(here, Cookie=f"wsi_attn_{port}={token}"))["slides"]


def test_token_on_request(demo_slide: Path) -> None:
    with viewer(demo_slide, "--token", "--quiet") as (_, address):
        assert "?token=" in address


def test_port_in_use(demo_slide: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "Cannot listen" in wsi_attn("view", demo_slide, "--port", str(port), "--no-open", code=2).error()


def test_nothing_to_show(tmp_path: Path) -> None:
    assert "no slide" in wsi_attn("view", tmp_path, "--no-open", code=2).error()
    assert "file not found" in wsi_attn("view", tmp_path / "none.svs", "--no-open", code=3).error()


def test_missing_extra(demo_slide: Path, tmp_path: Path) -> None:
    """As on a machine without the extra: importing uvicorn fails."""
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('no', name='uvicorn')")
    script = "import sys; sys.path.insert(0, sys.argv.pop(1)); from wsi_attn.cli.app import main; main()"
    command = [sys.executable, "-c", script, str(tmp_path), "view", str(demo_slide), "--no-open"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 5
    assert "pip install 'wsi-attn[view]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_paths_from_stdin(demo_slide: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "wsi_attn", "view", "-", "--port", "0", "--no-open", "--quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{demo_slide}\n")
    process.stdin.close()
    try:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
    finally:
        process.kill()
        process.stdout.close()
        process.wait(SECONDS)


def test_half_sent_requests_end_and_a_proxy_is_answered(demo_slide: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.prediction.json"
    bad.write_text("[]")
    options = ("--root-path", "/slides/", "--allowed-host", "lab.example", "--allowed-host", "other.example")
    with viewer(demo_slide, bad, tmp_path / "none.svs", *options, "--quiet") as (_, address):
        assert address.endswith("/slides/")
        assert json.loads(get(f"{address}slides.json", Host="lab.example"))["slides"]
        port = int(address.split(":")[2].partition("/")[0])
        with (
            socket.create_connection(("127.0.0.1", port), SECONDS) as half,
            socket.create_connection(("127.0.0.1", port), SECONDS) as second,
        ):
            half.sendall(b"GET / HTTP/1.1\r\nHost: local")
            second.sendall(b"GET /slides.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert second.recv(15) == b"HTTP/1.1 200 OK"
            second.sendall(b"GET /slides.json HTTP/1.1\r\nHo")
            assert half.recv(10) == b""
            while second.recv(1 << 16):
                pass


@pytest.mark.parametrize(
    "option", [("--root-path", "slides"), ("--root-path", "//evil.example"), ("--allowed-host", "http://lab.example")]
)
def test_invalid_proxy_options_are_refused(option: tuple[str, str], demo_slide: Path) -> None:
    wsi_attn("view", demo_slide, *option, code=2).error()
