"""Write docs/results.md from the files of results.

    python -m experiments.report

One section a system, with a table for each task that has results, a plot of the differences, and the tasks that have
none.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from experiments.measures import Contrast, Draws, contrasts, estimate, measured
from experiments.results import FOLDER, Results, read_results
from experiments.tasks import TASKS, Task
from wsi_attn.evaluate.intervals import FEWEST_GROUPS, Interval

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
LINE = 120
"""Characters of a line of text."""

HEAD = """# Results

Written by `python -m experiments.report` from `experiments/results`, which holds what every run answered. Each system
is compared on tasks on which it should help, with a probe (logistic regression on frozen ImageNet features), with
networks that see the same pixels without its mechanism, and with controls. `python -m experiments.run --list` shows the
options of each arm; all backbones are EfficientNet-Lite with ImageNet weights unless an option says otherwise. Times
are minutes of one processor for training.

Values are means over seeds with 95 % intervals; resampling draws patients and seeds together, and accuracy and recall
over fewer than 40 patients have exact intervals (Clopper-Pearson). Differences are the system minus the arm on the same
images and seeds, with intervals and p-values corrected by Holm over the contrasts of a table. Fewer than 3 groups have
no interval. Settings are chosen on validation images only. Research use only.
"""

SYSTEMS = {
    "deep-attention": (
        "Deep attention",
        "Reads a coarse view and a few patches at full resolution. The arms that read all pixels cost more.",
    ),
    "dual-cross": (
        "Dual cross-attention",
        "Two backbones that exchange features. AURC is the area under the risk-coverage curve (lower is better); "
        "`error:80` is the error rate on the 80 % of the images that are least uncertain.",
    ),
    "joint-segmentation": (
        "Joint attention",
        "Point-wise gates and self-attention in a DenseUNet. "
        "Dice is of all test pixels together, the others are means of images.",
    ),
    "care": (
        "CARE",
        "Attention of rare classes is guided to boxes. Controls: boxes at random places, and boxes of other images.",
    ),
    "global-spatial": (
        "Global spatial attention",
        "One map of places for all images. Controls: a free map, no map, and pixels in one random order.",
    ),
}


@dataclass(frozen=True)
class ArmSummary:
    """Numbers of one arm."""

    seeds: int
    minutes: float
    values: Mapping[str, Interval]
    contrast: Contrast | None


@dataclass(frozen=True)
class TaskSummary:
    """Numbers of a task; `system` is the name of its first arm."""

    system: str
    images: int
    groups: int
    arms: Mapping[str, ArmSummary]


def summary(task: Task, results: Results) -> TaskSummary:
    """Compute the measures of every arm, and the differences from the first arm."""
    draws = Draws.of(results.groups)
    answers = {
        arm.name: results.mean_answers(arm.mean_of) if arm.mean_of else results.answers(arm.name) for arm in task.arms
    }
    answers = {name: found for name, found in answers.items() if found}
    main = task.measures[0]
    first = {name: measured(found, main, draws) for name, found in answers.items()}
    system = task.arms[0].name
    others = {name: values for name, values in first.items() if name != system}
    compared = contrasts(first[system], others, draws) if system in first else {}
    arms = {}
    for name, found in answers.items():
        seconds = [run.seconds for run in results.runs.get(name, {}).values() if run.seconds is not None]
        arms[name] = ArmSummary(
            len(found),
            sum(seconds) / 60 / len(seconds) if seconds else math.nan,
            {measure: estimate(found, measure, draws) for measure in task.measures},
            compared.get(name),
        )
    return TaskSummary(system, len(results.groups), draws.groups, arms)


def write_summary(task: Task, found: TaskSummary, folder: Path) -> None:
    """Write `results.json` and `results.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(msgspec.to_builtins(found), indent=1) + "\n")
    (folder / "results.md").write_text("\n".join([f"# {task.title}", "", *table(task, found), ""]))


def table(task: Task, found: TaskSummary) -> list[str]:
    """Return the table of a task, and what it says, as Markdown."""
    compared = any(arm.contrast for arm in found.arms.values())
    head = ["arm", "seeds", "minutes", *(name.replace("_", " ") for name in task.measures)]
    head += [f"{found.system} minus arm", "p"] if compared else []
    lines = [row(head), "|" + "---|" * len(head)]
    for name, arm in found.arms.items():
        cells = [name, str(arm.seeds), f"{arm.minutes:.1f}" if arm.minutes == arm.minutes else ""]
        cells += [text(arm.values[measure]) for measure in task.measures]
        if compared:
            cells += [text(arm.contrast.corrected), p_text(arm.contrast)] if arm.contrast else ["", ""]
        lines.append(row(cells))
    return [*lines, "", filled(" ".join(remarks(task, found)))]


def remarks(task: Task, found: TaskSummary) -> list[str]:
    """Return sentences on the strongest other arm, and on what limits the table."""
    lines = []
    main = task.measures[0]
    compared = {name: arm for name, arm in found.arms.items() if arm.contrast is not None}
    if compared:
        name = max(compared, key=lambda name: compared[name].values[main].value or -math.inf)
        contrast = compared[name].contrast
        assert contrast is not None
        low, high, value = contrast.corrected.low, contrast.corrected.high, contrast.corrected.value or 0.0
        verdict = (
            ""
            if low is None or high is None
            else ("; the interval excludes 0" if low > 0 or high < 0 else "; the interval includes 0")
        )
        said = f"{'higher' if value >= 0 else 'lower'} than that of {name}, the strongest other arm"
        lines.append(
            f"{main.replace('_', ' ').capitalize()} of {found.system} is {abs(value):.3f} {said}"
            f" ({len(compared)} contrasts){verdict}."
        )
    lines.append(f"{found.images} test images in {found.groups} groups.")
    if found.groups < FEWEST_GROUPS:
        lines.append("These are too few groups for intervals.")
    if few := [name for name, arm in found.arms.items() if arm.seeds < 3]:
        lines.append(f"Fewer than 3 seeds: {', '.join(few)}.")
    if absent := [arm.name for arm in task.arms if arm.name not in found.arms]:
        lines.append(f"Not measured yet: {', '.join(absent)}.")
    return lines


def filled(text: str) -> str:
    """Break a paragraph into lines, at spaces only: names of arms have hyphens."""
    return textwrap.fill(text, LINE, break_on_hyphens=False)


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def text(interval: Interval) -> str:
    """Value and interval."""
    if interval.value is None:
        return "undefined"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def p_text(contrast: Contrast) -> str:
    """Corrected p-value."""
    return "" if math.isnan(contrast.p_corrected) else f"{contrast.p_corrected:.3f}"


def page(results: Path) -> str:
    """Return the generated part of the page, and write the plots beside it."""
    parts = [HEAD]
    for system, (title, about) in SYSTEMS.items():
        parts.append(f"## {title}\n\n{filled(about)}\n")
        missing: list[str] = []
        plotted: dict[str, Interval] = {}
        for task in (task for task in TASKS.values() if task.system == system):
            known = read_results(task.name, results)
            if known is None:
                missing.append(f"`{task.name}`")
                continue
            found = summary(task, known)
            parts.append("\n".join([f"### {task.title}", "", f"`{task.name}`", "", *table(task, found), ""]))
            plotted |= {
                f"{task.name}: {name}": arm.contrast.corrected for name, arm in found.arms.items() if arm.contrast
            }
        if plotted:
            name = f"results-{system}.svg"
            (PAGE.parent / "images").mkdir(exist_ok=True)
            (PAGE.parent / "images" / name).write_text(forest(plotted))
            parts.append(f"![Differences of {title.lower()} from the other arms](images/{name})\n")
        if missing:
            parts.append(filled(f"Not measured yet: {', '.join(missing)}.") + "\n")
    return "\n".join(parts)


ROW, LEFT, WIDTH, RIGHT = 18, 300, 420, 20
"""Height of a row of the plot, and widths of the names, of the plot and of the margin, pixels."""


def forest(differences: Mapping[str, Interval]) -> str:
    """Return a plot as SVG: a dot and a line for each difference and its interval, and a line at 0."""
    known = [each for interval in differences.values() for each in (interval.value, interval.low, interval.high)]
    numbers = [0.0, *(each for each in known if each is not None)]
    low, high = min(numbers), max(numbers)
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return round(LEFT + WIDTH * (value - low) / span, 1)

    height = ROW * (len(differences) + 2)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<line x1="{x(0)}" y1="0" x2="{x(0)}" y2="{height - ROW}" stroke="#999" stroke-dasharray="3 3"/>',
    ]
    for number, (name, interval) in enumerate(differences.items()):
        y = ROW * (number + 1)
        lines.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{name}</text>')
        if interval.low is not None and interval.high is not None:
            ends = f'x1="{x(interval.low)}" x2="{x(interval.high)}" y1="{y}" y2="{y}"'
            lines.append(f'<line {ends} stroke="#0072b2" stroke-width="2"/>')
        if interval.value is not None:
            lines.append(f'<circle cx="{x(interval.value)}" cy="{y}" r="3.5" fill="#0072b2"/>')
    lines += [
        f'<text x="{x(value)}" y="{height - 4}" text-anchor="middle">{value:.2f}</text>'
        for value in sorted({low, 0.0, high})
    ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    PAGE.write_text(page(FOLDER))


if __name__ == "__main__":
    main()
