"""Shipped models, and lookup of checkpoints by name or path. Does not load torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from wsi_attn.errors import CheckpointError
from wsi_attn.json_types import JsonObject
from wsi_attn.registry import unknown_name

SHIPPED = Path(__file__).parent / "shipped"
DEFAULT = "cellularity-he"
WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "weights_sha256"
"""Key of the configuration; checkpoints written before it existed lack it."""


class SpecConfig(TypedDict):
    """What every release writes of a `ModelSpec`."""

    labels: list[str]
    mpp: float | None
    stain: str
    tissue: str
    appearance: JsonObject
    calibration: NotRequired[JsonObject]


class ModelConfig(TypedDict):
    """The file `config.json` of a checkpoint."""

    format: str
    schema_version: int
    name: str
    system: str
    weights_sha256: NotRequired[str]
    network: JsonObject
    spec: SpecConfig


def shipped_models() -> dict[str, Path]:
    """Return name and folder of every shipped model, sorted by name."""
    return {folder.name: folder for folder in sorted(SHIPPED.glob("*")) if (folder / "config.json").is_file()}


def read_specs() -> dict[str, ModelConfig]:
    """Return name and configuration of every shipped model."""
    return {name: json.loads((folder / "config.json").read_text()) for name, folder in shipped_models().items()}


def find_model(name_or_folder: str) -> Path:
    """Return the checkpoint folder for a shipped name, a checkpoint folder or a training run.

    Raises
    ------
    UnknownNameError : neither a shipped name nor an existing path.
    CheckpointError : a path without a checkpoint.
    """
    shipped = shipped_models()
    if name_or_folder in shipped:
        return shipped[name_or_folder]
    folder = Path(name_or_folder)
    for candidate in (folder, folder / "checkpoint"):
        if (candidate / "config.json").is_file():
            return candidate
    if folder.exists():
        raise CheckpointError(f"{folder} contains no checkpoint; give a folder written by `wsi-attn train`")
    if folder.parent != Path():
        raise CheckpointError(f"No checkpoint at {folder}")
    raise unknown_name("model", name_or_folder, shipped)


def weights_hash(folder: Path, config: Mapping[str, object]) -> str:
    """SHA-256 of the weights of a checkpoint, which safetensors itself does not check.

    Raises
    ------
    CheckpointError : the configuration states another one.
    OSError : the file cannot be read.
    """
    from wsi_attn.provenance import sha256_of  # With importlib.metadata, which the help of commands does without.

    found = sha256_of(folder / WEIGHTS)
    stated = config.get(WEIGHTS_SHA256, found)
    if stated != found:
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged or belongs to another model: its SHA-256 is {found[:12]}..., and "
            f"config.json states {str(stated)[:12]}...; copy the whole checkpoint again"
        )
    return found


def find_models(name_or_folder: str) -> tuple[Path, ...]:
    """Return the checkpoint folders of a cross-validation run in fold order, otherwise that of `find_model`."""
    folds = [folder / "checkpoint" for folder in Path(name_or_folder).glob("fold-*")]
    ready = [folder for folder in folds if (folder / "config.json").is_file()]
    if ready and len(ready) < len(folds):
        raise CheckpointError(
            f"{name_or_folder} has {len(ready)} of {len(folds)} folds finished; rerun `wsi-attn train` to complete it"
        )
    return tuple(sorted(ready, key=lambda path: (len(path.parent.name), path.parent.name))) or (
        find_model(name_or_folder),
    )
