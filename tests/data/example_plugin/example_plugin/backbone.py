"""One convolution over squares of 8 pixels."""

from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.nn.backbone import Backbone, BackboneFamily, Stage


class Patchify(Backbone):
    stride, halo = 8, 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels, self.squares = channels, nn.Conv2d(3, channels, self.stride, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.squares(functional.pad(x, (0, -x.shape[3] % self.stride, 0, -x.shape[2] % self.stride))).relu()

    def stages(self) -> list[Stage]:
        return [Stage(self, self.out_channels, self.stride)]


PATCHIFY = BackboneFamily(lambda options: Patchify(options.widths[-1]))
