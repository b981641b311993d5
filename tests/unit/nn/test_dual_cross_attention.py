"""Cross-attention of two grids against PyTorch's own, its symmetries and its bound; refinement of channels, places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from wsi_attn.nn.cross_attention import CrossAttention, TwoWay, pooled_tokens, tokens
from wsi_attn.nn.refine import ChannelAttention, Refine, SpatialAttention, masked_mean

B, D, HEADS = 2, 8, 2


def attention(most_keys: int = 100) -> CrossAttention:
    torch.manual_seed(0)
    found = CrossAttention(D, HEADS, most_keys)
    with torch.no_grad():
        found.gamma.fill_(0.7)
    return found


def grid(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(B, D, height, width, generator=torch.Generator().manual_seed(seed))


def everywhere(features: Tensor) -> Tensor:
    return torch.ones(len(features), *features.shape[2:], dtype=torch.bool)


def test_it_is_attention_between_the_two_grids() -> None:
    cross, e, r = attention(), grid(3, 4), grid(5, 2, 1)
    heads = [
        layer(tokens(x)).unflatten(2, (HEADS, -1)).transpose(1, 2)
        for layer, x in ((cross.query, e), (cross.key, r), (cross.value, r))
    ]
    attended = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    wanted = tokens(e) + 0.7 * cross.out(attended)
    assert torch.allclose(tokens(cross(e, r, everywhere(r))), wanted, atol=1e-6)

    weights = torch.softmax(heads[0] @ heads[1].transpose(-1, -2) / (D / HEADS) ** 0.5, dim=-1)
    by_hand = tokens(e) + 0.7 * cross.out((weights @ heads[2]).transpose(1, 2).flatten(2))
    assert torch.allclose(wanted, by_hand, atol=1e-6)


def test_gamma_starts_small_and_at_0_nothing_changes() -> None:
    e, r = grid(3, 4), grid(3, 4, 1)
    built = TwoWay(D, HEADS, 100)
    for part in (built.first, built.second):
        assert part.gamma.item() == pytest.approx(0.1)
        torch.nn.init.zeros_(part.gamma)
    both = built(e, r, everywhere(e), everywhere(r))
    assert torch.equal(both[0], e)
    assert torch.equal(both[1], r)


def test_the_order_of_those_who_answer_does_not_matter() -> None:
    cross, e, r = attention(), grid(3, 4), grid(2, 5, 1)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    shuffled = r.flatten(2)[..., order].view(r.shape)
    assert torch.allclose(cross(e, r, everywhere(r)), cross(e, shuffled, everywhere(r)), atol=1e-6)


def test_swapped_grids_and_weights_swap_the_answers() -> None:
    torch.manual_seed(3)
    both = TwoWay(D, HEADS, 100)
    with torch.no_grad():
        both.first.gamma.fill_(0.4)
        both.second.gamma.fill_(-0.9)
    swapped = TwoWay(D, HEADS, 100)
    swapped.first.load_state_dict(both.second.state_dict())
    swapped.second.load_state_dict(both.first.state_dict())
    e, r = grid(3, 4), grid(3, 4, 1)
    one, other = both(e, r, everywhere(e), everywhere(r)), swapped(r, e, everywhere(r), everywhere(e))
    assert torch.equal(one[0], other[1])
    assert torch.equal(one[1], other[0])
    assert not torch.allclose(one[0], one[1])


def test_equal_cells_give_their_value_to_every_query() -> None:
    cross, e = attention(), grid(3, 4)
    same = grid(1, 1, 1).expand(B, D, 4, 4)
    value = cross.out(cross.value(tokens(same)[:, :1]))
    assert torch.allclose(tokens(cross(e, same, everywhere(same))), tokens(e) + 0.7 * value, atol=1e-5)


def test_cells_that_may_not_answer_do_not() -> None:
    cross, e, r = attention(), grid(3, 4), grid(4, 4, 1)
    allowed = everywhere(r)
    allowed[0, 2:] = False
    changed = r.clone()
    changed[0, :, 2:] += 50
    assert torch.allclose(cross(e, r, allowed), cross(e, changed, allowed), atol=1e-6)
    assert not torch.allclose(cross(e, r, everywhere(r)), cross(e, changed, everywhere(r)), atol=1e-3)
    nobody = torch.zeros_like(allowed)
    assert torch.equal(cross(e, r, nobody), cross(e, r, everywhere(r)))


@pytest.mark.parametrize(("height", "width"), [(40, 3), (16, 16), (7, 90), (1, 500)])
def test_keys_are_bounded_and_keep_their_mean(height: int, width: int) -> None:
    r = grid(height, width)
    pooled, mask = pooled_tokens(r, everywhere(r), 50)
    assert pooled.shape[1] <= 50
    assert mask.all()
    part = everywhere(r)
    part[:, : height // 2] = False
    pooled, mask = pooled_tokens(r, part, 50)
    low, high = r.amin(dim=(2, 3))[:, None], r.amax(dim=(2, 3))[:, None]
    assert ((pooled >= low - 1e-5) & (pooled <= high + 1e-5))[mask].all()


def test_a_smaller_grid_is_taken_as_it_is() -> None:
    r = grid(5, 6)
    pooled, _ = pooled_tokens(r, everywhere(r), 30)
    assert torch.equal(pooled, tokens(r))


def test_refinement_of_an_even_map_is_even_away_from_the_border() -> None:
    torch.manual_seed(0)
    places = SpatialAttention()(torch.ones(1, D, 12, 12), torch.ones(1, 12, 12, dtype=torch.bool))
    inner = places[0, 0, 3:-3, 3:-3]
    assert torch.allclose(inner, inner[0, 0].expand_as(inner), atol=1e-6)
    assert ((places > 0) & (places < 1)).all()


def test_channels_in_another_order_with_weights_in_that_order() -> None:
    torch.manual_seed(0)
    plain, turned = ChannelAttention(D), ChannelAttention(D)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    with torch.no_grad():
        turned.mlp[0].weight.copy_(plain.mlp[0].weight[:, order])
        turned.mlp[0].bias.copy_(plain.mlp[0].bias)
        turned.mlp[2].weight.copy_(plain.mlp[2].weight[order])
        turned.mlp[2].bias.copy_(plain.mlp[2].bias[order])
    x = grid(4, 5)
    found = plain(x, everywhere(x))
    assert torch.allclose(turned(x[:, order], everywhere(x)), found[:, order], atol=1e-6)
    assert ((found > 0) & (found < 1)).all()


def test_what_may_not_be_looked_at_changes_nothing_elsewhere() -> None:
    torch.manual_seed(0)
    refine, x = Refine(D), grid(6, 6)
    allowed = everywhere(x)
    allowed[:, :, 3:] = False
    changed = x.clone()
    changed[:, :, :, 3:] = 1000
    one, other = refine(x, allowed), refine(changed, allowed)
    assert torch.allclose(one[0][:, :, :, :3], other[0][:, :, :, :3], atol=1e-5)
    assert torch.allclose(one[1], other[1], atol=1e-6)
    assert torch.allclose(masked_mean(changed, allowed), x[:, :, :, :3].mean(dim=(2, 3)), atol=1e-5)
    nothing = torch.zeros_like(allowed)
    assert all(part.isfinite().all() for part in refine(x, nothing))
    assert (masked_mean(x, nothing) == 0).all()
