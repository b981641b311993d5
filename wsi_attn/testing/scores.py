"""`ScoreContract`: what a tile score promises."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from wsi_attn.scores.scores import SCORES, parse_names, score_tiles

RULE = ("chroma", 20)


def example_tiles() -> NDArray[np.uint8]:
    """Tiles with noise, gradients and single colours: uint8 (9, 32, 40, 3)."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (4, 32, 40, 3))
    ramp = np.broadcast_to(np.linspace(0, 255, 40)[None, :, None], (32, 40, 3))[None]
    flat = [np.full((1, 32, 40, 3), colour) for colour in (0, 128, 255)]
    pink = np.broadcast_to([230, 150, 190], (1, 32, 40, 3))
    return np.concatenate([noise, ramp, *flat, pink]).astype(np.uint8)


class ScoreContract:
    """Tests of one score.

    Attributes
    ----------
    name
        Its name in the registry.
    """

    name: ClassVar[str]

    def scored(self, tiles: NDArray[np.uint8], valid: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Score tiles as `tile` does; `valid` is the whole tile by default."""
        whole = np.tile(np.array([tiles.shape[2], tiles.shape[1]]), (len(tiles), 1))
        return score_tiles(tiles, whole if valid is None else valid, [self.name], RULE, parallel=False)[self.name]

    def test_it_is_described(self) -> None:
        """Limits, unit and description are stored beside the values; the name can be typed after `--scores`."""
        score = SCORES.get(self.name)
        assert score.low < score.high
        assert score.unit
        assert score.description
        assert parse_names(self.name) == (self.name,)

    def test_values_are_within_the_limits(self) -> None:
        """One finite number for each tile."""
        score, values = SCORES.get(self.name), self.scored(example_tiles())
        assert values.shape == (len(example_tiles()),)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert (values >= np.float32(score.low)).all()
        assert (values <= np.float32(score.high)).all()

    def test_a_tile_counts_for_itself(self) -> None:
        """The score of a tile does not depend on the tiles beside it or on their order."""
        tiles = example_tiles()
        order = np.random.default_rng(1).permutation(len(tiles))
        assert np.array_equal(self.scored(tiles[order]), self.scored(tiles)[order])
        alone = [self.scored(tile[None])[0] for tile in tiles]
        assert np.array_equal(alone, self.scored(tiles))

    def test_only_pixels_inside_the_slide_count(self) -> None:
        """Pixels beyond the valid part change nothing; a tile without a valid pixel scores 0."""
        tiles = example_tiles()
        valid = np.tile(np.array([24, 16]), (len(tiles), 1))
        changed = tiles.copy()
        changed[:, 16:], changed[:, :, 24:] = 77, 77
        assert np.array_equal(self.scored(tiles, valid), self.scored(changed, valid))
        assert not self.scored(tiles, np.zeros_like(valid)).any()
