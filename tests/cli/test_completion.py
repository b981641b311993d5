"""Completion in real shells: installed as a user installs it, then asked with the Tab key or the shell's own query."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT, TRIES = 40.0, 4
"""Seconds until a shell that does not answer fails the test, and how often Tab is pressed in this time."""

QUESTIONS = {
    "wsi-attn til": "tile",
    "wsi-attn tile --min": "--min-tissue",
    "wsi-attn tile --codec pass": "passthrough",
    "wsi-attn predict --model cell": "cellularity-he",
    "wsi-attn models sh": "show",
    "wsi-attn train --model dual-cross --fus": "--fusion",
}
"""What is typed, and what Tab adds to it."""


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """A shell in whose home completion was installed, and its environment."""
    name = request.param
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    command = binaries / "wsi-attn"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wsi_attn "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    root = Path(__file__).parents[2]
    env = {
        "HOME": str(tmp_path),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        "TERM": "dumb",
        "LANG": "C.UTF-8",
    }
    script = "wsi-attn --install-completion; true"  # a second command, so that the shell is not replaced by the first
    done = subprocess.run([path, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert f"{name} completion installed" in done.stdout, done
    return path, env


def test_commands_options_and_values_are_completed(shell: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    path, env = shell
    for question, answer in QUESTIONS.items():
        if path.endswith("fish"):
            query = [path, "-c", f'complete -C "{question}"']
            found = subprocess.run(query, env=env, capture_output=True, text=True, check=True).stdout
            assert answer in [line.split("\t")[0] for line in found.splitlines()], found
        else:
            assert answer in press_tab(path, env, question, answer, tmp_path)


def press_tab(path: str, env: dict[str, str], question: str, answer: str, folder: Path) -> str:
    """The line of an interactive shell after `question` and Tab.

    Tab is pressed again while there is no answer: in zsh the first one only loads the function.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(path, [path, "-i"], env)
    line = ""
    try:
        os.write(terminal, b"PS1='ready'; PS1=$PS1'> '\n")
        read_until(terminal, "ready> ", LIMIT)
        os.write(terminal, question.encode())
        for _ in range(TRIES):
            os.write(terminal, b"\t")
            line = read_until(terminal, answer, LIMIT / TRIES, line)
            if answer in line:
                break
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)
    return line


def read_until(terminal: int, wanted: str, seconds: float, said: str = "") -> str:
    """`said` and what the terminal adds to it up to and with `wanted`, or until the shell ends or the time is over."""
    end = time.monotonic() + seconds
    while wanted not in said and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                more = os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # the shell has ended
                break
            said += more.replace("\b", "").replace("\a", "")
    return said
