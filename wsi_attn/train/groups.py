"""What of a network is trained, and how fast: parameter groups, frozen stages of trained backbones, warm-up."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypedDict

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from wsi_attn.errors import UsageError
from wsi_attn.models.base import Network, SlideModel
from wsi_attn.nn.backbone import Backbone, parameters_until
from wsi_attn.tasks.config import TrainConfig

TRAINED_RATE = 0.1
"""Learning rate of backbones that start from trained weights, as a share of the peak rate."""


class Group(TypedDict):
    """A group of AdamW; its learning rate is `share` of that of the schedule."""

    params: list[nn.Parameter]
    share: float
    weight_decay: float


def parameter_groups(network: Network, trained: Collection[nn.Module], config: TrainConfig) -> list[Group]:
    """Return the parameters by learning rate and weight decay, in the order of the network.

    Gates, biases and weights of normalisation do not decay: a penalty would pull the branches that gates open shut
    (He et al., "Bag of tricks for image classification", CVPR 2019, section 3.1, for the others).

    Parameters
    ----------
    trained
        The backbones that start from trained weights.
    """
    roles = network.parameter_roles()
    known = {id(value) for backbone in trained for value in backbone.parameters()}
    solved = solved_heads(network, config, trained)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, value in network.named_parameters():
        role = roles[name]
        share = 1.0
        if role == "gate":
            share = config.gate_rate
        elif role == "backbone" or id(value) in solved:
            given, starts = config.backbone_rate, id(value) in known or id(value) in solved
            share = given if given is not None else TRAINED_RATE if starts else 1.0
        decay = 0.0 if role == "gate" or value.ndim < 2 else config.weight_decay
        groups.setdefault((share, decay), []).append(value)
    return [Group(params=values, share=share, weight_decay=decay) for (share, decay), values in groups.items()]


def solved_heads(network: Network, config: TrainConfig, trained: Collection[nn.Module]) -> set[int]:
    """Return the ids of the parameters of heads that start as logistic regressions."""
    if not (config.solves_heads(trained) and isinstance(network, SlideModel)):
        return set()
    return {id(value) for head, _ in network.linear_heads() for value in head.parameters()}


def warm_up_epochs(config: TrainConfig, network: Network) -> int:
    """Return the number of initial epochs that train only the early terms, by default a share that the system says."""
    return int(network.warm_up * config.epochs) if config.warm_up_epochs is None else config.warm_up_epochs


class Freezing:
    """The stages of trained backbones that keep their weights, by epoch.

    In the epochs of warm-up the backbones keep all weights, then those of the first `freeze` stages, one stage
    less after each `unfreeze_epochs`.

    Raises
    ------
    UsageError : the backbones have no stages, or fewer than are to be frozen.
    """

    def __init__(self, trained: Sequence[nn.Module], config: TrainConfig, warm_up: int) -> None:
        self.trained, self.config, self.warm_up = trained, config, warm_up
        if config.freeze and not all(isinstance(each, Backbone) for each in trained):
            raise UsageError(
                f"--freeze {config.freeze}: this backbone of --model {config.system} has no stages; remove it"
            )
        counts = [len(each.stages()) for each in trained if isinstance(each, Backbone)]
        if counts and config.freeze > max(counts):
            raise UsageError(f"--freeze {config.freeze}: the backbone has {max(counts)} stages; choose at most that")

    def stages(self, epoch: int) -> int | None:
        """Return how many stages are frozen in an epoch, counted from 0; None for the whole backbone."""
        config = self.config
        if epoch < self.warm_up:
            return None
        thawed = (epoch - self.warm_up) // config.unfreeze_epochs if config.unfreeze_epochs else 0
        return max(0, config.freeze - thawed)

    def begin_epoch(self, epoch: int) -> None:
        """Freeze the stages of an epoch in a network that is in training mode, their normalisation included; the
        others learn.
        """
        stages = self.stages(epoch)
        for backbone in self.trained:
            frozen = {id(value) for value in frozen_parameters(backbone, stages)}
            for value in backbone.parameters():
                value.requires_grad_(id(value) not in frozen)
            for module in backbone.modules():
                if isinstance(module, _NormBase) and module.weight is not None and id(module.weight) in frozen:
                    module.eval()


def frozen_parameters(backbone: nn.Module, stages: int | None) -> list[nn.Parameter]:
    """Return the parameters of the first stages; of all for None or more than there are."""
    if stages == 0:
        return []
    if stages is None or not isinstance(backbone, Backbone) or stages >= len(backbone.stages()):
        return list(backbone.parameters())
    return list(parameters_until(backbone, stages))
