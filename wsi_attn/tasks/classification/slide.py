"""Prediction of one slide with one checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.data.appearance import DOUBTFUL, appearance_distance, describe_appearance
from wsi_attn.data.large import SlideBag, slide_bag
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import ModelMismatchError, SlideReadError, TissueError, UsageError
from wsi_attn.evaluate.uncertainty import entropy, entropy_terms
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.models.base import Network, SlideModel, SlideOutput
from wsi_attn.models.calibration import Calibration, calibrated
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.configs import CLASSIFICATION
from wsi_attn.models.conformal import in_set, threshold_of
from wsi_attn.provenance import software
from wsi_attn.slide import Progress, Slide, SlideInfo, no_progress
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.store.predictions import SlidePrediction
from wsi_attn.store.records import AttendedRegion
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.exhaustive import PatchScorer, score_tiles
from wsi_attn.tasks.classification.mc_dropout import dropout_passes
from wsi_attn.tasks.classification.turns import averaged_over_turns

MAX_NATIVE_PIXELS = 300_000_000
"""Maximum pixels of inputs to a model without mpp, which reads level 0; larger inputs are slides, not photographs."""


def classifier(checkpoint: Checkpoint) -> SlideModel:
    """Return the network of a checkpoint that predicts labels.

    Raises
    ------
    UsageError : the checkpoint is of another task.
    """
    if not isinstance(checkpoint.network, SlideModel) or checkpoint.spec.task != CLASSIFICATION:
        raise UsageError(f"{checkpoint.name} is a {checkpoint.spec.task} model: use `wsi-attn segment`")
    return checkpoint.network


class Predict(Protocol):
    """Predicts one input with one checkpoint; see `predict_slide`."""

    def __call__(
        self,
        slide: Slide,
        checkpoint: Checkpoint,
        config: PredictConfig,
        progress: Progress = no_progress,
        regions: Path | None = None,
    ) -> SlidePrediction:
        """Return the prediction."""
        ...


@torch.inference_mode()
def predict_slide(
    slide: Slide,
    checkpoint: Checkpoint,
    config: PredictConfig,
    progress: Progress = no_progress,
    regions: Path | None = None,
) -> SlidePrediction:
    """Predict one slide.

    The coarse view is read where there is tissue; at high resolution only the key instances are read. With `regions`, a
    GeoJSON file, everything outside them is ignored.

    Raises
    ------
    MissingMppError : the model needs a pixel size and the slide has none.
    ModelMismatchError : pixel size or colour lie outside the training distribution.
    TissueError : the slide has no tissue.
    SlideReadError : no key instance could be decoded.
    UsageError : the checkpoint has no threshold for the requested coverage, no patch network for exhaustive scores, or
        no dropout for dropout passes.
    """
    started = time.perf_counter()
    info, spec, network = slide.info, checkpoint.spec, classifier(checkpoint)
    _check_size(info, checkpoint)
    patches = SlidePatches(slide, spec.mpp, network.config.coarse_factor, workers=config.workers, progress=progress)
    scorer = _scorer(checkpoint, network) if config.exhaustive else None
    bag, warnings = _bag(patches, checkpoint, network, config, regions)
    look = _look(bag, network, spec.turns)
    output, maps, unreadable = look.output, look.place_maps(spec.labels), bag.damaged + int(look.output.unreadable[0])
    if scorer is not None:
        tile_maps, missing = score_tiles(patches, scorer, spec.labels, bag.coverage)
        maps, unreadable = maps | tile_maps, unreadable + missing
    seen = Seen(
        output.logits,
        output.pooled,
        look.regions(),
        look.map_of(output.attention[0]),
        maps,
        round(bag.fraction, 6),
        unreadable,
        tuple(warnings),
    )
    if config.mc_dropout:
        progress(0, 1, "Monte Carlo dropout")
    return prediction_of(info, checkpoint, config, seen, started)


@dataclass(frozen=True)
class Seen:
    """What a network says of one input.

    Attributes
    ----------
    logits
        float (1, C).
    pooled
        float (1, P), the input of `Network.decide`; None without one.
    regions
        What it attended to.
    attention_map, maps
        Attention and further quantities over the whole input.
    """

    logits: torch.Tensor
    pooled: torch.Tensor | None
    regions: tuple[AttendedRegion, ...]
    attention_map: AttentionMap
    maps: Mapping[str, AttentionMap]
    tissue_fraction: float = 1.0
    unreadable: int = 0
    warnings: tuple[str, ...] = ()


def prediction_of(
    info: SlideInfo,
    checkpoint: Checkpoint,
    config: PredictConfig,
    seen: Seen,
    started: float,
) -> SlidePrediction:
    """Return the prediction for one input: calibrated probabilities, their uncertainty and set.

    Parameters
    ----------
    started
        When its prediction began, by `time.perf_counter`.
    """
    spec = checkpoint.spec
    threshold = (
        None if config.coverage is None else threshold_of(spec.calibration.conformal, config.coverage, checkpoint.name)
    )
    probabilities, uncertainty = _answer(seen, checkpoint.network, spec.calibration, config)
    return SlidePrediction(
        slide=str(info.path),
        size0=info.size0,
        label=spec.labels[int(probabilities.argmax())],
        probabilities=dict(zip(spec.labels, probabilities.tolist(), strict=True)),
        uncertainty=uncertainty,
        tissue_fraction=seen.tissue_fraction,
        unreadable_tiles=seen.unreadable,
        attention=seen.regions,
        model={"name": checkpoint.name, "sha256": checkpoint.sha256},
        mpp=(info.mpp.x, info.mpp.y) if info.mpp else None,
        seconds=round(time.perf_counter() - started, 3),
        software=software(),
        attention_map=seen.attention_map,
        fingerprint=info.fingerprint,
        warnings=(*(f"{info.path}: {warning}" for warning in info.warnings), *seen.warnings),
        maps=seen.maps,
        coverage=config.coverage,
        prediction_set=None if threshold is None else _set_of(spec.labels, probabilities, threshold),
        mc_dropout=config.mc_dropout,
        seed=config.seed,
        referral=config.referral,
        bounds=info.bounds,
    )


def _check_size(info: SlideInfo, checkpoint: Checkpoint) -> None:
    if checkpoint.spec.mpp is None and math.prod(info.size0) > MAX_NATIVE_PIXELS:
        raise ModelMismatchError(
            f"{checkpoint.name} was trained without --mpp on images at native resolution and cannot read "
            f"{info.path}, a slide of {info.size0.width} x {info.size0.height} px; use another --model"
        )


def _scorer(checkpoint: Checkpoint, network: SlideModel) -> PatchScorer:
    if isinstance(network, PatchScorer) and network.patch_side():
        return network
    raise UsageError(f"{checkpoint.name} ({checkpoint.system}) has no patch network, which --exhaustive needs")


def _bag(
    patches: SlidePatches, checkpoint: Checkpoint, network: SlideModel, config: PredictConfig, regions: Path | None
) -> tuple[SlideBag, list[str]]:
    """Return the slide as input, and warnings about its colours."""
    spec, path = checkpoint.spec, patches.slide.info.path
    bag = slide_bag(patches, network.stride, spec.tissue, regions, spec.prior)
    if not bag.tissue.any():
        raise TissueError(f"{path} has no tissue for {checkpoint.name} to predict from")
    patches.progress(0, 1, "comparing colours")
    return bag, _check_fit(bag, checkpoint, str(path), ignore=config.allow_out_of_distribution)


@dataclass(frozen=True)
class _Look:
    """What a network saw on a slide; `cell` is the side of a cell of its maps in high-resolution pixels."""

    patches: SlidePatches
    valid: NDArray[np.bool_]
    output: SlideOutput
    cell: int

    def regions(self) -> tuple[AttendedRegion, ...]:
        """Return the key instances in level-0 pixels, clipped to the slide, by decreasing weight."""
        mask = self.output.patch_mask[0].cpu()
        corners, sizes, weights = (
            values[0].cpu()[mask].tolist()
            for values in (self.output.patch_xy, self.output.patch_size, self.output.patch_attention)
        )
        frame, whole = self.patches.frame, Region(0, 0, *self.patches.slide.info.size0)
        found = []
        for (x, y), size, weight in zip(corners, sizes, weights, strict=True):
            region = frame.region0_from(x, y, size, size)
            width, height = min(region.x1, whole.x1) - region.x, min(region.y1, whole.y1) - region.y
            found.append(AttendedRegion(region.x, region.y, width, height, weight))
        return tuple(sorted(found, key=lambda region: (-region.weight, region.y, region.x)))

    def map_of(self, cells: torch.Tensor) -> AttentionMap:
        """Return values of the cells as a map, NaN where the network may not look."""
        values = np.where(self.valid, cells.float().cpu().numpy(), np.nan).astype(np.float32)
        rows, columns = values.shape
        across, down = self.cell * self.patches.downsample_x, self.cell * self.patches.downsample_y
        return AttentionMap(Frame(Size(columns, rows), across, down), values)

    def place_maps(self, labels: Sequence[str]) -> dict[str, AttentionMap]:
        """Return the evidence of each cell for each label and its uncertainty, the entropy of the softmax, 0 to 1."""
        if self.output.evidence is None:
            return {}
        evidence = self.output.evidence[0].float()  # (C, rows, columns)
        spread = torch.special.entr(evidence.softmax(dim=0)).sum(dim=0) / math.log(max(2, len(labels)))
        maps = {f"evidence:{label}": self.map_of(cells) for label, cells in zip(labels, evidence, strict=True)}
        return {**maps, "uncertainty": self.map_of(spread)}


def _look(bag: SlideBag, network: SlideModel, turns: bool) -> _Look:
    """Run the network; a slide that turns out to be damaged is processed again without the affected cells. With `turns`
    the logits are averaged over orientations.
    """
    bag.patches.progress(0, 1, "coarse view")
    output = network(bag.batch)
    if (sound := bag.without_damage()) is not None:
        bag, output = sound, network(sound.batch)
    if output.patch_mask.numel() and not output.patch_mask.any():
        raise SlideReadError(
            f"{bag.patches.slide.info.path}: none of the {output.patch_mask.shape[1]} key instances could be decoded"
        )
    if turns:
        output = averaged_over_turns(bag, network, output)
    return _Look(bag.patches, bag.batch.valid[0].numpy(), output, network.cell)


def _answer(
    seen: Seen, network: Network, calibration: Calibration, config: PredictConfig
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Return probabilities (C,) and uncertainty terms."""
    probabilities = torch.softmax(seen.logits[0].double(), dim=0).cpu().numpy()
    if config.calibrate:
        probabilities = calibrated(probabilities, calibration)
    uncertainty = uncertainty_of(probabilities)
    if config.mc_dropout:
        passes = dropout_passes(network, seen.pooled, config.mc_dropout, config.seed)
        uncertainty |= entropy_terms(calibrated(passes, calibration))
    return probabilities, uncertainty


def _set_of(labels: Sequence[str], probabilities: NDArray[np.float64], threshold: float) -> tuple[str, ...]:
    """Return the labels in the prediction set, most likely first."""
    members = in_set(probabilities, threshold)
    return tuple(labels[c] for c in np.argsort(-probabilities, kind="stable") if members[c])


def uncertainty_of(probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Compute uncertainty estimators from float64 (C,) probabilities.

    `entropy` is in nats, 0 to log C; `margin` is 1 minus the gap between the two most likely labels, 0 to 1.
    """
    first, second = np.sort(probabilities)[::-1][:2]
    return {"entropy": float(entropy(probabilities)), "margin": float(1 - (first - second))}


def _check_fit(bag: SlideBag, checkpoint: Checkpoint, path: str, *, ignore: bool) -> list[str]:
    spec = checkpoint.spec
    if not spec.appearance:
        return []
    pixels, tissue = bag.sample()
    distance = appearance_distance(describe_appearance(pixels, tissue), spec.appearance)
    if distance <= DOUBTFUL:
        return []
    if distance <= 1:
        return [
            f"{path}: unusual colours for {checkpoint.name} ({spec.stain}): {distance:.0%} of the accepted distance"
        ]
    mismatch = (
        f"{path} is out of distribution for {checkpoint.name} ({spec.stain}): the distance of its colours from the "
        f"training set is {distance:.2f} times the accepted one"
    )
    if not ignore:
        raise ModelMismatchError(f"{mismatch}; use another --model, or --allow-out-of-distribution to predict anyway")
    return [mismatch]
