"""Before any pixel is written: what lies at the output, and a new store with its plan, tissue and grid."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np

from wsi_attn.contract import Progress, Slide, SlideInfo
from wsi_attn.errors import StoreExistsError, StoreSchemaError
from wsi_attn.geometry import Frame
from wsi_attn.provenance import software
from wsi_attn.scores.scores import SCORES
from wsi_attn.slides.view import read_view
from wsi_attn.store import schema
from wsi_attn.store.create import create_store
from wsi_attn.store.schema import COMPLETE, WRITING, GridInfo, SourceInfo, StoreMeta, TissueInfo, read_meta
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.config import TileConfig
from wsi_attn.tiling.levels import plan_levels
from wsi_attn.tiling.select import select_tiles
from wsi_attn.tissue.detect import detect_tissue
from wsi_attn.tissue.mask import TissueMask

VIEW_MPP = 8.0
"""µm per pixel at which tissue is looked for: 16 pixels along a tile of 256 at 0.5."""

VIEW_SIDE, VIEW_SIDE_UNKNOWN = 2560, 2048
"""Longer side of that view at most, and where the pixel size is not known; bounds its memory to some 200 MB."""

PIXELS_PER_TILE = 4
"""Pixels of the view along a tile at least, as far as its longest side allows."""


def find_existing(
    slide: Slide, output: Path, config: TileConfig, *, overwrite: bool
) -> Literal["nothing", "unfinished", "complete"]:
    """What lies at the output; with `overwrite` anything there counts as nothing.

    Raises
    ------
    StoreExistsError : something that is not the store of this slide with these parameters.
    """
    if overwrite or not (output.exists() or output.is_symlink()):
        return "nothing"
    try:
        meta = read_meta(output)
    except StoreSchemaError as error:
        raise _exists(output, _describe(output)) from error
    differences = _differences(meta, slide.info, config)
    if differences:
        raise _exists(output, f"a store of {meta.source.name} with {', '.join(differences)}")
    return "complete" if meta.state == COMPLETE else "unfinished"


def _exists(output: Path, what: str) -> StoreExistsError:
    return StoreExistsError(f"{output} exists: {what}. Choose another --output, or replace it with --overwrite")


def _describe(path: Path) -> str:
    if not path.is_dir():
        return f"a file of {path.stat().st_size} bytes" if path.exists() else "a link to nothing"
    entries = sum(1 for _ in path.iterdir())
    return f"a folder of {entries} entries that is not a store of wsi-attn"


def _differences(meta: StoreMeta, info: SlideInfo, config: TileConfig) -> list[str]:
    found = []
    if meta.source.fingerprint != info.fingerprint:
        found.append("other pixels (its fingerprint differs)")
    if meta.mpp != info.mpp:
        found.append(f"slide mpp {_pair(meta.mpp)} instead of {_pair(info.mpp)}")
    wanted = config.parameters()
    names = sorted(wanted.keys() | meta.parameters.keys())
    theirs, ours = [[values.get(name) for name in names] for values in (meta.parameters, wanted)]
    changed = [
        f"{name} {old} instead of {new}" for name, old, new in zip(names, theirs, ours, strict=True) if old != new
    ]
    return found + changed


def _pair(mpp: tuple[float, float] | None) -> str:
    return f"{mpp[0]:g} x {mpp[1]:g}" if mpp else "unknown"


def remove_leftovers(output: Path) -> None:
    """Delete what a killed run left under temporary names, beside the store and in it. Only under its lock."""
    for entry in output.parent.iterdir():
        if entry.name.startswith(f".{output.name}.") and entry.name.endswith(".tmp"):
            shutil.rmtree(entry, ignore_errors=True)
    if output.is_dir() and (output / schema.GROUP_FILE).exists():
        for file in output.rglob(".*.tmp"):
            file.unlink()


def prepare(slide: Slide, output: Path, config: TileConfig, progress: Progress) -> None:
    """Create the store in state "writing": levels, tissue and grid decided, no pixels."""
    info = slide.info
    plans = plan_levels(info, config.mpp, config.tile_size)
    level0 = plans[0].level
    mask = find_tissue(slide, config, level0, progress)
    selection = select_tiles(mask, level0, config.tile_size, config.overlap, config.min_tissue)
    grid = GridInfo(
        config.grid, config.tile_size, config.overlap, level0.downsample_x, level0.downsample_y, config.min_tissue
    )
    source = SourceInfo(
        info.path.name, info.fingerprint, info.vendor, info.compression, info.size0, info.bounds, info.icc_profile
    )
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
        tissue=TissueInfo(mask.method, mask.measure, mask.threshold, mask.fraction),
    )
    label = np.where(mask.mask, schema.TISSUE_VALUE, schema.BACKGROUND_LABEL).astype(np.uint8)
    label[~mask.readable] = schema.UNREADABLE_LABEL
    scores = {
        name: {"range": [score.low, score.high], "unit": score.unit, "description": score.description}
        for name, score in SCORES.items()
    }
    create_store(output, meta, grid, selection.coords0, label, mask.frame, scores)


def find_tissue(slide: Slide, config: TileConfig, level0: Frame, progress: Progress) -> TissueMask:
    """The slide's tissue, from a view of it at about `VIEW_MPP`."""
    factors = view_downsamples(slide.info, level0, config.tile_size)
    view = read_view(slide, *factors, workers=config.threads(), progress=progress)
    return detect_tissue(view.pixels, view.frame, slide.info.mpp, view.readable, config.tissue, size0=slide.info.size0)


def view_downsamples(info: SlideInfo, level0: Frame, tile: int) -> tuple[float, float]:
    """Level-0 pixels per pixel of the view that tissue is looked for in, along x and y."""
    if info.mpp is None:
        factor = max(1.0, max(info.size0) / VIEW_SIDE_UNKNOWN)
        return factor, factor
    finest = max(info.size0) / VIEW_SIDE
    wanted = (VIEW_MPP / info.mpp.x, VIEW_MPP / info.mpp.y)
    per_tile = (tile * level0.downsample_x / PIXELS_PER_TILE, tile * level0.downsample_y / PIXELS_PER_TILE)
    x, y = (max(1.0, finest, min(pair)) for pair in zip(wanted, per_tile, strict=True))
    return x, y


def mask_from(store: TileStore) -> TissueMask:
    """The tissue mask that a store was made with."""
    label, frame = store.tissue_label()
    tissue = store.meta.tissue
    return TissueMask(
        np.asarray(label == schema.TISSUE_VALUE),
        frame,
        tissue.method,
        tissue.measure,
        tissue.threshold,
        np.asarray(label != schema.UNREADABLE_LABEL),
        store.info.size0,
    )
