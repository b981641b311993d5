"""Joint attention against its formula written out with explicit matrices, and the laws that each kind obeys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsi_attn.errors import UnknownNameError, UsageError
from wsi_attn.nn import joint_attention
from wsi_attn.nn.joint_attention import ATTENTIONS, JointAttention, attend

WITH_MATRIX = [kind for kind in ATTENTIONS if kind not in ("none", "pointwise")]
WITH_GATE = [kind for kind in ATTENTIONS if kind not in ("none", "self")]
KINDS = [kind for kind in ATTENTIONS if kind != "none"]


def module(kind: str, channels: int = 8, heads: int = 1) -> JointAttention:
    """In float64, evaluation mode, beta and gamma away from 0."""
    torch.manual_seed(3)
    built = JointAttention(channels, kind, heads).double().eval()
    with torch.no_grad():
        if kind != "none":
            built.gamma.fill_(0.7)
        if built.beta is not None:
            built.beta.fill_(0.6)
    return built


def field(batch: int = 2, channels: int = 8, height: int = 3, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed)).double()


def matrix(built: JointAttention, x: Tensor, valid: Tensor | None = None) -> Tensor:
    """W of the formula, (B, N, N), for one head."""
    n = x.shape[2] * x.shape[3]
    s = torch.sigmoid(built.gate(x)).flatten(1) if built.gate is not None else torch.ones(len(x), n).double()
    if built.query is None or built.key is None:
        return torch.diag_embed(s)
    q, k = (layer(x).flatten(2).transpose(1, 2) for layer in (built.query, built.key))
    logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    if valid is not None:
        logits = logits.masked_fill(~valid.flatten(1)[:, None], -torch.inf)
    a = logits.softmax(dim=-1)
    return {
        "self": a,
        "joint": torch.diag_embed(s) + (built.beta.detach() if built.beta is not None else 0) * a,
        "gate-query": s[:, :, None] * a,
        "gate-key": a * s[:, None],
        "log-bias": (logits + s.log()[:, None]).softmax(dim=-1),
    }[built.kind]


def oracle(built: JointAttention, x: Tensor, valid: Tensor | None = None) -> Tensor:
    v = built.value(x).flatten(2).transpose(1, 2)
    return (matrix(built, x, valid) @ v).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_formula(kind: str) -> None:
    built, x = module(kind), field()
    torch.testing.assert_close(built.attended(x), oracle(built, x), rtol=1e-10, atol=1e-12)
    whole = x + 0.7 * built.output(oracle(built, x))
    torch.testing.assert_close(built(x), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", WITH_MATRIX)
def test_masked_positions_have_no_influence(kind: str) -> None:
    built, x = module(kind), field()
    valid = torch.ones(2, 3, 4, dtype=torch.bool)
    valid[0, :, 2:] = False
    torch.testing.assert_close(built.attended(x, valid), oracle(built, x, valid), rtol=1e-10, atol=1e-12)
    other = x.clone()
    other[0, :, :, 2:] = 100
    changed, before = built.attended(other, valid)[0, :, :, :2], built.attended(x, valid)[0, :, :, :2]
    torch.testing.assert_close(changed, before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_shuffling_before_is_shuffling_after(kind: str) -> None:
    built, x = module(kind), field(height=1, width=12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(built(x[..., order]), built(x)[..., order], rtol=1e-11, atol=1e-12)


def test_reductions() -> None:
    joint, pointwise, x = module("joint"), module("pointwise"), field()
    pointwise.load_state_dict(joint.state_dict(), strict=False)
    with torch.no_grad():
        assert joint.beta is not None
        joint.beta.fill_(0)
    torch.testing.assert_close(joint(x), pointwise(x))
    alone = module("self")
    for kind in ("gate-query", "gate-key", "log-bias"):
        gated = module(kind)
        assert gated.gate is not None
        with torch.no_grad():
            gated.gate[-1].weight.zero_()
            gated.gate[-1].bias.fill_(60)  # s = 1
        alone.load_state_dict(gated.state_dict(), strict=False)
        torch.testing.assert_close(gated.attended(x), alone.attended(x))


def test_log_bias_is_gate_key_with_its_rows_divided_by_their_sums() -> None:
    bias, gated, x = module("log-bias"), module("gate-key"), field()
    gated.load_state_dict(bias.state_dict())
    rows = matrix(gated, x)
    v = gated.value(x).flatten(2).transpose(1, 2)
    wanted = (rows / rows.sum(dim=-1, keepdim=True)) @ v
    torch.testing.assert_close(bias.attended(x), wanted.transpose(1, 2).reshape(x.shape))


def test_row_sums() -> None:
    x = field()
    gate = module("gate-query")
    assert gate.gate is not None
    s = torch.sigmoid(gate.gate(x)).flatten(1)
    torch.testing.assert_close(matrix(module("self"), x).sum(dim=-1), torch.ones(2, 12).double())
    torch.testing.assert_close(matrix(gate, x).sum(dim=-1), s)
    assert ((matrix(module("gate-key"), x).sum(dim=-1) - 0.5).abs() < 0.5).all()


@pytest.mark.parametrize("kind", KINDS)
def test_constant_input_gives_a_constant_output(kind: str) -> None:
    y = module(kind)(field(height=1, width=1).expand(2, 8, 3, 4).contiguous())
    torch.testing.assert_close(y, y[:, :, :1, :1].expand_as(y))


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_every_parameter_learns_from_the_start_and_gamma_0_is_the_identity(kind: str) -> None:
    torch.manual_seed(0)
    built = JointAttention(8, kind).double()
    x = field()
    if kind == "none":
        torch.testing.assert_close(built(x), x)
        return
    built(x).pow(3).sum().backward()
    for name, value in built.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().max() > 1e-8, name
    assert set(built.gates()) == ({"beta", "gamma"} if kind == "joint" else {"gamma"})
    with torch.no_grad():
        built.gamma.zero_()
    torch.testing.assert_close(built(x), x)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences(kind: str) -> None:
    built = module(kind, channels=4)
    x = field(1, 4).requires_grad_()
    assert torch.autograd.gradcheck(built, (x,))
    built(x).sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize("kind", WITH_MATRIX)
def test_chunks_change_neither_answer_nor_gradient(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = field()
    found = []
    for chunk in (1024, 5):
        monkeypatch.setattr(joint_attention.attend, "__defaults__", (chunk,))
        built = module(kind)
        y = built(x)
        y.pow(2).sum().backward()
        found.append([y.detach(), *(parameter.grad for parameter in built.parameters())])
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", WITH_MATRIX)
def test_pooled_keys_are_exact_where_they_are_alike(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = module(kind)
    coarse = field(height=2, width=3)
    x = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[
        :, :, :, :5
    ]  # the last column of squares is half
    wanted = oracle(built, x)
    monkeypatch.setattr(joint_attention, "MAX_KEYS", 6)
    torch.testing.assert_close(built.attended(x), wanted, rtol=1e-10, atol=1e-12)


def test_point_wise_attention_is_local_self_attention_is_not_and_joint_lies_between() -> None:
    x = field(height=6, width=6)
    y, column = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    places = torch.stack([y.flatten(), column.flatten()], dim=1).double()
    near = torch.cdist(places, places) <= 1

    def locality(kind: str) -> float:
        """Share of |W| between places that are side by side."""
        weights = matrix(module(kind), x).abs()
        return ((weights * near).sum() / weights.sum()).item()

    assert locality("pointwise") == 1
    assert locality("self") < locality("joint") < locality("pointwise")


@pytest.mark.parametrize("kind", KINDS)
def test_which_kinds_see_a_far_away_place(kind: str) -> None:
    x = field(1).requires_grad_()
    module(kind)(x)[0, :, 0, 0].sum().backward()
    assert x.grad is not None
    far = x.grad[0, :, 2, 3].abs().max()
    assert (far > 0) == (kind != "pointwise")


def test_heads_split_the_channels_and_equal_the_fused_path_in_float32() -> None:
    built = module("self", channels=8, heads=2).float()
    x = field().float()
    q, k, v = (
        layer(x).unflatten(1, (2, -1)).flatten(3).transpose(2, 3) for layer in (built.query, built.key, built.value)
    )
    a = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1)
    wanted = (a @ v).transpose(2, 3).reshape(x.shape)
    torch.testing.assert_close(built.attended(x), wanted, rtol=1e-5, atol=1e-5)


def test_half_precision_does_not_overflow() -> None:
    q = torch.full((1, 1, 2, 16), 200.0, dtype=torch.float16)
    found = attend(q, q, torch.ones(1, 1, 2, 4, dtype=torch.float16), torch.zeros(1, 1, 1, 2))
    torch.testing.assert_close(found, torch.ones(1, 1, 2, 4))


@pytest.mark.parametrize("kind", WITH_GATE)
def test_mean_gate_is_learned_while_training_only(kind: str) -> None:
    built = JointAttention(8, kind).double()
    built.eval()(field())
    assert built.gate_mean == 0.5
    built.train()(field())
    assert built.gate_mean != 0.5


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UnknownNameError) as caught:
        JointAttention(8, "jiont")
    assert "joint" in caught.value.known
    with pytest.raises(UsageError, match="3 heads"):
        JointAttention(8, "self", heads=3)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_gives_the_same_to_its_digits(kind: str) -> None:
    built = module(kind, channels=32).float()
    x = field(2, 32, 6, 5).float()
    valid = torch.ones(2, 6, 5, dtype=torch.bool)
    valid[1, :, 3:] = False
    expected = built(x, valid)
    with torch.autocast("cpu", torch.bfloat16):
        found = built(x.bfloat16(), valid)
    assert torch.allclose(found.float(), expected, atol=0.05, rtol=0.05)
