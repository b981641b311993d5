"""A disc whose label a far-away marker decides: attention between all positions learns it, a gate a position cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.nn.joint_attention import JointAttention

SIDE, BATCH, STEPS = 16, 16, 250
RATE, FASTER = 3e-3, 10
"""Learning rate, and that of gates in relation to it, as in training."""


class Host(nn.Module):
    """Local features, attention, and a label for each position."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU())
        self.attention = JointAttention(16, kind)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float (B, 2, H, W)."""
        logits: Tensor = self.head(self.attention(self.features(x)))
        return logits


def scenes(seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a disc, and far from it a marker of one of two colours, which is the disc's label."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)
    labels = torch.full((BATCH, SIDE, SIDE), -1)
    rows = torch.arange(SIDE)
    for index in range(BATCH):
        top, left = (int(n) for n in torch.randint(0, 3, (2,), generator=generator))
        row, column = (int(n) for n in torch.randint(11, SIDE - 3, (2,), generator=generator))
        label = int(torch.randint(0, 2, (1,), generator=generator))
        x[index, 1 + label, top : top + 3, left : left + 3] += 1
        disc = (rows[:, None] - row) ** 2 + (rows[None] - column) ** 2 <= 9
        x[index, 0, disc] += 1
        labels[index, disc] = label
    return x, labels


def trained(kind: str) -> tuple[Host, float]:
    """A trained host, and its accuracy on the discs of new scenes."""
    torch.manual_seed(0)
    host = Host(kind)
    gates = list(host.attention.gates().values())
    rest = [value for value in host.parameters() if all(value is not gate for gate in gates)]
    optimizer = torch.optim.AdamW([{"params": rest}, {"params": gates, "lr": RATE * FASTER, "weight_decay": 0.0}], RATE)
    for step in range(STEPS):
        x, labels = scenes(step)
        optimizer.zero_grad()
        functional.cross_entropy(host(x), labels, ignore_index=-1).backward()
        optimizer.step()
    host.eval()
    right, known = 0, 0
    with torch.inference_mode():
        for seed in range(4):
            x, labels = scenes(100_000 + seed)
            right += int((host(x).argmax(dim=1) == labels).sum())
            known += int((labels >= 0).sum())
    return host, right / known


@pytest.mark.parametrize("kind", ["joint", "self"])
def test_attention_between_positions_learns_it(kind: str) -> None:
    host, accuracy = trained(kind)
    assert accuracy > 0.95
    gates = {name: value.item() for name, value in host.attention.gates().items()}
    assert abs(gates["gamma"]) > 0.1  # wider open than at the start
    assert abs(gates.get("beta", 1.0)) > 0.5


@pytest.mark.parametrize("kind", ["none", "pointwise"])
def test_a_gate_a_position_does_not(kind: str) -> None:
    assert trained(kind)[1] < 0.65
