"""A command on a pseudo-terminal: what its user sees, and when."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Screen:
    """What was written to the terminal, with the time of each piece, and to stdout, which is a pipe."""

    code: int
    pieces: tuple[tuple[float, str], ...]
    stdout: str

    def text(self) -> str:
        """Everything without control sequences."""
        return CONTROL.sub("", "".join(piece for _, piece in self.pieces))

    def longest_gap(self, text: str) -> float:
        """Most seconds between two updates, from the first that shows `text` on."""
        times = [at for at, _ in self.pieces]
        first = next(number for number, (_, piece) in enumerate(self.pieces) if text in CONTROL.sub("", piece))
        return max(after - before for before, after in zip(times[first:], times[first + 1 :], strict=False))


def on_terminal(*arguments: str | Path, setup: str = "", timeout: float = 300) -> Screen:
    """Run `wsi-attn ARGUMENTS` with stderr on a terminal; the Python code `setup` runs before it."""
    code = f"import sys\n{setup}\nfrom wsi_attn.cli.app import run\nsys.exit(run(sys.argv[1:]))"
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "150", "LINES": "40"}
    pieces: list[tuple[float, str]] = []
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        env=environment,
        text=True,
    ) as process:
        os.close(slave)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(master, 65536)
            except OSError:  # Linux: all writers have closed the terminal
                break
            if not piece:
                break
            pieces.append((time.monotonic(), piece.decode(errors="replace")))
        else:
            process.kill()
        stdout = process.stdout.read() if process.stdout else ""
    os.close(master)
    return Screen(process.returncode, tuple(pieces), stdout)
