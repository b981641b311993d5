"""`wsi-attn tissue`: detect tissue, as outlines for QuPath and as an image."""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_attn import geojson
from wsi_attn.cli.options import PixelSize, Slides, Write, folder
from wsi_attn.cli.output import Console, data, data_json, expand, warn_about
from wsi_attn.errors import OutputExistsError, TissueError, WsiAttnError
from wsi_attn.options import Option
from wsi_attn.outputs import files, names
from wsi_attn.tissue.settings import TissueSettings

if TYPE_CHECKING:  # These import numpy, which only the command needs.
    from wsi_attn.slide import Slide
    from wsi_attn.slides.view import View
    from wsi_attn.tissue.mask import TissueMask


@dataclass(frozen=True)
class Target:
    """Where the outlines go."""

    output: Annotated[
        Path | None,
        Option(
            "Folder for STEM.tissue.geojson and STEM.tissue.png; without it, nothing is written.",
            aliases=("-o",),
            check=folder,
        ),
    ] = None


@dataclass(frozen=True)
class Outlines:
    """How tissue is outlined."""

    simplify: Annotated[
        float, Option("Tolerance of outline simplification in level-0 pixels; 0 disables it.", at_least=0)
    ] = 0.0


def tissue(
    slides: Slides, target: Target, detection: TissueSettings, outlines: Outlines, pixels: PixelSize, write: Write
) -> None:
    """Detect the tissue of slides, stores or images; with --output, write outlines for QuPath and an image."""
    from wsi_attn.tissue.find import find_tissue, tissue_view

    inputs, output = expand(slides), target.output
    parameters = {
        "method": detection.method,
        "mpp": detection.mpp,
        "min_area_um2": detection.min_area,
        "max_hole_um2": detection.max_hole,
        "simplify": outlines.simplify,
    }
    console = Console(quiet=write.quiet, total=len(inputs))
    reservations = names.Reservations()
    with console.progress("tissue") as progress:
        for number, given in enumerate(inputs, 1):
            path = given.path
            try:
                with progress.item(number, len(inputs), path.name) as item, given.open(pixels.slide_mpp) as slide:
                    warn_about(console, path, slide.info)
                    targets = _targets(output, slide, path, reservations)
                    made_of = {"fingerprint": slide.info.fingerprint, "slide_mpp": slide.info.mpp, **parameters}
                    if targets and not write.overwrite and (done := _finished(*targets, made_of)):
                        record = {"slide": str(path), **done, **_names(targets), "state": "skipped"}
                        console.info(f"{targets[0]} is already complete; use --overwrite to detect tissue again")
                    else:
                        view = tissue_view(slide, detection, progress=item)
                        if not view.readable.any():
                            raise TissueError(f"No pixel of {path} can be decoded, so tissue cannot be detected")
                        found = find_tissue(slide, detection, progress=item, view=view)
                        item(0, 1, "writing")
                        result = _write(targets, slide, view, found, made_of, outlines.simplify)
                        record = {
                            "slide": str(path),
                            **result,
                            **_names(targets),
                            "state": "written" if targets else "found",
                        }
                    item.state = record["state"]
            except WsiAttnError as error:
                console.fail(error)
                continue
            except OSError as error:
                console.fail(TissueError(f"Cannot write the tissue of {path} into {output}: {error.strerror or error}"))
                continue
            _warn(console, record)
            data_json(record) if write.json else data(_line(record))
    raise typer.Exit(console.exit_code())


def _targets(
    output: Path | None, slide: Slide, path: Path, reservations: names.Reservations
) -> tuple[Path, Path] | None:
    """Return the outline and image files, if any; raises if another input of this run has the same name."""
    if output is None:
        return None
    outlines = output / f"{slide.info.name}.tissue.geojson"
    reservations.reserve(outlines, path)
    return outlines, output / f"{slide.info.name}.tissue.png"


def _names(targets: tuple[Path, Path] | None) -> dict[str, str | None]:
    outlines, png = targets or (None, None)
    return {"geojson": str(outlines) if outlines else None, "picture": str(png) if png else None}


def _finished(outlines: Path, png: Path, made_of: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of an earlier run if it is complete, unchanged and of the same slide and parameters."""
    from wsi_attn.tissue.polygons import features_digest

    if not outlines.exists():
        if png.exists():
            raise OutputExistsError(f"{png} exists without its outlines; use --overwrite or another --output")
        return None
    try:
        document = json_module.loads(outlines.read_bytes())
        origin = document[geojson.MEMBER]
        changed = features_digest(document) != origin["features_sha256"]
        same = origin["made_of"] == json_module.loads(json_module.dumps(made_of))
        found: dict[str, Any] = origin["found"]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputExistsError(
            f"{outlines} exists, but was not written by this command or was saved by another program; "
            "use --overwrite to replace it, or another --output"
        ) from error
    if changed or not same:
        what = "was modified after it was written" if changed else "belongs to another slide or other parameters"
        raise OutputExistsError(f"{outlines} {what}; use --overwrite to replace it, or another --output")
    return found if png.exists() else None


def _write(
    targets: tuple[Path, Path] | None,
    slide: Slide,
    view: View,
    mask: TissueMask,
    made_of: dict[str, Any],
    simplify: float,
) -> dict[str, Any]:
    """Write both files, the image first, and return their contents."""
    from wsi_attn.provenance import software
    from wsi_attn.tissue.picture import draw_tissue
    from wsi_attn.tissue.polygons import features_digest, tissue_to_geojson

    info = slide.info
    collection = tissue_to_geojson(mask, info.fingerprint, info.mpp, simplify)
    collection["features"] = [geojson.shifted(feature, info.origin) for feature in collection["features"]]
    area = mask.fraction * info.size0.width * info.size0.height
    found = {
        "tissue_fraction": round(mask.fraction, 6),
        "polygons": len(collection["features"]),
        "area_mm2": round(area * info.mpp.x * info.mpp.y * 1e-6, 6) if info.mpp else None,
        "unreadable_fraction": round(float(mask.unknown(_whole(info.size0))[0]), 6),
        "method": mask.method,
        "measure": mask.measure,
        "threshold": mask.threshold,
        "mpp": list(info.mpp) if info.mpp else None,
        "downsample": [view.frame.downsample_x, view.frame.downsample_y],
    }
    if targets:
        outlines, png = targets
        origin = {"made_of": made_of, "found": found, "features_sha256": features_digest(collection)}
        files.write_bytes(png, draw_tissue(view.pixels, mask))
        said = geojson.member(info.origin, **origin, software=software())
        files.write_json(outlines, {**collection, geojson.MEMBER: said})
    return found


def _whole(size0: tuple[int, int]) -> Any:
    import numpy as np

    return np.array([[0, 0, *size0]])


def _warn(console: Console, record: dict[str, Any]) -> None:
    path = record["slide"]
    if record["unreadable_fraction"]:
        console.info(
            f"warning: {path}: {record['unreadable_fraction']:.1%} could not be decoded "
            "and counts neither as tissue nor as background"
        )
    if not record["polygons"]:
        console.info(
            f"warning: {path}: no tissue found; try --method robust for pale stain, or none for the whole slide"
        )
    if record["mpp"] is None:
        console.info(f"warning: {path}: no area in mm² because the pixel size is unknown; set it with --slide-mpp")


def _line(record: dict[str, Any]) -> str:
    pieces = record["polygons"]
    area = "-" if record["area_mm2"] is None else f"{record['area_mm2']:.3f} mm²"
    what = "1 polygon" if pieces == 1 else f"{pieces} polygons"
    return f"{record['slide']}\t{record['tissue_fraction']:.3f} tissue\t{what}\t{area}\t{record['geojson'] or '-'}"
