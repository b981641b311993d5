"""The on-disk state of an unfinished run, from which an interrupted run resumes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from wsi_attn.errors import CheckpointError
from wsi_attn.file_bytes import read_regular
from wsi_attn.json_types import JsonObject
from wsi_attn.outputs import files
from wsi_attn.store.sharding import crc32c

RECORD, TENSORS = "state.json", "state.safetensors"


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


class _Record(msgspec.Struct):
    """`state.json`; `crc32c` is the checksum of the tensors, which earlier versions did not record."""

    epoch: Annotated[int, msgspec.Meta(ge=0)]
    best_loss: float
    history: list[dict[str, int | float]]
    scaling: dict[str, int | float] = msgspec.field(default_factory=dict)
    crc32c: int | None = None


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
    content = save({key: value.detach().contiguous().clone() for key, value in tensors.items()})
    record = {
        "epoch": progression.epoch,
        "best_loss": progression.best_loss,
        "history": progression.history,
        "scaling": scaling.state_dict(),
        "crc32c": crc32c(content),
    }
    with files.new_folder(folder) as temporary:
        files.write_bytes(temporary / TENSORS, content)
        files.write_json(temporary / RECORD, record)


def load_state(
    folder: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, scaling: Scaling
) -> TrainingState:
    """Restore network, average, optimizer and loss scaling; return the initial state if there is none.

    Raises
    ------
    CheckpointError : the state is damaged or of another network.
    """
    if not (folder / RECORD).is_file():
        return TrainingState()
    try:
        record = msgspec.json.decode(read_regular(folder / RECORD), type=_Record)
        content = read_regular(folder / TENSORS)
        if record.crc32c not in (None, crc32c(content)):
            raise ValueError(f"{TENSORS} has another checksum than {RECORD} states")
        tensors = load(content)
        network.load_state_dict(_under("network.", tensors))
        average.load_state_dict(_under("average.", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _under("optimizer.", tensors).items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value
        groups: list[JsonObject] = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if record.scaling:
            scaling.load_state_dict({**record.scaling})
    except (OSError, ValueError, LookupError, RuntimeError, TypeError, SafetensorError, msgspec.MsgspecError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"Cannot resume from {folder}: it is damaged ({reason}); use --overwrite to train again from the beginning"
        ) from error
    history: list[dict[str, float]] = [{**losses} for losses in record.history]
    return TrainingState(record.epoch, record.best_loss, _under("best.", tensors), history)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
