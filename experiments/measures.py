"""What the arms of an experiment are measured by, their differences, and the tables.

Every number is computed from the `predictions.csv` of `wsi-attn evaluate`. Seeds are averaged; intervals are 95 %, by
resampling the groups of the test part. An arm and the one it is compared with see the same resamples (paired
bootstrap), so their difference has an interval of its own.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsi_attn.evaluate.intervals import resample_groups
from wsi_attn.evaluate.metrics import OVERALL
from wsi_attn.evaluate.resampled import resampled_scores

if TYPE_CHECKING:
    from arms import Arm, Task

RESAMPLES = 2000


@dataclass(frozen=True)
class Predictions:
    """Predictions of one run to one test set, ordered by path, as the columns of `predictions.csv`."""

    paths: tuple[str, ...]
    groups: tuple[str, ...]
    columns: dict[str, list[str]]

    def numbers(self, column: str) -> np.ndarray:
        """A column, float64 (n,); NaN where it is empty."""
        return np.array([float(text or "nan") for text in self.columns[column]])


def read_predictions(path: Path) -> Predictions:
    """From the report's folder."""
    with path.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Predictions(tuple(columns["path"]), tuple(columns["patient"]), columns)


def measured(answers: Predictions, names: Sequence[str], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Each measure under row weights (R, n): float64 (R,), NaN where a resample leaves it undefined.

    Of classifications: those of `evaluate.metrics.OVERALL`; `recall:A+B`, the share of the images of these classes that
    are answered rightly; `auprc:A+B`, the mean of these classes' average precisions; `error:80`, the share of wrong
    answers among the 80 % of the images that are least uncertain; `cut:80`, how much less that is than among all.
    Of segmentations: `dice`, of all pixels of the images together, a mean over classes, and `image:COLUMN`, the mean of
    a column over images.
    """
    if "label" not in answers.columns:
        return {name: of_pixels(answers, name, weights) for name in names}
    labels = [name.partition(":")[2] for name in answers.columns if name.startswith("probability:")]
    p = np.stack([answers.numbers(f"probability:{label}") for label in labels], axis=1)
    y = np.array([labels.index(label) for label in answers.columns["label"]])
    overall, per_class = resampled_scores(y, p, weights)
    found = {}
    for name in names:
        kind, _, of = name.partition(":")
        wrong = p.argmax(axis=1) != y
        if name in OVERALL:
            found[name] = overall[name]
        elif kind == "recall":
            of_class = weights * np.isin(y, [labels.index(label) for label in of.split("+")])
            found[name] = ratio(of_class @ ~wrong, of_class.sum(axis=1))
        elif kind == "auprc":
            found[name] = nanmean([per_class[labels.index(label)]["auprc"] for label in of.split("+")])
        elif kind in ("error", "cut"):
            by = "predictive_entropy" if "predictive_entropy" in answers.columns else "entropy"
            found[name] = error_of_surest(float(of) / 100, answers.numbers(by), wrong, weights)
            if kind == "cut":
                found[name] = weights @ wrong / weights.sum(axis=1) - found[name]
        else:
            raise SystemExit(f"there is no measure {name}")
    return found


def of_pixels(answers: Predictions, name: str, weights: np.ndarray) -> np.ndarray:
    """A measure of a segmentation, (R,)."""
    kind, _, column = name.partition(":")
    if kind == "image":
        values = answers.numbers(column)
        known = ~np.isnan(values)
        return ratio(weights[:, known] @ values[known], weights[:, known].sum(axis=1))
    classes = [name.partition(":")[2] for name in answers.columns if name.startswith("tp:")]
    tp, fp, fn = (
        np.stack([weights @ answers.numbers(f"{count}:{label}") for label in classes]) for count in ("tp", "fp", "fn")
    )
    return nanmean(ratio(2 * tp, 2 * tp + fp + fn))


def error_of_surest(kept: float, uncertainty: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of wrong answers among the share `kept` of every resample that is least uncertain, (R,)."""
    order = np.argsort(uncertainty, kind="stable")
    sorted_weights = weights[:, order]
    before = np.cumsum(sorted_weights, axis=1) - sorted_weights
    taken = np.clip(kept * weights.sum(axis=1, keepdims=True) - before, 0, sorted_weights)
    return ratio((taken * wrong[order]).sum(axis=1), taken.sum(axis=1))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where nothing is counted."""
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)


def nanmean(values: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is defined."""
    stacked = np.asarray(values)
    return ratio(np.nansum(stacked, axis=0), (~np.isnan(stacked)).sum(axis=0).astype(np.float64))


def interval(values: np.ndarray) -> dict[str, float]:
    """The first value is of all rows, the others of the resamples."""
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    return {"value": round(float(values[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def write_results(task: Task, work: Path) -> None:
    """`results.json` and `results.md` of what is finished."""
    results = {name: results_of(task, work, name) for name in ("test", *task.extra_tests)}
    (work / "results.json").write_text(json.dumps({"task": task.name, "results": results}, indent=1) + "\n")
    lines = [f"# {task.name}", ""]
    for name, arms in results.items():
        lines += [f"## {name}", "", *table(task, arms), ""]
    lines += ["Intervals are of 95 %, by resampling groups; differences are of the same images, seeds averaged.", ""]
    (work / "results.md").write_text("\n".join(lines))


def results_of(task: Task, work: Path, test_set: str) -> dict[str, dict[str, object]]:
    """What is known of each arm on one test set."""
    found: dict[str, dict[int, Predictions]] = {}
    for arm in task.arms:
        for folder in sorted((work / "answers").glob(f"{arm.name}-[0-9]*")):
            if (folder / test_set / "predictions.csv").is_file():
                seed = int(folder.name.rpartition("-")[2])
                found.setdefault(arm.name, {})[seed] = read_predictions(folder / test_set / "predictions.csv")
    if not found:
        return {}
    first = next(iter(next(iter(found.values())).values()))
    weights = np.concatenate([np.ones((1, len(first.paths))), resample_groups(first.groups, 0, RESAMPLES).weights])
    values: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for name, of_seed in found.items():
        for seed, answers in of_seed.items():
            if answers.paths != first.paths:
                raise SystemExit("the arms were tested on different images; remove the answers and run again")
            values[name, seed] = measured(answers, task.measures, weights)
    results: dict[str, dict[str, object]] = {}
    differences: dict[str, list[np.ndarray]] = {name: [] for name in task.measures}
    for arm in (arm for arm in task.arms if arm.name in found):
        results[arm.name] = summary(arm, sorted(found[arm.name]), values, task.measures, differences)
        results[arm.name] |= {"n": len(first.paths), "groups": len(set(first.groups))} | from_reports(
            work, arm, sorted(found[arm.name]), test_set
        )
    if task.pooled and all(differences.values()):
        gains = {name: interval(np.mean(of_arms, axis=0)) for name, of_arms in differences.items()}
        results["mean of the differences"] = {"difference": gains}
    return results


def summary(
    arm: Arm,
    seeds: Sequence[int],
    values: dict[tuple[str, int], dict[str, np.ndarray]],
    names: Sequence[str],
    differences: dict[str, list[np.ndarray]],
) -> dict[str, object]:
    """Measures of an arm over its seeds, and its differences; these are also appended to `differences`."""
    both = [seed for seed in seeds if (arm.against, seed) in values]
    result: dict[str, object] = {
        "seeds": len(seeds),
        "measures": {
            name: interval(np.mean([values[arm.name, seed][name] for seed in seeds], axis=0)) for name in names
        },
        "of_each_seed": {name: [round(float(values[arm.name, seed][name][0]), 4) for seed in seeds] for name in names},
    }
    if arm.against and both:
        pairs = {
            name: np.mean([values[arm.name, seed][name] - values[arm.against, seed][name] for seed in both], axis=0)
            for name in names
        }
        result |= {"against": arm.against, "difference": {name: interval(pair) for name, pair in pairs.items()}}
        for name, pair in pairs.items():
            differences[name].append(pair)
    return result


def from_reports(work: Path, arm: Arm, seeds: Sequence[int], test_set: str) -> dict[str, object]:
    """How long training took, and what the reports say of the attention."""
    reports = [
        json.loads((work / "answers" / f"{arm.name}-{seed}" / test_set / "report.json").read_text()) for seed in seeds
    ]
    timed = [work / "runs" / f"{arm.name}-{seed}.seconds" for seed in seeds]
    return {
        "training_seconds": [float(path.read_text()) for path in timed if path.is_file()],
        "attention": [report.get("attention") for report in reports],
        "learned_attention": [report.get("learned_attention") for report in reports],
    }


def table(task: Task, arms: dict[str, dict[str, object]]) -> list[str]:
    """Markdown."""
    compared = any("difference" in found for found in arms.values())
    head = ["arm", "seeds", *task.measures, *([f"{name}, difference" for name in task.measures] if compared else [])]
    lines = [row(head), "|" + "---|" * len(head)]
    for name, found in arms.items():
        measures, difference = found.get("measures", {}), found.get("difference", {})
        cells = [name if "against" not in found else f"{name} (against {found['against']})", found.get("seeds", "")]
        cells += [text(measures.get(measure)) for measure in task.measures]
        cells += [text(difference.get(measure)) for measure in task.measures] if compared else []
        lines.append(row(cells))
    return lines


def row(cells: Sequence[object]) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def text(metric: dict[str, float] | None) -> str:
    """Value and interval for people."""
    return "" if metric is None else f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"
