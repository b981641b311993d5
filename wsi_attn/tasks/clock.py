"""Timing of an epoch: images and patches per second, time spent waiting for data, GPU utilisation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.models.base import PatchSource
from wsi_attn.slide import UInt8Array

SAMPLED_STEPS = 10
"""Steps between two looks at the GPU's own counter."""

TIMING = ("images_per_second", "patches_per_second", "data_wait", "gpu_utilisation")
"""Columns of the log that say how fast an epoch was; they differ from run to run."""


@dataclass
class EpochClock:
    """Counts and times of one epoch on one rank; `waited` is in seconds."""

    images: int = 0
    patches: int = 0
    waited: float = 0.0
    busy: list[float] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the block as waiting for data."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - before

    def sample(self, step: int, device: torch.device) -> None:
        """Sample GPU utilisation at intervals; does nothing without CUDA and `nvidia-ml-py`."""
        if device.type == "cuda" and step % SAMPLED_STEPS == 0:
            with suppress(ModuleNotFoundError, RuntimeError):
                self.busy.append(float(torch.cuda.utilization(device)))

    def record(self) -> dict[str, float]:
        """Columns of `TIMING`: rates, the share of the time spent waiting for data, percent of the GPU where known."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        busy = {"gpu_utilisation": float(np.mean(self.busy))} if self.busy else {}
        return {
            "images_per_second": self.images / seconds,
            "patches_per_second": self.patches / seconds,
            "data_wait": min(1.0, self.waited / seconds),
            **busy,
        }


class TimedPatches:
    """A patch source that counts reading time as waiting."""

    def __init__(self, source: PatchSource, clock: EpochClock) -> None:
        self.source = source
        self.clock = clock

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[UInt8Array, NDArray[np.bool_]]:
        """See `PatchSource.read_patches`."""
        with self.clock.waiting():
            return self.source.read_patches(xy, size)
