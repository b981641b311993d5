"""Every selection, branch and head of the main model: laws that hold for all, and what each promises."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_attn.data.bags import collate, make_bag
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import UnknownNameError, UsageError
from wsi_attn.models.base import BagBatch
from wsi_attn.models.checkpoint import load_checkpoint, save_checkpoint
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig
from wsi_attn.models.instances import AttentionGrid, Instances, Sample, Threshold, read_instances
from wsi_attn.models.spec import ModelSpec
from wsi_attn.models.zoo import shipped_models
from wsi_attn.slides.open import open_slide
from wsi_attn.testing.models import Field, batch_of, noise

SMALL: dict[str, Any] = {
    "coarse_factor": 4,
    "patch_size": 32,
    "instances": 3,
    "coarse_widths": (8, 8),
    "patch_widths": (8, 8),
    "hidden": 8,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "top-k": {},
    "sample": {"selection": "sample"},
    "threshold": {"selection": "threshold"},
    "threshold, coupled": {"selection": "threshold", "coupling": True},
    "two heads": {"heads": 2},
    "two heads, sample": {"heads": 2, "selection": "sample"},
    "no gate": {"gated": False},
    "global": {"branches": "global"},
    "local": {"branches": "local"},
    "local, sample": {"branches": "local", "selection": "sample"},
    "uniform": {"sampling": "uniform"},
    "uniform, sample": {"sampling": "uniform", "selection": "sample"},
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


def build(**options: Any) -> DeepAttention:
    """A network with statistics as after training, in evaluation."""
    torch.manual_seed(0)
    network = DeepAttention(DeepAttentionConfig(classes=2, **{**SMALL, **options}))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.5, 0.5)
        network.coarse_gate.w.weight *= 10  # a peaked map, where the rules differ
    return network.eval()


@every_variant
def test_maps_and_weights_are_distributions(options: dict[str, Any]) -> None:
    network = build(**options)
    batch = batch_of([noise(96, 160), noise(64, 64, 1)], network)
    output = network(batch)
    assert output.logits.isfinite().all()
    assert output.attention.sum(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    assert (output.attention[~batch.valid] == 0).all()
    if output.patch_mask.numel():
        assert output.patch_attention.sum(dim=1).tolist() == pytest.approx([1, 1])
        assert (output.patch_attention[~output.patch_mask] == 0).all()


@every_variant
def test_every_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    network = build(**options).train()
    output = network(batch_of([noise(96, 96), noise(96, 96, 1)], network, torch.Generator().manual_seed(0)))
    sum(network.losses(output, torch.tensor([0, 1])).values()).backward()
    blind = {"coarse_gate.w.bias", "patch_gate.w.bias"}  # a softmax does not see a shift of all its logits
    for name, parameter in network.named_parameters():
        if name not in blind:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@every_variant
def test_a_batch_of_any_sizes_answers_as_each_alone(options: dict[str, Any]) -> None:
    network = build(**options)
    fields = [noise(128, 160), noise(70, 49, 1), noise(33, 200, 2)]
    together = network(batch_of(fields, network))
    for index, field in enumerate(fields):
        alone = network(batch_of([field], network))
        rows, columns = alone.attention.shape[1:]
        assert torch.allclose(together.logits[index], alone.logits[0], atol=1e-4)
        assert torch.allclose(together.attention[index, :rows, :columns], alone.attention[0], atol=1e-5)
        assert torch.equal(together.patch_xy[index], alone.patch_xy[0])


@every_variant
def test_save_and_load_give_the_same_answers(options: dict[str, Any], tmp_path: Path) -> None:
    network = build(**options)
    spec = ModelSpec(("a", "b"), None, "any", "none")
    save_checkpoint(
        tmp_path / "m", name="m", system="deep-attention", network=network, spec=spec, card="# m", provenance={}
    )
    loaded = load_checkpoint(tmp_path / "m").network
    assert loaded.config == network.config
    batch = batch_of([noise(96, 96)], network)
    first, second = network(batch), loaded(batch)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.attention, second.attention)
    assert torch.equal(first.patch_xy, second.patch_xy)


@every_variant
def test_nothing_to_look_at_and_nothing_decoded_have_finite_answers(options: dict[str, Any]) -> None:
    network = build(**options).train()
    batch = batch_of([noise(64, 64), Field(noise(64, 64).pixels, broken=True)], network)
    batch = replace(batch, valid=batch.valid & torch.tensor([False, True])[:, None, None])
    output = network(batch)
    sum(network.losses(output, torch.tensor([0, 1])).values()).backward()
    assert output.logits.isfinite().all()
    assert not output.patch_mask.any()
    assert output.attention[0].sum() == 0
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_variant
def test_half_precision_is_near(options: dict[str, Any]) -> None:
    network = build(**options, entropy_weight=0.0)
    batch = batch_of([noise(96, 96)], network)
    whole = network(batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(batch)
        network.losses(half, torch.tensor([1]))["fused"].backward()
    assert half.attention.dtype == torch.float32
    assert half.attention.sum().item() == pytest.approx(1, abs=1e-5)
    if torch.equal(half.patch_xy, whole.patch_xy):  # a near tie may be decided the other way
        assert torch.allclose(half.logits.float(), whole.logits, atol=0.05)


@pytest.mark.parametrize("options", [{}, {"selection": "threshold", "coupling": True}, {"heads": 2}])
def test_fused_logits_have_the_derivative_of_finite_differences(options: dict[str, Any]) -> None:
    """In float64, over the attention, the pooling and the fusion; the places stay the same within the step."""
    network = build(**options).double()
    batch = batch_of([noise(96, 96)], network)
    check_derivatives(network, batch, ("coarse_gate.w.weight", "coarse_gate.V.weight", "psi.stem.0.weight"))


def test_sampled_fusion_has_the_derivative_of_finite_differences_below_the_draw() -> None:
    """The estimator's gradient to the attention is that of its expectation, so only what lies after it is compared."""
    network = build(selection="sample").double()
    check_derivatives(
        network, batch_of([noise(96, 96)], network), ("patch_gate.V.weight", "psi.stem.0.weight", "fused_head.weight")
    )


def check_derivatives(network: DeepAttention, batch: BagBatch, names: tuple[str, ...]) -> None:
    parameters = dict(network.named_parameters())
    network(batch).logits[0, 1].backward()
    for name in names:
        weights = parameters[name].data.view(-1)
        for place in (0, len(weights) // 2):
            values = []
            for step in (1e-6, -1e-6):
                weights[place] += step
                values.append(network(batch).logits[0, 1].item())
                weights[place] -= step
            slope = (values[0] - values[1]) / 2e-6
            assert parameters[name].grad.view(-1)[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-8), name


# prior and heads ------------------------------------------------------------------------------------------


def test_attention_is_proportional_to_the_prior() -> None:
    network = build()
    batch = batch_of([noise(96, 160)], network)
    prior = torch.rand(batch.valid.shape, generator=torch.Generator().manual_seed(0))
    prior[0, 0, :3] = 0
    plain, weighted = network(batch).attention, network(replace(batch, prior=prior))
    assert torch.allclose(weighted.attention, prior * plain / (prior * plain).sum(), atol=1e-6)
    assert torch.allclose(network(replace(batch, prior=7 * prior)).logits, weighted.logits, atol=1e-5)
    assert torch.equal(network(replace(batch, prior=torch.ones_like(prior))).logits, network(batch).logits)


def test_cells_without_prior_are_as_cells_that_are_not_valid() -> None:
    network = build(focus=4)
    batch = batch_of([noise(96, 160)], network)
    prior = torch.ones(batch.valid.shape)
    prior[0, :, 4:] = 0
    masked = network(replace(batch, valid=batch.valid & (prior > 0)))
    assert torch.equal(network(replace(batch, prior=prior)).logits, masked.logits)


def test_reported_attention_is_the_mean_of_the_heads() -> None:
    network = build(heads=2, focus=99)
    batch = batch_of([noise(96, 160)], network)
    maps = []
    for head in range(2):
        single = build(focus=99)
        state = {key: value for key, value in network.state_dict().items() if not key.startswith(("global", "fused"))}
        for part in ("weight", "bias"):
            state[f"coarse_gate.w.{part}"] = state[f"coarse_gate.w.{part}"][head : head + 1]
        single.load_state_dict(state, strict=False)
        maps.append(single(batch).attention)
    assert torch.allclose(network(batch).attention, (maps[0] + maps[1]) / 2, atol=1e-6)
    assert network.global_head.in_features == 16


# branches -------------------------------------------------------------------------------------------------


class Forbidden:
    """A source that must not be asked."""

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        raise AssertionError("a patch was read")


def test_the_global_branch_reads_no_patch() -> None:
    network = build(branches="global")
    batch = replace(batch_of([noise(96, 96)], network), sources=(Forbidden(),))
    output = network(batch)
    assert output.patch_xy.shape == (1, 0, 2)
    assert output.instance_logits is None
    assert set(network.losses(output, torch.tensor([0]))) == {"fused", "global", "entropy"}
    assert not any(name.startswith(("psi", "patch_gate")) for name, _ in network.named_parameters())


def test_the_local_branch_fuses_no_global_feature() -> None:
    network = build(branches="local")
    batch = batch_of([noise(96, 96)], network)
    output = network(batch)
    assert output.evidence is None
    assert network.fused_head.in_features == network.psi.out_channels
    with torch.no_grad():
        network.global_head.weight += 1
    changed = network(batch)
    assert torch.equal(changed.logits, output.logits)
    assert not torch.equal(changed.global_logits, output.global_logits)


# uniform --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["top-k", "sample"])
def test_uniform_places_do_not_follow_the_attention(selection: str) -> None:
    network = build(sampling="uniform", selection=selection)
    batch = batch_of([noise(256, 256)], network)
    first = network(batch).patch_xy
    with torch.no_grad():
        network.coarse_gate.w.weight *= -1
    assert torch.equal(network(batch).patch_xy, first)
    network.train()
    drawn = [network(replace(batch, generator=torch.Generator().manual_seed(seed))).patch_xy for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_uniform_draws_reach_every_cell_alike() -> None:
    look = AttentionGrid(
        torch.zeros(1, 12).double(), torch.ones(1, 3, 4, dtype=torch.bool), torch.tensor([[64, 48]]), 16
    )
    network = build(sampling="uniform", instances=1)
    random = torch.Generator().manual_seed(0)
    counts = torch.bincount(
        torch.cat([network.selection.choose(look, random).cells[0] for _ in range(1200)]), minlength=12
    )
    assert (counts - 100).abs().max() < 40


# threshold ------------------------------------------------------------------------------------------------


def look_at(attention: Tensor, extent: tuple[int, int] = (160, 128), cell: int = 16) -> AttentionGrid:
    log_attention = (attention / attention.sum()).log().double().flatten()[None]
    return AttentionGrid(log_attention, torch.ones(1, *attention.shape, dtype=torch.bool), torch.tensor([extent]), cell)


def test_threshold_reads_the_components_by_falling_mass() -> None:
    attention = torch.full((8, 10), 1e-4)
    attention[1, 1] = 1.0
    attention[5:7, 6:9] = 0.6
    attention[7, 0] = 0.3  # below half of the highest
    chosen = Threshold(4, 32, 0.5, False).choose(look_at(attention), None)
    assert chosen.mask.tolist() == [[True, True, False, False]]
    assert chosen.size.tolist() == [[48, 16, 0, 0]]
    assert chosen.xy[0, 1].tolist() == [16, 16]
    x, y = chosen.xy[0, 0].tolist()
    assert x == 96
    assert 64 <= y <= 80
    assert chosen.mass[0, 0].item() == pytest.approx((3.6 / attention.sum()).item())


def test_threshold_resizes_crops_of_every_size() -> None:
    field = noise(128, 160)
    instances = Instances(
        torch.tensor([[[96, 64], [16, 16], [0, 0], [3, 5]]]), torch.tensor([[48, 16, 0, 32]]),
        torch.tensor([[True, True, False, True]]), torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4),
    )  # fmt: skip
    pixels, readable = read_instances((field,), instances, 32)
    assert readable.tolist() == [[True, True, False, True]]
    found = pixels.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found[0], cv2.resize(field.pixels[64:112, 96:144], (32, 32), interpolation=cv2.INTER_AREA))
    assert np.array_equal(found[1], cv2.resize(field.pixels[16:32, 16:32], (32, 32), interpolation=cv2.INTER_LINEAR))
    assert np.array_equal(found[2], field.pixels[5:37, 3:35])


def test_absent_instances_are_zero_vectors_of_the_concatenation() -> None:
    network = build(selection="threshold", instances=4)
    look = look_at(torch.eye(8)[:, :4] + 1e-4)  # one diagonal component
    instances = network.selection.choose(look, None)
    r = torch.ones(1, 4, 8)
    pooled = network.selection.pool(look, instances, r, instances.mask, torch.full((1, 4), torch.nan))
    assert pooled.local.view(4, 8).sum(dim=1).tolist() == [8, 0, 0, 0]
    assert pooled.summary.tolist() == [[1.0] * 8]
    assert pooled.weights.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("coupling", [False, True])
def test_crops_reach_the_attention_only_where_they_are_coupled(coupling: bool) -> None:
    network = build(selection="threshold", branches="local", coupling=coupling)
    output = network(batch_of([noise(96, 96)], network))
    weight = network.coarse_gate.w.weight
    (through_head,) = torch.autograd.grad(output.global_logits[0, 0], weight, retain_graph=True)
    assert through_head.abs().sum() > 0
    if not coupling:
        assert not output.logits.requires_grad or torch.autograd.grad(
            output.logits[0, 0], weight, allow_unused=True
        ) == (None,)
    else:
        assert torch.autograd.grad(output.logits[0, 0], weight)[0].abs().sum() > 0


def test_threshold_draws_nothing_while_training() -> None:
    network = build(selection="threshold", exploration=9.0).train()
    fields = [noise(128, 128), noise(128, 128, 1)]
    places = [
        network(batch_of(fields, network, torch.Generator().manual_seed(seed))).patch_xy.tolist() for seed in (0, 1)
    ]
    assert places[0] == places[1]


# sample ---------------------------------------------------------------------------------------------------


def test_sample_repeats_in_evaluation_and_draws_by_its_generator_in_training() -> None:
    network = build(selection="sample")
    with torch.no_grad():
        network.coarse_gate.w.weight *= 0.01
    batch = batch_of([noise(128, 128), noise(128, 128, 1)], network)
    assert torch.equal(network(batch).patch_xy, network(batch).patch_xy)
    network.train()
    drawn = [network(replace(batch, generator=torch.Generator().manual_seed(seed))).patch_xy for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_fewer_cells_than_draws_are_each_read_once() -> None:
    network = build(selection="sample", instances=8)
    batch = batch_of([noise(32, 48)], network)
    valid = torch.zeros_like(batch.valid)
    valid[0, 0, :3] = True
    output = network(replace(batch, valid=valid))
    assert output.patch_mask.sum() == 3
    assert output.patch_xy[0, :3, 0].sort().values.tolist() == [0, 8, 16]
    assert output.logits.isfinite().all()


def test_pooled_sample_is_unbiased_over_all_draws_and_drops_the_unreadable() -> None:
    """Phi of (8b) averaged over every ordered draw, with its probability; one cell cannot be decoded."""
    attention = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    rule = Sample(2, 32, 0.0, False)
    features = torch.nn.functional.normalize(torch.randn(4, 3, dtype=torch.float64), dim=1)
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    look = AttentionGrid(attention.log()[None], valid, torch.tensor([[64, 64]]), 16)
    gate = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    total = torch.zeros(3, dtype=torch.float64)
    for first, second in itertools.permutations(range(4), 2):
        chance = attention[first] * attention[second] / (1 - attention[first])
        cells = torch.tensor([[first, second]])
        drawn = torch.ones(1, 2, dtype=torch.bool)
        instances = Instances(torch.zeros(1, 2, 2), torch.zeros(1, 2), drawn, cells, attention[cells])
        total += chance * rule.pool(look, instances, features[cells], drawn, gate).local[0, :3]
    assert torch.allclose(total, attention @ features, atol=1e-12)

    cells, readable = torch.tensor([[1, 0]]), torch.tensor([[False, True]])
    instances = Instances(torch.zeros(1, 2, 2), torch.zeros(1, 2), torch.ones_like(readable), cells, attention[cells])
    found = rule.pool(look, instances, features[cells], readable, gate)
    assert torch.allclose(found.local[0, :3], features[0])
    assert found.weights.tolist() == [[0, 1]]


@dataclass
class Counted:
    """A source that counts what is read from it."""

    field: Field
    read: int = 0

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        self.read += len(xy)
        return self.field.read_patches(xy, size)


@every_variant
def test_no_more_patches_are_read_than_instances(options: dict[str, Any]) -> None:
    network = build(**options)
    source = Counted(noise(200, 300))
    network(replace(batch_of([source.field], network), sources=(source,)))
    assert source.read <= network.config.instances
    assert (source.read == 0) == (network.config.branches == "global")


# configuration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 0.0}, "above 0"),
        ({"threshold": 1.5}, "at most 1"),
        ({"attention_smoothing": 1.0}, "below 1"),
        ({"heads": 0}, "at least 1"),
        ({"selection": "threshold", "sampling": "uniform"}, "does not sample"),
    ],
)
def test_options_that_contradict_themselves(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        DeepAttentionConfig(classes=2, **options)


@pytest.mark.parametrize("option", ["selection", "branches", "sampling"])
def test_choices_that_there_are_not(option: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        DeepAttentionConfig(classes=2, **{option: "treshold"})
    assert option in caught.value.kind


@pytest.mark.parametrize(
    ("name", "logits"),
    [
        ("cellularity-he", [-1.110793, 0.2309397, 0.0512688]),
        ("fungi", [-2.912223, 2.488711, -2.908850, 1.844472, -6.755787]),
    ],
)
def test_shipped_models_answer_as_when_they_were_made(name: str, logits: list[float], demo_slide: Path) -> None:
    """Recorded before the selections, heads and the prior existed, or when all commands got one tissue mask.

    The tolerance is that of other processors.
    """
    checkpoint = load_checkpoint(shipped_models()[name])
    network = checkpoint.network
    with open_slide(demo_slide) as slide, torch.inference_mode():
        patches = SlidePatches(slide, checkpoint.spec.mpp, network.config.coarse_factor, workers=1)
        output = network(collate([make_bag(patches, checkpoint.spec.tissue)], network.stride))
    assert output.logits[0].tolist() == pytest.approx(logits, abs=2e-3)
