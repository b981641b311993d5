"""CARE: its terms by hand, its gradients by finite differences, and that it touches nothing but what it should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wsi_attn.errors import UsageError
from wsi_attn.models.base import SlideModel, without_patches
from wsi_attn.models.cnn import Cnn, CnnConfig
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig
from wsi_attn.models.systems import build_network
from wsi_attn.tasks.classification.care import (
    TERM,
    LesionCells,
    attention_loss,
    care_terms,
    grad_cam,
    on_cells,
    training_map,
    unit_scaled,
)
from wsi_attn.tasks.classification.dataset import GuidedStep
from wsi_attn.tasks.classification.lesions import lesion_cells
from wsi_attn.tasks.classification.training import ClassificationLosses, explained
from wsi_attn.tasks.config import TrainConfig
from wsi_attn.testing.models import batch_of, noise
from wsi_attn.train.loop import Objective

TAU = 0.5
BOX = np.zeros((5, 5), bool)
BOX[1:3, 2:4] = True


def cells(*regions: np.ndarray | None, distance: float = 0.0, stride: int = 1) -> LesionCells:
    shape = next(region.shape for region in regions if region is not None)
    valid = torch.ones((len(regions), -(-shape[0] // stride), -(-shape[1] // stride)), dtype=torch.bool)
    return lesion_cells(regions, [shape] * len(regions), valid, stride, distance)


def settings(**options: object) -> dict[str, object]:
    return {"weight": 0.01, "tau": TAU, "reduction": "sum", "second_order": False, **options}


def cnn(**options: object) -> Cnn:
    torch.manual_seed(0)
    return Cnn(CnnConfig(classes=3, coarse_factor=4, coarse_widths=(4, 4), dropout=0.0, **options))


@pytest.mark.parametrize(("inside", "outside", "wanted"), [(1, 0, -0.5), (0, 1, 1), (0.3, 0.3, 0), (0.8, 0.8, 0.3)])
def test_terms_of_maps_that_can_be_done_by_hand(inside: float, outside: float, wanted: float) -> None:
    marks = cells(BOX)
    scaled = torch.where(torch.from_numpy(BOX), inside, outside)[None].float()
    assert attention_loss(scaled, marks.inner, marks.outer, TAU).tolist() == pytest.approx([wanted])


def test_a_map_in_the_box_has_no_gradient() -> None:
    """Above tau the inside pulls no more, and an outside that is all at the minimum cannot fall."""
    marks = cells(BOX)
    raw = torch.from_numpy(BOX).double()[None].requires_grad_()
    scaled, _ = unit_scaled(raw, marks.valid)
    attention_loss(scaled, marks.inner.double(), marks.outer.double(), TAU).sum().backward()
    assert raw.grad is not None
    assert raw.grad.abs().max() < 1e-7


def test_the_inside_pulls_below_tau_and_not_above() -> None:
    marks = cells(BOX)
    for value, pulls in ((0.4, True), (0.6, False)):
        scaled = torch.full((1, 5, 5), value, requires_grad=True)
        attention_loss(scaled, marks.inner, torch.zeros_like(marks.outer), TAU).sum().backward()
        assert scaled.grad is not None
        assert (scaled.grad[0][torch.from_numpy(BOX)] < 0).all() == pulls


def test_scaling_and_shifting_a_map_change_no_loss() -> None:
    marks = cells(BOX)
    raw = torch.rand(1, 5, 5, dtype=torch.float64)
    found = [unit_scaled(map_, marks.valid)[0] for map_ in (raw, 7 * raw, raw - 3)]
    assert torch.allclose(found[0], found[1])
    assert torch.allclose(found[0], found[2])
    assert (found[0].min(), found[0].max()) == (0, 1)


def test_a_map_without_contrast_counts_for_nothing() -> None:
    marks = cells(BOX, BOX)
    raw = torch.stack([torch.full((5, 5), 0.7), torch.rand(5, 5)]).requires_grad_()
    scaled, contrast = unit_scaled(raw, marks.valid)
    assert contrast.tolist() == [False, True]
    loss = (attention_loss(scaled, marks.inner, marks.outer, TAU) * contrast).sum()
    loss.backward()
    assert loss.isfinite()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert (raw.grad[0] == 0).all()


def test_only_cells_that_may_be_looked_at_are_scaled() -> None:
    raw = torch.tensor([[[1.0, 2.0], [3.0, 900.0]]])
    valid = torch.tensor([[[True, True], [True, False]]])
    scaled, contrast = unit_scaled(raw, valid)
    assert scaled.tolist() == [[[0.0, 0.5], [1.0, 0.0]]]
    assert contrast.all()
    nothing, contrast = unit_scaled(raw, torch.zeros_like(valid))
    assert not contrast.any()
    assert (nothing == 0).all()


def test_gradient_of_the_terms_by_finite_differences() -> None:
    marks = cells(BOX, BOX.T, distance=0.5)
    inner, outer = marks.inner.double(), marks.outer.double()

    def loss(raw: torch.Tensor) -> torch.Tensor:
        scaled, contrast = unit_scaled(raw, marks.valid)
        return (attention_loss(scaled, inner, outer, TAU) * contrast).sum()

    assert torch.autograd.gradcheck(loss, torch.rand(2, 5, 5, dtype=torch.float64, requires_grad=True))


def test_grad_cam_of_pooling_and_a_linear_head_is_its_class_activation_map() -> None:
    network = cnn().train()
    output = network(batch_of([noise(96, 64), noise(96, 64, 1)], network))
    labels = torch.tensor([2, 0])
    found = grad_cam(output.logits, output.features, labels)
    wanted = torch.einsum("bd,bdhw->bhw", network.head.weight[labels], output.features)
    count = output.features.shape[2] * output.features.shape[3]
    assert torch.allclose(found, wanted / count, atol=1e-6)
    marks = torch.ones(found.shape, dtype=torch.bool)
    assert torch.allclose(unit_scaled(found, marks)[0], unit_scaled(wanted, marks)[0], atol=1e-4)


def test_the_map_of_an_image_does_not_hang_on_its_batch() -> None:
    torch.manual_seed(0)
    features = torch.rand(3, 4, 5, 5, requires_grad=True)
    head = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)).eval()
    labels = torch.tensor([0, 2, 1])
    together = grad_cam(head(features.mean(dim=(2, 3))), features, labels)
    for index in range(3):
        one = features[index : index + 1].detach().requires_grad_()
        assert torch.allclose(grad_cam(head(one.mean(dim=(2, 3))), one, labels[index : index + 1])[0], together[index])


@pytest.mark.parametrize("second_order", [False, True])
def test_gradient_reaches_the_head_only_in_second_order(second_order: bool) -> None:
    network = cnn().double().train()
    batch = batch_of([noise(96, 64)], network)
    output = network(batch)
    marks = cells(np.eye(24, 16, dtype=bool), stride=4)
    labels = torch.tensor([1])
    terms = care_terms({}, output, labels, marks, **settings(second_order=second_order))
    (gradient,) = torch.autograd.grad(terms[TERM], network.head.weight, allow_unused=True)
    if not second_order:
        assert gradient is None
        return

    def loss(weight: torch.Tensor) -> torch.Tensor:
        features = output.features.detach().requires_grad_()
        logits = features.mean(dim=(2, 3)) @ weight.T
        map_ = (
            torch.autograd.grad(logits[0, 1], features, create_graph=True)[0].mean(dim=(2, 3), keepdim=True) * features
        ).sum(dim=1)
        scaled, _ = unit_scaled(map_, marks.valid)
        return 0.01 * attention_loss(scaled, marks.inner.double(), marks.outer.double(), TAU).sum()

    assert torch.autograd.gradcheck(loss, network.head.weight.detach().clone().requires_grad_())
    wanted = torch.autograd.functional.jacobian(loss, network.head.weight.detach())
    assert torch.allclose(gradient, wanted, atol=1e-6)


def objective(network: SlideModel, **options: object) -> Objective:
    return Objective(network, ClassificationLosses(torch.ones(3), TrainConfig(system="cnn", **options)))


def gradients(module: Objective, step: GuidedStep) -> list[torch.Tensor]:
    module.zero_grad()
    torch.manual_seed(0)
    torch.stack(list(module(step).values())).sum().backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters()]


def test_a_weight_of_zero_leaves_the_gradient_of_the_classification_as_it_is() -> None:
    """The public trainer fails this: its first backward call leaves the gradient of the logits behind."""
    network = cnn().train()
    batch, labels = batch_of([noise(96, 64), noise(96, 64, 1)], network), torch.tensor([1, 0])
    region = np.zeros((24, 16), bool)
    region[4:9, 3:8] = True
    with_care = GuidedStep(batch, labels, (), cells(region, None, stride=4))
    plain = gradients(objective(network), GuidedStep(batch, labels, ()))
    same = gradients(objective(network, care="boxes", care_weight=0.0), with_care)
    assert all(torch.equal(a, b) for a, b in zip(plain, same, strict=True))
    other = gradients(objective(network, care="boxes", care_weight=0.5), with_care)
    assert any(not torch.allclose(a, b) for a, b in zip(plain, other, strict=True))


def test_a_batch_without_lesions_is_the_classification_alone() -> None:
    network = cnn().eval()
    network.train()
    batch, labels = batch_of([noise(96, 64), noise(96, 64, 1)], network), torch.tensor([1, 0])
    nothing = LesionCells(torch.zeros(2, 6, 4), torch.zeros(2, 6, 4), batch.valid, ((6, 4), (6, 4)))
    plain = objective(network)(GuidedStep(batch, labels, ()))
    found = objective(network, care="boxes", care_weight=0.2)(GuidedStep(batch, labels, (), nothing))
    assert found[TERM] == 0
    assert torch.allclose(found["fused"], 0.8 * plain["fused"])


def test_sum_grows_with_the_images_and_the_mean_does_not() -> None:
    network = cnn().train()
    fields = [noise(96, 64), noise(96, 64), noise(96, 64)]
    output, labels = network(batch_of(fields, network)), torch.tensor([1, 1, 1])
    region = np.zeros((24, 16), bool)
    region[4:12, 4:8] = True
    found = {}
    for reduction in ("sum", "mean"):
        for count in (1, 2):
            marks = cells(*[region] * count, *[None] * (3 - count), stride=4)
            found[reduction, count] = care_terms({}, output, labels, marks, **settings(reduction=reduction))[TERM]
    assert torch.allclose(found["sum", 2], 2 * found["sum", 1])
    assert torch.allclose(found["mean", 2], found["mean", 1])
    assert torch.allclose(found["mean", 1], found["sum", 1])


def test_learned_attention_is_the_map_where_there_is_one() -> None:
    torch.manual_seed(0)
    config = DeepAttentionConfig(3, 4, 16, 2, coarse_widths=(4, 4), patch_widths=(4, 4), hidden=4)
    network = DeepAttention(config).train()
    output = network(batch_of([noise(96, 64)], network))
    assert torch.equal(training_map(output, torch.tensor([0])), output.attention)
    region = np.zeros((24, 16), bool)
    region[4:12, 4:8] = True
    term = care_terms({}, output, torch.tensor([0]), cells(region, stride=4), **settings())[TERM]
    term.backward()
    assert network.coarse_gate.w.weight.grad is not None
    assert network.coarse_gate.w.weight.grad.abs().sum() > 0
    assert network.psi.stem[0].weight.grad is None


def test_a_map_of_the_system_s_own_size_is_laid_on_the_cells_of_each_image() -> None:
    valid = torch.zeros((2, 8, 8), dtype=torch.bool)
    valid[0], valid[1, :4, :6] = True, True
    none = torch.zeros(2, 8, 8)
    marks = LesionCells(none, none, valid, ((8, 8), (4, 6)))
    ramp = torch.linspace(0, 1, 16).expand(2, 16, 16).clone().requires_grad_()
    placed = on_cells(ramp, marks)
    assert placed.shape == valid.shape
    assert torch.allclose(placed[0, 3, :-1].diff(), placed[0, 0, :-1].diff())
    assert placed[0, 0].diff().min() > 0
    assert placed[1, 0, :6].diff().min() > 0
    assert not placed[1][~valid[1]].any()
    placed.sum().backward()
    assert ramp.grad is not None
    assert on_cells(placed, marks) is placed


@pytest.mark.parametrize("system", ["cnn", "deep-attention", "global-spatial", "dual-cross"])
def test_every_system_that_labels_can_be_pulled(system: str) -> None:
    torch.manual_seed(0)
    options = {
        "cnn": {"coarse_widths": (4, 4)},
        "deep-attention": {"coarse_widths": (4, 4), "patch_widths": (4, 4), "patch_size": 16, "instances": 2},
        "global-spatial": {"view_size": 64, "coarse_widths": (4, 4, 4, 4), "map_by": "free"},
        "dual-cross": {"backbone": "small-resnet", "second_backbone": "small-vgg"},
    }
    network = build_network(system, {"classes": 3, "coarse_factor": 1, **options[system]}).train()
    fields = [noise(96, 64), noise(96, 64, 1)]
    batch = batch_of(fields, network)
    output, labels = network(batch), torch.tensor([2, 0])
    region = np.zeros((96, 64), bool)
    region[16:48, 16:48] = True
    marks = lesion_cells([region, None], [region.shape] * 2, batch.valid, network.stride, 0.0)
    terms = care_terms(network.losses(output, labels), output, labels, marks, **settings())
    assert terms[TERM].isfinite()
    terms[TERM].backward()
    moved = [parameter for parameter in network.parameters() if parameter.grad is not None and parameter.grad.any()]
    assert len(moved) > 3


@pytest.mark.parametrize("system", ["cnn", "dual-cross", "global-spatial"])
def test_the_explained_logit_has_no_dropout(system: str) -> None:
    options = {"classes": 2, "coarse_widths": (8, 8, 8, 8), "dropout": 0.9, "coarse_factor": 1}
    options |= {"backbone": "small", "second_backbone": "small-vgg"} if system == "dual-cross" else {}
    options |= {"view_size": 64} if system == "global-spatial" else {}
    torch.manual_seed(0)
    network = build_network(system, options).train()
    assert isinstance(network, SlideModel)
    output = network(batch_of([noise(64, 64), noise(64, 64, 1)], network))
    first, second = (explained(network, output).logits for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, output.logits)
    assert network.head.training
    labels = torch.tensor([0, 1])
    assert output.features is not None
    wanted = torch.autograd.grad(first.gather(1, labels[:, None]).sum(), output.features, retain_graph=True)[0]
    assert wanted.abs().sum() > 0


def test_a_system_without_a_map_is_refused() -> None:
    output = without_patches(torch.zeros(1, 3), torch.full((1, 2, 2), 0.25))
    with pytest.raises(UsageError, match="--care"):
        training_map(output, torch.tensor([0]))


def test_the_answer_is_the_same_with_and_without() -> None:
    network = cnn()
    batch = batch_of([noise(96, 64)], network)
    training = network.train()(batch)
    assert training.features is not None
    answer = network.eval()(batch)
    assert answer.features is None
    assert torch.equal(network(batch).logits, answer.logits)


def test_pulling_moves_the_map_into_the_box() -> None:
    """A few steps on the attention term alone: more of the map lies in the box than before."""
    network = cnn().train()
    batch, labels = batch_of([noise(96, 96, seed) for seed in range(4)], network), torch.tensor([0, 0, 1, 2])
    region = np.zeros((24, 24), bool)
    region[4:12, 4:12] = True
    marks = replace(cells(*[region] * 4, stride=4), valid=batch.valid)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = care_terms({}, network(batch), labels, marks, **settings(weight=1.0))[TERM]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.4
