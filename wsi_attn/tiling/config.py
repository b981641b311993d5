"""What a tiling run is told, and what it says when it is done."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_attn.errors import TissueError, UsageError
from wsi_attn.geometry import Mpp
from wsi_attn.registry import unknown_name
from wsi_attn.scores.scores import parse_names
from wsi_attn.store.schema import PixelsInfo
from wsi_attn.threads import thread_limit
from wsi_attn.tissue.detect import METHODS

TILE_SIZES = (16, 8192)
BACKGROUNDS = ("keep", "skip")
CODECS = ("auto", "passthrough", "zstd", "jpeg")


@dataclass(frozen=True)
class TileConfig:
    """How a slide is tiled. All but `workers` decide what is in the store, and are recorded there."""

    tile_size: int = 256
    """Side of a tile of the grid in pixels at the grid's resolution."""

    overlap: int = 0
    """Pixels that neighbouring tiles of the grid share; pixels themselves are stored once, whatever it is."""

    mpp: float | None = None
    """Microns per pixel of the store's level 0 along both axes; None keeps the slide's own pixels. A level of the
    slide within 2 % of it is copied as it is, with its true pixel size; otherwise level 0 is resampled by area."""

    min_tissue: float = 0.1
    """Least share of tissue, of a tile's area inside the slide, for the tile to be in the grid; 0 keeps all."""

    background: str = "keep"
    """`keep` stores every pixel; `skip` leaves out chunks without any tissue, which then read as background (255)."""

    tissue: str = "otsu"
    """How tissue is found: a name in `tissue.detect.METHODS`; `none` takes the whole slide."""

    codec: str = "auto"
    """How pixels are compressed. `passthrough` copies the slide's own JPEG or JPEG 2000 tiles byte for byte, and
    refuses slides that have none; `auto` does so where it can and takes `zstd` where it cannot; `zstd` is lossless;
    `jpeg` compresses anew, and loses."""

    quality: int = 90
    """Of `jpeg`, 1 to 100."""

    grid: str = "default"
    """Name of the grid in the store; grids of other names are added to a store without touching its pixels."""

    scores: str = "all"
    """What is computed of each tile: `all`, `none`, or names from `scores.SCORES` joined by commas."""

    workers: int | None = None
    """Threads that read and compress; None is one a core. Decides speed and memory, not what is written."""

    def __post_init__(self) -> None:
        low, high = TILE_SIZES
        if not low <= self.tile_size <= high:
            raise UsageError(f"--tile-size must lie between {low} and {high}, not {self.tile_size}")
        if not 0 <= self.overlap < self.tile_size:
            raise UsageError(
                f"--overlap must be at least 0 and below the tile size {self.tile_size}, not {self.overlap}"
            )
        if self.mpp is not None and not 0 < self.mpp < float("inf"):
            raise UsageError(f"--mpp must be a number of microns above 0, not {self.mpp}")
        if not 0 <= self.min_tissue <= 1:
            raise UsageError(f"--min-tissue is a share between 0 and 1, not {self.min_tissue}")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be at least 1, not {self.workers}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.grid):
            raise UsageError(f"--grid is a name of letters, digits, - and _, not {self.grid!r}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality lies between 1 and 100, not {self.quality}")
        parse_names(self.scores)
        for kind, name, known in (("background", self.background, BACKGROUNDS), ("codec", self.codec, CODECS)):
            if name not in known:
                raise unknown_name(kind, name, known)
        if not self.tissue_file:
            METHODS.get(self.tissue)

    @property
    def tissue_file(self) -> Path | None:
        """The GeoJSON file that says where tissue is, where `tissue` names one and not a method."""
        path = Path(self.tissue)
        return path if path.suffix.lower() in (".geojson", ".json") else None

    def pixel_parameters(self) -> dict[str, Any]:
        """What decides the pixels and the tissue of a store; must agree for a store to be gone on with."""
        tissue = self.tissue
        if (file := self.tissue_file) is not None:
            try:
                tissue = f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"
            except OSError as error:
                raise TissueError(f"Cannot read {file}: {error.strerror}") from error
        return {
            "mpp": self.mpp,
            "background": self.background,
            "tissue": tissue,
            "codec": self.codec,
            "quality": self.quality if self.codec == "jpeg" else None,
        }

    def grid_parameters(self) -> dict[str, Any]:
        """What decides a grid; must agree for one of the same name to be skipped."""
        return {
            "tile_size": self.tile_size,
            "overlap": self.overlap,
            "mpp": self.mpp,
            "min_tissue": self.min_tissue,
            "scores": list(parse_names(self.scores)),
        }

    def parameters(self) -> dict[str, Any]:
        """What a store records of the run that made it, and must agree for that run to be resumed."""
        return {**self.pixel_parameters(), **self.grid_parameters(), "grid": self.grid}

    def threads(self) -> int:
        """Threads to start."""
        return self.workers or thread_limit()


@dataclass(frozen=True)
class TileSummary:
    """What one run of `tile_slide` left on disk."""

    name: str
    path: Path
    state: str
    """`written` from the start, `resumed` after an interruption, `added` where a grid came to pixels that were there,
    or `skipped` because all was complete."""

    tiles: int
    """Tiles in the grid."""

    tiles_total: int
    """Tiles that cover the whole slide, tissue or not."""

    tissue_fraction: float
    """Share of the slide's area that is tissue."""

    unreadable_tiles: int
    """Tiles in the grid whose pixels could not be read; their scores are NaN and `readable` is False."""

    levels: int
    pixels: tuple[PixelsInfo, ...]
    """Of each level, whether it was passed through, and why not."""

    mpp: Mpp | None
    """Pixel size of the store's level 0, the tiles' own; None where the slide's is not known."""

    bytes: int
    seconds: float
