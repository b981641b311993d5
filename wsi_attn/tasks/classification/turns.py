"""Test-time augmentation: predictions averaged over the eight flips and quarter turns of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wsi_attn.data.augment import SYMMETRIES
from wsi_attn.data.bags import collate
from wsi_attn.data.large import SlideBag
from wsi_attn.models.base import SlideModel, SlideOutput


def averaged_logits(logits: Sequence[Tensor]) -> Tensor:
    """Return the log of the mean of the probabilities, float (B, C) each; the logits themselves of one."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack([each.log_softmax(dim=1) for each in logits]).logsumexp(dim=0)


def averaged_over_turns(bag: SlideBag, network: SlideModel, output: SlideOutput) -> SlideOutput:
    """Return the output on a slide with the logits averaged over all orientations; attention and maps are those of
    the slide as it is. A slide that is read in parts is seen in its own orientation only.
    """
    if bag.whole is None:
        return output
    bag.patches.progress(0, 1, "other orientations")
    turned = [collate([bag.whole.turned(symmetry)], bag.stride) for symmetry in SYMMETRIES[1:]]
    return replace(output, logits=averaged_logits([output.logits, *(network(batch).logits for batch in turned)]))
