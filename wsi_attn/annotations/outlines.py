"""The files of `wsi-attn tissue`: outlines of the tissue for QuPath, and an image of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from wsi_attn.annotations.geojson import MEMBER, shifted, write_features
from wsi_attn.annotations.picture import draw_tissue
from wsi_attn.annotations.tissue import features_digest, tissue_features
from wsi_attn.errors import TissueError
from wsi_attn.json_types import JsonObject
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import Found, Output, claim, complete, other, same, unfinished
from wsi_attn.provenance import software
from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.slides.view import View
from wsi_attn.tissue.find import find_tissue, tissue_view
from wsi_attn.tissue.mask import TissueMask
from wsi_attn.tissue.settings import TissueSettings


class TissueFiles(NamedTuple):
    """Paths of the outlines and of the image."""

    outlines: Path
    picture: Path

    @classmethod
    def of(cls, slide: Slide, folder: Path) -> TissueFiles:
        """Return the paths in a folder."""
        return cls(folder / f"{slide.info.name}.tissue.geojson", folder / f"{slide.info.name}.tissue.png")


@dataclass(frozen=True)
class TissueSummary:
    """What was found on a slide.

    `area_mm2` and `mpp` (µm per pixel of level 0, x and y) are None if the pixel size is unknown; `downsample` is that
    of the view, level-0 pixels per pixel.
    """

    tissue_fraction: float
    polygons: int
    area_mm2: float | None
    unreadable_fraction: float
    method: str
    measure: str
    threshold: int | None
    mpp: list[float] | None
    downsample: list[float]


@dataclass(frozen=True)
class Wanted:
    """The settings of one slide and the files to write, if any."""

    settings: TissueSettings
    simplify: float
    files: TissueFiles | None

    def made_of(self, slide: Slide) -> JsonObject:
        """Return all that the files depend on."""
        return {
            "fingerprint": slide.info.fingerprint,
            "slide_mpp": slide.info.mpp,
            "method": self.settings.method,
            "mpp": self.settings.mpp,
            "min_area_um2": self.settings.min_area,
            "max_hole_um2": self.settings.max_hole,
            "simplify": self.simplify,
        }


def outline_tissue(
    slide: Slide, wanted: Wanted, *, overwrite: bool = False, progress: Progress = no_progress
) -> tuple[TissueSummary, str]:
    """Find the tissue of a slide and write its outlines and an image of them.

    Returns
    -------
    The summary, and the state: "written", "skipped" if the files are complete, or "found" without files.

    Raises
    ------
    OutputExistsError : the files are of another slide or other settings, and `overwrite` is not set.
    TissueError : no pixel can be decoded; and the errors of `find_tissue`.
    """
    made_of = wanted.made_of(slide)
    with claim(_output(wanted.files, made_of) if wanted.files else None, overwrite=overwrite) as there:
        if there.finished is not None:
            return there.finished, "skipped"
        view = tissue_view(slide, wanted.settings, progress=progress)
        if not view.readable.any():
            raise TissueError(f"No pixel of {slide.info.path} can be decoded, so tissue cannot be detected")
        mask = find_tissue(slide, wanted.settings, progress=progress, view=view)
        progress(0, 1, "writing")
        origin = slide.info.origin
        features = tissue_features(mask, slide.info.fingerprint, slide.info.mpp, wanted.simplify)
        summary = _summary(slide, view, mask, len(features))
        if wanted.files is None:
            return summary, "found"
        digest = features_digest([shifted(feature, origin) for feature in features])
        said: JsonObject = {
            "made_of": made_of,
            "found": asdict(summary),
            "features_sha256": digest,
            "software": software(),
        }
        # Without its image the output is unfinished; the one of other outlines must not stay beside the new ones.
        files.remove(wanted.files.picture)
        write_features(wanted.files.outlines, features, origin, said)
        files.write_bytes(wanted.files.picture, draw_tissue(view.pixels, mask))
        return summary, "written"


def _output(paths: TissueFiles, made_of: JsonObject) -> Output[TissueSummary]:
    def inspect() -> Found[TissueSummary]:
        if not paths.outlines.exists():
            return other("exists without its outlines")
        try:
            document = json.loads(paths.outlines.read_bytes())
            origin = document[MEMBER]
            changed = features_digest(document["features"]) != origin["features_sha256"]
            equal = same(origin["made_of"], made_of)
            found = msgspec.convert(origin["found"], TissueSummary)
        except (OSError, ValueError, KeyError, TypeError):
            return other("exists, but was not written by this command or was saved by another program")
        if changed:
            return other("was modified after it was written")
        if not equal:
            return other("belongs to another slide or other parameters")
        return complete(found) if paths.picture.exists() else unfinished()

    return Output(paths.outlines, inspect, beside=(paths.picture,))


def _summary(slide: Slide, view: View, mask: TissueMask, polygons: int) -> TissueSummary:
    info = slide.info
    area = mask.fraction * info.size0.width * info.size0.height
    return TissueSummary(
        tissue_fraction=round(mask.fraction, 6),
        polygons=polygons,
        area_mm2=round(area * info.mpp.x * info.mpp.y * 1e-6, 6) if info.mpp else None,
        unreadable_fraction=round(float(mask.unknown(np.array([[0, 0, *info.size0]]))[0]), 6),
        method=mask.method,
        measure=mask.measure,
        threshold=mask.threshold,
        mpp=list(info.mpp) if info.mpp else None,
        downsample=[view.frame.downsample_x, view.frame.downsample_y],
    )
