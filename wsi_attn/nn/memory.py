"""Maps of the frozen first stages of a backbone, computed once for each image and kept in memory, then on disk."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


class StageMemory:
    """What the first stages of one backbone gave for the images of a run.

    Maps are kept with 16 bits and computed one image at a time without the padding of its batch, so that they depend
    neither on the batch nor on when an image was first shown, and a resumed run sees the same.

    Parameters
    ----------
    limit
        Bytes of maps that are kept in memory.
    folder
        Where the others are kept, a file each; created when needed.

    Attributes
    ----------
    stages
        Number of stages whose maps are kept; 0 keeps none.
    """

    def __init__(self, limit: int, folder: Path) -> None:
        self.stages = 0
        self._images: Sequence[Hashable] = ()
        self._sizes: Sequence[tuple[int, int]] | None = None
        self._limit, self._folder = limit, folder
        self._kept: dict[Hashable, Tensor] = {}
        self._bytes = 0
        self._files: dict[Hashable, Path] = {}

    def expect(self, images: Sequence[Hashable] | None, sizes: Tensor | None = None) -> None:
        """Name the images that the backbone sees next.

        Parameters
        ----------
        images
            Their names; None if they have none.
        sizes
            int64 (B, 2), width and height of each without padding; None if none is padded.
        """
        self._images = images or ()
        self._sizes = None if sizes is None else [(width, height) for width, height in sizes.tolist()]

    def begin(self, stages: int) -> None:
        """Keep the maps of a number of stages from now on; those of another number are forgotten."""
        if stages != self.stages:
            self.forget()
        self.stages = stages

    def recalled(self, x: Tensor, compute: Callable[[Tensor], Tensor], stride: int, cell: int) -> Tensor:
        """Return the maps of a batch, float (B, 3, H, W) to (B, C, H / `stride`, W / `stride`), computing those that
        are not kept; 0 where an image has ended.

        Parameters
        ----------
        compute
            The first stages.
        stride
            Pixels per cell of their maps.
        cell
            Multiple to which an image is padded with zeros, as `x` is.
        """
        names, sizes = self._images, self._sizes
        self.expect(None)
        if len(names) != len(x):
            return compute(x)
        height, width = (side // stride for side in x.shape[2:])
        found = []
        for index, name in enumerate(names):
            maps = self._get(name)
            if maps is None:
                image = x[index : index + 1]
                if sizes is not None:
                    columns, rows = sizes[index]
                    image = functional.pad(image[:, :, :rows, :columns], (0, -columns % cell, 0, -rows % cell))
                with torch.no_grad():
                    maps = compute(image.contiguous(memory_format=torch.channels_last))[0].to("cpu", torch.float16)
                self._put(name, maps)
            found.append(functional.pad(maps, (0, width - maps.shape[2], 0, height - maps.shape[1])))
        return torch.stack(found).to(x.device, x.dtype).contiguous(memory_format=torch.channels_last)

    def forget(self) -> None:
        """Drop all maps and remove their files."""
        self._kept.clear()
        self._bytes = 0
        for path in self._files.values():
            path.unlink(missing_ok=True)
        self._files.clear()

    def _get(self, key: Hashable) -> Tensor | None:
        if key in self._files:
            stored: NDArray[np.float16] = np.load(self._files[key])
            return torch.from_numpy(stored)
        return self._kept.get(key)

    def _put(self, key: Hashable, maps: Tensor) -> None:
        size = maps.numel() * maps.element_size()
        if self._bytes + size <= self._limit:
            self._bytes += size
            self._kept[key] = maps
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{len(self._files)}.npy"
        np.save(path, maps.numpy())
        self._files[key] = path
