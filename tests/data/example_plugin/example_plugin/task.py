"""The number in a column `amount` of the manifest, from a whole image."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsi_attn.data.manifest import Row
from wsi_attn.json_types import JsonObject
from wsi_attn.slide import Slide
from wsi_attn.tasks.row_task import Answered, Apply, RowTask, number_in


class Amount(RowTask):
    name, measure, about = "amount", "mean_absolute_error", "estimates an amount"

    def given(self, slide: Slide) -> Tensor:
        return torch.from_numpy(slide.read_region((0, 0), 0, slide.info.size0) / np.float32(255)).permute(2, 0, 1)

    def target(self, row: Row, labels: Sequence[str]) -> Tensor:
        return torch.tensor([number_in(row, "amount")])

    def loss(self, found: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        return functional.mse_loss(torch.stack(list(found)), torch.stack(list(targets)))

    def answer(self, network: Apply, slide: Slide, labels: Sequence[str]) -> JsonObject:
        return {"amount": network(self.given(slide)).item()}

    def score(self, answers: Sequence[Answered], weights: np.ndarray) -> float:
        away = [abs(answer["amount"] - number_in(row, "amount")) for row, answer in answers]
        return float(np.average(away, weights=weights))


AMOUNT = Amount()
