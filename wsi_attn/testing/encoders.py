"""`BackboneContract`: what a backbone promises."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from wsi_attn.nn.backbone import Backbone
from wsi_attn.nn.backbones import build_backbone, normalisation_of


class BackboneContract:
    """Tests of one backbone.

    Attributes
    ----------
    name
        What `--backbone` takes.
    widths, largest_stride
        See `BackboneOptions`.
    """

    name: ClassVar[str]
    widths: ClassVar[tuple[int, ...]] = (8, 8, 16)
    largest_stride: ClassVar[int | None] = None

    def built(self) -> Backbone:
        """The backbone with the weights of one seed, in evaluation mode."""
        torch.manual_seed(0)
        return build_backbone(self.name, self.widths, self.largest_stride).eval()

    def features(self, network: Backbone, image: Tensor) -> Tensor:
        """Features of images."""
        with torch.no_grad():
            found: Tensor = network(image)
        return found

    def test_images_of_any_size_become_grids(self) -> None:
        """Every started cell of `stride` pixels has `out_channels` features."""
        network = self.built()
        for height, width in ((2 * network.stride, 3 * network.stride), (2 * network.stride + 1, network.stride)):
            found = self.features(network, torch.rand(2, 3, height, width))
            expected = (2, network.out_channels, -(-height // network.stride), -(-width // network.stride))
            assert tuple(found.shape) == expected
            assert torch.isfinite(found).all()

    def test_stages_lead_to_the_output(self) -> None:
        """Strides grow from stage to stage, and the last stage is the output."""
        network = self.built()
        stages = network.stages()
        strides = [stage.stride for stage in stages]
        assert strides == sorted(strides)
        assert (stages[-1].stride, stages[-1].channels) == (network.stride, network.out_channels)
        seen: dict[int, Tensor] = {}
        watchers = {number: partial(seen.__setitem__, number) for number in range(1, len(stages) + 1)}
        with network.watched(watchers):
            self.features(network, torch.rand(1, 3, 2 * network.stride, 2 * network.stride))
        for number, stage in enumerate(stages, 1):
            assert seen[number].shape[1] == stage.channels

    def test_a_cell_sees_no_further_than_the_halo(self) -> None:
        """Pixels further away than `halo` change nothing, so that large views are encoded in blocks."""
        network = self.built()
        if network.halo is None:
            return
        cells = 2 * (network.halo // network.stride + 2) + 1
        image = torch.rand(1, 3, cells * network.stride, cells * network.stride)
        middle = cells // 2
        first, last = middle * network.stride - network.halo, (middle + 1) * network.stride + network.halo
        other = torch.rand_like(image)
        other[..., first:last, first:last] = image[..., first:last, first:last]
        before, after = (self.features(network, each)[..., middle, middle] for each in (image, other))
        torch.testing.assert_close(before, after)

    def test_it_learns(self) -> None:
        """Gradients reach every weight."""
        network = self.built().train()
        network(torch.rand(2, 3, 2 * network.stride, 2 * network.stride)).square().sum().backward()
        without = [name for name, weight in network.named_parameters() if weight.grad is None]
        assert not without, f"no gradient reaches {without}"

    def test_normalisation_is_that_of_an_input(self) -> None:
        """Means and deviations from 0 to 1, or None for networks that are trained from scratch."""
        found = normalisation_of(self.name)
        assert found is None or all(len(part) == 3 and all(0 < value <= 1 for value in part) for part in found)
