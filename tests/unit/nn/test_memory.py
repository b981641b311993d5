"""Maps of frozen stages, computed once."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from wsi_attn.nn.efficientnet_lite import EfficientNetLite
from wsi_attn.nn.memory import StageMemory


class Counted:
    """Counts the images that are computed."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return 2 * x


def test_maps_are_computed_once_in_memory_or_on_disk(tmp_path: Path) -> None:
    x = torch.arange(4 * 3 * 2 * 2, dtype=torch.float32).view(4, 3, 2, 2)
    for limit in (1 << 20, 60, 0):
        memory, compute = StageMemory(limit, tmp_path / str(limit)), Counted()
        memory.begin(1)
        for order in ([0, 1], [1, 2], [3, 0, 2]):
            memory.expect([(index,) for index in order])
            assert torch.equal(memory.recalled(x[order], compute, 1, 1), 2 * x[order])
        assert compute.images == 4
        kept = list((tmp_path / str(limit)).glob("*.npy"))
        assert len(kept) == {1 << 20: 0, 60: 2, 0: 4}[limit]
        memory.begin(2)
        assert not list(tmp_path.glob(f"{limit}/*.npy"))
        memory.expect([(0,)])
        memory.recalled(x[:1], compute, 1, 1)
        assert compute.images == 5


def test_images_are_computed_without_the_padding_of_their_batch(tmp_path: Path) -> None:
    memory, compute = StageMemory(1 << 20, tmp_path), Counted()
    memory.begin(1)
    padded = torch.ones(2, 3, 4, 6)
    for _ in range(2):
        memory.expect([(0,), (1,)], torch.tensor([[3, 2], [6, 4]]))
        maps = memory.recalled(padded, compute, 1, 2)
        assert torch.equal(maps[1], 2 * padded[1])
        assert maps[0, :, :2, :3].eq(2).all()
        assert maps[0].sum() == 2 * 3 * 6
    assert compute.images == 2
    memory.recalled(padded, compute, 1, 2)  # the names were those of the batch before
    assert compute.images == 4


def test_a_backbone_resumes_behind_its_frozen_stages(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = EfficientNetLite(0, 16).eval()
    x = torch.rand(2, 3, 48, 32)
    with torch.no_grad():
        wanted = network(x)
        for stages in (1, 2, 4):
            network.memory = StageMemory(1 << 20, tmp_path)
            network.memory.begin(stages)
            for _ in range(2):
                network.memory.expect([(0,), (1,)])
                torch.testing.assert_close(network(x), wanted, rtol=1e-2, atol=1e-2)
            network.stem.register_forward_pre_hook(_refuse)
            network.memory.expect([(1,), (0,)])
            assert network(x.flip(0)).shape == wanted.shape
            network.stem._forward_pre_hooks.clear()


def _refuse(*_: object) -> None:
    raise AssertionError("the stem was run")
