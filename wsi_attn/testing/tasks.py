"""`TaskContract`: what a task promises, from the rows of a manifest to an answer."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from wsi_attn.data.inputs import Input
from wsi_attn.data.manifest import Row, read_manifest
from wsi_attn.errors import ManifestError, OutputExistsError, UsageError
from wsi_attn.inference.batch import Batch, Outcome, run_inputs
from wsi_attn.inference.evaluation import evaluate_into
from wsi_attn.models.checkpoint import Checkpoint, load_checkpoint
from wsi_attn.models.systems import SYSTEMS
from wsi_attn.outputs import files
from wsi_attn.tasks.base import TASKS, EvaluationJob, Task, inference_of
from wsi_attn.tasks.config import EvaluateConfig, InferenceConfig, TrainConfig
from wsi_attn.testing import refuses
from wsi_attn.train.run import TrainSummary, train

MANIFEST = "manifest.csv"
"""The manifest of a contract."""

_TRAINED: dict[type, tempfile.TemporaryDirectory[str]] = {}
"""The folder of `TaskContract.run` of each contract, removed at the end of the program."""


class TaskContract:
    """Tests of one task, with one model that is trained for all of them.

    Attributes
    ----------
    name
        Name in the registry.
    system
        A system of the task, what `train --model` takes.
    options
        Fields of its configuration that keep the network small.
    """

    name: ClassVar[str]
    system: ClassVar[str]
    options: ClassVar[Mapping[str, object]] = {}

    def manifest(self, folder: Path) -> None:
        """Write `MANIFEST` with rows of the splits train, val and test, and its images, into an empty folder."""
        raise NotImplementedError("state a manifest")

    def settings(self) -> InferenceConfig:
        """The settings that inputs are answered with."""
        return InferenceConfig()

    def config(self) -> TrainConfig:
        """The settings of the training."""
        return TrainConfig(system=self.system, epochs=1, batch_size=2, device="cpu")

    def task(self) -> Task:
        """The task."""
        return TASKS.get(self.name)

    def run(self) -> Path:
        """A folder with `data/` of `manifest`, and the run folder `run/` of a model."""
        kept = _TRAINED.get(type(self))
        if kept is None:
            kept = tempfile.TemporaryDirectory()
            (Path(kept.name) / "data").mkdir()
            self.manifest(Path(kept.name) / "data")
            self.trained_again(Path(kept.name) / "data" / MANIFEST, Path(kept.name) / "run")
            _TRAINED[type(self)] = kept
        return Path(kept.name)

    def rows(self, split: str) -> list[Row]:
        """The rows of a split."""
        found = read_manifest(self.table(), need_label=self.task().need_label)
        return [row for row in found if row.split == split]

    def table(self) -> Path:
        """The manifest of the model."""
        return self.run() / "data" / MANIFEST

    def trained_again(self, manifest: Path, run: Path) -> TrainSummary:
        """Train on a manifest."""
        return train(manifest, run, self.config(), self.options)

    def checkpoint(self) -> Checkpoint:
        """The trained model."""
        return load_checkpoint(self.run() / "run" / "checkpoint")

    def answered(self, folder: Path | None) -> list[Outcome]:
        """The answers to the rows of split `test`."""
        inputs = [Input(row.path, row.mpp) for row in self.rows("test")]
        return list(run_inputs(inputs, inference_of(self.checkpoint(), self.settings()), Batch(folder)))

    def test_it_is_registered_with_a_system(self) -> None:
        """The registry, the task and the system have the same name."""
        assert isinstance(self.task(), Task)
        assert self.task().name == self.name
        assert self.task().measure
        assert SYSTEMS.get(self.system).task == self.name

    def test_training_leaves_a_model_with_its_metric(self) -> None:
        """The checkpoint names the task, and the metrics and the card have the measure; run again, it is skipped."""
        again = self.trained_again(self.table(), self.run() / "run")
        assert again.state == "skipped"
        measured = again.metrics[self.task().measure]
        assert isinstance(measured, dict)
        assert {"value", "low", "high"} <= set(measured)
        assert self.checkpoint().spec.task == self.name
        assert "## Metrics on the validation set\n\n| metric" in (again.checkpoint / "card.md").read_text()
        page = (self.run() / "run" / "report.html").read_text().lower()
        assert self.task().measure.replace("_", " ") in page.replace("_", " ")

    def test_rows_without_examples_are_refused(self, tmp_path: Path) -> None:
        """A manifest whose rows all have the split `test` cannot be trained on."""
        rows = list(csv.reader(self.table().read_text().splitlines()))
        split = rows[0].index("split")
        only = tmp_path / "only.csv"
        with only.open("w", newline="") as file:
            csv.writer(file).writerows([rows[0], *(row for row in rows[1:] if row[split] == "test")])
        assert refuses(lambda: self.trained_again(only, tmp_path / "run"), ManifestError)
        assert not (tmp_path / "run" / "checkpoint").exists()

    def test_evaluation_counts_the_rows(self, tmp_path: Path) -> None:
        """The report has the measure of the rows that were answered, the table a line each; others are unanswered."""
        wanted = self.rows("test")
        job = EvaluationJob(self.table(), EvaluateConfig("test"), allow_out_of_distribution=True)
        report, failures = evaluate_into(tmp_path / "report", [self.checkpoint()], job)
        assert not failures
        assert report["unanswered"] == []
        assert (report["n"], report["groups"]) == (len(wanted), len({row.patient for row in wanted}))
        measured = report[self.task().measure]
        assert isinstance(measured, dict)
        assert {"value", "low", "high"} <= set(measured)
        assert json.loads((tmp_path / "report" / "report.json").read_text()) == report
        table = list(csv.reader((tmp_path / "report" / "predictions.csv").read_text().splitlines()))
        assert len(table) == len(wanted) + 1
        assert all(len(line) == len(table[0]) for line in table)

    def test_answers_are_written_once(self, tmp_path: Path) -> None:
        """Every input has a record and a line; answered again it is skipped, with the same record and files."""
        first = self.answered(tmp_path)
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        second = self.answered(tmp_path)
        assert {outcome.state for outcome in second} == {"skipped"}
        assert {file: file.read_bytes() for file in before} == before
        for outcome, again in zip(first, second, strict=True):
            assert outcome.answer is not None, outcome.error
            assert again.answer is not None
            assert outcome.state == inference_of(self.checkpoint(), self.settings()).done
            assert outcome.answer.file is not None
            assert outcome.answer.file.exists()
            assert json.loads(json.dumps(outcome.answer.record)) == json.loads(json.dumps(again.answer.record))
            assert outcome.answer.line.split("\t")[0] == str(outcome.path)
            assert outcome.answer.line == again.answer.line

    def test_without_a_folder_nothing_is_written(self) -> None:
        """An input is answered without files, or refused by a task that answers in files."""
        before = set(self.run().rglob("*"))
        for outcome in self.answered(None):
            assert outcome.answer is not None or isinstance(outcome.error, UsageError)
            assert outcome.answer is None or outcome.answer.file is None
        assert set(self.run().rglob("*")) == before

    def test_other_files_are_kept(self, tmp_path: Path) -> None:
        """A file of something else is refused."""
        named = []
        for outcome in self.answered(tmp_path):
            assert outcome.answer is not None, outcome.error
            assert outcome.answer.file is not None
            files.remove(outcome.answer.file)
            outcome.answer.file.write_text("something else")
            named.append(outcome.answer.file)
        for outcome in self.answered(tmp_path):
            assert isinstance(outcome.error, OutputExistsError)
        assert [file.read_text() for file in named] == ["something else"] * len(named)
