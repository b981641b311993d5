"""What learns, and how fast."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsi_attn.errors import UsageError
from wsi_attn.models.systems import build_network
from wsi_attn.nn.efficientnet_lite import EfficientNetLite
from wsi_attn.tasks.config import TrainConfig
from wsi_attn.train.groups import Freezing, frozen_parameters, parameter_groups

TWO = {"classes": 2, "backbone": "small", "second_backbone": "small-vgg", "coarse_widths": (4, 4, 8, 8)}


def shares(config: TrainConfig, trained: int) -> dict[str, tuple[float, float]]:
    """Share of the rate and decay of each parameter; the first backbones have trained weights."""
    network = build_network("dual-cross", {**TWO, "widths": (8, 8), "heads": 1, "fused_width": 8, "hidden": 8})
    groups = parameter_groups(network, network.backbones()[:trained], config)
    found = {id(value): (group["share"], group["weight_decay"]) for group in groups for value in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    return {name: found[id(value)] for name, value in network.named_parameters()}


def test_roles_have_their_rates_and_only_weights_decay() -> None:
    found = shares(TrainConfig(system="dual-cross", weight_decay=0.5), 1)
    assert found["networks.0.stem.0.weight"] == (0.1, 0.5)
    assert found["networks.0.stem.1.weight"] == (0.1, 0)
    assert found["networks.1.parts.0.0.0.weight"] == (1, 0.5)
    assert found["head.1.weight"] == (1, 0.5)
    assert found["head.1.bias"] == (1, 0)
    gates = {name: value for name, value in found.items() if "gamma" in name}
    assert gates
    assert set(gates.values()) == {(10, 0)}
    given = shares(TrainConfig(system="dual-cross", backbone_rate=0.3, gate_rate=2), 0)
    assert {given["networks.0.stem.0.weight"][0], given["networks.1.parts.0.0.0.weight"][0]} == {0.3}
    assert {given[name] for name in gates} == {(2, 0)}


def test_stages_thaw_from_the_last() -> None:
    config = TrainConfig(system="cnn", freeze=3, unfreeze_epochs=2, warm_up_epochs=1)
    assert [Freezing([], config, 1).stages(epoch) for epoch in range(9)] == [None, 3, 3, 2, 2, 1, 1, 0, 0]
    assert Freezing([], TrainConfig(system="cnn", freeze=2), 0).stages(50) == 2


def test_frozen_stages_have_neither_gradient_nor_new_statistics() -> None:
    backbone = EfficientNetLite(0, 16)
    network = nn.Sequential(backbone)
    freezing = Freezing([backbone], TrainConfig(system="cnn", freeze=2), 0)
    freezing.begin_epoch(0)
    network.train()
    freezing.begin_epoch(0)
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(torch.rand(2, 3, 64, 64)).sum().backward()
    frozen = [name for name, value in backbone.named_parameters() if value.grad is None]
    assert frozen == [name for name, _ in backbone.named_parameters()][: len(frozen)]
    assert {name.split(".")[0] + name.split(".")[1] for name in frozen if "blocks" in name} == {"blocks0", "blocks1"}
    for name, value in backbone.named_buffers():
        if name.endswith("running_mean"):
            still = name.startswith(("stem", "blocks.0", "blocks.1"))
            assert torch.equal(value, before[name]) == still, name


def test_more_stages_than_there_are_cannot_be_frozen() -> None:
    backbone = EfficientNetLite(0, 16)
    count = len(backbone.stages())
    Freezing([backbone], TrainConfig(system="cnn", freeze=count), 0)
    with pytest.raises(UsageError, match=f"{count} stages"):
        Freezing([backbone], TrainConfig(system="cnn", freeze=count + 1), 0)


def test_more_stages_than_there_are_is_the_whole_backbone() -> None:
    backbone = EfficientNetLite(0, 16)
    everything = list(map(id, backbone.parameters()))
    assert [id(value) for value in frozen_parameters(backbone, 9)] == everything
    assert [id(value) for value in frozen_parameters(backbone, None)] == everything
    assert frozen_parameters(backbone, 0) == []
