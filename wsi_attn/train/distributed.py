"""Where a run runs: one process on one device, or the ranks that torchrun started, through Lightning Fabric."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed

from wsi_attn.errors import UsageError
from wsi_attn.train.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISION: dict[str, Any] = {"32": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}
"""Fabric's names of ours."""


def make_fabric(config: TrainConfig) -> Fabric:
    """The devices and the precision of a run; under torchrun one rank for each of its processes.

    Raises
    ------
    UsageError : half precision without CUDA, or one numbered device for several ranks.
    """
    from lightning_fabric import Fabric  # seconds, which only training pays
    from lightning_fabric.strategies.ddp import DDPStrategy

    device = torch.device(config.device)
    precision = config.precision
    if precision == "auto":
        precision = "bf16-mixed" if device.type == "cuda" else "32"
    if precision == "16-mixed" and device.type != "cuda":
        raise UsageError("--precision 16-mixed needs a CUDA device; use bf16-mixed or 32 here")
    devices: int | list[int] = 1 if device.index is None else [device.index]
    strategy: Any = "auto"
    nodes = 1
    if torch.distributed.is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
        if device.index is not None:
            raise UsageError(
                f"--device {config.device} is one device and torchrun started {devices} processes: use cuda"
            )
        # A rank may have read no patch, or be in an epoch that trains one head: parameters without gradient are usual.
        strategy = DDPStrategy(find_unused_parameters=True)
        warnings.filterwarnings("ignore", "Grad strides do not match")  # of 1x1 kernels, where the two orders are one
    fabric = Fabric(
        accelerator=device.type, devices=devices, num_nodes=nodes, strategy=strategy, precision=PRECISION[precision]
    )
    fabric.launch()
    return fabric


def gathered(fabric: Fabric, mine: list[Any]) -> list[Any]:
    """The items of all ranks, rank by rank."""
    if fabric.world_size == 1:
        return mine
    everyone: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(everyone, mine)
    return [item for part in everyone for item in part]


def share_buffers(fabric: Fabric, network: torch.nn.Module) -> None:
    """Give every rank the batch statistics of the first, which saw other images."""
    if fabric.world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def finish(fabric: Fabric) -> None:
    """Wait for all ranks, and take their group apart."""
    fabric.barrier()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
