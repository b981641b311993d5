"""Registry of the attention systems: the values of `--model` and of `system` in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import msgspec

from wsi_attn.errors import UsageError
from wsi_attn.json_types import JsonObject
from wsi_attn.models.base import Network, NetworkConfig
from wsi_attn.models.configs import GROUP, PLACES
from wsi_attn.nn.backbone import TakesWeights
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

NAMED_WEIGHTS = (NO_WEIGHTS, "imagenet", "pretrained")
"""Initial weights that are not a file."""


def build_network(system: str, config: Mapping[str, object], weights: str = NO_WEIGHTS) -> Network:
    """Build the network of a system from its plain configuration.

    Parameters
    ----------
    config
        Fields of the system's configuration. If it names a timm backbone but no `mean` and `std`, those of its
        pretrained weights are used.
    weights
        Initial weights of EfficientNet-Lite and timm backbones and of the DenseNets of joint-segmentation: one of
        `NAMED_WEIGHTS`, or a `.safetensors` file.

    Raises
    ------
    UnknownNameError : unknown system, backbone or choice.
    TypeError : unknown or missing configuration keys.
    msgspec.ValidationError : a value of another type.
    UsageError : conflicting options, or weights for backbones that take none.
    CheckpointError : the weights cannot be downloaded or do not match.
    MissingExtraError : timm is requested but not installed.
    """
    network = SYSTEMS.get(system)
    known: dict[str, object] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
    }
    given = network.config_class(**_normalised(network.completed(known)))
    msgspec.convert(asdict(given), type(given))
    built = network(given)
    if weights != NO_WEIGHTS:
        backbones = [module for module in built.modules() if isinstance(module, TakesWeights)]
        if not backbones:
            raise UsageError(
                f"--weights {weights}: the small backbones have no pretrained weights; "
                "choose efficientnet-lite0 or timm:NAME"
            )
        for backbone in backbones:
            backbone.load(weights)
    return built


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
