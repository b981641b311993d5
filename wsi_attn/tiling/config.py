"""Configuration and summary of a tiling run."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from wsi_attn.errors import TissueError, UsageError
from wsi_attn.json_types import JsonObject
from wsi_attn.options import Option, check_fields
from wsi_attn.registry import unknown_name
from wsi_attn.threads import thread_limit
from wsi_attn.tissue.settings import METHODS as TISSUE_METHODS
from wsi_attn.tissue.settings import tissue_file

if TYPE_CHECKING:  # These import numpy, which the help of the command does without.
    from wsi_attn.geometry import Mpp
    from wsi_attn.store.schema import PixelsInfo


@dataclass(frozen=True)
class TileConfig:
    """How to tile a slide. All fields except `workers` determine the store and are recorded in it."""

    tile_size: Annotated[
        int,
        Option(
            "Side of a tile at the resolution of the grid.",
            aliases=("--patch-size",),
            unit="px",
            at_least=16,
            at_most=8192,
        ),
    ] = 256

    overlap: Annotated[
        int,
        Option(
            "Overlap of neighbouring tiles of the grid, below the tile size; the store holds each pixel once.",
            unit="px",
            at_least=0,
        ),
    ] = 0

    mpp: Annotated[
        float | None,
        Option(
            "Resolution of the store. A level of the slide within 2 % of it is copied with its true pixel size; "
            "otherwise level 0 is resampled by area.",
            unit="µm/px",
            above=0,
            default="the resolution of level 0",
        ),
    ] = None

    min_tissue: Annotated[
        float, Option("Minimum tissue share of the tiles in the grid; 0 keeps all tiles.", at_least=0, at_most=1)
    ] = 0.1

    background: Annotated[
        Literal["keep", "skip"],
        Option("Chunks without tissue: keep, or skip to leave them out; they then read as white."),
    ] = "keep"

    tissue: Annotated[
        str,
        Option(
            "Tissue detection: otsu, robust, none (whole slide), a GeoJSON file, or a folder of STEM.geojson files.",
            suggestions=lambda: TISSUE_METHODS,
        ),
    ] = "otsu"

    codec: Annotated[
        Literal["auto", "passthrough", "zstd", "jpeg"],
        Option(
            "Codec: passthrough (copy the encoded tiles of the slide or fail), zstd (lossless), jpeg (lossy), or auto "
            "(passthrough if possible, otherwise zstd)."
        ),
    ] = "auto"

    quality: Annotated[int, Option("Quality of --codec jpeg.", at_least=1, at_most=100)] = 90

    grid: Annotated[str, Option("Name of the grid; a new name adds a grid to an existing store.")] = "default"

    scores: Annotated[str, Option("Tile scores: all, none, or comma-separated names.")] = "all"

    workers: int | None = None
    """Threads that read and compress; None means one per core. Affects speed and memory, not the result."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.overlap >= self.tile_size:
            raise UsageError(f"--overlap {self.overlap}: must be below the tile size, {self.tile_size} px")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be at least 1, not {self.workers}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.grid):
            raise UsageError(f"--grid must consist of letters, digits, - and _, not {self.grid!r}")
        if self.scores not in ("all", "none"):
            from wsi_attn.scores.scores import parse_names

            parse_names(self.scores)
        if not tissue_file(self.tissue) and self.tissue not in TISSUE_METHODS and not Path(self.tissue).is_dir():
            raise unknown_name("tissue method", self.tissue, TISSUE_METHODS)

    def for_slide(self, name: str) -> TileConfig:
        """The configuration with the tissue file of one slide, if `tissue` is a folder.

        Raises
        ------
        TissueError : the folder has no file of the slide.
        """
        folder = Path(self.tissue)
        if not folder.is_dir():
            return self
        for suffix in (".tissue.geojson", ".geojson", ".tissue.geojson.gz", ".geojson.gz"):
            if (folder / f"{name}{suffix}").is_file():
                return replace(self, tissue=str(folder / f"{name}{suffix}"))
        raise TissueError(f"{folder} contains neither {name}.tissue.geojson nor {name}.geojson")

    def pixel_parameters(self) -> JsonObject:
        """Parameters that determine the pixels and tissue of a store; a run may only extend a store with equal
        values.
        """
        tissue = self.tissue
        if (file := tissue_file(self.tissue)) is not None:
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

    def grid_parameters(self) -> JsonObject:
        """Parameters that determine a grid; an existing grid of the same name is skipped only if they are equal."""
        from wsi_attn.scores.scores import parse_names

        return {
            "tile_size": self.tile_size,
            "overlap": self.overlap,
            "mpp": self.mpp,
            "min_tissue": self.min_tissue,
            "scores": list(parse_names(self.scores)),
        }

    def parameters(self) -> JsonObject:
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
