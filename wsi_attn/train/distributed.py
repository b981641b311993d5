"""Devices of a run: one process on one device, or the ranks of torchrun, through Lightning Fabric."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed

from wsi_attn.devices import resolve_device
from wsi_attn.errors import UsageError
from wsi_attn.tasks.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISION: dict[str, Any] = {"32": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}
"""Fabric names of the precisions."""


def make_fabric(config: TrainConfig) -> Fabric:
    """Create the Fabric with the devices and precision of a run; under torchrun one rank per process.

    Raises
    ------
    UsageError : half precision without CUDA, or a single numbered device for several ranks.
    """
    from lightning_fabric import Fabric  # imported here because it takes seconds
    from lightning_fabric.strategies.ddp import DDPStrategy

    device = torch.device(resolve_device(config.device))
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
                f"--device {config.device} names one device but torchrun started {devices} processes; use --device cuda"
            )
        # Parameters without gradient are normal: a rank may read no patches, and warm-up epochs train one head only.
        strategy = DDPStrategy(find_unused_parameters=True)
        warnings.filterwarnings(
            "ignore", "Grad strides do not match"
        )  # of 1x1 kernels, where both memory orders coincide
    fabric = Fabric(
        accelerator=device.type, devices=devices, num_nodes=nodes, strategy=strategy, precision=PRECISION[precision]
    )
    fabric.launch()
    return fabric


def share_buffers(fabric: Fabric, network: torch.nn.Module) -> None:
    """Broadcast the batch statistics of the first rank."""
    if fabric.world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def finish(fabric: Fabric) -> None:
    """Wait for all ranks and destroy the process group."""
    fabric.barrier()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
