"""Segmentation of one slide: label image, polygons, and a record with the amount of each class."""

from __future__ import annotations

import contextlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_attn.annotations.geojson import write_features
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import TissueError, UsageError
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.outputs import files
from wsi_attn.outputs.lock import output_lock
from wsi_attn.outputs.policy import Found, Output, complete, other, unfinished
from wsi_attn.provenance import software
from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.store.additions import recover
from wsi_attn.store.schema import TISSUE_LABEL
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tasks.segmentation.config import SegmentConfig
from wsi_attn.tasks.segmentation.labels import LabelImage, settings_of
from wsi_attn.tasks.segmentation.objects import AreaCounts, features, find_objects
from wsi_attn.tasks.segmentation.record import Areas, ClassRecord, SegmentationRecord, Settings
from wsi_attn.tasks.segmentation.tiled_inference import TiledInference, segmenter
from wsi_attn.tasks.segmentation.windows import default_overlap
from wsi_attn.tissue.find import find_tissue
from wsi_attn.tissue.settings import TissueSettings

LABELS, POLYGONS, RECORD = ".segmentation.zarr", ".segmentation.geojson", ".segmentation.json"
"""Suffixes of the output files of a slide."""


@dataclass(frozen=True)
class OutputPaths:
    """Output paths of a slide; `key` is the name of the label in its store, or None."""

    labels: Path
    polygons: Path
    record: Path
    key: str | None


def output_paths(slide: Slide, checkpoint: Checkpoint, output: Path, config: SegmentConfig) -> OutputPaths:
    """Return the output paths of a slide.

    Raises
    ------
    UsageError : `--into-store` with a slide that is not a store, or with a model name that is not a valid label name.
    """
    name = slide.info.name
    labels, key = output / f"{name}{LABELS}", None
    if config.into_store:
        if not isinstance(slide, TileStore):
            raise UsageError(
                f"--into-store: {slide.info.path} is not a store; convert it with `wsi-attn tile` or omit the option"
            )
        key = checkpoint.name
        if key == TISSUE_LABEL or Path(key).name != key or key.startswith("."):
            raise UsageError(
                f"--into-store: the model name {key!r} is not a valid label name; train it with another --name"
            )
        labels = slide.path / "labels" / key
    return OutputPaths(labels, output / f"{name}{POLYGONS}", output / f"{name}{RECORD}", key)


def segmentation_output(
    paths: OutputPaths, slide: Slide, checkpoint: Checkpoint, config: SegmentConfig
) -> Output[SegmentationRecord]:
    """The segmentation of a slide as an output, which is resumed."""

    def inspect() -> Found[SegmentationRecord]:
        settings = _settings(slide, checkpoint, config)
        if paths.key:
            recover(slide.info.path)  # A label that was moved to its final path before the record was written.
        if settings_of(paths.labels, under_way=True) == settings:
            return unfinished()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found: SegmentationRecord = json.loads(paths.record.read_text(encoding="utf-8"))
            if found["settings"] == settings == settings_of(paths.labels):
                return complete(found)
        return other("exists and belongs to another slide, model or setting")

    return Output(paths.record, inspect, beside=(paths.labels, paths.polygons))


def segment_slide(
    slide: Slide,
    checkpoint: Checkpoint,
    output: Path,
    config: SegmentConfig,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> SegmentationRecord:
    """Segment one slide and write its label image, polygons and record; an interrupted run resumes.

    Returns
    -------
    The record: `slide`, `classes` with `objects`, `area` and `share` (of the tissue) of each but the background,
    `area_unit`, `tissue_fraction`, `unreadable_places`, `labels`, `polygons`, `mpp`, `label_mpp`, `model`, `settings`,
    `seconds`, `software`.

    Raises
    ------
    UsageError : the checkpoint does not segment, or `output_paths` refuses the output.
    MissingMppError, ModelMismatchError : the slide cannot be read at the model's resolution.
    TissueError : the slide has no tissue.
    OutputBusyError : another process writes to the same output.
    """
    started = time.perf_counter()
    network, spec = segmenter(checkpoint), checkpoint.spec
    patches = SlidePatches(slide, spec.mpp, network.config.coarse_factor, workers=config.workers)
    paths = output_paths(slide, checkpoint, output, config)
    settings = _settings(slide, checkpoint, config)
    tissue = None  # the whole image
    if spec.tissue != "none":
        tissue = find_tissue(slide, TissueSettings(spec.tissue), workers=config.workers, progress=progress)
    if tissue is not None and not tissue.mask.any():
        raise TissueError(f"{slide.info.path} has no tissue for {checkpoint.name} to segment")
    frame = Frame(Size(*patches.extent), patches.downsample_x, patches.downsample_y)

    def wanted(regions: list[Region]) -> NDArray[np.bool_]:
        if tissue is None:
            return np.ones(len(regions), np.bool_)
        return np.asarray(tissue.coverage(np.array([frame.region0_from(*region) for region in regions])) > 0)

    tile = config.tile or network.config.crop
    overlap = default_overlap(tile) if config.overlap is None else config.overlap
    field = TiledInference(network, patches, tile, overlap, wanted, config.workers)
    levels = len(slide.info.levels) if paths.key else None
    source = "../../" if paths.key else None
    labels = LabelImage(paths.labels, frame, slide.info.mpp, spec.labels, settings, levels, source)
    paths.labels.parent.mkdir(parents=True, exist_ok=True)
    with output_lock(paths.labels):  # In a store, runs with different output folders write the same label.
        if overwrite:
            labels.discard()
        labels.open()
        blocks = labels.blocks()
        for done, (row, column) in enumerate(blocks, 1):
            if (row, column) not in labels.done:
                block = labels.region(row, column)
                answer = field.answer(block) if field.looks_at(block) else None
                labels.write(row, column, answer.classes if answer else None, answer.unreadable if answer else 0)
            progress(done, len(blocks), "segmenting")
        progress(0, 1, "reduced levels")
        labels.downsample()
        progress(0, 1, "outlining objects")
        counts = AreaCounts(np.zeros(len(spec.labels), np.int64))
        pixel0 = patches.downsample_x * patches.downsample_y
        outlines = features(
            find_objects(labels, len(spec.labels), slide.info.size0, counts),
            spec.labels,
            slide.info.fingerprint,
            slide.info.mpp,
            pixel0,
            "annotation" if config.annotations else "detection",
            config.simplify,
        )
        write_features(paths.polygons, outlines, slide.info.origin, {"made": checkpoint.sha256})
        fraction = 1.0 if tissue is None else tissue.fraction
        record: SegmentationRecord = {
            "slide": str(slide.info.path),
            **_areas(spec.labels, counts, slide, pixel0, fraction),
            "tissue_fraction": round(fraction, 6),
            "unreadable_places": sum(labels.done.values()),
            "labels": str(paths.labels),
            "polygons": str(paths.polygons),
            "mpp": list(slide.info.mpp) if slide.info.mpp else None,
            "label_mpp": _label_mpp(slide, patches),
            "model": {"name": checkpoint.name, "sha256": checkpoint.sha256},
            "settings": settings,
            "seconds": round(time.perf_counter() - started, 3),
            "software": software(),
        }
        files.write_json(paths.record, record)
        labels.finish(
            slide.info.path if paths.key else None
        )  # Written last: its presence marks the result as complete.
    return record


def _settings(slide: Slide, checkpoint: Checkpoint, config: SegmentConfig) -> Settings:
    mpp = list(slide.info.mpp) if slide.info.mpp else None
    return {
        "fingerprint": slide.info.fingerprint,
        "mpp": mpp,
        "model_sha256": checkpoint.sha256,
        **config.settings(),
    }


def _areas(names: tuple[str, ...], counts: AreaCounts, slide: Slide, pixel0: float, tissue_fraction: float) -> Areas:
    """Return objects, area and tissue share of each foreground class."""
    mpp = slide.info.mpp
    unit, factor = ("mm²", mpp.x * mpp.y / 1e6) if mpp else ("px²", 1.0)
    tissue = math.prod(slide.info.size0) * tissue_fraction
    classes: dict[str, ClassRecord] = {}
    for index, name in enumerate(names):
        if index > 0:
            area0 = float(counts.pixels[index]) * pixel0
            classes[name] = {
                "objects": int(counts.objects[index]),
                "area": round(area0 * factor, 9),
                "share": round(area0 / tissue, 6),
            }
    return {"classes": classes, "area_unit": unit}


def _label_mpp(slide: Slide, patches: SlidePatches) -> list[float] | None:
    mpp = slide.info.mpp
    return [mpp.x * patches.downsample_x, mpp.y * patches.downsample_y] if mpp else None
