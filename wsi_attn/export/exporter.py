"""`Exporter`: a format that results are exported to, and the registry of all formats. Imports no arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_attn.registry import Registry

if TYPE_CHECKING:
    from wsi_attn.export.job import Job

Entries = Mapping[str, object]
"""What an export reports beyond its paths and state, as JSON values: `of`, `downsample`, `rows`, `unreadable_tiles`."""


@dataclass(frozen=True)
class Exporter:
    """One output format. Either `write` or `contents` writes it.

    Attributes
    ----------
    suffixes
        Suffixes that its files may have; the first is that of new files.
    options
        Fields of `ExportConfig` that have an effect.
    write
        Writes the file atomically, with `Job.subject.mark` somewhere in its first or last megabyte: the mark tells
        which input and settings an existing file belongs to.
    contents
        For formats without a place for the mark: returns the bytes, which are compared with an existing file.
    named
        Whether it shows one quantity, whose name is part of the name of new files.
    of_pixels
        Whether it shows a slide or store without colours unless a quantity is selected.
    zarr
        Whether it is a Zarr group instead of a file.
    beside
        Further paths that belong to the one that is written.
    """

    suffixes: tuple[str, ...]
    options: tuple[str, ...] = ()
    write: Callable[[Job], Entries] | None = None
    contents: Callable[[Job], tuple[bytes, Entries]] | None = None
    named: bool = False
    of_pixels: bool = False
    zarr: bool = False
    beside: Callable[[Path], tuple[Path, ...]] = lambda path: ()


EXPORTERS: Registry[Exporter] = Registry(
    "export format",
    "wsi_attn.exporters",
    {
        "png": "wsi_attn.export.png:PNG",
        "geojson": "wsi_attn.export.geojson:GEOJSON",
        "ome-tiff": "wsi_attn.export.ome_tiff:OME_TIFF",
        "ome-zarr": "wsi_attn.export.ome_zarr:OME_ZARR",
        "csv": "wsi_attn.export.table:CSV",
        "parquet": "wsi_attn.export.table:PARQUET",
        "dzi": "wsi_attn.export.dzi:DZI",
        "html": "wsi_attn.export.html:HTML",
    },
    lambda member: isinstance(member, Exporter),
)
"""All formats by the names that `--to` takes."""
