"""The network that a run begins with."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from wsi_attn.errors import UsageError
from wsi_attn.models.base import SlideModel
from wsi_attn.models.systems import NO_WEIGHTS as NO_WEIGHTS
from wsi_attn.models.systems import SYSTEMS, build_network
from wsi_attn.provenance import sha256_of


def check_options(system: str, options: dict[str, Any], *, warm_up: bool = False) -> None:
    """Make sure that a system knows the options that are given.

    Raises
    ------
    UnknownNameError : there is no such system.
    UsageError : it has no such option; the message says so.
    """
    known = {field.name for field in fields(SYSTEMS.get(system)[1])}
    for name in options:
        if name not in known:
            raise UsageError(f"--model {system} has no {name.replace('_', ' ')}: leave that option out")
    if warm_up and "global_weight" not in known:
        raise UsageError(f"--model {system} has no global head of its own to warm up: leave --warm-up-epochs out")


def new_network(system: str, options: dict[str, Any], weights: str, seed: int) -> SlideModel:
    """A network with weights drawn from the seed, and those of timm backbones from elsewhere where wanted.

    Parameters
    ----------
    options
        Fields of the system's configuration.
    weights
        "none", "pretrained" (timm's, from the Hugging Face hub), or a `.safetensors` file.

    Raises
    ------
    UsageError, CheckpointError, MissingExtraError : see `build_network`.
    """
    torch.manual_seed(seed)
    return build_network(system, options, weights)


def weights_record(weights: str) -> str:
    """What a run remembers of its weights: of a file its hash, so that another file is another run.

    Raises
    ------
    UsageError : there is no such file.
    """
    if weights in (NO_WEIGHTS, "pretrained"):
        return weights
    if not Path(weights).is_file():
        raise UsageError(
            f"--weights {weights}: there is no such file; it takes none, pretrained or a .safetensors file"
        )
    return f"sha256:{sha256_of(Path(weights))}"
