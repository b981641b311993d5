"""Importing modules in a child process, so that a broken one cannot end the report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsi_attn.doctor.probe import Facts

PROBE = Path(__file__).with_name("probe.py")


@dataclass(frozen=True)
class Imported:
    """A module that was imported, or the reason why it cannot be."""

    name: str
    error: str = ""
    facts: Facts = field(default_factory=dict)

    def text(self, key: str) -> str:
        """A fact as text; empty where it is not known."""
        return str(self.facts.get(key, ""))


def import_all(names: Sequence[str]) -> Iterator[Imported]:
    """Import each module in turn; the child process is started again after a module that ends it."""
    rest = list(names)
    while rest:
        process = _start(rest)
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        with process.stdout as lines:
            for line in lines:
                found = json.loads(line)
                rest.remove(found["name"])
                yield Imported(found["name"], found.get("error", ""), found.get("facts", {}))
        code = process.wait()
        if rest:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            yield Imported(rest.pop(0), f"importing it ends the process ({how})")


def _start(names: Sequence[str]) -> subprocess.Popen[str]:
    """The child sees the modules that this process sees, and not those of the current folder."""
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-P", str(PROBE), *names]
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen(  # noqa: S603 - names of modules only
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
