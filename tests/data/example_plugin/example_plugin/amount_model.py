"""A linear function of the mean colour, for the task `amount`."""

from dataclasses import dataclass

from torch import Tensor, nn

from wsi_attn.models.base import Network


@dataclass(frozen=True)
class ColourSumConfig:
    channels: int = 3


class ColourSum(Network):
    config_class, task = ColourSumConfig, "amount"

    def __init__(self, config: ColourSumConfig) -> None:
        super().__init__()
        self.config, self.sum = config, nn.Linear(config.channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.sum(pixels.mean(dim=(1, 2)))
