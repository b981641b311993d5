"""The on-disk state of an unfinished run, from which an interrupted run resumes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsi_attn.json_types import JsonObject
from wsi_attn.outputs import files


@dataclass
class TrainingState:
    """Progress of a run.

    Attributes
    ----------
    epoch
        Epochs finished.
    best_loss
        Lowest validation loss so far.
    best
        Weights of that epoch.
    history
        One record of named losses an epoch.
    """

    epoch: int = 0
    best_loss: float = float("inf")
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


class Scaling(Protocol):
    """State of the loss scaling of half precision; empty for other precisions."""

    def state_dict(self) -> JsonObject:
        """Plain numbers."""
        ...

    def load_state_dict(self, state_dict: JsonObject) -> None:
        """Restore them."""
        ...


def save_state(
    folder: Path,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaling: Scaling,
    progression: TrainingState,
) -> None:
    """Atomically write everything that a resumed run needs."""
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"average.{key}": value for key, value in average.state_dict().items()}
    tensors |= {f"best.{key}": value for key, value in progression.best.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
    with files.new_folder(folder) as temporary:
        save_file(
            {key: value.detach().contiguous().clone() for key, value in tensors.items()},
            temporary / "state.safetensors",
        )
        record = {
            "epoch": progression.epoch,
            "best_loss": progression.best_loss,
            "history": progression.history,
            "scaling": scaling.state_dict(),
        }
        files.write_json(temporary / "state.json", record)


def load_state(
    folder: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, scaling: Scaling
) -> TrainingState:
    """Restore network, average, optimizer and loss scaling; return the initial state if there is none."""
    if not (folder / "state.json").is_file():
        return TrainingState()
    record = json.loads((folder / "state.json").read_text())
    tensors = load_file(folder / "state.safetensors")
    network.load_state_dict(_under("network.", tensors))
    average.load_state_dict(_under("average.", tensors))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _under("optimizer.", tensors).items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    groups: list[JsonObject] = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    if record["scaling"]:
        scaling.load_state_dict(record["scaling"])
    return TrainingState(record["epoch"], record["best_loss"], _under("best.", tensors), record["history"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
