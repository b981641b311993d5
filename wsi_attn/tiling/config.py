"""Configuration and summary of a tiling run."""

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
    """How to tile a slide. All fields except `workers` determine the store and are recorded in it."""

    tile_size: int = 256
    """Side of a grid tile in pixels at the grid's resolution."""

    overlap: int = 0
    """Pixels shared by neighbouring tiles of the grid; the store holds each pixel once in any case."""

    mpp: float | None = None
    """Microns per pixel of the store's level 0 along both axes; None keeps the slide's resolution. A level of the
    slide within 2 % of it is copied unchanged, with its true pixel size; otherwise level 0 is resampled by area.
    """

    min_tissue: float = 0.1
    """Minimum share of tissue in a tile's area inside the slide, 0 to 1; 0 keeps all tiles."""

    background: str = "keep"
    """`keep` stores every pixel; `skip` omits chunks without tissue, which then read as background (255)."""

    tissue: str = "otsu"
    """Tissue detection method, a key of `tissue.detect.METHODS`, or a GeoJSON file; `none` takes the whole slide."""

    codec: str = "auto"
    """Compression of pixels. `passthrough` copies the slide's JPEG or JPEG 2000 tiles byte for byte and refuses
    slides without such tiles; `auto` does the same if possible and otherwise uses `zstd`; `zstd` is lossless;
    `jpeg` recompresses and is lossy.
    """

    quality: int = 90
    """Quality of `jpeg`, 1 to 100."""

    grid: str = "default"
    """Name of the grid in the store; a grid with a new name is added without changing the pixels."""

    scores: str = "all"
    """Scores to compute for each tile: `all`, `none`, or comma-separated names from `scores.SCORES`."""

    workers: int | None = None
    """Threads that read and compress; None means one per core. Affects speed and memory, not the result."""

    def __post_init__(self) -> None:
        low, high = TILE_SIZES
        if not low <= self.tile_size <= high:
            raise UsageError(f"--tile-size must be between {low} and {high}, not {self.tile_size}")
        if not 0 <= self.overlap < self.tile_size:
            raise UsageError(
                f"--overlap must be at least 0 and below the tile size {self.tile_size}, not {self.overlap}"
            )
        if self.mpp is not None and not 0 < self.mpp < float("inf"):
            raise UsageError(f"--mpp must be a positive number of microns, not {self.mpp}")
        if not 0 <= self.min_tissue <= 1:
            raise UsageError(f"--min-tissue must be between 0 and 1, not {self.min_tissue}")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be at least 1, not {self.workers}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.grid):
            raise UsageError(f"--grid must consist of letters, digits, - and _, not {self.grid!r}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality must be between 1 and 100, not {self.quality}")
        parse_names(self.scores)
        for kind, name, known in (("background", self.background, BACKGROUNDS), ("codec", self.codec, CODECS)):
            if name not in known:
                raise unknown_name(kind, name, known)
        if not self.tissue_file:
            METHODS.get(self.tissue)

    @property
    def tissue_file(self) -> Path | None:
        """The GeoJSON file with the tissue, if `tissue` names a file instead of a method."""
        path = Path(self.tissue)
        return path if path.suffix.lower() in (".geojson", ".json") else None

    def pixel_parameters(self) -> dict[str, Any]:
        """Parameters that determine the pixels and tissue of a store; a run may only extend a store with equal
        values.
        """
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
        """Parameters that determine a grid; an existing grid of the same name is skipped only if they are equal."""
        return {
            "tile_size": self.tile_size,
            "overlap": self.overlap,
            "mpp": self.mpp,
            "min_tissue": self.min_tissue,
            "scores": list(parse_names(self.scores)),
        }

    def parameters(self) -> dict[str, Any]:
        """Parameters recorded in the store; an interrupted run resumes only if they are equal."""
        return {**self.pixel_parameters(), **self.grid_parameters(), "grid": self.grid}

    def threads(self) -> int:
        """Number of threads to start."""
        return self.workers or thread_limit()


@dataclass(frozen=True)
class TileSummary:
    """Result of one run of `tile_slide`."""

    name: str
    path: Path
    state: str
    """`written` if complete in one run, `resumed` after an interruption, `added` if a grid was added to existing
    pixels, or `skipped` if everything was already complete.
    """

    tiles: int
    """Tiles in the grid."""

    tiles_total: int
    """Tiles that cover the whole slide, with or without tissue."""

    tissue_fraction: float
    """Share of the slide's area that is tissue."""

    unreadable_tiles: int
    """Tiles in the grid with unreadable pixels; their scores are NaN and `readable` is False."""

    levels: int
    pixels: tuple[PixelsInfo, ...]
    """For each level, whether its tiles were copied, and the reason if not."""

    mpp: Mpp | None
    """Pixel size of the store's level 0; None if that of the slide is unknown."""

    bytes: int
    seconds: float
