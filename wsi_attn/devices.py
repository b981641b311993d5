"""The device that a network runs on: `auto`, `cpu`, `cuda` or `cuda:N`. Imports PyTorch only to resolve one."""

from __future__ import annotations

from wsi_attn.errors import UsageError
from wsi_attn.options import Option

AUTO = "auto"
"""CUDA if available, otherwise the CPU."""

NAMES = (AUTO, "cpu", "cuda")
"""What is usually asked for; `cuda:N` and a number are accepted as well."""


DEVICE = Option(
    "auto, cpu, cuda or cuda:N. auto uses CUDA if available. A number N means cuda:N, or cpu without a CUDA device; "
    "-1 means cpu.",
    aliases=("--gpus",),
    suggestions=lambda: NAMES,
)
"""The option."""


def resolve_device(device: str) -> str:
    """Return the device to run on.

    `auto` is CUDA if available, otherwise the CPU; a number selects a CUDA device, or the CPU without CUDA.

    Raises
    ------
    UsageError : the device does not exist.
    """
    import torch

    if device == "-1" or (device.isdecimal() and not torch.cuda.is_available()):
        return "cpu"
    if device.isdecimal():
        device = f"cuda:{device}"
    if device == AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}") from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices")
    if wanted.type not in ("cpu", "cuda"):
        raise UsageError(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}")
    return device
