"""What a run starts from: backbones, their initial weights, and the initial network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from wsi_attn.errors import MissingExtraError, UsageError
from wsi_attn.models.base import Network
from wsi_attn.models.configs import config_of, is_solved
from wsi_attn.models.configs.common import AUTO, PRETRAINED, pretrained_of
from wsi_attn.models.systems import IMAGENET, NAMED_WEIGHTS, NO_WEIGHTS, SYSTEMS, build_network, weights_of_each
from wsi_attn.nn.imagenet import has_imagenet_weights
from wsi_attn.provenance import sha256_of
from wsi_attn.tasks.config import TrainConfig

WIDTHS = ("coarse_widths", "patch_widths")
"""Options that shape small backbones, and so choose them."""

EXTRA = "pip install 'wsi-attn[encoders]'"


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes
    ----------
    network
        Fields of the network's configuration, with its backbones.
    weights
        See `build_network`.
    said
        The choice in words; empty if there was none.
    """

    network: Mapping[str, object]
    weights: str
    said: str = ""


def check_options(system: str, options: Collection[str]) -> None:
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


def check_tuning(config: TrainConfig, weights: str) -> None:
    """Check that the options about pretrained backbones have an effect.

    Raises
    ------
    UsageError : no stage is frozen that could be unfrozen, or all weights are random; a warm-up then needs a separate
        global head.
    """
    if config.unfreeze_epochs and not config.freeze:
        raise UsageError("--unfreeze-epochs needs frozen stages; add --freeze N, or remove it")
    if weights != NO_WEIGHTS:
        return
    if config.freeze:
        raise UsageError("--freeze keeps trained weights, but all are random; remove it, or choose --weights")
    known = {field.name for field in fields(SYSTEMS.get(config.system).config_class)}
    if config.warm_up_epochs and "global_weight" not in known:
        raise UsageError(
            f"--model {config.system} has no separate global head and no trained backbone; remove --warm-up-epochs, or "
            "choose --weights"
        )


def chosen_start(system: str, options: Mapping[str, object], weights: str) -> Start:
    """Choose the backbones and weights that are left to `AUTO`.

    A backbone that is not given is the pretrained one of the system, if weights are given or those of ImageNet are
    installed; options of small backbones (`WIDTHS`) choose those. The weights are those of ImageNet where a backbone
    has them.

    Parameters
    ----------
    options
        Fields of the system's configuration that differ from their defaults.
    weights
        As of `build_network`, or `AUTO`.

    Raises
    ------
    MissingExtraError : the system needs pretrained features, and the weights are not installed.
    """
    given = {name: value for name, value in options.items() if value != AUTO}
    suited = pretrained_of(config_of(system), given)
    if not suited:
        return Start(given, NO_WEIGHTS if weights == AUTO else weights)
    if weights == NO_WEIGHTS:
        said = "" if set(suited) <= set(given) else "starting from random weights of the small network"
        return Start(given, weights, said)
    wanted = weights != AUTO or is_solved(system) or all(map(_is_installed, suited.values()))
    if wanted and not any(name in given for name in WIDTHS):
        given = {**suited, **given}
    if weights != AUTO:
        return Start(given, weights)
    names = [str(given.get(field, "")) for field in suited]
    missing = [name for name in names if name in PRETRAINED and not _is_installed(name)]
    if is_solved(system) and missing:
        raise MissingExtraError(
            f"--model {system} needs the ImageNet weights of {missing[0]}, which are not installed; {EXTRA}, or give "
            "a file with --weights"
        )
    found = [IMAGENET if _is_installed(name) else NO_WEIGHTS for name in names]
    trained = [name for name in names if _is_installed(name)]
    said = f"starting from ImageNet weights of {' and '.join(dict.fromkeys(trained))}"
    if not trained:
        hint = "" if wanted else f"; {EXTRA} brings ImageNet weights, with which fewer images suffice"
        said = f"starting from random weights{hint}"
    return Start(given, found[0] if len(set(found)) == 1 else ",".join(found), said)


def _is_installed(backbone: str) -> bool:
    """Whether the ImageNet weights of a backbone are installed."""
    return backbone in PRETRAINED and has_imagenet_weights(PRETRAINED.index(backbone))


def new_network(system: str, options: Mapping[str, object], weights: str, seed: int) -> Network:
    """Create a network with random weights from the seed, and optionally backbones with trained weights.

    Parameters
    ----------
    options
        Fields of the system's configuration.
    weights
        See `build_network`.

    Raises
    ------
    UsageError, CheckpointError, MissingExtraError : see `build_network`.
    """
    torch.manual_seed(seed)
    return build_network(system, options, weights)


def weights_record(weights: str) -> str:
    """Return what a run records of its initial weights: the hashes of files, so that another file is another run.

    Raises
    ------
    UsageError : a file does not exist.
    """
    return ",".join(map(_weight_record, weights_of_each(weights)))


def _weight_record(weights: str) -> str:
    if weights in NAMED_WEIGHTS:
        return weights
    if weights == AUTO:
        raise UsageError(f"--weights: {AUTO} is for all backbones; give {', '.join(NAMED_WEIGHTS)} or a file for each")
    if not Path(weights).is_file():
        raise UsageError(
            f"--weights {weights}: no such file; the option takes {AUTO}, {', '.join(NAMED_WEIGHTS)} or a .safetensors "
            "file, one for all backbones or one for each, separated by commas"
        )
    return f"sha256:{sha256_of(Path(weights))}"
