"""Configurations of the attention systems, one file each. They import no PyTorch, so that ``--help`` is instant."""

from __future__ import annotations

from wsi_attn.registry import Registry

CLASSIFICATION, SEGMENTATION, BAGS = "classification", "segmentation", "bag-classification"
"""What a system is for."""

PLACES = {
    "deep-attention": (
        "wsi_attn.models.deep_attention:DeepAttention",
        "wsi_attn.models.configs.deep_attention:DeepAttentionConfig",
    ),
    "cnn": ("wsi_attn.models.cnn:Cnn", "wsi_attn.models.configs.cnn:CnnConfig"),
    "probe": ("wsi_attn.models.probe:Probe", "wsi_attn.models.configs.probe:ProbeConfig"),
    "global-spatial": (
        "wsi_attn.models.global_spatial:GlobalSpatial",
        "wsi_attn.models.configs.global_spatial:GlobalSpatialConfig",
    ),
    "dual-cross": ("wsi_attn.models.dual_cross:DualCross", "wsi_attn.models.configs.dual_cross:DualCrossConfig"),
    "gated-mil": ("wsi_attn.models.gated_mil:GatedMil", "wsi_attn.models.configs.gated_mil:GatedMilConfig"),
    "joint-segmentation": (
        "wsi_attn.models.joint_segmentation:JointSegmentation",
        "wsi_attn.models.configs.joint_segmentation:JointSegmentationConfig",
    ),
}
"""Places of the network and of the configuration of each built-in system, as in `Registry`."""

GROUP = "wsi_attn.models"

CONFIGS: Registry[type] = Registry(
    "attention system",
    GROUP,
    {name: config for name, (_, config) in PLACES.items()},
    lambda member: hasattr(member, "config_class"),
)
"""Configurations of the built-in systems by the name of the system; the networks of those of other packages."""


def task_of(system: str) -> str:
    """Return the task of a system; raises `UnknownNameError`."""
    return str(getattr(_member(system), "task", CLASSIFICATION))


def config_of(system: str) -> type:
    """Return the configuration of a system, a dataclass; that of another package is imported with its network.

    Raises
    ------
    UnknownNameError : there is no such system.
    """
    found = _member(system)
    return getattr(found, "config_class", found)


def is_solved(system: str) -> bool:
    """Return whether the weights of a system are computed at once and not trained in steps; see `config_of`."""
    return bool(getattr(config_of(system), "solved", False))


def _member(system: str) -> type:
    """The configuration of a built-in system, the network of another one."""
    if system in CONFIGS:
        return CONFIGS.get(system)
    from wsi_attn.models.systems import SYSTEMS

    return SYSTEMS.get(system)  # Of the running program, or unknown.
