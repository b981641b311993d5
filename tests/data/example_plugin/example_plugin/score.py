"""Mean red of a tile."""

import numpy as np

from wsi_attn.scores.score import Score, TileBatch


def redness(tiles: TileBatch) -> np.ndarray:
    parts = (tile[:height, :width, 0] for tile, (width, height) in zip(tiles.pixels, tiles.valid, strict=True))
    return np.array([part.mean() if part.size else 0.0 for part in parts])


REDNESS = Score(0.0, 255.0, "grey values", "mean of the red channel", redness)
