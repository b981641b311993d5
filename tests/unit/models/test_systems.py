"""Networks by name, with backbones of timm: normalisation, weights, and a checkpoint that needs neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.timm_here import NETWORK, timm_or_skip, write_weights
from wsi_attn.errors import CheckpointError, UsageError
from wsi_attn.models.checkpoint import load_checkpoint, save_checkpoint
from wsi_attn.models.spec import ModelSpec
from wsi_attn.models.systems import SYSTEMS, build_network, plain_config
from wsi_attn.testing.models import batch_of, noise

TIMM = f"timm:{NETWORK}"
OPTIONS: dict[str, dict[str, Any]] = {
    "cnn": {"classes": 2, "coarse_factor": 2},
    "deep-attention": {"classes": 2, "coarse_factor": 2, "patch_size": 64, "instances": 2, "hidden": 8},
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    timm_or_skip()
    write_weights(tmp_path / "weights.safetensors", seed=5)
    return tmp_path / "weights.safetensors"


def test_the_systems_there_are() -> None:
    assert SYSTEMS.names() == [
        "cnn",
        "deep-attention",
        "dual-cross",
        "gated-mil",
        "global-spatial",
        "joint-segmentation",
        "probe",
    ]


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("system", OPTIONS)
def test_a_backbone_of_timm_brings_its_normalisation(system: str) -> None:
    config = build_network(system, {**OPTIONS[system], "backbone": "timm:resnet18"}).config
    assert config.mean == (0.485, 0.456, 0.406)
    assert config.std == (0.229, 0.224, 0.225)
    own = build_network(system, {**OPTIONS[system], "backbone": TIMM, "mean": [0.1, 0.2, 0.3]}).config
    assert own.mean == (0.1, 0.2, 0.3)
    assert build_network(system, OPTIONS[system]).config.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("system", OPTIONS)
def test_trained_weights_go_into_every_backbone_of_timm(system: str, weights: Path, tmp_path: Path) -> None:
    options = {**OPTIONS[system], "backbone": TIMM}
    if system == "deep-attention":
        options["patch_backbone"] = TIMM
    network = build_network(system, options, str(weights)).eval()
    first = build_network(system, options, str(weights))
    for name, value in network.state_dict().items():
        if name.startswith(("phi", "psi")):
            assert torch.equal(value, first.state_dict()[name])

    batch = batch_of([noise(160, 224)], network)
    output = network(batch)
    assert output.attention.shape == (1, 5, 7)
    save_checkpoint(
        tmp_path / "m", name="m", system=system, network=network, spec=ModelSpec(("a", "b"), None, "any", "none"),
        card="# m", provenance={},
    )  # fmt: skip
    weights.unlink()
    loaded = load_checkpoint(tmp_path / "m").network
    assert plain_config(loaded.config) == plain_config(network.config)
    assert torch.equal(loaded(batch).logits, output.logits)


@pytest.mark.parametrize("system", OPTIONS)
def test_a_backbone_of_timm_trains(system: str, weights: Path) -> None:
    network = build_network(system, {**OPTIONS[system], "backbone": TIMM}, str(weights))
    output = network(batch_of([noise(160, 224), noise(160, 160, 1)], network, torch.Generator().manual_seed(0)))
    sum(network.losses(output, torch.tensor([0, 1])).values()).backward()
    stem = next(parameter for name, parameter in network.named_parameters() if name.startswith("phi.network"))
    assert stem.grad.abs().sum() > 0


@pytest.mark.parametrize("system", OPTIONS)
def test_weights_that_nothing_takes_or_that_do_not_fit(system: str, weights: Path) -> None:
    with pytest.raises(UsageError, match="no pretrained weights"):
        build_network(system, OPTIONS[system], "pretrained")
    with pytest.raises(CheckpointError, match="does not contain the weights"):
        build_network(system, {**OPTIONS[system], "backbone": "timm:test_convnext"}, str(weights))
