"""`ModelContract`: what an attention system promises, and fields of noise as its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.data.bags import Bag, collate
from wsi_attn.models.base import BagBatch, SlideModel, SlideOutput, TrainingImages
from wsi_attn.models.checkpoint import load_checkpoint, save_checkpoint
from wsi_attn.models.configs import SEGMENTATION
from wsi_attn.models.spec import ModelSpec
from wsi_attn.models.systems import SYSTEMS, build_network, plain_config

CLASSES = 2


@dataclass
class Field:
    """An image as a patch source; with `broken` none of its patches can be decoded."""

    pixels: NDArray[np.uint8]
    broken: bool = False

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """See `PatchSource`."""
        assert (xy >= 0).all(), "patches begin inside the slide"
        height, width = self.pixels.shape[:2]
        padded = np.pad(self.pixels, ((0, max(0, size - height)), (0, max(0, size - width)), (0, 0)))
        patches = [padded[y : y + size, x : x + size] for x, y in xy.tolist()]
        assert all(patch.shape == (size, size, 3) for patch in patches), "patches end inside the slide"
        stacked = np.stack(patches) if patches else np.zeros((0, size, size, 3), np.uint8)
        return stacked, np.full(len(xy), not self.broken)


def noise(height: int, width: int, seed: int = 0) -> Field:
    """Random pixels."""
    return Field(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def batch_of(images: Sequence[Field], network: SlideModel, generator: torch.Generator | None = None) -> BagBatch:
    """Fields as one batch, every cell inside them valid."""
    factor = network.config.coarse_factor
    sizes = [(-(-image.pixels.shape[1] // factor), -(-image.pixels.shape[0] // factor)) for image in images]
    views = [cv2.resize(f.pixels, size, interpolation=cv2.INTER_AREA) for f, size in zip(images, sizes, strict=True)]
    bags = [
        Bag(np.asarray(view, np.uint8), np.ones(view.shape[:2], np.bool_), image.pixels.shape[1::-1], image)
        for image, view in zip(images, views, strict=True)
    ]
    return collate(bags, network.stride, generator)


class ModelContract:
    """Tests of one attention system.

    Attributes
    ----------
    name
        What `train --model` takes.
    options
        Fields of its configuration that keep the network small.
    size
        Height and width of the images that it is tried with, pixels.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, object]] = {}
    size: ClassVar[tuple[int, int]] = (128, 192)

    def built(self) -> SlideModel:
        """The network with the weights of one seed, prepared for training."""
        torch.manual_seed(0)
        network = build_network(self.name, {"classes": CLASSES, **self.options})
        assert isinstance(network, SlideModel)
        batch = batch_of([noise(*self.size), noise(*self.size, seed=1)], network)
        views = batch.coarse[:, :].permute(0, 2, 3, 1).numpy()
        patients, weights = ["first", "second"], torch.ones(2)
        network.prepare(
            TrainingImages(torch.tensor([0, 1]), views.__getitem__, 2, 0, patients, weights, lambda: [batch])
        )
        network.begin_epoch(0, 2)
        return network

    def batch(self, network: SlideModel, *, training: bool = False) -> BagBatch:
        """Two images."""
        generator = torch.Generator().manual_seed(0) if training else None
        return batch_of([noise(*self.size, seed=1), noise(*self.size, seed=2)], network, generator)

    def answered(self, network: SlideModel) -> SlideOutput:
        """What the network answers in evaluation mode."""
        with torch.inference_mode():
            return network.eval()(self.batch(network))

    def labels(self, output: SlideOutput) -> torch.Tensor:
        """One label for each image, or for each pixel."""
        if output.segmentation is None:
            return torch.tensor([0, 1])
        return torch.arange(output.segmentation[:, 0].numel()).reshape(output.segmentation[:, 0].shape) % CLASSES

    def test_its_configuration_is_a_frozen_dataclass(self) -> None:
        """Fields with defaults except `classes`, which are the options of `train`, and values that JSON holds."""
        config = SYSTEMS.get(self.name).config_class
        assert is_dataclass(config)
        names = {field.name for field in fields(config)}
        assert {"classes", "coarse_factor", "mean", "std"} <= names
        network = self.built()
        assert build_network(self.name, plain_config(network.config)).config == network.config

    def test_it_answers_with_probabilities_and_places(self) -> None:
        """Shapes of `SlideOutput`, and attention that sums to 1 over the valid cells."""
        network = self.built()
        batch, output = self.batch(network), self.answered(network)
        assert output.logits.shape == (2, CLASSES)
        assert torch.isfinite(output.logits).all()
        assert output.attention.shape == batch.valid.shape
        torch.testing.assert_close(output.attention.sum(dim=(1, 2)), torch.ones(2))
        assert output.patch_xy.shape == (*output.patch_mask.shape, 2)
        assert output.patch_attention.shape == output.patch_mask.shape
        assert (output.segmentation is not None) == (network.task == SEGMENTATION)
        if output.segmentation is not None:
            assert output.segmentation.shape == (2, CLASSES, *batch.coarse.shape[2:])

    def test_it_answers_the_same_again(self) -> None:
        """Evaluation mode draws nothing."""
        network = self.built()
        assert torch.equal(self.answered(network).logits, self.answered(network).logits)

    def test_it_learns(self) -> None:
        """Named losses are finite numbers, and steps along their gradient make them smaller."""
        network = self.built().train()
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
        totals = []
        for _ in range(12):
            output = network(self.batch(network, training=True))
            terms = network.losses(output, self.labels(output), torch.ones(CLASSES))
            assert terms, "there is a loss"
            assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values()), terms
            assert network.task == SEGMENTATION or "fused" in terms, "the loss of the label is named fused"
            total = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad()
            torch.autograd.backward(total)
            optimizer.step()
            totals.append(total.item())
        assert min(totals[6:]) < totals[0], totals

    def test_a_checkpoint_answers_as_before(self, tmp_path: Path) -> None:
        """The folder of a checkpoint rebuilds the network."""
        network = self.built()
        network.finish()
        before = self.answered(network)
        spec = ModelSpec(tuple(f"label {index}" for index in range(CLASSES)), None, "any", "none", task=network.task)
        folder = tmp_path / "checkpoint"
        save_checkpoint(folder, name="m", system=self.name, network=network, spec=spec, card="# m", provenance={})
        loaded = load_checkpoint(folder).network
        assert isinstance(loaded, SlideModel)
        after = self.answered(loaded)
        assert torch.equal(before.logits, after.logits)
        assert torch.equal(before.attention, after.attention)
