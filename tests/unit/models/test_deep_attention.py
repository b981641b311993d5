"""The main model: equations, geometry, gradients, and that it reads what decides."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from wsi_attn.errors import CheckpointError
from wsi_attn.models import coarse as coarse_view
from wsi_attn.models.base import BagBatch, SlideOutput
from wsi_attn.models.checkpoint import load_checkpoint, save_checkpoint
from wsi_attn.models.coarse import encode_blocks
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig
from wsi_attn.models.instances import AttentionGrid
from wsi_attn.models.spec import Appearance, ModelSpec
from wsi_attn.testing.models import Field, batch_of, noise

SMALL: dict[str, Any] = {
    "coarse_factor": 4,
    "patch_size": 32,
    "instances": 3,
    "coarse_widths": (8, 8),
    "patch_widths": (8, 8),
    "hidden": 8,
}


def build(**options: Any) -> DeepAttention:
    torch.manual_seed(0)
    return DeepAttention(DeepAttentionConfig(classes=2, **{**SMALL, **options})).eval()


def test_attention_sums_to_one_over_valid_cells_only() -> None:
    network = build()
    batch = batch_of([noise(96, 160), noise(64, 64, 1)], network)
    output = network(batch)
    assert output.attention.sum(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    assert (output.attention[~batch.valid] == 0).all()
    assert output.patch_attention.sum(dim=1).tolist() == pytest.approx([1, 1])


def test_evidence_of_the_focus_is_its_share_of_the_logits() -> None:
    """With one cell in focus and no say of the patches, the logits above their mean are that cell's evidence."""
    network = build(focus=1)
    with torch.no_grad():
        network.fused_head.weight[:, network.phi.out_channels :] = 0
        network.fused_head.bias[:] = 0
    output = network(batch_of([noise(96, 160)], network))
    assert output.evidence is not None
    assert output.evidence.shape == (1, 2, *output.attention.shape[1:])
    focus = output.attention.flatten(1).argmax()
    logits = output.logits[0] - output.logits[0].mean()
    assert output.evidence[0].flatten(1)[:, focus].tolist() == pytest.approx(logits.tolist(), abs=1e-5)
    assert network.train()(batch_of([noise(96, 160)], network)).evidence is None


def test_a_batch_answers_as_each_alone() -> None:
    """Two sizes that share no padding effect: the smaller one's views end on a cell border."""
    network = build()
    fields = [noise(128, 160), noise(128, 160, 1)]
    together = network(batch_of(fields, network)).logits
    alone = torch.cat([network(batch_of([field], network)).logits for field in fields])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (100, 230), (33, 400), (20, 24)])
def test_patches_lie_inside_and_are_never_shrunk(height: int, width: int) -> None:
    network = build()
    output = network(batch_of([noise(height, width)], network))
    corners = output.patch_xy[0][output.patch_mask[0]]
    assert len(corners)
    assert (corners >= 0).all()
    assert (corners[:, 0] <= max(0, width - 32)).all()
    assert (corners[:, 1] <= max(0, height - 32)).all()


def test_one_hot_cell_gives_a_patch_around_its_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(instances=1)
    batch = batch_of([noise(256, 320)], network)
    for row, column in [(4, 5), (8, 13), (11, 10)]:
        scores = torch.zeros(1, *batch.valid.shape[1:])
        scores[0, row, column] = 1
        look = AttentionGrid(scores.flatten(1), batch.valid, batch.extent, network.cell)
        centre = network.selection.choose(look, None).xy[0, 0] + 16
        wanted = torch.tensor([(column + 0.5) * network.cell, (row + 0.5) * network.cell])
        assert (centre - wanted).abs().max() <= network.cell / 2


@pytest.mark.parametrize("smoothing", [0.0, 0.8])
def test_encoding_in_blocks_equals_one_pass(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(coarse_widths=(8, 8, 8), smoothing=smoothing)
    coarse = torch.randint(0, 256, (1, 3, 203, 349), dtype=torch.uint8)
    (whole,) = encode_blocks(network.phi, network.normalise, coarse)
    monkeypatch.setattr(coarse_view, "BLOCK_PIXELS", 7 * network.stride)
    found = torch.full_like(whole.features, torch.nan)
    for rows, columns, features in encode_blocks(network.phi, network.normalise, coarse):
        found[:, :, rows, columns] = features
    assert torch.allclose(found, whole.features, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    network = build().train()
    output = network(batch_of([noise(96, 96), noise(96, 96, 1)], network))
    sum(network.losses(output, torch.tensor([0, 1])).values()).backward()
    for name, parameter in network.named_parameters():
        if name == "coarse_gate.w.bias" or name == "patch_gate.w.bias":
            continue  # a softmax does not see a shift of all its logits
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_fused_loss_alone_reaches_the_attention() -> None:
    network = build().train()
    output = network(batch_of([noise(96, 96), noise(96, 96, 1)], network))
    gradient = torch.autograd.grad(output.logits.sum(), network.coarse_gate.w.weight)[0]
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("cells", [1, 16])
def test_entropy_term_against_closed_form(cells: int) -> None:
    network = build(entropy_weight=0.3, guidance_weight=0.0)
    attention = torch.zeros(1, 4, 4)
    attention.view(-1)[:cells] = 1 / cells
    empty = torch.zeros(1, 2)
    output = SlideOutput(empty, attention, *(torch.zeros(1, 3),) * 4, empty, empty, torch.zeros(1))
    terms = network.losses(output, torch.tensor([0]))
    assert terms["entropy"].item() == pytest.approx(-0.3 * math.log(cells), abs=1e-3)
    assert terms["fused"].item() == pytest.approx(math.log(2))


def test_patches_that_cannot_be_decoded_are_left_out_and_counted() -> None:
    network = build()
    field = noise(96, 96)
    output = network(batch_of([field, Field(field.pixels, broken=True)], network))
    assert output.unreadable.tolist() == [0, 3]
    assert output.patch_attention[1].sum() == 0
    assert output.logits.isfinite().all()


def test_a_slide_without_valid_cells_has_a_finite_answer() -> None:
    network = build()
    batch = batch_of([noise(64, 64)], network)
    empty = BagBatch(batch.coarse, torch.zeros_like(batch.valid), batch.extent, batch.sources)
    output = network(empty)
    assert output.logits.isfinite().all()
    assert not output.patch_mask.any()
    assert output.attention.sum() == 0


def test_evaluation_draws_nothing_and_training_draws_by_its_generator() -> None:
    network = build(exploration=5.0)
    fields = [noise(128, 128), noise(128, 128, 1)]

    def places(seed: int) -> list[Any]:
        return network(batch_of(fields, network, torch.Generator().manual_seed(seed))).patch_xy.tolist()

    assert places(0) == places(1)
    network.train()
    assert places(0) == places(0)
    assert places(0) != places(1)


def test_save_and_load_give_the_same_answers(tmp_path: Path) -> None:
    network = build()
    spec = ModelSpec(("a", "b"), 0.5, "H&E", "otsu", Appearance((0.0,) * 4, (1.0,) * 16, 2.0))
    save_checkpoint(
        tmp_path / "m", name="m", system="deep-attention", network=network, spec=spec, card="# m", provenance={}
    )
    loaded = load_checkpoint(tmp_path / "m")
    assert loaded.spec == spec
    assert not loaded.network.training
    batch = batch_of([noise(96, 96)], network)
    assert torch.equal(loaded.network(batch).logits, network(batch).logits)


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "other weights", "other system", "no json"])
def test_damaged_checkpoints_say_so_in_one_line(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    spec = ModelSpec(("a", "b"), None, "any", "none")
    save_checkpoint(folder, name="m", system="deep-attention", network=build(), spec=spec, card="", provenance={})
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:200])
    elif damage == "other weights":
        save_checkpoint(
            tmp_path / "o",
            name="o",
            system="deep-attention",
            network=build(hidden=4),
            spec=spec,
            card="",
            provenance={},
        )
        weights.write_bytes((tmp_path / "o" / "model.safetensors").read_bytes())
    elif damage == "other system":
        config.write_text(config.read_text().replace("deep-attention", "shallow"))
    else:
        config.write_text("{")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_guidance_teaches_the_map_what_the_patches_say() -> None:
    network = build(guidance_weight=1.0, entropy_weight=0.0).train()
    batch = batch_of([noise(96, 96), noise(20, 24, 1)], network)
    output = network(batch)
    term = network.losses(output, torch.tensor([0, 1]))["guidance"]
    assert term >= 0
    term.backward()
    assert network.coarse_gate.w.weight.grad is not None
    assert network.coarse_gate.w.weight.grad.abs().sum() > 0
    assert network.patch_gate.w.weight.grad is None  # the teacher is not taught
    for without in (build(guidance_weight=0.0), build(selection="threshold")):  # the latter has no gate to learn from
        assert "guidance" not in without.losses(output, torch.tensor([0, 1]))


def test_the_global_feature_is_of_all_cells_in_one_pass_or_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    network, field = build(), noise(203, 349)
    batch = batch_of([field], network)
    output = network(batch)
    features = network.phi(network.normalise(batch.coarse[:, :]))
    expected = torch.einsum("bhw,bdhw->bd", output.attention, features)
    assert output.pooled is not None
    torch.testing.assert_close(output.pooled[:, : network.phi.out_channels], expected)
    monkeypatch.setattr(coarse_view, "BLOCK_PIXELS", 7 * network.stride)
    blocks = network(batch_of([field], network))
    torch.testing.assert_close(blocks.pooled, output.pooled, atol=1e-5, rtol=1e-5)
