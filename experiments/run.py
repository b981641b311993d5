"""Run the arms of an experiment: train each with each seed, test it, and keep what it answered.

    python -m experiments.run --list
    python -m experiments.run TASK --data SHARED_DATA --work FOLDER [--arms probe ...] [--seeds 0 1 ...] [--jobs 2]
    python -m experiments.run TASK --data SHARED_DATA --work FOLDER --arms NAME --trial "--learning-rate 0.0005"

Every run is one process of `wsi-attn train` on one thread, and one of `wsi-attn evaluate`. Runs that are in
`experiments/results/TASK.json` with the same options are skipped, so that an experiment can be stopped and continued,
by another session or with more arms and seeds. `results.json` and `results.md` in the work folder are written after
each run. `--trial` trains with other options, says what the validation rows say, and reads no test row.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.answers import ONE
from experiments.data import write_manifests
from experiments.report import summary, write_summary
from experiments.results import FOLDER, MISSING, Results, Run, read_results
from experiments.tasks import TASKS, THUMBNAILS, Arm, Task
from wsi_attn.data.manifest import path_in, read_manifest
from wsi_attn.recipes.build import baseline_answers


@dataclass(frozen=True)
class Place:
    """Folders of an experiment."""

    data: Path
    work: Path
    results: Path


@dataclass(frozen=True)
class Table:
    """`predictions.csv` of a test set, sorted by path."""

    rows: list[dict[str, str]]
    notes: dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", choices=TASKS)
    parser.add_argument("--list", action="store_true", help="tasks and arms, with the seeds that are done")
    parser.add_argument("--data", type=Path, help="folder of the shared data sets")
    parser.add_argument("--work", type=Path, help="folder for data sets and runs")
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--arms", nargs="+", help="these only; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", help="5 where a run takes under 10 minutes, otherwise 3")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--again", action="store_true", help="replace results of other options or other data")
    parser.add_argument("--trial", metavar="OPTIONS", help="try these options; reads validation rows only")
    options = parser.parse_args()
    if options.list:
        print_tasks(options.results)
        return
    if not (options.task and options.data and options.work):
        parser.error("TASK, --data and --work are needed, or --list")
    task, place = TASKS[options.task], Place(options.data, options.work / options.task, options.results)
    arms = [arm for arm in task.arms if not arm.mean_of and (options.arms is None or arm.name in options.arms)]
    seeds = options.seeds or [*task.seeds]
    if options.trial is not None:
        for arm in arms:
            try_options(task, arm, place, seeds[0], options.trial)
        return
    run_task(task, arms, seeds, place, jobs=options.jobs, again=options.again)


def print_tasks(results: Path) -> None:
    """Print the tasks, the minutes of a run, and the seeds that are done for each arm."""
    for task in TASKS.values():
        found = read_results(task.name, results)
        print(f"{task.name}\t{task.system}\tabout {task.minutes:g} min a run\t{task.title}")
        for arm in task.arms:
            done = sorted(map(int, found.runs.get(arm.name, {}))) if found else []
            said = f"mean of {' and '.join(arm.mean_of)}" if arm.mean_of else f"seeds {done} of {[*task.seeds]}"
            print(f"\t{arm.name}\t{said}\t{shlex.join(options_of(task, arm))}")


def options_of(task: Task, arm: Arm) -> list[str]:
    """Options of `wsi-attn train`, without paths and seed."""
    return [*(shlex.split(task.options) if arm.shared else []), *shlex.split(arm.options)]


def run_task(task: Task, arms: Sequence[Arm], seeds: Sequence[int], place: Place, *, jobs: int, again: bool) -> None:
    """Run what is not done, seed after seed, and write the results after each."""
    writing = threading.Lock()

    def run(arm: Arm, seed: int) -> None:
        known = read_results(task.name, place.results)
        done = known.runs.get(arm.name, {}).get(str(seed)) if known else None
        if done is not None and not again:
            if done.options != options_of(task, arm):
                raise SystemExit(
                    f"{task.name}, {arm.name}, seed {seed}: the results are of {shlex.join(done.options)}; add --again"
                    " to replace them"
                )
            return
        if not arm.shared and borrow(task, arm, seed, place, known):
            return
        tables, seconds = answer(task, arm, seed, place)
        with writing:
            write_run(task, arm, seed, tables, seconds, place, again=again)

    with ThreadPoolExecutor(jobs) as pool:
        for each in [pool.submit(run, arm, seed) for seed in seeds for arm in arms]:
            each.result()


def borrow(task: Task, arm: Arm, seed: int, place: Place, known: Results | None) -> bool:
    """Take the run of an arm without the task's options from another task of the same data, if there is one."""
    for other in TASKS.values():
        found = read_results(other.name, place.results) if other.make is task.make and other is not task else None
        run = found.runs.get(arm.name, {}).get(str(seed)) if found else None
        if found is not None and run is not None and (known is None or known.data == found.data):
            results = known or replace(found, task=task.name, runs={})
            results.runs.setdefault(arm.name, {})[str(seed)] = run
            results.write(place.results / f"{task.name}.json")
            return True
    return False


def answer(task: Task, arm: Arm, seed: int, place: Place) -> tuple[list[Table], float]:
    """Train and test every fold; returns the answers of each, and the processor seconds of training."""
    tables, seconds = [], 0.0
    for manifest in manifests(task, arm, seed, place):
        name = Path(f"{arm.name}-{seed}") / manifest.stem
        run, report = place.work / "runs" / name, place.work / "answers" / name
        if arm == THUMBNAILS:
            answer_by_thumbnails(manifest, report, seed)
        else:
            used = train(manifest, run, [*options_of(task, arm), "--seed", str(seed)])
            seconds += timed(run.with_suffix(".seconds"), used)
        if not (report / "report.json").is_file():
            passes = shlex.split(task.evaluation) if arm.shared else []
            wsi_attn("evaluate", run, manifest, "--split", "test", "--report", report, *passes)
        tables.append(read_table(report))
    return tables, seconds


def manifests(task: Task, arm: Arm, seed: int, place: Place) -> list[Path]:
    """Manifests of the folds; data sets that depend on the seed have a folder for each."""
    name = f"{arm.variant or 'data'}-{seed}" if task.name.startswith("pneumonia") else arm.variant or "data"
    return write_manifests(task.make, place.data, place.work / name, seed, arm.variant)


def train(manifest: Path, run: Path, options: Sequence[str]) -> float:
    """One run, which `wsi-attn train` itself resumes or skips; returns processor seconds."""
    return wsi_attn("train", manifest, "--output", run, "--name", run.parent.name, "--threads", "1", *options)


def timed(path: Path, seconds: float) -> float:
    """Seconds of a run; those of the first time, as a finished run is skipped in a moment."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{seconds:.1f}\n")
    return float(path.read_text())


def try_options(task: Task, arm: Arm, place: Place, seed: int, extra: str) -> None:
    """Train with further options on the first fold, and print what the validation rows say."""
    options = [*options_of(task, arm), *shlex.split(extra), "--seed", str(seed)]
    run = place.work / "trials" / hashlib.sha256(shlex.join([arm.name, *options]).encode()).hexdigest()[:12]
    used = train(manifests(task, arm, seed, place)[0], run, options)
    found = json.loads((run / "metrics.json").read_text())
    values = {name: each["value"] for name, each in found.items() if isinstance(each, dict) and "value" in each}
    print(json.dumps({"arm": arm.name, "options": extra, "seconds": round(used), **values}))


def answer_by_thumbnails(manifest: Path, folder: Path, seed: int) -> None:
    """Write `predictions.csv` and an empty report of the test rows, as `wsi-attn evaluate` does."""
    if (folder / "report.json").is_file():
        return
    rows = read_manifest(manifest)
    labels = sorted({row.label for row in rows})
    testing, probabilities = baseline_answers(rows, labels, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "label", *(f"probability:{label}" for label in labels)])
        for row, p in zip(testing, probabilities, strict=True):
            writer.writerow([path_in(manifest, row), row.patient, row.label, *(f"{each:.6g}" for each in p)])
    (folder / "report.json").write_text("{}")


def read_table(report: Path) -> Table:
    """Read a report's folder."""
    with (report / "predictions.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    found = json.loads((report / "report.json").read_text())
    attention = {
        name: round(each["value"], 4)
        for name, each in found.get("attention", {}).items()
        if isinstance(each, dict) and each.get("value") is not None
    }
    learned = {"learned_attention": found["learned_attention"]} if found.get("learned_attention") else {}
    return Table(rows, {**attention, **learned})


def write_run(
    task: Task, arm: Arm, seed: int, tables: Sequence[Table], seconds: float, place: Place, *, again: bool
) -> None:
    """Add a run to the results of its task."""
    rows = [row for table in tables for row in table.rows]
    labels = [name.partition(":")[2] for name in rows[0] if name.startswith("probability:")]
    truth = [labels.index(row["label"]) for row in rows] if labels else []
    names = [[row["patient"], row.get("label", "")] for row in rows]
    data = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]
    results = read_results(task.name, place.results)
    if results is None or (results.data != data and again):
        columns = [] if labels else [*PIXELS]
        results = Results(task.name, data, labels, columns, [row["patient"] for row in rows], truth)
    if results.data != data:
        raise SystemExit(f"{task.name}: the results are of other test rows; add --again to remove them")
    passes = labels and "predictive_entropy" in rows[0]
    uncertainty = [round(ONE * float(row["predictive_entropy"])) for row in rows] if passes else []
    notes = tables[0].notes if len(tables) == 1 else {}
    answers = classified(rows, labels) if labels else [pixels_of(row) for row in rows]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    run = Run(options_of(task, arm), round(seconds, 1), commit.stdout.strip(), answers, uncertainty, notes)
    results.runs.setdefault(arm.name, {})[str(seed)] = run
    results.write(place.results / f"{task.name}.json")
    write_summary(task, summary(task, results), place.work)
    print(f"{task.name}\t{arm.name}\tseed {seed}\t{seconds:.0f} s", flush=True)


PIXELS = {"tp": "tp:", "fp": "fp:", "fn": "fn:", "boundary_f": "boundary_f:", "object_f1": "object_f1:"}


def classified(rows: Sequence[dict[str, str]], labels: Sequence[str]) -> list[list[int]]:
    """Probabilities of all labels but the last, in ten thousandths."""
    return [[round(ONE * float(row[f"probability:{label}"])) for label in labels[:-1]] for row in rows]


def pixels_of(row: dict[str, str]) -> list[int]:
    """Numbers of an image with one foreground class."""
    found = []
    for column, start in PIXELS.items():
        text = next(value for name, value in row.items() if name.startswith(start))
        shares = column in ("boundary_f", "object_f1")
        found.append(MISSING if not text else round(float(text) * (ONE if shares else 1)))
    return found


def wsi_attn(*arguments: object) -> float:
    """Run the command line as a process of its own on one thread; returns its processor seconds.

    Unlike wall time, they do not depend on what else the machine does.
    """
    command = [str(Path(sys.executable).parent / "wsi-attn"), *map(str, arguments)]
    print("$", shlex.join(command), file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{shlex.join(command)} ended with exit code {code}")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
