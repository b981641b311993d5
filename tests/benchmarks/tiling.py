"""Tiling against a file copy, against decoding alone, and against what a user would run instead.

    python tests/benchmarks/tiling.py SLIDE [--rounds 5] [--peer NAME=PYTHON ...] [--without NAME ...]

Whole processes take turns, round by round; the medians are compared, since machines are noisy. SLIDE is a tiled JPEG
TIFF or SVS with tiles of 256 px; `make_big_slide.py` beside this file makes large ones. Peers that live in another
environment are named with its Python: dzsave (pyvips), tiatoolbox, lazyslide. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

PEERS = Path(__file__).with_name("tiling_peers.py")
OURS = [sys.executable, "-m", "wsi_attn", "tile", "--background", "skip", "--quiet"]


def run(command: list[str]) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak memory of a process; what it prints, if that is a number."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    printed, told = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{command} failed: {told[-800:]}")
    record = {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}
    with contextlib.suppress(ValueError):
        record["inner"] = float(printed)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action="append", default=[], help="NAME=PYTHON")
    parser.add_argument("--without", action="append", default=[])
    options = parser.parse_args()
    slide, size = str(options.slide), options.slide.stat().st_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([*OURS, slide, "--output", str(folder / "first.zarr"), "--scores", "none"])  # warms the page cache
        coords = zarr.open_group(folder / "first.zarr", mode="r")["tiles/default/coords"][...]
        stored = sum(file.stat().st_size for file in (folder / "first.zarr").rglob("*") if file.is_file())
        np.save(folder / "coords.npy", coords)
        out = str(folder / "out")
        jobs = {
            "copy": ["cp", slide, out],
            "passthrough": [*OURS, slide, "--output", out + ".zarr", "--codec", "passthrough", "--scores", "none"],
            "decode": [sys.executable, str(PEERS), "decode", slide, str(folder / "coords.npy"), out],
            "scored": [*OURS, slide, "--output", out + ".zarr", "--codec", "passthrough", "--scores", "all"],
        }
        pythons = dict(peer.split("=", 1) for peer in options.peer)
        for peer in ("openslide_zstd", "tifffile_zstd", *pythons):
            jobs[peer] = [pythons.get(peer, sys.executable), str(PEERS), peer, slide, str(folder / "coords.npy"), out]
        for job in options.without:
            jobs.pop(job)
        found: dict[str, list[dict[str, float]]] = {job: [] for job in jobs}
        run(jobs["scored"])  # compiled kernels are in the cache from here on
        shutil.rmtree(out + ".zarr")
        for _ in range(options.rounds):
            for job, command in jobs.items():
                found[job].append(run(command))
                for left in folder.glob("out*"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
    report = {"slide": options.slide.name, "bytes": size, "tiles": len(coords), "rounds": options.rounds, "jobs": {}}
    middle = {}
    for job, records in found.items():
        seconds = sorted(record["seconds"] for record in records)
        middle[job] = statistics.median(seconds)
        report["jobs"][job] = {
            "seconds": round(middle[job], 3),
            "range": [round(seconds[0], 3), round(seconds[-1], 3)],
            "cpu": round(statistics.median(record["cpu"] for record in records), 3),
            "tiles_per_second": round(len(coords) / middle[job]) if job != "copy" else None,
            "peak_mb": round(max(record["peak_mb"] for record in records)),
        }
    decoding = statistics.median(record["inner"] for record in found["decode"])
    others = {job: middle[job] for job in middle if job not in ("copy", "passthrough", "decode", "scored")}
    report["ratios"] = {
        "store_to_slide_bytes": round(stored / size, 3),
        "passthrough_to_copy": round(middle["passthrough"] / middle["copy"], 2),
        "passthrough_less_a_second_to_copy": round((middle["passthrough"] - 1) / middle["copy"], 2),
        "decode_seconds_without_start_up": round(decoding, 3),
        "scores_add_to_decode": round((middle["scored"] - middle["passthrough"]) / decoding, 2),
        "scored_to_decode": round(middle["scored"] / middle["decode"], 2),
        "scored_to_decode_without_its_start_up": round(middle["scored"] / decoding, 2),
    }
    if others:
        best = min(others, key=others.__getitem__)
        report["ratios"] |= {
            "best_peer": best,
            "best_peer_to_passthrough": round(others[best] / middle["passthrough"], 1),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
