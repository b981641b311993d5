"""Segmentation of one slide: label image, polygons, and a record with the amount of each class."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_attn.annotations.geojson import ObjectType, write_features
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import TissueError, UsageError
from wsi_attn.geometry import Frame, Mpp, Region
from wsi_attn.json_types import JsonObject
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.joint_segmentation import JointSegmentation
from wsi_attn.outputs import files
from wsi_attn.outputs.lock import output_lock
from wsi_attn.outputs.policy import Found, Output, complete, other, unfinished
from wsi_attn.provenance import software
from wsi_attn.slide import Progress, Slide, SlideInfo, no_progress
from wsi_attn.store.additions import recover
from wsi_attn.store.schema import TISSUE_LABEL
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tasks.segmentation.config import SegmentConfig
from wsi_attn.tasks.segmentation.labels import LabelImage, settings_of
from wsi_attn.tasks.segmentation.objects import AreaCounts, features, find_objects
from wsi_attn.tasks.segmentation.record import Areas, ClassRecord, SegmentationRecord
from wsi_attn.tasks.segmentation.tiled_inference import TiledInference, segmenter
from wsi_attn.tasks.segmentation.windows import default_overlap
from wsi_attn.tissue.find import find_tissue
from wsi_attn.tissue.mask import TissueMask
from wsi_attn.tissue.settings import TissueSettings

LABELS, POLYGONS, RECORD = ".segmentation.zarr", ".segmentation.geojson", ".segmentation.json"
"""Suffixes of the output files of a slide."""


class SlideSegmentation:
    """The segmentation of one slide, and where it is written.

    Raises
    ------
    UsageError : the checkpoint does not segment; `--into-store` with a slide that is not a store, or with a model name
        that is not a valid label name.
    """

    def __init__(self, slide: Slide, checkpoint: Checkpoint, folder: Path, config: SegmentConfig) -> None:
        self.slide, self.checkpoint, self.config = slide, checkpoint, config
        self.network = segmenter(checkpoint)
        name, self.store = slide.info.name, slide.info.path if config.into_store else None
        self.labels = _label_path(slide, checkpoint) if config.into_store else folder / f"{name}{LABELS}"
        self.polygons, self.record = folder / f"{name}{POLYGONS}", folder / f"{name}{RECORD}"
        self.settings: JsonObject = {
            "fingerprint": slide.info.fingerprint,
            "mpp": _pair(slide.info.mpp),
            "model_sha256": checkpoint.sha256,
            **config.settings(),
        }

    def output(self) -> Output[SegmentationRecord]:
        """Return the record as an output, which is resumed."""
        return Output(self.record, self._found, beside=(self.labels, self.polygons))

    def _found(self) -> Found[SegmentationRecord]:
        if self.store:
            recover(self.store)  # A label that was moved to its final path before the record was written.
        if settings_of(self.labels, under_way=True) == self.settings:
            return unfinished()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found: SegmentationRecord = json.loads(self.record.read_text(encoding="utf-8"))
            if found["settings"] == self.settings == settings_of(self.labels):
                return complete(found)
        return other("exists and belongs to another slide, model or setting")

    def write(self, *, overwrite: bool = False, progress: Progress = no_progress) -> SegmentationRecord:
        """Write the label image, the polygons and the record; an interrupted run resumes.

        Parameters
        ----------
        overwrite
            Discard an unfinished label image instead of resuming it.

        Raises
        ------
        MissingMppError, ModelMismatchError : the slide cannot be read at the model's resolution.
        TissueError : the slide has no tissue.
        OutputBusyError : another process writes to the same output.
        """
        started = time.perf_counter()
        slide, spec, workers = self.slide, self.checkpoint.spec, self.config.workers
        patches = SlidePatches(slide, spec.mpp, self.network.config.coarse_factor, workers=workers, progress=progress)
        tissue = self._tissue(progress)
        levels, image = (len(slide.info.levels), "../../") if self.store else (None, None)
        labels = LabelImage(self.labels, patches.frame, slide.info.mpp, spec.labels, self.settings, levels, image)
        self.labels.parent.mkdir(parents=True, exist_ok=True)
        with output_lock(self.labels):  # In a store, runs with different output folders write the same label.
            if overwrite:
                labels.discard()
            labels.open()
            self._classify(labels, patches, tissue)
            progress(0, 1, "outlining objects")
            counts = self._outline(labels)
            fraction = 1.0 if tissue is None else tissue.fraction
            record: SegmentationRecord = {
                "slide": str(slide.info.path),
                **_areas(spec.labels, counts, slide.info, _area0(labels), fraction),
                "tissue_fraction": round(fraction, 6),
                "unreadable_places": sum(labels.done.values()),
                "labels": str(self.labels),
                "polygons": str(self.polygons),
                "mpp": _pair(slide.info.mpp),
                "label_mpp": _pair(slide.info.mpp, patches.frame),
                "model": {"name": self.checkpoint.name, "sha256": self.checkpoint.sha256},
                "settings": self.settings,
                "seconds": round(time.perf_counter() - started, 3),
                "software": software(),
            }
            files.write_json(self.record, record)
            labels.finish(self.store)  # Written last: its presence marks the result as complete.
        return record

    def _tissue(self, progress: Progress) -> TissueMask | None:
        """Return what is segmented; None for the whole image."""
        method, workers = self.checkpoint.spec.tissue, self.config.workers
        if method == "none":
            return None
        tissue = find_tissue(self.slide, TissueSettings(method), workers=workers, progress=progress)
        if not tissue.mask.any():
            raise TissueError(f"{self.slide.info.path} has no tissue for {self.checkpoint.name} to segment")
        return tissue

    def _classify(self, labels: LabelImage, patches: SlidePatches, tissue: TissueMask | None) -> None:
        """Write all blocks that are not done, and the coarser levels."""

        def wanted(regions: list[Region]) -> NDArray[np.bool_]:
            if tissue is None:
                return np.ones(len(regions), np.bool_)
            places = np.array([patches.frame.region0_from(*region) for region in regions])
            return np.asarray(tissue.coverage(places) > 0)

        tile, overlap = tile_and_overlap(self.network, self.config)
        field = TiledInference(self.network, patches, tile, overlap, wanted, self.config.workers)
        blocks = labels.blocks()
        for done, block in enumerate(blocks, 1):
            if not labels.is_done(block):
                answer = field.answer(block) if field.looks_at(block) else None
                labels.write(block, answer.classes if answer else None, answer.unreadable if answer else 0)
            patches.progress(done, len(blocks), "segmenting")
        patches.progress(0, 1, "reduced levels")
        labels.downsample()

    def _outline(self, labels: LabelImage) -> AreaCounts:
        """Write the polygons; return objects and pixels of each class."""
        info, names, config = self.slide.info, self.checkpoint.spec.labels, self.config
        counts = AreaCounts(len(names))
        kind: ObjectType = "annotation" if config.annotations else "detection"
        found = find_objects(labels, info.size0, counts)
        outlines = features(found, names, info, _area0(labels), kind, config.simplify)
        write_features(self.polygons, outlines, info.origin, {"made": self.checkpoint.sha256})
        return counts


def tile_and_overlap(network: JointSegmentation, config: SegmentConfig) -> tuple[int, int]:
    """Return tile side and overlap in pixels: by default those of the training crops."""
    tile = config.tile or network.config.crop
    return tile, default_overlap(tile) if config.overlap is None else config.overlap


def _label_path(slide: Slide, checkpoint: Checkpoint) -> Path:
    """Return the path of the label in the store that is segmented."""
    key = checkpoint.name
    if not isinstance(slide, TileStore):
        raise UsageError(
            f"--into-store: {slide.info.path} is not a store; convert it with `wsi-attn tile` or omit the option"
        )
    if key == TISSUE_LABEL or Path(key).name != key or key.startswith("."):
        raise UsageError(
            f"--into-store: the model name {key!r} is not a valid label name; train it with another --name"
        )
    return slide.path / "labels" / key


def _area0(labels: LabelImage) -> float:
    """Return the area of a pixel of the label image in level-0 pixels."""
    return labels.frame.downsample_x * labels.frame.downsample_y


def _areas(names: Sequence[str], counts: AreaCounts, info: SlideInfo, pixel0: float, tissue_fraction: float) -> Areas:
    """Return objects, area and tissue share of each foreground class."""
    unit, factor = ("mm²", info.mpp.x * info.mpp.y / 1e6) if info.mpp else ("px²", 1.0)
    tissue = math.prod(info.size0) * tissue_fraction
    classes: dict[str, ClassRecord] = {}
    for index, name in enumerate(names[1:], 1):
        area0 = float(counts.pixels[index]) * pixel0
        classes[name] = {
            "objects": int(counts.objects[index]),
            "area": round(area0 * factor, 9),
            "share": round(area0 / tissue, 6),
        }
    return {"classes": classes, "area_unit": unit}


def _pair(mpp: Mpp | None, frame: Frame | None = None) -> list[float] | None:
    """Return x and y of the pixel size of level 0, or of a frame."""
    if mpp is None:
        return None
    return [mpp.x * frame.downsample_x, mpp.y * frame.downsample_y] if frame else list(mpp)
