"""Files of results, `experiments/results/TASK.json`: what each arm answered, small enough to be kept with the programs.

Measures, intervals and tables are computed from these files alone, so that a later session can add seeds and arms.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from experiments.answers import ONE, Answers, FloatArray, Labelled, Pixels, averaged
from wsi_attn.evaluate.uncertainty import entropy

FOLDER = Path(__file__).parent / "results"
MISSING = -1
"""In place of an undefined number."""


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Attributes
    ----------
    options
        Of `wsi-attn train`, without paths and seed.
    seconds
        Processor time of training on one thread, all folds together; None where it was not measured.
    commit
        Revision of the programs.
    answers
        One row for each row of the test set: the probabilities of all labels but the last; or of a segmentation the
        numbers of `Results.columns`. Shares are in ten thousandths.
    uncertainty
        Predictive entropy of dropout passes in ten thousandths; empty without passes.
    notes
        What the report says of the attention.
    """

    options: list[str]
    seconds: float | None
    commit: str
    answers: list[list[int]]
    uncertainty: list[int] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)


@dataclass
class Results:
    """The runs of a task.

    Attributes
    ----------
    data
        Hash of the test rows.
    labels, columns
        Of a classification, and of a segmentation.
    groups, truth
        Of each test row: its group, and the number of its label.
    runs
        By arm, and by seed as text.
    """

    task: str
    data: str
    labels: list[str]
    columns: list[str]
    groups: list[str]
    truth: list[int]
    runs: dict[str, dict[str, Run]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file with one line a run, in whole."""
        head = {name: value for name, value in msgspec.to_builtins(self).items() if name != "runs"}
        lines = [f" {json.dumps(name)}: {_compact(value)}" for name, value in head.items()]
        arms = [
            f"  {json.dumps(arm)}: {{\n"
            + ",\n".join(f'   "{seed}": {_compact(msgspec.to_builtins(of[seed]))}' for seed in sorted(of, key=int))
            + "\n  }"
            for arm, of in sorted(self.runs.items())
        ]
        text = "{\n" + ",\n".join([*lines, ' "runs": {\n' + ",\n".join(arms) + "\n }"]) + "\n}\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(text)
        part.replace(path)

    def answers(self, arm: str) -> dict[int, Answers]:
        """Return the answers of an arm by seed."""
        return {int(seed): self._answers(run) for seed, run in self.runs.get(arm, {}).items()}

    def mean_answers(self, arms: tuple[str, ...]) -> dict[int, Answers]:
        """Return the mean probabilities of several arms, for the seeds that all have."""
        found: dict[int, list[Labelled]] = {}
        for arm in arms:
            for seed, answers in self.answers(arm).items():
                if isinstance(answers, Labelled):
                    found.setdefault(seed, []).append(answers)
        return {seed: averaged(each) for seed, each in found.items() if len(each) == len(arms)}

    def _answers(self, run: Run) -> Answers:
        numbers = np.array(run.answers, np.float64).reshape(len(self.groups), -1)
        if not self.labels:
            return Pixels({name: _column(name, numbers[:, n]) for n, name in enumerate(self.columns)})
        rest = numbers / ONE
        probabilities = np.concatenate([rest, 1 - rest.sum(axis=1, keepdims=True)], axis=1).clip(0)
        surest = np.array(run.uncertainty) / ONE if run.uncertainty else entropy(probabilities)
        return Labelled(tuple(self.labels), np.array(self.truth), probabilities, surest)


def _column(name: str, numbers: FloatArray) -> FloatArray:
    if name in ("tp", "fp", "fn"):
        return numbers
    return np.where(numbers == MISSING, np.nan, numbers / ONE)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def read_results(task: str, folder: Path = FOLDER) -> Results | None:
    """Return the results of a task; None if there are none."""
    path = folder / f"{task}.json"
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.is_file() else None
