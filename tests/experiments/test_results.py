"""Files of results: written and read again, small, and made into tables and a plot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from experiments import report, run, tasks
from experiments.results import Results, Run, read_results
from experiments.tasks import TASKS, Task
from wsi_attn.cli.train import TrainCommand


def some_results(tmp_path: Path, arms: tuple[str, ...], rows: int = 40) -> Results:
    generator = np.random.default_rng(0)
    truth = [n % 2 for n in range(rows)]
    results = Results("chest-fusion", "0", ["normal", "pneumonia"], [], [str(n // 2) for n in range(rows)], truth)
    for place, arm in enumerate(arms):
        for seed in range(3):
            sure = generator.integers(2000 + 1000 * place, 9999, rows)
            answers = [[int(p) if y == 0 else 10_000 - int(p)] for p, y in zip(sure, truth, strict=True)]
            results.runs.setdefault(arm, {})[str(seed)] = Run(["--epochs", "1"], 60.0, "abc", answers)
    results.write(tmp_path / "chest-fusion.json")
    return results


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = some_results(tmp_path, ("cross", "first"))
    assert read_results("chest-fusion", tmp_path) == results
    assert read_results("nuclei", tmp_path) is None
    text = (tmp_path / "chest-fusion.json").read_text()
    assert sum(line.startswith('   "') for line in text.splitlines()) == 6  # one line a run


def test_probabilities_and_averages_are_those_of_the_runs(tmp_path: Path) -> None:
    results = some_results(tmp_path, ("first", "second"))
    first, second = (results.answers(arm)[1] for arm in ("first", "second"))
    mean = results.mean_answers(("first", "second"))
    assert set(mean) == {0, 1, 2}
    expected = (first.probabilities + second.probabilities) / 2
    np.testing.assert_allclose(mean[1].probabilities, expected)
    assert results.mean_answers(("first", "third")) == {}


def test_a_table_compares_the_system_with_every_arm(tmp_path: Path) -> None:
    task = TASKS["chest-fusion"]
    found = report.summary(task, some_results(tmp_path, ("cross", "first", "second", "probe")))
    assert list(found.arms) == ["cross", "first", "second", "average", "probe"]
    assert found.groups == 20
    assert found.arms["cross"].contrast is None
    lines = report.table(task, found)
    assert all(line.count("|") == lines[0].count("|") for line in lines if line.startswith("|"))
    said = " ".join(" ".join(lines).split())
    assert "lower than that of probe, the strongest other arm (4 contrasts); the interval excludes 0." in said


def test_a_table_without_the_system_has_no_differences(tmp_path: Path) -> None:
    lines = report.table(
        TASKS["chest-fusion"], report.summary(TASKS["chest-fusion"], some_results(tmp_path, ("probe",)))
    )
    assert "minus" not in lines[0]


def test_the_plot_is_an_image_with_a_line_for_each_difference(tmp_path: Path) -> None:
    found = report.summary(TASKS["chest-fusion"], some_results(tmp_path, ("cross", "first", "probe")))
    drawn = {name: arm.contrast.corrected for name, arm in found.arms.items() if arm.contrast}
    root = ElementTree.fromstring(report.forest(drawn))
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == len(drawn) == 2


def test_the_page_names_what_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_results(tmp_path, ("cross", "probe"))
    monkeypatch.setattr(report, "PAGE", tmp_path / "results.md")
    text = report.page(tmp_path)
    assert "### Chest X-rays" in text
    assert "Not measured yet: `fungi-crops`, `skin-fusion`." in text
    assert (tmp_path / "images" / "results-dual-cross.svg").is_file()


def test_the_run_of_a_probe_is_shared_by_tasks_of_one_data_set(tmp_path: Path) -> None:
    results = some_results(tmp_path, ("probe",))
    replace(results, task="skin-rare").write(tmp_path / "skin-rare.json")
    place = run.Place(tmp_path, tmp_path, tmp_path)
    assert not run.borrow(TASKS["nuclei-bags"], tasks.PROBE, 1, place, None)
    assert run.borrow(TASKS["skin-fusion"], tasks.PROBE, 1, place, None)
    found = read_results("skin-fusion", tmp_path)
    assert found is not None
    assert found.task == "skin-fusion"
    assert found.runs == {"probe": {"1": results.runs["probe"]["1"]}}
    assert not run.borrow(TASKS["skin-fusion"], tasks.PROBE, 7, place, found)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_train_has_the_options_of_every_arm(task: Task) -> None:
    for arm in task.arms:
        if not arm.mean_of and arm != tasks.THUMBNAILS:
            TrainCommand().make_context("train", ["m.csv", "--output", "run", *run.options_of(task, arm)])


def test_tasks_compare_with_their_first_arm_and_name_their_arms_once() -> None:
    for task in TASKS.values():
        names = [arm.name for arm in task.arms]
        assert len(set(names)) == len(names)
        assert task.system in report.SYSTEMS
        assert all(set(arm.mean_of) <= set(names) for arm in task.arms)
        assert not task.arms[0].mean_of
        if task.system != "joint-segmentation":
            assert tasks.PROBE in task.arms
