"""Arms of the experiments, running them through the command line, and their tables.

An experiment makes a data set (a manifest and its files) and hands it to `run_task`: each arm and seed is a run folder
of `wsi-attn train`, each answered by `wsi-attn evaluate` on the test rows. What is finished is skipped: an experiment
can be stopped and started again. `results.json` and `results.md` are written anew after every run. Differences to deep
attention are of the same test images, pooled over seeds, with intervals that resample groups (paired bootstrap).
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wsi_attn.evaluate.intervals import group_weights

RESAMPLES = 2000
REFERENCE = "deep-attention"


@dataclass(frozen=True)
class Arm:
    """One way to answer: a system and its options, beside those that all arms of a task share.

    `patches` says whether the system reads patches at all, and so takes the options about them.
    """

    name: str
    options: tuple[str, ...] = ()
    patches: bool = True


ARMS = (
    Arm(REFERENCE),
    Arm("low-resolution", ("--model", "cnn"), patches=False),
    Arm("uniform-sampling", ("--uniform-sampling",)),
    Arm("local-only", ("--branches", "local")),
    Arm("global-only", ("--branches", "global"), patches=True),
)
"""Low resolution is a plain network on the same coarse view with the same backbone."""


@dataclass(frozen=True)
class Task:
    """A data set and what its arms share: options of training, those about patches, and extra test sets by name."""

    name: str
    manifest: Path
    options: tuple[str, ...]
    patch_options: tuple[str, ...]
    extra_tests: dict[str, Path] = field(default_factory=dict)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options that every experiment has."""
    parser.add_argument("--data", type=Path, required=True, help="folder of the shared data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for data sets, runs and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS], default=[arm.name for arm in ARMS])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--only-data", action="store_true", help="make the data set and stop")


def write_manifest(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """The table that `wsi-attn train` reads, in whole or not at all: its presence says that the data set is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return part.replace(path)


def join_boxes(boxes: Sequence[tuple[int, ...]]) -> str:
    """Boxes x1 y1 x2 y2 as the manifest has them."""
    return ";".join(" ".join(map(str, box)) for box in boxes)


def run_task(task: Task, work: Path, options: argparse.Namespace) -> None:
    """Train and test every arm with every seed; tables after each."""
    if options.only_data:
        return
    for seed in options.seeds:
        for arm in (arm for arm in ARMS if arm.name in options.arms):
            run = work / "runs" / f"{arm.name}-{seed}"
            train(task, arm, run, seed, options.epochs)
            for name, manifest in {"test": task.manifest, **task.extra_tests}.items():
                test(run, manifest, work / "answers" / f"{arm.name}-{seed}" / name)
            write_results(task, work)


def train(task: Task, arm: Arm, run: Path, seed: int, epochs: int | None) -> None:
    """One run; `wsi-attn train` itself resumes or skips it."""
    options = [*task.options, *(task.patch_options if arm.patches else ()), *arm.options]
    options += ["--seed", str(seed), *(["--epochs", str(epochs)] if epochs else [])]  # the last --epochs counts
    started = time.perf_counter()
    wsi_attn("train", task.manifest, "--output", run, "--name", arm.name, *options)
    seconds = run.with_name(f"{run.name}.seconds")
    if not seconds.exists():
        seconds.write_text(f"{time.perf_counter() - started:.1f}\n")


def test(run: Path, manifest: Path, folder: Path) -> None:
    """The report of one test set, unless it is there."""
    if not (folder / "report.json").is_file():
        wsi_attn("evaluate", run, manifest, "--split", "test", "--report", folder)


def wsi_attn(*arguments: object) -> None:
    """Run the command line as a process of its own; what it says goes to our stderr."""
    command = [str(Path(sys.executable).parent / "wsi-attn"), *map(str, arguments)]
    print("$", *command, file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Answers:
    """Answers of one run to one test set, ordered by path: whether each is right, and the groups."""

    paths: tuple[str, ...]
    right: np.ndarray
    labels: np.ndarray
    groups: tuple[str, ...]


def read_answers(path: Path) -> Answers:
    """From the report's `answers.csv`."""
    with path.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    return Answers(
        tuple(row["path"] for row in rows),
        np.array([row["label"] == row["called"] for row in rows], np.float64),
        np.array([row["label"] for row in rows]),
        tuple(row["patient"] for row in rows),
    )


def balanced(right: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Balanced accuracy under row weights (R, n): mean recall of the classes that a resample holds, (R,)."""
    recalls = []
    for label in np.unique(labels):
        of_class = weights * (labels == label)
        with np.errstate(invalid="ignore"):
            recalls.append((of_class @ right) / of_class.sum(axis=1))
    return np.nanmean(recalls, axis=0)


def summarise(answers: Sequence[Answers], reference: Sequence[Answers]) -> dict[str, object]:
    """Accuracy and balanced accuracy of an arm over its seeds, and their differences to the reference's same seeds.

    Every resample draws groups of the test set once for both arms and all seeds; seeds are averaged within it.
    """
    first = answers[0]
    for other in [*answers, *reference]:
        if other.paths != first.paths:
            raise SystemExit("the arms were tested on different images; remove the answers and run again")
    weights = np.concatenate([np.ones((1, len(first.paths))), group_weights(first.groups, 0, RESAMPLES)])
    right, right_reference = (np.mean([one.right for one in many], axis=0) for many in (answers, reference))
    accuracy, accuracy_reference = (weights @ values / weights.sum(axis=1) for values in (right, right_reference))
    share, share_reference = (balanced(values, first.labels, weights) for values in (right, right_reference))
    return {
        "seeds": len(answers),
        "n": len(first.paths),
        "groups": len(set(first.groups)),
        "accuracy": interval(accuracy),
        "balanced_accuracy": interval(share),
        "accuracy_below_reference": interval(accuracy_reference - accuracy),
        "balanced_accuracy_below_reference": interval(share_reference - share),
        "accuracy_of_each_seed": [round(float(one.right.mean()), 4) for one in answers],
    }


def interval(values: np.ndarray) -> dict[str, float]:
    """The first value is of all rows, the others of the resamples."""
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return {"value": round(float(values[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def write_results(task: Task, work: Path) -> None:
    """`results.json` and `results.md` of what is finished."""
    results: dict[str, dict[str, object]] = {}
    for test_set in ("test", *task.extra_tests):
        found = {
            (folder.name.rpartition("-")[0], folder.name.rpartition("-")[2]): folder / test_set
            for folder in sorted((work / "answers").iterdir())
            if (folder / test_set / "answers.csv").is_file()
        }
        of_set: dict[str, object] = {}
        for arm in ARMS:
            seeds = [seed for name, seed in found if name == arm.name and (REFERENCE, seed) in found]
            if seeds:
                answers, reference = (
                    [read_answers(found[name, seed] / "answers.csv") for seed in seeds]
                    for name in (arm.name, REFERENCE)
                )
                reports = [json.loads((found[arm.name, seed] / "report.json").read_text()) for seed in seeds]
                of_set[arm.name] = {
                    **summarise(answers, reference),
                    "attention": [report.get("attention") for report in reports],
                    "training_seconds": [
                        float((work / "runs" / f"{arm.name}-{seed}.seconds").read_text()) for seed in seeds
                    ],
                }
        results[test_set] = of_set
    (work / "results.json").write_text(json.dumps({"task": task.name, "results": results}, indent=1) + "\n")
    (work / "results.md").write_text(as_table(task, results))


def as_table(task: Task, results: dict[str, dict[str, object]]) -> str:
    """Markdown: one table a test set."""
    lines = [f"# {task.name}", ""]
    for test_set, arms in results.items():
        lines += [
            f"## {test_set}",
            "",
            "| arm | seeds | images | groups | accuracy | balanced accuracy | deep attention minus arm, balanced |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, found in arms.items():
            numbers = [found["seeds"], found["n"], found["groups"]]
            metrics = [
                text(found[key]) for key in ("accuracy", "balanced_accuracy", "balanced_accuracy_below_reference")
            ]
            lines.append(f"| {' | '.join(map(str, [name, *numbers, *metrics]))} |")
        lines.append("")
    lines += ["Intervals are of 95 %, by resampling groups; arms are compared on the same images, seeds averaged.", ""]
    return "\n".join(lines)


def text(metric: dict[str, float]) -> str:
    """Value and interval for people."""
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"
