"""Training runs from manifest to checkpoint, for any task. An interrupted run resumes; a finished run is skipped.

A run folder holds one model, or with `TrainConfig.folds` a run folder for each fold and the metrics of all held-out
rows together.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from wsi_attn.data.manifest import Row, path_in, read_manifest
from wsi_attn.data.slide_cache import SlideCache
from wsi_attn.data.splits import fold_rows, with_validation
from wsi_attn.devices import resolve_device
from wsi_attn.evaluate.html import write_html_report
from wsi_attn.json_types import JsonObject
from wsi_attn.models.base import Network
from wsi_attn.models.checkpoint import save_checkpoint
from wsi_attn.models.configs import is_solved, task_of
from wsi_attn.models.systems import plain_config
from wsi_attn.outputs import files
from wsi_attn.outputs.lock import output_lock
from wsi_attn.outputs.policy import Found, Output, State, complete, decide, nothing, other, same, unfinished
from wsi_attn.provenance import sha256_of, software
from wsi_attn.slide import BatchProgress, no_progress
from wsi_attn.tasks.base import TASKS, Fitting, Task, Trained, Training, TrainingJob
from wsi_attn.tasks.card import NOT_FOR, metrics_table, split_table, write_card
from wsi_attn.tasks.config import RunOptions, TrainConfig
from wsi_attn.train.distributed import finish, make_fabric
from wsi_attn.train.log import EpochLog, check_tensorboard
from wsi_attn.train.loop import FEATURES, fit
from wsi_attn.train.start import Start, check_options, check_tuning, chosen_start, new_network, weights_record

RUN, STATE, CHECKPOINT, METRICS, LOG, SPLITS, PREDICTIONS, REPORT, BOARD = (
    "run.json",
    "state",
    "checkpoint",
    "metrics.json",
    "log.csv",
    "splits.csv",
    "predictions.csv",
    "report.html",
    "tensorboard",
)

FORMAT = "wsi-attn run"


@dataclass(frozen=True)
class TrainSummary:
    """Result of a run.

    Attributes
    ----------
    state
        "trained", "resumed" or "skipped".
    metrics
        Those of the validation set; of a cross-validation those of all held-out rows together.
    folds
        Run folders of a cross-validation; empty for one model.
    """

    run: Path
    state: str
    metrics: JsonObject
    folds: tuple[Path, ...] = ()

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """Checkpoint folders, one a fold."""
        return tuple(folder / CHECKPOINT for folder in self.folds or (self.run,))

    @property
    def checkpoint(self) -> Path:
        """Checkpoint folder of a run of one model."""
        return self.run / CHECKPOINT


def train(
    manifest: Path,
    run: Path,
    config: TrainConfig,
    network: Mapping[str, object] | None = None,
    options: RunOptions | None = None,
    *,
    progress: BatchProgress = no_progress,
    log: Callable[[dict[str, float]], None] = lambda record: None,
    say: Callable[[str], None] = lambda warning: None,
) -> TrainSummary:
    """Train a model on the rows of a manifest, or with `config.folds` one a fold.

    Each fold takes its validation set from its training patients and predicts the patients that it was not trained on,
    so that the held-out fold influences nothing. `RUN/metrics.json` pools the held-out predictions, with intervals that
    resample patients. An interrupted run resumes in the fold that was in progress.

    Parameters
    ----------
    manifest
        CSV, see `data.manifest`; rows of split `test` are never opened, and take no part in a cross-validation.
    run
        Folder that receives configuration, splits, log, metrics and checkpoint.
    network
        Fields of the network's configuration that differ from their defaults.
    log
        Called with the losses of every finished epoch.
    say
        Called with the warnings of the system about the training set.

    Raises
    ------
    ManifestError : the manifest is invalid, or the task cannot be trained on its rows.
    OutputExistsError : `run` contains something else.
    OutputBusyError : another process trains there.
    UsageError : options that system or task do not have, or a precision that the device does not support.
    MissingExtraError : TensorBoard or timm is requested but not installed.
    """
    options = options or RunOptions()
    config = replace(config, device=resolve_device(config.device))
    config.refuse_options_of_other_systems()
    task = TASKS.get(task_of(config.system))
    rows = read_manifest(manifest, need_label=task.need_label)
    if config.folds:
        parts = fold_rows(rows, config.folds, config.validation, config.seed)
    else:
        parts = [with_validation(rows, config.validation, config.seed)]
    trainings = [task.training(manifest, part, options, held_out=config.folds > 0) for part in parts]
    check_options(config.system, network or {})
    start = chosen_start(config.system, network or {}, options.weights)
    check_tuning(config, start.weights)
    options = replace(options, weights=start.weights)
    with _job(manifest, run, config, start, options, (log, say)) as job:
        if config.folds:
            return _train_folds(task, job, run, parts, trainings, start.said, progress)
        with progress.item(1, 1, run.name) as item:
            one, name = replace(job, progress=item), options.name or run.name
            done = _train_one(one, run, parts[0], trainings[0], name=name, said=start.said)
            item.state = done.state
            return done


@contextmanager
def _job(
    manifest: Path,
    run: Path,
    config: TrainConfig,
    start: Start,
    options: RunOptions,
    listeners: tuple[Callable[[dict[str, float]], None], Callable[[str], None]],
) -> Iterator[TrainingJob]:
    """Check the options, start the devices and lock the run folder; all ranks end together."""
    if options.resources.tensorboard:
        check_tensorboard()
    fabric = make_fabric(config)
    cache = SlideCache(options.resources.cache_mb << 20)
    with output_lock(run) if fabric.is_global_zero else nullcontext():
        yield TrainingJob(manifest, config, start.network, options, fabric, cache, no_progress, *listeners)
    finish(fabric)


def _train_folds(
    task: Task,
    job: TrainingJob,
    run: Path,
    parts: Sequence[Sequence[Row]],
    trainings: Sequence[Training],
    said: str,
    progress: BatchProgress,
) -> TrainSummary:
    """Train one model a fold, and pool their held-out predictions; `said` is what they start from in words."""
    name, settings = job.options.name or run.name, _settings(job)
    state = _claim_together(job, run, settings, overwrite=job.options.overwrite)
    folders = tuple(run / f"fold-{number}" for number in range(1, len(parts) + 1))
    if state != "skipped":
        folds = replace(job, options=replace(job.options, overwrite=state == "trained"))
        for number, (folder, rows, training) in enumerate(zip(folders, parts, trainings, strict=True), 1):
            with progress.item(number, len(parts), folder.name) as item:
                begin = partial(_begin, run, settings, state if number == 1 else "resumed")
                item.state = _train_one(
                    replace(folds, progress=item),
                    folder,
                    rows,
                    training,
                    name=f"{name}-{number}",
                    said=said if number == 1 else "",
                    fold=number,
                    begin=begin,
                ).state
        if job.fabric.is_global_zero:
            report = task.pooled(job, folders, parts, name)
            write_html_report(run / REPORT, report)
            files.write_json(run / METRICS, report.record())  # written last: it marks all folds as complete
        job.fabric.barrier()
    return TrainSummary(run, state, json.loads((run / METRICS).read_text()), folders)


def _train_one(
    job: TrainingJob,
    run: Path,
    rows: Sequence[Row],
    training: Training,
    *,
    name: str,
    said: str,
    fold: int = 0,
    begin: Callable[[], None] = lambda: None,
) -> TrainSummary:
    """Train one model on rows with splits.

    Parameters
    ----------
    said
        What it starts from in words.
    begin
        Called before the first file of a run is written, after all that can be refused.
    """
    config, fabric = job.config, job.fabric
    settings = _settings(job) | dict(training.settings) | ({"fold": fold} if fold else {})
    state = _claim_together(job, run, settings, overwrite=job.options.overwrite)
    if state == "skipped":
        return TrainSummary(run, state, json.loads((run / METRICS).read_text()))
    if said:
        job.say(said)
    job.progress(0, 1, "preparing")
    network = new_network(config.system, {**training.network, **job.network}, job.options.weights, config.seed)
    if is_solved(config.system):
        fabric.to_device(network)
    fitting = training.fitting(job, network)
    if fabric.is_global_zero:
        begin()
        _begin(run, settings, state)
        files.write_csv(run / SPLITS, splits_table(job.manifest, rows))
    fabric.barrier()  # The other ranks look for a state only after the folder of a run that is replaced is empty.
    _fit(job, run, network, fitting)
    trained = fitting.results(network, name)
    if trained is not None:
        _store(job, run, network, trained, settings, name=name, card=_card(job, name, rows, trained))
    fabric.barrier()
    return TrainSummary(run, state, json.loads((run / METRICS).read_text()))


def _store(
    job: TrainingJob,
    run: Path,
    network: Network,
    trained: Trained,
    settings: Mapping[str, object],
    *,
    name: str,
    card: str,
) -> None:
    """Write the results of a run, and last those that mark it as complete."""
    if trained.predictions:
        files.write_csv(run / PREDICTIONS, trained.predictions)
    job.progress(0, 1, "writing the checkpoint")
    save_checkpoint(
        run / CHECKPOINT,
        name=name,
        system=job.config.system,
        network=network,
        spec=trained.spec,
        card=card,
        provenance={
            **settings,
            "network": plain_config(network.config),
            "command": job.options.command,
            "software": software(),
        },
    )
    job.progress(0, 1, "writing the report")
    write_html_report(run / REPORT, trained.report)
    files.write_json(run / METRICS, trained.report.record())  # written last: it marks the run as complete
    shutil.rmtree(run / STATE, ignore_errors=True)


def _fit(job: TrainingJob, run: Path, network: Network, fitting: Fitting) -> None:
    """Train the network to the end and give it the best weights."""
    board = run / BOARD if job.options.resources.tensorboard else None
    table = EpochLog(run / LOG if job.fabric.is_global_zero else None, board, job.log)
    if is_solved(job.config.system):  # by `SlideModel.prepare`
        table({"epoch": 0, **fitting.validate(network)})
    else:
        network.load_state_dict(fit(job, network, fitting, run / STATE, table).best)
    table.close()
    network.finish()


def _settings(job: TrainingJob) -> dict[str, object]:
    """Return the settings that must be equal for a run to resume."""
    return {
        "format": FORMAT,
        "manifest_sha256": sha256_of(job.manifest),
        "config": asdict(job.config),
        "network": dict(job.network),
        "weights": weights_record(job.options.weights),
    }


def _claim_together(job: TrainingJob, run: Path, settings: Mapping[str, object], *, overwrite: bool) -> str:
    """Claim the run folder on the first rank and broadcast the state, see `_claim`."""
    found = _claim(run, settings, overwrite=overwrite) if job.fabric.is_global_zero else ""
    return str(job.fabric.broadcast(found))


def _claim(run: Path, settings: Mapping[str, object], *, overwrite: bool) -> str:
    """Claim the run folder; return "trained" for a new run, "resumed", or "skipped" if it is complete."""
    state = decide(run_output(run, settings), overwrite=overwrite).state
    if state is State.COMPLETE:
        return "skipped"
    if state is State.UNFINISHED:
        files.remove_leftovers(run)
        return "resumed"
    return "trained"


def _begin(run: Path, settings: Mapping[str, object], state: str) -> None:
    """Begin a new run folder, after all that can be refused; a resumed one stays."""
    if state == "trained":
        files.empty(run)
        files.write_json(run / RUN, settings)  # Written first: it says what the run would be.


def run_output(run: Path, settings: Mapping[str, object]) -> Output[Path]:
    """The run folder as an output: resumed if its settings are equal, complete with its metrics."""

    def inspect() -> Found[Path]:
        try:
            found = json.loads((run / RUN).read_text())
        except (OSError, ValueError):
            return other("exists and is not a training run")
        if not same(found, settings):
            return nothing() if _has_nothing(run, found) else other("contains a run with other settings or data")
        return complete(run) if (run / METRICS).is_file() else unfinished()

    return Output(run, inspect)


def _has_nothing(run: Path, found: object) -> bool:
    """Return whether a run stopped before the end of its first epoch, so that there is nothing to keep."""
    ours = isinstance(found, dict) and found.get("format") == FORMAT
    return ours and {path.name for path in run.iterdir()} <= {RUN, SPLITS, FEATURES}


def splits_table(manifest: Path, rows: Sequence[Row]) -> Iterator[Sequence[str]]:
    """Yield the header, the rows and their splits."""
    yield ["path", "label", "patient", "split"]
    for row in rows:
        yield [path_in(manifest, row), row.label, row.patient, row.split]


def _card(job: TrainingJob, name: str, rows: Sequence[Row], trained: Trained) -> str:
    """The card as Markdown."""
    spec, config, command = trained.spec, job.config, job.options.command
    native = "native resolution of the image (pixel size unknown in training)"
    metrics = {name: trained.report.metrics[name] for name in trained.metrics}
    facts = [
        f"Stain: {spec.stain}",
        trained.inputs or f"Resolution: {f'{spec.mpp:g} µm/px' if spec.mpp else native}",
        f"Built by: `{command}`" if command else "Built by: the `train` function of the library",
        f"Seed: {config.seed}",
    ]
    return write_card(
        name,
        [f"A {config.system} model that {trained.about}."],
        facts,
        [
            ("Data", [split_table(rows, ("train", "val"), trained.labels)]),
            ("Metrics on the validation set", [metrics_table(metrics)]),
            ("Limitations", [NOT_FOR]),
        ],
    )
