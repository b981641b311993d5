"""Interface of backbones, which map an image to a grid of features, and their stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from wsi_attn.nn.memory import StageMemory

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Channel means and standard deviations of the input, 0 to 1."""


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
    remembers
        Whether it takes a memory.
    memory
        Maps of its first stages, which are frozen; None without.
    """

    out_channels: int
    stride: int
    halo: int | None
    remembers: ClassVar[bool] = False
    memory: StageMemory | None = None

    @abstractmethod
    def stages(self) -> list[Stage]:
        """The stages from the first to the output stage."""

    def pooled_maps(self, x: Tensor) -> Tensor:
        """Return the features whose mean describes an image: float (B, 3, H, W) to (B, `pooled_channels`, h, w)."""
        features: Tensor = self(x)
        return features

    def pooled_features(self, x: Tensor) -> Tensor:
        """Return one vector of each image: float (B, 3, H, W) to (B, `pooled_channels`), the mean over the cells."""
        return self.pooled_maps(x).mean(dim=(2, 3))

    @property
    def pooled_channels(self) -> int:
        """Channels of `pooled_maps`."""
        return self.out_channels

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


def parameters_until(backbone: Backbone, stages: int) -> Iterator[nn.Parameter]:
    """Yield the parameters of the first stages, and of what lies before and between them, in the order of the
    backbone.
    """
    if not stages:
        return
    last = {id(value) for value in backbone.stages()[stages - 1].module.parameters()}
    found = list(backbone.parameters())
    yield from found[: 1 + max(place for place, value in enumerate(found) if id(value) in last)]


@runtime_checkable
class TakesWeights(Protocol):
    """A network or part of one that can start from trained weights."""

    def load(self, weights: str) -> None:
        """Load trained weights: "pretrained", or a `.safetensors` file.

        Raises
        ------
        CheckpointError : the weights cannot be read, or belong to another network.
        """
        ...


class BackboneOptions(NamedTuple):
    """What a family builds a backbone from.

    Attributes
    ----------
    widths
        Channels of the stages, for families without given ones.
    network
        What follows the colon in ``family:network``; empty without one.
    largest_stride
        Largest stride of the output, for families that can end at several stages; None for the last stage.
    head
        Whether `pooled_features` also applies the layer that an ImageNet classifier has before its mean, for families
        with one.
    """

    widths: tuple[int, ...]
    network: str = ""
    largest_stride: int | None = None
    head: bool = False


@dataclass(frozen=True)
class BackboneFamily:
    """A member of the registry of backbones: one network, or many that are chosen by ``family:network``.

    Attributes
    ----------
    build
        Builds the network with random weights. A network with a method `load` also takes trained weights.
    normalisation
        Normalisation that the weights of a network expect; None for networks that are trained from scratch.
    networks
        Whether the name continues with ``:network``.
    """

    build: Callable[[BackboneOptions], Backbone]
    normalisation: Callable[[str], Normalisation | None] = lambda network: None
    networks: bool = False


def _hook(watcher: Callable[[Tensor], Tensor | None]) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    return lambda _module, _inputs, output: watcher(output)
