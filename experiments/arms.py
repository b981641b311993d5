"""Arms of the experiments: running them through the command line, and writing down what they answered.

An experiment makes a data set (a manifest and its files) and hands it to `run_task`: each arm and seed is a run folder
of `wsi-attn train`, each answered by `wsi-attn evaluate` on the test rows. What is finished is skipped: an experiment
can be stopped and started again, with more arms or seeds. `results.json` and `results.md` are rewritten after every
run; `measures` says how they are computed.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from measures import write_results
from thumbnails import answer_by_thumbnails

DEEP = "deep-attention"
THUMBNAILS = "thumbnail-svm"
"""Name of the arm without a network, see `thumbnails`; it has no options."""


@dataclass(frozen=True)
class Arm:
    """One way to answer: its options, beside those that all arms of a task share, and the arm it is compared with."""

    name: str
    options: tuple[str, ...] = ()
    against: str | None = None


@dataclass(frozen=True)
class Task:
    """A data set, its arms, and what is measured.

    `options` are of training, `evaluation` of `wsi-attn evaluate`; `measures` are names that `measures.measured`
    knows; `extra_tests` are further manifests to test on, by name. Where `pooled`, the differences of all arms are also
    averaged.
    """

    name: str
    manifest: Path
    options: tuple[str, ...]
    arms: tuple[Arm, ...]
    measures: tuple[str, ...] = ("accuracy", "balanced_accuracy", "auroc")
    evaluation: tuple[str, ...] = ()
    extra_tests: dict[str, Path] = field(default_factory=dict)
    pooled: bool = False


def attention_arms(patch_options: tuple[str, ...]) -> tuple[Arm, ...]:
    """Deep attention, a plain network on the same coarse view with the same backbone, and ablations."""
    return (
        Arm(DEEP, patch_options),
        Arm("low-resolution", ("--model", "cnn"), DEEP),
        Arm("uniform-sampling", (*patch_options, "--uniform-sampling"), DEEP),
        Arm("local-only", (*patch_options, "--branches", "local"), DEEP),
        Arm("global-only", (*patch_options, "--branches", "global"), DEEP),
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options that every experiment has."""
    parser.add_argument("--data", type=Path, required=True, help="folder of the shared data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for data sets, runs and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", help="these only; all by default")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with its share of the cores")
    parser.add_argument("--only-data", action="store_true", help="make the data set and stop")


def parsed(about: str, sets: Iterable[str]) -> argparse.Namespace:
    """The command line of an experiment that has several data sets, `set` among its options."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("set", choices=sets)
    add_common_options(parser)
    return parser.parse_args()


def write_manifest(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """The table that `wsi-attn train` reads, in whole or not at all: its presence says that the data set is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return part.replace(path)


def read_index(folder: Path) -> list[dict[str, str]]:
    """Rows of a shared data set, its files as absolute paths and its `val` part as the test part that it is here."""
    folder = folder.resolve()
    with (folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["split"] = "test" if row["split"] == "val" else "train"
        for column in ("path", "mask"):
            if row.get(column):
                row[column] = str(folder / row[column])
    return rows


def unlike(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """One row for all images of the same pixels; of those in both parts the one to train on."""
    kept: dict[str, dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: row["split"] == "test"):
        kept.setdefault(row["sha256"], row)
    return list(kept.values())


def join_boxes(boxes: Sequence[tuple[int, ...]]) -> str:
    """Boxes x1 y1 x2 y2 as the manifest has them."""
    return ";".join(" ".join(map(str, box)) for box in boxes)


def run_task(task: Task, work: Path, options: argparse.Namespace) -> None:
    """Train and test every arm with every seed; tables after each."""
    if options.only_data:
        return
    chosen = [arm for arm in task.arms if options.arms is None or arm.name in options.arms]
    writing = threading.Lock()
    threads = max(1, (os.cpu_count() or 1) // options.jobs)

    def run(arm: Arm, seed: int) -> None:
        folder, answers = (work / name / f"{arm.name}-{seed}" for name in ("runs", "answers"))
        if arm.name == THUMBNAILS:
            answer_by_thumbnails(task.manifest, answers / "test", seed)
        else:
            train(task, arm, folder, seed, options.epochs, threads)
            for name, manifest in {"test": task.manifest, **task.extra_tests}.items():
                test(folder, manifest, answers / name, task.evaluation, threads)
        with writing:
            write_results(task, work)

    with ThreadPoolExecutor(options.jobs) as pool:
        running = [pool.submit(run, arm, seed) for seed in options.seeds for arm in chosen]
        for each in running:
            each.result()


def train(task: Task, arm: Arm, run: Path, seed: int, epochs: int | None, threads: int) -> None:
    """One run; `wsi-attn train` itself resumes or skips it."""
    options = [*task.options, *arm.options, "--seed", str(seed)]
    options += ["--epochs", str(epochs)] if epochs else []  # the last --epochs counts
    started = time.perf_counter()
    wsi_attn(threads, "train", task.manifest, "--output", run, "--name", arm.name, *options)
    seconds = run.with_name(f"{run.name}.seconds")
    if not seconds.exists():
        seconds.write_text(f"{time.perf_counter() - started:.1f}\n")


def test(run: Path, manifest: Path, folder: Path, options: Sequence[str], threads: int) -> None:
    """The report of one test set, unless it is there."""
    if not (folder / "report.json").is_file():
        wsi_attn(threads, "evaluate", run, manifest, "--split", "test", "--report", folder, *options)


def wsi_attn(threads: int, *arguments: object) -> None:
    """Run the command line as a process of its own; what it says goes to our stderr."""
    command = [str(Path(sys.executable).parent / "wsi-attn"), *map(str, arguments)]
    print("$", *command, file=sys.stderr, flush=True)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL, env=environment)
