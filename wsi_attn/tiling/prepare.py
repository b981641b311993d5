"""Preparation before pixels are written: inspect the output, and create a new store with its plan and tissue."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wsi_attn.errors import OutputExistsError, StoreDamagedError, StoreSchemaError
from wsi_attn.paths import printable
from wsi_attn.provenance import software
from wsi_attn.scores.scores import parse_names, warm_up
from wsi_attn.slide import Progress, Slide, SlideInfo
from wsi_attn.store import schema
from wsi_attn.store.create import create_store
from wsi_attn.store.schema import COMPLETE, WRITING, SourceInfo, StoreMeta, TissueInfo, read_meta
from wsi_attn.store.tile_store import TileStore
from wsi_attn.threads import blas_libraries
from wsi_attn.tiling.config import TileConfig
from wsi_attn.tiling.levels import plan_levels
from wsi_attn.tissue.mask import TissueMask
from wsi_attn.tissue.polygons import read_tissue

ExistingOutput = Literal["nothing", "unfinished", "without grid", "complete"]


def find_existing(slide: Slide, output: Path, config: TileConfig, *, overwrite: bool) -> ExistingOutput:
    """Inspect the output path; with `overwrite`, existing content is ignored.

    Raises
    ------
    OutputExistsError : the output is not a store of this slide with these parameters.
    """
    if overwrite or not (output.exists() or output.is_symlink()):
        return "nothing"
    try:
        meta = read_meta(output)
    except StoreSchemaError as error:
        raise _exists(output, _describe(output)) from error
    except StoreDamagedError as error:
        raise _exists(output, f"a damaged store ({error})") from error
    unfinished = meta.state != COMPLETE
    wanted = config.parameters() if unfinished else config.pixel_parameters()
    differences = _differences(meta, slide.info, wanted, config)
    if differences:
        raise _exists(output, f"a store of {meta.source.name} with {', '.join(differences)}")
    if unfinished:
        return "unfinished"
    with TileStore.open(output) as store:
        if config.grid not in store.grids():
            return "without grid"
        grid = store.grid(config.grid)
    theirs = {name: getattr(grid, name) for name in config.grid_parameters()}
    theirs["scores"] = list(grid.scores)
    differences = _changes(theirs, config.grid_parameters())
    if differences:
        raise _exists(
            output, f"its grid {config.grid!r} has {', '.join(differences)}; --grid NAME adds another", option=True
        )
    return "complete"


def _exists(output: Path, what: str, *, option: bool = False) -> OutputExistsError:
    ways = "choose another --output, or replace it with --overwrite"
    return OutputExistsError(f"{output} exists: {what}{', or ' + ways if option else '. ' + ways.capitalize()}")


def _describe(path: Path) -> str:
    if not path.is_dir():
        return f"a file of {path.stat().st_size} bytes" if path.exists() else "a broken link"
    entries = sum(1 for _ in path.iterdir())
    return f"a folder of {entries} entries that is not a store of wsi-attn"


def _differences(meta: StoreMeta, info: SlideInfo, wanted: dict[str, Any], config: TileConfig) -> list[str]:
    found = []
    if meta.source.fingerprint != info.fingerprint:
        found.append("other pixels (its fingerprint differs)")
    if meta.mpp != info.mpp:
        found.append(f"slide mpp {_pair(meta.mpp)} instead of {_pair(info.mpp)}")
    theirs = {name: meta.parameters.get(name) for name in wanted}
    if meta.state == COMPLETE and config.grid != meta.parameters.get("grid"):
        # Another grid uses the pixels as they are: it has its own resolution, and only the requested one must agree.
        usual = TileConfig().pixel_parameters()
        wanted = {name: value for name, value in wanted.items() if name != "mpp" and value != usual[name]}
    return found + _changes(theirs, wanted)


def _changes(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    return [f"{name} {theirs[name]} instead of {ours[name]}" for name in sorted(ours) if theirs[name] != ours[name]]


def _pair(mpp: tuple[float, float] | None) -> str:
    return f"{mpp[0]:g} x {mpp[1]:g}" if mpp else "unknown"


def remove_leftovers(output: Path) -> None:
    """Delete temporary files that an interrupted run left beside and inside the store. Requires its lock."""
    for entry in output.parent.iterdir():
        if entry.name.startswith(f".{output.name}.") and entry.name.endswith(".tmp"):
            shutil.rmtree(entry, ignore_errors=True)
    if output.is_dir() and (output / schema.GROUP_FILE).exists():
        for entry in [*output.rglob(".*.tmp"), *output.rglob("*.partial")]:  # the latter are Zarr's
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def prepare(slide: Slide, output: Path, config: TileConfig, progress: Progress) -> TissueMask:
    """Create the store in state "writing", with levels and tissue but no pixels or grid; returns the tissue."""
    info = slide.info
    plans = plan_levels(slide, config)
    mask = read_tissue(slide, config.tissue, workers=config.threads(), progress=progress)
    name = printable(info.path.name)
    source = SourceInfo(
        name, info.fingerprint, info.vendor, info.compression, info.size0, info.bounds, info.icc_profile
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
