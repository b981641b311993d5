"""Preparation before pixels are written: inspect the output, and create a new store with its plan and tissue."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from wsi_attn.annotations.tissue_source import read_tissue
from wsi_attn.errors import StoreDamagedError, StoreError, StoreSchemaError
from wsi_attn.json_types import Json
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import Found, Output, complete, differences, other, unfinished
from wsi_attn.paths import printable
from wsi_attn.provenance import software
from wsi_attn.scores.scores import parse_names, warm_up
from wsi_attn.slide import Progress, Slide, SlideInfo
from wsi_attn.store import schema
from wsi_attn.store.additions import recover
from wsi_attn.store.create import create_store
from wsi_attn.store.schema import COMPLETE, WRITING, SourceInfo, StoreMeta, TissueInfo, read_meta
from wsi_attn.store.tile_store import TileStore
from wsi_attn.threads import blas_libraries
from wsi_attn.tiling.config import TileConfig
from wsi_attn.tiling.levels import plan_levels
from wsi_attn.tissue.mask import TissueMask


def store_output(slide: Slide, output: Path, config: TileConfig) -> Output[StoreMeta]:
    """The store of a slide as an output: resumed if unfinished, and also if only the grid is missing.

    A complete store whose last steps a killed run left out is unfinished, until they are done with the lock held.
    """

    def inspect() -> Found[StoreMeta]:
        try:
            meta = read_meta(output)
        except StoreSchemaError:
            return other(f"exists: {_describe(output)}")
        except StoreDamagedError as error:
            return other(f"exists: a damaged store ({error})")
        wanted = config.pixel_parameters() if meta.state == COMPLETE else config.parameters()
        if changes := _differences(meta, slide.info, wanted, config):
            return other(f"exists: a store of {meta.source.name} with {', '.join(changes)}")
        if meta.state != COMPLETE or (output / schema.JOURNAL_FILE).exists() or meta.addition:
            return unfinished()
        with TileStore.open(output) as store:
            if config.grid not in store.grids():
                return unfinished(meta)
            grid = store.grid(config.grid)
        theirs = {**asdict(grid), "scores": list(grid.scores)}
        if changes := differences(theirs, config.grid_parameters()):
            what = f"its grid {config.grid!r} has {', '.join(changes)}"
            return other(f"exists: {what} (--grid NAME adds another)")
        return complete(meta)

    return Output(output, inspect, repair=lambda: tidy(output))


def _describe(path: Path) -> str:
    if not path.is_dir():
        return f"a file of {path.stat().st_size} bytes" if path.exists() else "a broken link"
    entries = sum(1 for _ in path.iterdir())
    return f"a folder of {entries} entries that is not a store of wsi-attn"


def _differences(meta: StoreMeta, info: SlideInfo, wanted: Mapping[str, Json], config: TileConfig) -> list[str]:
    found = []
    if meta.source.fingerprint != info.fingerprint:
        found.append("other pixels (its fingerprint differs)")
    if meta.mpp != info.mpp:
        found.append(f"slide mpp {_pair(meta.mpp)} instead of {_pair(info.mpp)}")
    if meta.state == COMPLETE and config.grid != meta.parameters.get("grid"):
        # Another grid uses the pixels as they are: it has its own resolution, and only the requested one must agree.
        usual = TileConfig().pixel_parameters()
        wanted = {name: value for name, value in wanted.items() if name != "mpp" and value != usual[name]}
    return found + differences(meta.parameters, wanted)


def _pair(mpp: tuple[float, float] | None) -> str:
    return f"{mpp[0]:g} x {mpp[1]:g}" if mpp else "unknown"


def tidy(output: Path) -> None:
    """Do the last steps that a killed run left out, and delete its temporary files. Requires the lock of the store."""
    files.remove_leftovers(output)
    if not (output / schema.GROUP_FILE).exists():
        return
    for entry in output.rglob("*.partial"):  # Zarr's temporary files
        files.remove(entry)
    with suppress(StoreError):  # The inspection reports the problem.
        recover(output)
        if read_meta(output).state == COMPLETE:
            schema.journal_of(output).remove()


def prepare(slide: Slide, output: Path, config: TileConfig, progress: Progress) -> TissueMask:
    """Create the store in state "writing", with levels and tissue but no pixels or grid; returns the tissue."""
    info = slide.info
    plans = plan_levels(slide, config)
    mask = read_tissue(slide, config.tissue, workers=config.threads(), progress=progress)
    name = printable(info.path.name)
    size0, bounds = schema.StoredSize(*info.size0), schema.StoredRegion(*info.bounds) if info.bounds else None
    source = SourceInfo(name, info.fingerprint, info.vendor, info.compression, size0, bounds, info.icc_profile)
    meta = StoreMeta(
        source=source,
        mpp=info.mpp,
        mpp_source=info.mpp_source,
        mpp_note=info.mpp_note,
        objective_power=info.objective_power,
        parameters=config.parameters(),
        software=software(),
        state=WRITING,
        levels=tuple(plan.level for plan in plans),
        pixels=tuple(plan.info() for plan in plans),
        tissue=TissueInfo(mask.method, mask.measure, mask.threshold, mask.fraction),
    )
    label = np.where(mask.mask, schema.TISSUE_VALUE, schema.BACKGROUND_LABEL).astype(np.uint8)
    label[~mask.readable] = schema.UNREADABLE_LABEL
    create_store(output, meta, [plan.codec for plan in plans], label, mask.frame)
    return mask


def load_ahead(config: TileConfig) -> None:
    """Load the compiled scores in a thread: it takes a second, and they are needed last."""
    blas_libraries()  # listed before the thread imports compiled modules, since the two could deadlock
    threading.Thread(target=warm_up, args=(parse_names(config.scores),), name="load", daemon=True).start()
