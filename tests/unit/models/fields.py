"""Synthetic fields as batches, for tests of networks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.models.base import BagBatch, SlideModel


@dataclass
class Field:
    """An image as a patch source."""

    pixels: NDArray[np.uint8]
    broken: bool = False

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        assert (xy >= 0).all()
        height, width = self.pixels.shape[:2]
        padded = np.pad(self.pixels, ((0, max(0, size - height)), (0, max(0, size - width)), (0, 0)))
        patches = [padded[y : y + size, x : x + size] for x, y in xy.tolist()]
        assert all(patch.shape == (size, size, 3) for patch in patches)
        stacked = np.stack(patches) if patches else np.zeros((0, size, size, 3), np.uint8)
        return stacked, np.full(len(xy), not self.broken)


def batch_of(fields: list[Field], network: SlideModel, generator: torch.Generator | None = None) -> BagBatch:
    """Fields as one batch, every cell inside them valid."""
    factor, stride = network.config.coarse_factor, network.stride
    sizes = [(-(-field.pixels.shape[1] // factor), -(-field.pixels.shape[0] // factor)) for field in fields]
    views = [cv2.resize(f.pixels, size, interpolation=cv2.INTER_AREA) for f, size in zip(fields, sizes, strict=True)]
    height, width = max(view.shape[0] for view in views), max(view.shape[1] for view in views)
    coarse = np.full((len(fields), height, width, 3), 255, np.uint8)
    valid = np.zeros((len(fields), -(-height // stride), -(-width // stride)), np.bool_)
    for index, view in enumerate(views):
        coarse[index, : view.shape[0], : view.shape[1]] = view
        valid[index, : -(-view.shape[0] // stride), : -(-view.shape[1] // stride)] = True
    return BagBatch(
        torch.from_numpy(coarse).permute(0, 3, 1, 2),
        torch.from_numpy(valid),
        torch.tensor([[field.pixels.shape[1], field.pixels.shape[0]] for field in fields]),
        tuple(fields),
        generator,
        torch.tensor(sizes) if len(set(sizes)) > 1 else None,
    )


def noise(height: int, width: int, seed: int = 0) -> Field:
    return Field(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
