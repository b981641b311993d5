"""`wsi-attn heatmap`: the picture of a prediction or of a store's scores, and regions for QuPath."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsi_attn import files
from wsi_attn.cli.options import Debug, Json, Quiet, Workers
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import ExportError, UsageError, WsiAttnError

if TYPE_CHECKING:  # numpy comes with these, and only the command itself needs it
    from wsi_attn.export.source import ExportSource
    from wsi_attn.slide import Slide

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="PREDICTION|STORE", help="Files that predict wrote, stores, or folders of either; - reads stdin."
    ),
]
Folder = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the pictures; beside the input by default.")
]
Of = Annotated[
    str | None,
    typer.Option(
        "--of", metavar="QUANTITY", help="attention, evidence:LABEL, uncertainty, score:NAME or tissue, where it is."
    ),
]
SlidePath = Annotated[Path | None, typer.Option("--slide", help="Where the slide lies now, if it has moved.")]
Grid = Annotated[str, typer.Option("--grid", help="Grid of a store whose scores are shown.")]
Size = Annotated[
    int, typer.Option("--size", min=64, max=20000, help="Longer side of the slide in the picture, pixels.")
]
Mode = Annotated[
    Literal["rank", "value"] | None,
    typer.Option(
        "--as", "--show", help="rank: percentile within the slide; value: numbers. Attention is ranked by default."
    ),
]
Alpha = Annotated[float, typer.Option("--opacity", "--alpha", min=0, max=1, help="Opacity of the highest value.")]
Colour = Annotated[str, typer.Option("--colours", "--colour-map", help="viridis, magma, inferno, plasma or cividis.")]
Sheet = Annotated[
    int, typer.Option("--contact-sheet", metavar="K", min=0, max=400, help="Also show the K highest places on a sheet.")
]
PATCH_SIDE = 256
"""Pixels along a patch of a contact sheet, at most."""


def heatmap(
    inputs: Inputs,
    output: Folder = None,
    of: Of = None,
    slide: SlidePath = None,
    grid: Grid = "default",
    size: Size = 1600,
    show: Mode = None,
    alpha: Alpha = 0.5,
    colour_map: Colour = "viridis",
    contact_sheet: Sheet = 0,
    workers: Workers = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw what predictions looked at, or what tiles of stores score, as PNG; regions of predictions as GeoJSON too."""
    from wsi_attn.export.geojson import write_geojson
    from wsi_attn.export.source import export_paths, open_export_source
    from wsi_attn.geometry import Frame
    from wsi_attn.heatmaps.picture import draw_layer, png_bytes
    from wsi_attn.slides.view import read_view

    found = export_paths(expand(inputs))
    if slide and len(found) > 1:
        raise UsageError(f"--slide names one slide and {len(found)} inputs were given")
    console = Console(quiet=quiet, total=len(found))
    for path in found:
        try:
            subject = open_export_source(path, slide, grid)
            layer = subject.layer(of)
            downsample = max(1.0, max(subject.size0) / size)
            frame = Frame.covering(subject.size0, downsample, downsample)
            folder = output or path.parent
            record = {"slide": str(subject.slide), "heatmap": str(folder / f"{_stem(subject, of)}.heatmap.png")}
            with subject.pixels() as source:
                view = read_view(source, frame.downsample_x, frame.downsample_y, workers=workers)
                picture = draw_layer(layer, subject.caption, view.pixels, frame, show, alpha, colour_map)
                files.write_bytes(Path(record["heatmap"]), png_bytes(picture, {**subject.origin, "of": layer.name}))
                if contact_sheet:
                    record["contact_sheet"] = str(folder / f"{_stem(subject, of)}.patches.png")
                    sheet = _sheet(subject, source, layer.name, contact_sheet)
                    files.write_bytes(Path(record["contact_sheet"]), sheet)
            if subject.prediction:
                record["geojson"] = str(folder / f"{subject.stem}.geojson")
                write_geojson(subject.prediction, Path(record["geojson"]))
        except WsiAttnError as error:
            console.fail(error)
            continue
        except OSError as error:
            console.fail(ExportError(f"Cannot draw {path}: {error.strerror or error}"))
            continue
        data_json(record) if json else data("\t".join(record.values()))
    raise typer.Exit(console.exit_code())


def _stem(subject: ExportSource, of: str | None) -> str:
    """What pictures are named after: a quantity that is not the usual one is part of it."""
    if subject.prediction and of in (None, subject.layers[0]):
        return subject.stem
    return f"{subject.stem}.{(of or subject.layers[0]).replace(':', '-')}"


def _sheet(subject: ExportSource, slide: Slide, name: str, count: int) -> bytes:
    from wsi_attn.heatmaps.contact_sheet import contact_sheet, read_patches
    from wsi_attn.heatmaps.picture import png_bytes

    regions = subject.regions(count, name)
    caption = subject.caption
    lines = (caption.name, *caption.lines, f"{len(regions)} highest places by {name}, positions in level-0 pixels")
    patches = read_patches(slide, regions, PATCH_SIDE)
    sheet = contact_sheet(patches, lines, subject.mpp, side=PATCH_SIDE, quantity=name.rpartition(":")[2])
    return png_bytes(sheet, {**subject.origin, "of": name})
