"""A linear classifier of the mean colour of the tissue."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.models.base import BagBatch, SlideModel, SlideOutput, without_patches
from wsi_attn.options import Option


@dataclass(frozen=True)
class MeanColourConfig:
    classes: int
    coarse_factor: Annotated[int, Option("High-resolution pixels per pixel of the view.", at_least=1)] = 4
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


class MeanColour(SlideModel):
    config_class = MeanColourConfig
    stride = 8

    def __init__(self, config: MeanColourConfig) -> None:
        super().__init__()
        self.config, self.head = config, nn.Linear(3, config.classes)

    def forward(self, batch: BagBatch) -> SlideOutput:
        cells = functional.avg_pool2d(batch.coarse.to(self.head.weight) / 255, self.stride, ceil_mode=True)
        share = batch.valid.to(cells) / batch.valid.to(cells).sum(dim=(1, 2), keepdim=True).clamp(min=1)
        return without_patches(self.head((cells * share[:, None]).sum(dim=(2, 3))), share)

    def losses(self, output: SlideOutput, labels: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        return {"fused": functional.cross_entropy(output.logits, labels, class_weights)}
