"""Interfaces of the attention systems: inputs, outputs, configuration and the base class.

Letters: B slides, C classes, K instances, D features, h x w cells of the attention map. A model never opens
files: it reads the pixels of selected locations through a `PatchSource`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_attn.errors import UsageError
from wsi_attn.models.configs import CLASSIFICATION
from wsi_attn.nn.backbone import Backbone
from wsi_attn.nn.gates import Gated
from wsi_attn.nn.memory import StageMemory
from wsi_attn.slide import Progress, UInt8Array, no_progress


class PatchSource(Protocol):
    """Pixels of one slide at the model's high resolution."""

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[UInt8Array, NDArray[np.bool_]]:
        """Square patches.

        Parameters
        ----------
        xy
            int64 (K, 2), top-left corners in high-resolution pixels.
        size
            Side in high-resolution pixels.

        Returns
        -------
        uint8 (K, size, size, 3) and bool (K,), False where a patch could not be decoded.
        """
        ...


class CoarseView(Protocol):
    """Low-resolution views with the `shape` (B, 3, H, W) and the slicing of a tensor, which may read them lazily."""

    @property
    def shape(self) -> Sequence[int]:
        """B, 3, H, W."""
        ...

    def __getitem__(self, where: tuple[slice, ...], /) -> Tensor:
        """Return a part, uint8; `view[:, :]` is all of it."""
        ...


@dataclass(frozen=True)
class BagBatch:
    """B slides of one step.

    Attributes
    ----------
    coarse
        uint8 (B, 3, H, W), low-resolution views, padded to one size.
    valid
        bool (B, h, w), valid cells of the attention map: tissue, not padding.
    extent
        int64 (B, 2), width and height of each slide in high-resolution pixels.
    sources
        B patch sources.
    generator
        Random generator for training; None disables sampling.
    coarse_size
        int64 (B, 2), width and height of each view without padding; None if no view is padded.
    prior
        float (B, h, w), at least 0: weight of each cell from its tissue share and the scores of its patches. Attention
        is proportional to prior_t exp(e_t); None weights all valid cells equally.
    progress
        Reports the blocks of a large view that are encoded and the patches that are read.
    images
        B names of the images as they are shown: equal names stand for equal views. None if they have none.
    """

    coarse: CoarseView
    valid: Tensor
    extent: Tensor
    sources: tuple[PatchSource, ...]
    generator: torch.Generator | None = None
    coarse_size: Tensor | None = None
    prior: Tensor | None = None
    progress: Progress = no_progress
    images: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class SlideOutput:
    """Output of `SlideModel.forward`.

    Attributes
    ----------
    logits
        float (B, C), the fused prediction.
    attention
        float (B, h, w), softmax over the valid cells; 0 elsewhere.
    patch_xy
        int64 (B, K, 2), top-left corners of the patches in high-resolution pixels; K is 0 if no patches are read.
    patch_size
        int64 (B, K), sides of the patches in high-resolution pixels.
    patch_mask
        bool (B, K), False for padding and for patches that could not be decoded.
    patch_attention
        float (B, K), softmax over the patches read.
    global_logits, instance_logits
        float (B, C), the predictions of each branch alone; None if the system has no such branch.
    unreadable
        int64 (B,), patches that could not be decoded.
    evidence
        float (B, C, h, w), evidence of each cell for each label, in logits above the mean over the labels; None during
        training and for systems without it.
    segmentation
        float (B, C, H, W), logits of each pixel of the coarse view; None for classification systems.
    pooled
        float (B, P), the input of `Network.decide`, before dropout; None for systems without it.
    features
        float (B, D, h, w), the feature maps that are pooled, with their gradient, which CARE guides if the
        system learns no attention; h x w may be the system's own grid over each image. None during evaluation
        and for systems whose `attention` is guided.
    """

    logits: Tensor
    attention: Tensor
    patch_xy: Tensor
    patch_size: Tensor
    patch_mask: Tensor
    patch_attention: Tensor
    global_logits: Tensor | None
    instance_logits: Tensor | None
    unreadable: Tensor
    evidence: Tensor | None = None
    segmentation: Tensor | None = None
    pooled: Tensor | None = None
    features: Tensor | None = None


def without_patches(
    logits: Tensor,
    attention: Tensor,
    global_logits: Tensor | None = None,
    evidence: Tensor | None = None,
    pooled: Tensor | None = None,
) -> SlideOutput:
    """Return the output of a system or branch that reads no patches: K is 0."""
    none = torch.zeros((len(logits), 0), dtype=torch.int64, device=logits.device)
    return SlideOutput(
        logits=logits,
        attention=attention,
        patch_xy=none[..., None].expand(-1, -1, 2),
        patch_size=none,
        patch_mask=none.bool(),
        patch_attention=none.to(logits.dtype),
        global_logits=global_logits,
        instance_logits=None,
        unreadable=torch.zeros(len(logits), dtype=torch.int64, device=logits.device),
        evidence=evidence,
        pooled=pooled,
    )


@dataclass(frozen=True)
class TrainingImages:
    """The training set without augmentation, for systems that inspect it before training.

    Attributes
    ----------
    labels
        int64 (n,).
    view
        uint8 (rows, columns, 3), the coarse view of an image by its index.
    batch_size
        Images per step.
    seed
        Seed of random choices.
    patients
        Of each image.
    weights
        float (n,), weight of each image in the losses.
    batches
        Returns all images in their order, in batches.
    """

    labels: Tensor
    view: Callable[[int], UInt8Array]
    batch_size: int
    seed: int
    patients: Sequence[str]
    weights: Tensor
    batches: Callable[[], Iterable[BagBatch]]


Role = Literal["backbone", "head", "gate"]
"""What a parameter is to the optimiser; see `Network.parameter_roles`."""


class NetworkConfig(Protocol):
    """A frozen dataclass that rebuilds a network."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class SlideConfig(NetworkConfig, Protocol):
    """Fields that the configuration of every `SlideModel` has, among others."""

    @property
    def classes(self) -> int:
        """Number of labels."""
        ...

    @property
    def coarse_factor(self) -> int:
        """High-resolution pixels per pixel of the coarse view, along a side."""
        ...

    @property
    def mean(self) -> tuple[float, float, float]:
        """Channel means of the input, 0 to 1."""
        ...

    @property
    def std(self) -> tuple[float, float, float]:
        """Channel deviations of the input."""
        ...


class Network(nn.Module, ABC):
    """Base class of all systems, as used by the training loop and checkpoints.

    Attributes
    ----------
    config_class
        Frozen dataclass of the network's configuration; the constructor takes one.
    task
        Name of the task, see `tasks`.
    former
        What fields of the configuration were, in effect, before they existed; for checkpoints that lack them.
    renamed
        New names of fields of the configuration by their names in earlier checkpoints.
    warm_up
        Share of the epochs in which, by default, only the early terms of the losses are trained; see `Losses.early`.
    """

    former: ClassVar[Mapping[str, object]] = {}
    renamed: ClassVar[Mapping[str, str]] = {}
    warm_up: ClassVar[float] = 0.0
    config: NetworkConfig
    config_class: ClassVar[type[NetworkConfig]]
    task: ClassVar[str]

    @classmethod
    def completed(cls, options: Mapping[str, object]) -> Mapping[str, object]:
        """Return the configuration, completed with fields that depend on the installed packages; they are
        stored with the model.
        """
        return options

    def backbones(self) -> list[nn.Module]:
        """Return the parts that can start from trained weights, whether or not they do."""
        return [module for module in self.modules() if isinstance(module, Backbone)]

    def parameter_roles(self) -> dict[str, Role]:
        """Return the role of each parameter by its name: "backbone" in `backbones`, "gate" (see `nn.gates`), or
        "head", everything else.
        """
        backbone = {id(value) for part in self.backbones() for value in part.parameters()}
        gates = {id(value) for part in self.modules() if isinstance(part, Gated) for value in part.gates().values()}
        return {
            name: "gate" if id(value) in gates else "backbone" if id(value) in backbone else "head"
            for name, value in self.named_parameters()
        }

    def logged(self) -> dict[str, float]:
        """Return numbers about the network for the training log of an epoch: its gates that are scalars, as
        "gates/NAME".
        """
        return {
            f"gates/{path}.{name}": value
            for path, part in self.named_modules()
            if isinstance(part, Gated)
            for name, value in part.scalars().items()
        }

    def decide(self, pooled: Tensor) -> Tensor:
        """Compute logits (n, C) from the `pooled` of an output, float (n, P), with dropout if enabled.

        Raises
        ------
        UsageError : the system has no dropout before its prediction.
        """
        raise UsageError(f"{type(self).__name__} has no dropout, so --mc-dropout cannot be used")

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Hook before each epoch, counted from 0."""

    def finish(self) -> None:
        """Hook after training: drop everything that only training needs."""


class SlideModel(Network):
    """Base class of the systems that read the pixels of slides and images.

    Attributes
    ----------
    any_orientation
        Whether training may flip and rotate images; False if positions in the image carry meaning.
    whole_batches
        Whether training drops an incomplete last batch.
    memories
        Those of its backbones while it is trained with frozen stages.
    """

    config: SlideConfig
    task: ClassVar[str] = CLASSIFICATION
    any_orientation: bool = True
    whole_batches: bool = False
    memories: tuple[StageMemory, ...] = ()

    def __call__(self, batch: BagBatch) -> SlideOutput:
        """`forward`, with its type; tells the memories of its backbones which images come."""
        for memory in self.memories:
            memory.expect(batch.images, batch.coarse_size)
        output: SlideOutput = super().__call__(batch)
        return output

    def view_backbones(self) -> list[tuple[Backbone, int]]:
        """Return the backbones that see the whole views of a batch once and unchanged while training, and how many of
        their first stages are only passed through.
        """
        return []

    def linear_heads(self) -> list[tuple[nn.Linear, slice]]:
        """Return the linear layers that read `SlideOutput.pooled`, and the columns that each reads; they can start as
        logistic regressions.
        """
        return []

    @property
    @abstractmethod
    def stride(self) -> int:
        """Coarse pixels per cell of the attention map, along a side."""

    @property
    def cell(self) -> int:
        """Side of an attention cell in high-resolution pixels."""
        return self.config.coarse_factor * self.stride

    @abstractmethod
    def forward(self, batch: BagBatch) -> SlideOutput:
        """Predict B slides."""

    @abstractmethod
    def losses(self, output: SlideOutput, labels: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the named loss terms that the training loop sums; "fused" is the cross-entropy of `output.logits`.

        Parameters
        ----------
        labels
            int64 (B,); for segmentation (B, H, W), -1 where a pixel has none.
        class_weights
            float (C,), weight of each class in the cross-entropies; equal by default.
        """

    def prepare(self, images: TrainingImages) -> tuple[str, ...]:
        """Inspect the training set once before training, also when a run resumes.

        Returns
        -------
        Warnings, one sentence each.
        """
        return ()
