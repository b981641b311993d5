"""Agreement of attended regions with hot spots, measured against the nucleus masks of the fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from wsi_attn.data.manifest import Row
from wsi_attn.data.sources import open_source
from wsi_attn.errors import ManifestError, TissueError
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.slide import predict_slide


def hot_spot_quality(checkpoint: Checkpoint, rows: Sequence[Row]) -> Sequence[str]:
    """Return a line of the card: how often the most attended region lies in a hot spot, and the chance level."""
    hits, chances = [], []
    for row in rows:
        mask = _mask(row.path)
        try:
            with open_source(row.path, row.mpp) as slide:
                prediction = predict_slide(slide, checkpoint, PredictConfig(allow_out_of_distribution=True))
        except TissueError:
            continue  # counted among the fields without a prediction
        top = prediction.attention[0]
        hits.append(bool(mask[top.y + top.height // 2, top.x + top.width // 2]))
        chances.append(float(mask.mean()))
    return [
        f"Hot spots: in {np.mean(hits):.1%} of the test fields the centre of the most attended region lies where "
        f"nuclei cover at least 80 % of what they cover in the densest window; a random point does in "
        f"{np.mean(chances):.1%}."
    ]


def _mask(image: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    path = image.parent.parent / "masks" / f"{image.stem}.png"
    found = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if found is None:
        raise ManifestError(f"Mask {path} does not exist")
    return np.asarray(found > 127)
