"""`ViewerSlide`: one open slide, its tiles for the browser, and its overlays."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_attn.data.sources import open_source
from wsi_attn.errors import NotEncodedError, SlideReadError, TileDecodeError, TissueError
from wsi_attn.geometry import Mpp
from wsi_attn.lru import LruCache
from wsi_attn.slide import EncodedTiles, Slide
from wsi_attn.slide.encoding import JPEG
from wsi_attn.slide.jpeg_decoding import prove_jpeg
from wsi_attn.slides.view import best_level
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tissue.find import find_tissue, stored_tissue, tissue_frame
from wsi_attn.tissue.mask import TissueMask
from wsi_attn.viewer.pyramid import SIDE, DeepZoom, TileLevel, same_tiles, tile_levels
from wsi_attn.viewer.render import render_region, to_jpeg

OVERVIEW_PIXELS = 150_000_000
"""Maximum number of pixels read to find the tissue of a slide: a few seconds of work."""


@dataclass(frozen=True)
class Tile:
    """A JPEG tile; `whole` is False if part of it is unreadable and hatched."""

    data: bytes
    whole: bool = True


class ViewerSlide:
    """A slide as presented to the browser; thread-safe.

    Parameters
    ----------
    path
        A slide, image or store.
    cache
        Cache of rendered tiles, shared by all slides.

    Raises
    ------
    WsiAttnError : as in `open_source`.
    """

    def __init__(self, path: Path, cache: LruCache[bytes], slide_mpp: Mpp | None = None) -> None:
        self.slide: Slide = open_source(path, slide_mpp)
        self._cache = cache
        self._stored: dict[int, tuple[EncodedTiles, NDArray[np.bool_]]] = {}  # and which of them decode
        self.not_stored = ""  # reason to render tiles of level 0
        info = self.slide.info
        for index in range(len(info.levels)):
            try:
                tiles = self.slide.encoded_tiles(index)
                if tiles.encoding.codec != JPEG:
                    raise NotEncodedError(f"browsers cannot display {tiles.encoding.codec}")
                self._stored[index] = tiles, np.zeros(tiles.lengths.shape, np.bool_)
            except NotEncodedError as error:
                self.not_stored = self.not_stored or str(error)
        sizes = {index: tiles.tile_size for index, (tiles, _) in self._stored.items()}
        self.levels = tile_levels(info.size0, info.levels, sizes)
        finest = self.levels[-1].tile
        self.deepzoom = DeepZoom(info.size0, finest.width if finest.width == finest.height else SIDE)

    @property
    def version(self) -> str:
        """Changes when the slide does; part of addresses, so a browser never shows a tile of another file."""
        return self.slide.info.fingerprint[:12]

    def level(self, index: int, column: int, row: int) -> TileLevel | None:
        """The level of `levels` that contains a tile; None if there is no such tile."""
        level = self.levels[index] if 0 <= index < len(self.levels) else None
        return level if level and level.region(column, row) else None

    def deepzoom_level(self, number: int, column: int, row: int) -> TileLevel | None:
        """The level for a tile of the DeepZoom pyramid: a stored one if its tile is identical."""
        level = self.deepzoom.level(number)
        region = level.region(column, row) if level else None
        if level is None or region is None:
            return None
        same = same_tiles(level, self.levels)
        # A stored tile at the border is padded, a DeepZoom tile is clipped.
        return self.levels[same] if same is not None and (region.width, region.height) == level.tile else level

    def tile(self, level: TileLevel, column: int, row: int) -> Tile:
        """One tile of a level: the stored one if it is intact, otherwise rendered."""
        return self.stored_tile(level, column, row, prove=True) or self._rendered(level, column, row)

    def stored_tile(self, level: TileLevel, column: int, row: int, *, prove: bool = False) -> Tile | None:
        """The stored tile, decoded once before use because browsers show damaged tiles without an error.

        None if it must be rendered, or, without `prove`, which takes microseconds, if it was not decoded yet.
        """
        if not level.passthrough or level.native is None:
            return None
        tiles, proven = self._stored[level.native]
        if not prove and not proven[row, column]:
            return None
        with suppress(SlideReadError, TileDecodeError):  # rendering marks damaged areas
            (data,) = tiles.read([(row, column)])
            if len(data):
                stream = tiles.encoding.complete(data)
                if not proven[row, column]:
                    prove_jpeg(stream)
                    proven[row, column] = True
                return Tile(stream)
        return None

    def tissue(self) -> TissueMask:
        """The tissue mask: that of the store, or found.

        Raises
        ------
        TissueError : finding it would take too long.
        """
        return self._tissue

    @cached_property
    def _tissue(self) -> TissueMask:
        if isinstance(self.slide, TileStore):
            return stored_tissue(self.slide)
        info, frame = self.slide.info, tissue_frame(self.slide)
        width, height = info.levels[best_level(self.slide, frame.downsample_x, frame.downsample_y)].size
        if width * height > OVERVIEW_PIXELS:
            raise TissueError(f"{info.path} has no level coarse enough for tissue detection; tile it first")
        return find_tissue(self.slide)

    def close(self) -> None:
        """Close the slide."""
        self.slide.close()

    def _rendered(self, level: TileLevel, column: int, row: int) -> Tile:
        region = level.region(column, row)
        assert region is not None  # noqa: S101 - levels are requested by existing tiles
        key = (self.version, level.frame, region)
        cached = self._cache.get(key)
        if cached is not None:
            return Tile(cached)
        pixels, whole = render_region(self.slide, level.frame, region)
        tile = Tile(to_jpeg(pixels), whole)
        if whole:
            self._cache.put(key, tile.data)
        return tile
