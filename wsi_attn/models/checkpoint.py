"""A checkpoint is a folder: weights, the configuration that rebuilds the model, a card, provenance.

`model.safetensors`, `config.json`, `card.md`, `provenance.json`. Nothing is pickled, so a checkpoint from anywhere
can be opened safely. The folder is written under a temporary name and renamed when complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from wsi_attn.errors import CheckpointError
from wsi_attn.models.base import Network
from wsi_attn.models.spec import ModelSpec, read_spec
from wsi_attn.models.systems import SYSTEMS, build_network, plain_config
from wsi_attn.models.zoo import WEIGHTS, WEIGHTS_SHA256, ModelConfig, weights_hash
from wsi_attn.outputs import files

FORMAT = "wsi-attn checkpoint"
SCHEMA_VERSION = 1
CONFIG, CARD, PROVENANCE = "config.json", "card.md", "provenance.json"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model: network in evaluation mode, specification, name and hash of the weights."""

    name: str
    sha256: str
    system: str
    spec: ModelSpec
    network: Network


def save_checkpoint(
    folder: Path,
    *,
    name: str,
    system: str,
    network: Network,
    spec: ModelSpec,
    card: str,
    provenance: Mapping[str, object],
) -> None:
    """Write a checkpoint folder atomically."""
    with files.new_folder(folder) as temporary:
        weights = {key: value.contiguous().cpu() for key, value in network.state_dict().items()}
        content = save(weights)  # save_file leaves the file unreadable for others
        files.write_bytes(temporary / WEIGHTS, content)
        config = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "system": system,
            WEIGHTS_SHA256: hashlib.sha256(content).hexdigest(),
            "network": plain_config(network.config),
            "spec": spec.record(),
        }
        files.write_json(temporary / CONFIG, config)
        files.write_text(temporary / CARD, card)
        files.write_json(temporary / PROVENANCE, provenance)


def read_config(folder: Path) -> ModelConfig:
    """Read `config.json` of a checkpoint and check its format and version, without the weights.

    Raises
    ------
    CheckpointError : not a checkpoint, or an unsupported version.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint: {CONFIG} is missing; give a folder written by `wsi-attn train`"
        )
    try:
        config: ModelConfig = json.loads(path.read_text(), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is not a wsi-attn checkpoint: the format in {CONFIG} is not {FORMAT!r}")
    if config.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint version {config.get('schema_version')}, this release reads {SCHEMA_VERSION}"
        )
    return config


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


def load_checkpoint(folder: Path, device: str = "cpu") -> Checkpoint:
    """Rebuild a model from its folder.

    Raises
    ------
    CheckpointError : not a checkpoint, the weights do not match the configuration, or are damaged.
    """
    config = read_config(folder)
    try:
        sha256 = weights_hash(folder, config)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is incomplete: {WEIGHTS} is missing; train or copy it again") from error
    except OSError as error:
        raise CheckpointError(f"Cannot read {folder / WEIGHTS}: {error.strerror}") from error
    try:
        system = SYSTEMS.get(config["system"])
        fields = {system.renamed.get(name, name): value for name, value in config["network"].items()}
        network = build_network(config["system"], {**system.former, **fields})
        network.load_state_dict(load_file(folder / WEIGHTS))
        spec = read_spec(config["spec"])
        classes = getattr(network.config, "classes", len(spec.labels))
        if classes != len(spec.labels):
            raise ValueError(f"the network has {classes} classes, and labels has {len(spec.labels)}")
        name = str(config["name"])
    except (
        SafetensorError,
        msgspec.ValidationError,
        RuntimeError,
        ArithmeticError,
        MemoryError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        reason = repr(error) if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise CheckpointError(f"Cannot load {folder}: weights and configuration do not match ({reason})") from error
    if broken := [key for key, value in network.state_dict().items() if not value.isfinite().all()]:
        raise CheckpointError(f"Cannot load {folder}: the weights {broken[0]} are not finite; train or copy it again")
    return Checkpoint(name, sha256, config["system"], spec, network.eval().to(torch.device(device)))


def model_record(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Return name and hash of the model; several folds have one combined hash."""
    if len(checkpoints) == 1:
        return {"name": checkpoints[0].name, "sha256": checkpoints[0].sha256}
    together = hashlib.sha256("".join(checkpoint.sha256 for checkpoint in checkpoints).encode()).hexdigest()
    return {"name": f"mean of {len(checkpoints)} folds", "sha256": together}
