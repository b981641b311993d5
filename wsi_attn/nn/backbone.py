"""Interface of backbones, which map an image to a grid of features, and their stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn


class Stage(NamedTuple):
    """A part of a backbone whose output is a grid of features.

    `module` returns float (B, channels, H/stride, W/stride); `stride` is in input pixels per cell.
    """

    module: nn.Module
    channels: int
    stride: int


class Backbone(nn.Module, ABC):
    """Float (B, 3, H, W) to (B, out_channels, ceil(H/stride), ceil(W/stride)).

    Attributes
    ----------
    halo
        Pixels on each side of a cell that its features depend on; None if they may depend on the whole image.
    """

    out_channels: int
    stride: int
    halo: int | None

    @abstractmethod
    def stages(self) -> list[Stage]:
        """The stages from the first to the output stage."""

    @contextmanager
    def watched(self, watchers: Mapping[int, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
        """Call functions with the output of stages inside the block.

        Parameters
        ----------
        watchers
            Functions by stage number, from 1; a return value other than None replaces the output.
        """
        stages = self.stages()
        handles = [stages[n - 1].module.register_forward_hook(_hook(watcher)) for n, watcher in watchers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hook(watcher: Callable[[Tensor], Tensor | None]) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    return lambda _module, _inputs, output: watcher(output)
