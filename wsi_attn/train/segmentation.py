"""Training of segmentation models on crops of images and masks, with the shared loop, state, log and checkpoint."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.data.manifest import Row, read_manifest
from wsi_attn.data.masks import UNLABELLED, Classes, Mask, found_classes, open_mask, parse_classes
from wsi_attn.data.segmentation import Augmentation, Crop, crops_of, fixed_crop, fixed_crops, random_crop, window_of
from wsi_attn.data.slide_cache import SlideCache
from wsi_attn.data.sources import SlidePatches
from wsi_attn.data.splits import with_validation
from wsi_attn.errors import ManifestError
from wsi_attn.evaluate.html import write_html_report
from wsi_attn.evaluate.segmentation import METRICS as SCORES
from wsi_attn.geometry import Region
from wsi_attn.models.base import BagBatch, SlideModel
from wsi_attn.models.checkpoint import save_checkpoint
from wsi_attn.models.configs import SEGMENTATION
from wsi_attn.models.joint_segmentation import UNLABELLED as NO_LABEL
from wsi_attn.models.joint_segmentation import JointSegmentation
from wsi_attn.models.spec import ModelSpec
from wsi_attn.models.systems import plain_config
from wsi_attn.outputs import files
from wsi_attn.provenance import software
from wsi_attn.slide import ItemsAsSteps, Progress, Slide, no_progress
from wsi_attn.tasks.clock import EpochClock
from wsi_attn.tasks.config import Resources, TrainConfig
from wsi_attn.tasks.segmentation.evaluation import compare_rows, report_on
from wsi_attn.tasks.steps import Step, prepared_ahead
from wsi_attn.train.card import NOT_FOR, metrics_table
from wsi_attn.train.distributed import gathered
from wsi_attn.train.log import EpochLog
from wsi_attn.train.loop import fit
from wsi_attn.train.run import (
    BOARD,
    CHECKPOINT,
    LOG,
    METRICS,
    REPORT,
    SPLITS,
    STATE,
    TrainingContext,
    TrainSummary,
    claim_together,
    splits_table,
    training_context,
)
from wsi_attn.train.start import NO_WEIGHTS, new_network

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LEAST_SHARE = 1e-3
"""Least share of the pixels that a class is taken to have: bounds the weight of the rarest."""

OPEN_MASKS = 128
"""Masks that are held, so that an image is not decoded for every crop."""


class PixelDataset:
    """Rows of one split as batches of crops with labels; implements `loop.Batches`.

    Parameters
    ----------
    rows, classes
        Images with masks, and the classes of the masks.
    network
        Defines the crop size.
    rank, ranks
        This process and how many there are: each gets every `ranks`-th batch.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        classes: Classes,
        network: JointSegmentation,
        config: TrainConfig,
        cache: SlideCache,
        resources: Resources,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.rows, self.classes, self.config, self.cache = list(rows), classes, config, cache
        self.side = network.config.crop
        self.coarse_factor = network.config.coarse_factor
        self.workers, self.rank, self.ranks = resources.threads(), rank, ranks
        self._masks: OrderedDict[int, Mask] = OrderedDict()
        self._lock = Lock()
        self._fixed: dict[int, list[tuple[int, int]]] = {}
        self._extents = [self._patches(row).extent for row in self.rows]

    def steps(self) -> int:
        """Batches of one training epoch on each rank."""
        return len(self._groups(np.random.default_rng(0)))

    def batches(self, epoch: int, *, training: bool, clock: EpochClock | None = None) -> Iterator[Step]:
        """Batches of one epoch, prepared ahead by a few threads; shuffled and augmented while training."""
        seed, config = self.config.seed, self.config
        change = Augmentation(config.colour, config.scale, config.warp)
        groups = self._groups(np.random.default_rng([seed, epoch])) if training else self._fixed_groups()

        def crop(index: int, which: int) -> Crop:
            row = self.rows[index]
            patches, mask = self._patches(row), self._mask(row)
            if training:
                generator = np.random.default_rng([seed, epoch, row.number, which])
                return random_crop(patches, mask, self.side, generator, change)
            return fixed_crop(patches, mask, self._corners(row)[which], self.side)

        def prepare(step: int) -> Step:
            return _step([crop(index, which) for index, which in groups[step]], [self.rows[i] for i, _ in groups[step]])

        return prepared_ahead(prepare, len(groups), self.workers, clock or EpochClock())

    def class_shares(self) -> NDArray[np.float64]:
        """Share of each class among the labelled pixels of the fixed crops, float64 (C,), `LEAST_SHARE` at least.

        Raises
        ------
        ManifestError : a mask that cannot be used, or no pixel has a label.
        """
        counts = np.zeros(UNLABELLED + 1)
        for row in self.rows:
            patches, mask = self._patches(row), self._mask(row)
            for corner in self._corners(row):
                labels = mask.read(window_of(patches, Region(*corner, self.side, self.side)))
                counts += np.bincount(labels.ravel(), minlength=UNLABELLED + 1)
        counts = counts[: len(self.classes.names)]
        if not counts.any():
            raise ManifestError("the training masks label no pixel")
        return np.asarray(np.maximum(counts / counts.sum(), LEAST_SHARE))

    def _patches(self, row: Row) -> SlidePatches:
        return SlidePatches(self.cache.get(row), self.config.mpp, self.coarse_factor, workers=1)

    def _mask(self, row: Row) -> Mask:
        with self._lock:
            if row.number in self._masks:
                self._masks.move_to_end(row.number)
                return self._masks[row.number]
        info = self.cache.get(row).info
        mask = open_mask(row, self.classes, info.size0, info.origin)
        with self._lock:
            self._masks[row.number] = mask
            while len(self._masks) > OPEN_MASKS:
                self._masks.popitem(last=False)
        return mask

    def _corners(self, row: Row) -> list[tuple[int, int]]:
        """Of the row's fixed crops."""
        if row.number not in self._fixed:
            self._fixed[row.number] = fixed_crops(self._patches(row), self._mask(row), self.side, row.number)
        return self._fixed[row.number]

    def _places(self, *, fixed: bool) -> list[tuple[int, int]]:
        """Index of a row and number of a crop, of all crops of an epoch."""
        return [
            (index, which)
            for index, extent in enumerate(self._extents)
            for which in range(len(self._corners(self.rows[index])) if fixed else crops_of(extent, self.side))
        ]

    def _groups(self, generator: np.random.Generator) -> list[list[tuple[int, int]]]:
        places = self._places(fixed=False)
        shuffled = [places[index] for index in generator.permutation(len(places))]
        groups = _in_parts(shuffled, self.config.batch_size)
        while len(groups) % self.ranks:  # every rank takes as many steps: the first batches come twice
            groups.append(groups[len(groups) % self.ranks - 1])
        return groups[self.rank :: self.ranks]

    def _fixed_groups(self) -> list[list[tuple[int, int]]]:
        return _in_parts(self._places(fixed=True), self.config.batch_size)[self.rank :: self.ranks]


def train_segmentation(
    manifest: Path,
    run: Path,
    config: TrainConfig,
    network_options: dict[str, Any] | None = None,
    *,
    classes: str | None = None,
    weights: str = NO_WEIGHTS,
    name: str | None = None,
    command: str = "",
    overwrite: bool = False,
    resources: Resources | None = None,
    progress: Progress = no_progress,
    log: Callable[[dict[str, float]], None] = lambda record: None,
    say: Callable[[str], None] = lambda warning: None,
) -> TrainSummary:
    """Train a segmentation model on rows with masks; other parameters and errors are those of `run.train`.

    Parameters
    ----------
    classes
        See `masks.parse_classes`; by default the classes of the annotations, or background and foreground.

    Raises
    ------
    ManifestError : no row to train or validate on, a row without a mask, or a mask that cannot be used.
    UsageError : options that only classification has.
    """
    rows = with_validation(read_manifest(manifest, need_label=False), config.validation, config.seed)
    for row in rows:
        if row.split != "test" and row.mask is None:
            raise ManifestError(f"{manifest}, row {row.number}: no mask; every row needs one in the column `mask`")
    known = parse_classes(classes) if classes else found_classes([row for row in rows if row.split == "train"])
    with training_context(
        manifest, run, config, network_options, weights, command, resources, progress, log, say
    ) as context:
        return _train_rows(context, run, rows, known, name=name or run.name, overwrite=overwrite)


def _train_rows(
    context: TrainingContext, run: Path, rows: Sequence[Row], classes: Classes, *, name: str, overwrite: bool
) -> TrainSummary:
    config, fabric = context.config, context.fabric
    settings = context.settings() | {"classes": asdict(classes)}
    state = claim_together(fabric, run, settings, overwrite=overwrite)
    if state == "skipped":
        return TrainSummary(run, run / CHECKPOINT, state, json.loads((run / METRICS).read_text()))
    if fabric.is_global_zero:
        files.write_text(run / SPLITS, splits_table(context.manifest, rows))
    options = {"classes": len(classes.names), **context.options}
    network = cast(JointSegmentation, new_network(config.system, options, context.weights, config.seed))

    def part_of(split: str) -> PixelDataset:
        chosen = [row for row in rows if row.split == split]
        if not chosen:
            raise ManifestError(f"{context.manifest} has no rows to {'train' if split == 'train' else 'validate'} on")
        rank, ranks = fabric.global_rank, fabric.world_size
        return PixelDataset(chosen, classes, network, config, context.cache, context.resources, rank=rank, ranks=ranks)

    training, validation = part_of("train"), part_of("val")
    balance = pixel_weights(training.class_shares(), config.class_weights)
    board = run / BOARD if context.resources.tensorboard else None
    table = EpochLog(run / LOG if fabric.is_global_zero else None, board, context.log)

    def validate(smooth: SlideModel) -> dict[str, float]:
        return pixel_scores(fabric, smooth, validation, balance)

    progression = fit(fabric, network, training, validate, config, balance, run / STATE, context.progress, table)
    table.close()
    network.load_state_dict(progression.best)
    if fabric.is_global_zero:
        spec = ModelSpec(
            labels=classes.names,
            mpp=config.mpp,
            stain=config.stain,
            tissue=config.tissue,
            task=SEGMENTATION,
            mask_values=classes.values,
        )
        metrics = _validation_metrics(context, network.eval(), spec, validation, name)
        context.progress(0, 1, "writing the checkpoint")
        save_checkpoint(
            run / CHECKPOINT,
            name=name,
            system=config.system,
            network=network,
            spec=spec,
            card=_card(name, rows, spec, config, metrics, context.command),
            provenance={
                **settings,
                "network": plain_config(network.config),
                "command": context.command,
                "software": software(),
            },
        )
        context.progress(0, 1, "writing the report")
        write_html_report(run / REPORT, metrics)
        files.write_json(run / METRICS, metrics)  # last: its presence says that the run is complete
        shutil.rmtree(run / STATE)
    fabric.barrier()
    return TrainSummary(run, run / CHECKPOINT, state, json.loads((run / METRICS).read_text()))


def pixel_weights(shares: NDArray[np.float64], kind: str) -> torch.Tensor:
    """Weight of each class in the cross-entropy, float32 (C,), mean 1 over the pixels; `kind` as in `TrainConfig`."""
    weights = shares ** -{"none": 0.0, "root": 0.5, "balanced": 1.0}[kind]
    return torch.tensor(weights / (weights * shares).sum(), dtype=torch.float32)


@torch.inference_mode()
def pixel_scores(
    fabric: Fabric, network: SlideModel, dataset: PixelDataset, class_weights: torch.Tensor
) -> dict[str, float]:
    """Loss, Dice and IoU of the fixed crops, without augmentation; each rank its share.

    Dice and IoU are those of all pixels together, means over the classes but the background that occur.
    """
    network.eval()
    mine = []
    for number, step in enumerate(dataset.batches(0, training=False)):
        with fabric.autocast():
            output = network(step.batch)
        assert output.segmentation is not None  # noqa: S101 - of a segmentation network
        device = output.segmentation.device
        terms = network.losses(output, step.labels.to(device), class_weights.to(device))
        called = output.segmentation.argmax(dim=1).cpu()
        counts = confusion(called, step.labels, len(dataset.classes.names))
        mine.append((number * dataset.ranks + dataset.rank, sum(term.item() for term in terms.values()), counts))
    found = sorted(gathered(fabric, mine), key=lambda entry: int(entry[0]))
    total = np.sum([counts for *_, counts in found], axis=0)
    hits, either = np.diag(total), total.sum(axis=0) + total.sum(axis=1)
    there = either > 0
    there[0] = False
    both, either = hits[there], either[there]
    return {
        "val_loss": float(np.mean([loss for _, loss, _ in found])),
        "val_dice": float(np.mean(2 * both / either)) if there.any() else 0.0,
        "val_iou": float(np.mean(both / (either - both))) if there.any() else 0.0,
    }


def confusion(called: torch.Tensor, labels: torch.Tensor, classes: int) -> NDArray[np.int64]:
    """Confusion matrix of labelled pixels, int64 (C, C), true classes in rows."""
    known = labels != NO_LABEL
    pairs = labels[known] * classes + called[known]
    counts = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return np.asarray(counts.numpy(), np.int64)


def _step(crops: Sequence[Crop], rows: Sequence[Row]) -> Step:
    side = crops[0].labels.shape[0]
    labels = np.stack([crop.labels for crop in crops]).astype(np.int64)
    labels[labels == UNLABELLED] = NO_LABEL
    batch = BagBatch(
        coarse=torch.from_numpy(np.stack([crop.pixels for crop in crops])).permute(0, 3, 1, 2),
        valid=torch.from_numpy(np.stack([crop.valid for crop in crops])),
        extent=torch.tensor([[side, side]] * len(crops)),
        sources=(),
    )
    return Step(batch, torch.from_numpy(labels), tuple(rows))


def _in_parts(places: Sequence[tuple[int, int]], size: int) -> list[list[tuple[int, int]]]:
    return [list(places[start : start + size]) for start in range(0, len(places), size)]


def _validation_metrics(
    context: TrainingContext, network: JointSegmentation, spec: ModelSpec, validation: PixelDataset, name: str
) -> dict[str, Any]:
    """Of whole images, tiled as `segment` does it."""

    def kept_open(row: Row) -> AbstractContextManager[Slide]:
        return nullcontext(context.cache.get(row))

    progress = ItemsAsSteps(context.progress, "segmenting the validation set")
    threads = context.resources.threads()
    found, failures = compare_rows(validation.rows, network, spec, kept_open, workers=threads, progress=progress)
    if not found:
        raise failures[0]
    return report_on(
        found,
        failures,
        network,
        spec,
        split="val",
        seed=context.config.seed,
        command=context.command,
        model={"name": name, "sha256": ""},
    )


def _card(
    name: str, rows: Sequence[Row], spec: ModelSpec, config: TrainConfig, metrics: dict[str, Any], command: str
) -> str:
    """The card as Markdown."""
    resolution = f"{spec.mpp:g} µm/px" if spec.mpp else "the image's own pixels (pixel size unknown in training)"
    lines = [
        f"# {name}",
        "",
        f"A {config.system} model that gives every pixel one of: {', '.join(spec.labels)}.",
        "",
        f"- Stain: {spec.stain}",
        f"- Resolution: {resolution}",
        f"- Built by: `{command}`" if command else "- Built by: the `train_segmentation` function of the library",
        f"- Seed: {config.seed}",
        "",
        "## Data",
        "",
        "| split | images | patients |",
        "|---|---|---|",
    ]
    for split in ("train", "val"):
        part = [row for row in rows if row.split == split]
        lines.append(f"| {split} | {len(part)} | {len({row.patient for row in part})} |")
    lines += ["", "## Metrics on the validation set", "", *metrics_table(metrics, SCORES)]
    lines += ["", "## Limitations", "", NOT_FOR, ""]
    return "\n".join(lines)
