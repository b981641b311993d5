"""CPU time of `wsi-attn --help`: python tests/benchmarks/start_up.py [ROUNDS].

Prints one JSON object: user plus system seconds of the whole process, least, median and most.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    command = [str(Path(sys.executable).parent / "wsi-attn"), "--help"]
    times = [cpu_seconds(command) for _ in range(rounds)]
    figures = {"least": min(times), "median": statistics.median(times), "most": max(times)}
    print(json.dumps({"command": "wsi-attn --help", "rounds": rounds, **{k: round(v, 3) for k, v in figures.items()}}))
