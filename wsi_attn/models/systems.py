"""The attention systems by name: what `--model` takes, and what a checkpoint's `system` refers to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from wsi_attn.models.contract import NetworkConfig, SlideModel
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig
from wsi_attn.registry import Registry

SYSTEMS: Registry[tuple[Callable[[Any], SlideModel], type[NetworkConfig]]] = Registry("attention system")
SYSTEMS.register("deep-attention")((DeepAttention, DeepAttentionConfig))


def build_network(system: str, config: dict[str, Any]) -> SlideModel:
    """The network of a system from its plain configuration.

    Raises
    ------
    UnknownNameError : there is no such system.
    TypeError : the configuration has keys that the system does not know, or lacks one.
    """
    network, config_class = SYSTEMS.get(system)
    known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return network(config_class(**known))


def plain_config(config: NetworkConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
