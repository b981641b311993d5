"""Prediction of one slide with one checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.data.appearance import DOUBTFUL, appearance_distance, describe_appearance
from wsi_attn.data.bags import SlideBag
from wsi_attn.data.large import slide_bag
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import ModelMismatchError, SlideReadError, TissueError, UsageError
from wsi_attn.evaluate.uncertainty import entropy, entropy_terms
from wsi_attn.geometry import Frame, Size
from wsi_attn.models.base import BagBatch, SlideModel, SlideOutput
from wsi_attn.models.calibration import calibrated
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.configs import CLASSIFICATION
from wsi_attn.models.conformal import in_set, threshold_of
from wsi_attn.provenance import software
from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.store.predictions import AttendedRegion, AttentionMap, SlidePrediction
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.exhaustive import PatchScorer, score_tiles
from wsi_attn.tasks.classification.mc_dropout import dropout_passes

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
    spec, network = checkpoint.spec, classifier(checkpoint)
    threshold = (
        None if config.coverage is None else threshold_of(spec.calibration.conformal, config.coverage, checkpoint.name)
    )
    path = slide.info.path
    if spec.mpp is None and math.prod(slide.info.size0) > MAX_NATIVE_PIXELS:
        raise ModelMismatchError(
            f"{checkpoint.name} was trained without --mpp on images at native resolution and cannot read {path}, a "
            f"slide of {slide.info.size0.width} x {slide.info.size0.height} px; use another --model"
        )
    patches = SlidePatches(slide, spec.mpp, network.config.coarse_factor, workers=config.workers)
    scorer = network if isinstance(network, PatchScorer) and network.patch_side() else None
    if config.exhaustive and scorer is None:
        raise UsageError(f"{checkpoint.name} ({checkpoint.system}) has no patch network, which --exhaustive needs")
    bag = slide_bag(patches, network.stride, spec.tissue, progress, regions, spec.prior)
    if not bag.has_tissue:
        raise TissueError(f"{path} has no tissue for {checkpoint.name} to predict from")
    warnings = [f"{path}: {warning}" for warning in slide.info.warnings]
    progress(0, 1, "comparing colours")
    warnings += _check_fit(bag, checkpoint, str(path), ignore=config.allow_out_of_distribution)
    batch, output = _look(bag, network, progress)
    if output.patch_mask.numel() and not output.patch_mask.any():
        raise SlideReadError(f"{path}: none of the {output.patch_mask.shape[1]} key instances could be decoded")
    probabilities = torch.softmax(output.logits[0].double(), dim=0).cpu().numpy()
    if config.calibrate:
        probabilities = calibrated(probabilities, spec.calibration)
    unreadable = bag.damaged + int(output.unreadable[0])
    maps = _place_maps(output, spec.labels, batch.valid[0].numpy(), patches, network.cell)
    if config.exhaustive and scorer is not None:
        tiles = score_tiles(patches, scorer, spec.labels, bag.coverage, progress)
        maps |= tiles.maps
        unreadable += tiles.unreadable
    uncertainty = uncertainty_of(probabilities)
    if config.mc_dropout:
        progress(0, 1, "Monte Carlo dropout")
        passes = dropout_passes(network, output.pooled, config.mc_dropout, config.seed)
        uncertainty |= entropy_terms(calibrated(passes, spec.calibration))
    return SlidePrediction(
        slide=str(path),
        size0=slide.info.size0,
        label=spec.labels[int(probabilities.argmax())],
        probabilities=dict(zip(spec.labels, probabilities.tolist(), strict=True)),
        uncertainty=uncertainty,
        tissue_fraction=round(bag.fraction, 6),
        unreadable_tiles=unreadable,
        attention=_regions(output, patches),
        model={"name": checkpoint.name, "sha256": checkpoint.sha256},
        mpp=(slide.info.mpp.x, slide.info.mpp.y) if slide.info.mpp else None,
        seconds=round(time.perf_counter() - started, 3),
        software=software(),
        attention_map=_map(output.attention[0], batch.valid[0].numpy(), patches, network.cell),
        fingerprint=slide.info.fingerprint,
        warnings=tuple(warnings),
        maps=maps,
        coverage=config.coverage,
        prediction_set=None if threshold is None else _set_of(spec.labels, probabilities, threshold),
        mc_dropout=config.mc_dropout,
        seed=config.seed,
        referral=config.referral,
        bounds=slide.info.bounds,
    )


def _look(bag: SlideBag, network: SlideModel, progress: Progress) -> tuple[BagBatch, SlideOutput]:
    """Run the network; a slide that turns out to be damaged is processed again without the affected cells."""
    progress(0, 1, "coarse view")
    batch = bag.batch(progress)
    output = network(batch)
    if (sound := bag.without_damage()) is not None:
        batch = sound.batch(progress)
        output = network(batch)
    return batch, output


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


def _regions(output: SlideOutput, patches: SlidePatches) -> tuple[AttendedRegion, ...]:
    """Return the key instances in level-0 pixels, clipped to the slide, by decreasing weight."""
    mask = output.patch_mask[0].cpu()
    corners = output.patch_xy[0][mask].cpu().tolist()
    sizes = output.patch_size[0].cpu()[mask].tolist()
    weights = output.patch_attention[0].cpu()[mask].tolist()
    frame = Frame(Size(*patches.extent), patches.downsample_x, patches.downsample_y)
    size0 = patches.slide.info.size0
    regions = []
    for (x, y), size, weight in zip(corners, sizes, weights, strict=True):
        region = frame.region0_from(x, y, size, size)
        width, height = min(region.x1, size0.width) - region.x, min(region.y1, size0.height) - region.y
        regions.append(AttendedRegion(region.x, region.y, width, height, weight))
    return tuple(sorted(regions, key=lambda region: (-region.weight, region.y, region.x)))


def _map(cells: torch.Tensor, valid: NDArray[np.bool_], patches: SlidePatches, cell: int) -> AttentionMap:
    values = np.where(valid, cells.float().cpu().numpy(), np.nan).astype(np.float32)
    rows, columns = values.shape
    return AttentionMap(Frame(Size(columns, rows), cell * patches.downsample_x, cell * patches.downsample_y), values)


def _place_maps(
    output: SlideOutput, labels: Sequence[str], valid: NDArray[np.bool_], patches: SlidePatches, cell: int
) -> dict[str, AttentionMap]:
    """Return the evidence of each cell for each label and its uncertainty, the entropy of the softmax, 0 to 1."""
    if output.evidence is None:
        return {}
    evidence = output.evidence[0].float()  # (C, rows, columns)
    shares = evidence.softmax(dim=0)
    entropy = torch.special.entr(shares).sum(dim=0) / math.log(max(2, len(labels)))
    maps = {f"evidence:{label}": cells for label, cells in zip(labels, evidence, strict=True)}
    return {name: _map(cells, valid, patches, cell) for name, cells in {**maps, "uncertainty": entropy}.items()}
