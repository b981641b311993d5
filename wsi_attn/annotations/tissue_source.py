"""The tissue of a slide: detected, or read from a file."""

from __future__ import annotations

from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.tissue.find import find_tissue, tissue_view
from wsi_attn.tissue.mask import TissueMask
from wsi_attn.tissue.settings import TissueSettings, tissue_file


def read_tissue(
    slide: Slide, tissue: str, *, workers: int | None = None, progress: Progress = no_progress
) -> TissueMask:
    """Find the tissue of a slide, or read it from a file on the same view.

    Parameters
    ----------
    tissue
        A method of `detect.METHODS`, or a GeoJSON file.

    Raises
    ------
    As `find_tissue` and `tissue_from_geojson`.
    """
    if (file := tissue_file(tissue)) is None:
        return find_tissue(slide, TissueSettings(tissue), workers=workers, progress=progress)
    from wsi_attn.annotations.tissue import tissue_from_geojson  # With shapely, which detection does not need.

    view = tissue_view(slide, workers=workers, progress=progress)
    info = slide.info
    return tissue_from_geojson(
        file, view.frame, info.size0, origin=info.origin, pixels=view.pixels, readable=view.readable
    )
