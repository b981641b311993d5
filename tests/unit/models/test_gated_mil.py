"""Gated attention over stored features against plain definitions, in one block and in many."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from wsi_attn.models import gated_mil
from wsi_attn.models.configs.gated_mil import GatedMilConfig
from wsi_attn.models.gated_mil import GatedMil, blocks_of

POOLINGS = ("gated", "mean", "max")


def network_of(pooling: str, **options: float) -> GatedMil:
    torch.manual_seed(0)
    config = GatedMilConfig(classes=3, features=5, pooling=pooling, embedding=6, hidden=4, **options)  # type: ignore[arg-type]
    network = GatedMil(config)
    network.prepare(torch.linspace(-1, 1, 5), torch.linspace(0.5, 2, 5))
    return network.eval()


def bags_of(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn((size, 5), generator=generator) for size in sizes]


def plain(network: GatedMil, bag: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (C,) and attention (N,) as the equations read."""
    h = torch.relu(network.embed(((bag - network.mean) / network.deviation).clamp(-2.5, 2.5)))
    if network.config.pooling == "max":
        z = h.max(dim=0).values
        wins = np.bincount(h.argmax(dim=0).numpy(), minlength=len(bag))
        return network.head(z), torch.from_numpy(wins / h.shape[1]).float()
    a = torch.full((len(bag),), 1 / len(bag))
    if network.config.pooling == "gated":
        gate = network.pooling.gate  # type: ignore[union-attr]
        assert gate is not None
        assert gate.U is not None
        e = gate.w(torch.tanh(gate.V(h)) * torch.sigmoid(gate.U(h)))[:, 0]  # type: ignore[union-attr, operator]
        a = e.softmax(dim=0)
    return network.head(a @ h), a


@pytest.mark.parametrize("block", [8192, 7, 1])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_bags_are_answered_as_the_equations_say(pooling: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_mil, "BLOCK", block)
    network, bags = network_of(pooling), bags_of(3, 1, 20)
    with torch.inference_mode():
        output = network(bags)
        for bag, logits, attention, evidence in zip(
            bags, output.logits, output.attention, output.evidence, strict=True
        ):
            wanted, weights = plain(network, bag)
            torch.testing.assert_close(logits, wanted)
            torch.testing.assert_close(attention, weights)
            assert evidence.shape == (len(bag), 3)
            torch.testing.assert_close(evidence.mean(dim=1), torch.zeros(len(bag)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_blocks_change_no_gradient(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for block in (8192, 4):
        monkeypatch.setattr(gated_mil, "BLOCK", block)
        network = network_of(pooling, dropout=0.0).train()
        output = network(bags_of(3, 11))
        assert output.evidence == ()
        network.losses(output, torch.tensor([0, 2]))["fused"].backward()
        found.append({name: value.grad for name, value in network.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient is not None
        torch.testing.assert_close(found[1][name], gradient)
        # A constant added to e changes no softmax.
        assert gradient.abs().sum() > 0 or name == "pooling.gate.w.bias"


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_order_of_instances_changes_nothing(pooling: str) -> None:
    network, (bag,) = network_of(pooling), bags_of(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        first, second = network([bag]), network([bag[order]])
    torch.testing.assert_close(first.logits, second.logits)
    torch.testing.assert_close(first.attention[0][order], second.attention[0])


def test_half_precision_is_read_as_it_is_stored() -> None:
    network, (bag,) = network_of("gated"), bags_of(6)
    half = bag.half()
    with torch.inference_mode():
        torch.testing.assert_close(network([half]).logits, network([half.float()]).logits)
        mixed = network([half, bag]).logits
    torch.testing.assert_close(mixed[0], network([half]).logits[0])


def test_noise_is_only_in_training() -> None:
    network, (bag,) = network_of("gated", feature_noise=0.5, dropout=0.0), bags_of(6)
    assert torch.equal(network([bag]).logits, network([bag]).logits)
    network.train()
    assert not torch.equal(network([bag]).logits, network([bag]).logits)


def test_blocks_hold_all_instances_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_mil, "BLOCK", 4)
    bags = bags_of(3, 6, 1)
    blocks = list(blocks_of(bags))
    assert [len(block) for block, _ in blocks] == [4, 4, 2]
    assert torch.equal(torch.cat([block for block, _ in blocks]), torch.cat(bags))
    assert torch.cat([owner for _, owner in blocks]).tolist() == [0] * 3 + [1] * 6 + [2]


def test_a_large_bag_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as a whole nor, for the backward pass, block by block: what is kept is views of the bag."""
    monkeypatch.setattr(gated_mil, "BLOCK", 16)
    (bag,) = bags_of(100)
    start, end = bag.data_ptr(), bag.data_ptr() + bag.numel() * bag.element_size()
    assert all(start <= block.data_ptr() < end for block, _ in blocks_of([bag]))
    network, largest = network_of("gated").train(), 0

    def count(value: Tensor) -> Tensor:
        nonlocal largest
        if not start <= value.data_ptr() < end:
            largest = max(largest, value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
        loss = network.losses(network([bag]), torch.tensor([0]))["fused"]
    assert largest <= 16 * 6
    loss.backward()
