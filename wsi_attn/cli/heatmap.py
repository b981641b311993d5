"""`wsi-attn heatmap`: the picture of a prediction, and its regions for QuPath."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsi_attn import files
from wsi_attn.cli.options import Debug, Json, Quiet, Workers
from wsi_attn.cli.output import Talk, data, data_json, expand
from wsi_attn.errors import PredictionError, UsageError, WsiAttnError

if TYPE_CHECKING:  # numpy comes with these, and only the command itself needs it
    from wsi_attn.contract import UInt8Array
    from wsi_attn.geometry import Frame
    from wsi_attn.store.predictions import SlidePrediction

Predictions = Annotated[
    list[str],
    typer.Argument(metavar="PREDICTION", help="Files that predict wrote, or folders of them; - reads stdin."),
]
Folder = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the pictures; beside the prediction by default.")
]
SlidePath = Annotated[Path | None, typer.Option("--slide", help="Where the slide lies now, if it has moved.")]
Size = Annotated[
    int, typer.Option("--size", min=64, max=20000, help="Longer side of the slide in the picture, pixels.")
]
Mode = Annotated[
    Literal["rank", "value"], typer.Option("--show", help="rank: percentile within the slide; value: attention itself.")
]
Alpha = Annotated[float, typer.Option("--alpha", min=0, max=1, help="Opacity of the heatmap.")]
Colour = Annotated[str, typer.Option("--colour-map", help="viridis, magma, inferno, plasma or cividis.")]


def heatmap(
    predictions: Predictions,
    output: Folder = None,
    slide: SlidePath = None,
    size: Size = 1600,
    show: Mode = "rank",
    alpha: Alpha = 0.5,
    colour_map: Colour = "viridis",
    workers: Workers = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw what predictions looked at over their slides, as PNG, and write the regions as GeoJSON."""
    from wsi_attn.export.geojson import write_geojson
    from wsi_attn.heatmaps.picture import draw_heatmap, to_png
    from wsi_attn.store.predictions import SUFFIX, read_prediction

    found = _files(expand(predictions), SUFFIX)
    if slide and len(found) > 1:
        raise UsageError(f"--slide names one slide and {len(found)} predictions were given")
    talk = Talk(quiet=quiet, total=len(found))
    for file in found:
        try:
            prediction = read_prediction(file)
            thumbnail, frame = _thumbnail(prediction, slide or Path(prediction.slide), size, workers)
            picture = draw_heatmap(prediction, thumbnail, frame, show, alpha, colour_map)
            folder, stem = output or file.parent, file.name.removesuffix(SUFFIX)
            png, geojson = folder / f"{stem}.heatmap.png", folder / f"{stem}.geojson"
            files.write_bytes(png, to_png(picture, prediction))
            write_geojson(prediction, geojson)
        except WsiAttnError as error:
            talk.fail(error)
            continue
        record = {"slide": prediction.slide, "heatmap": str(png), "geojson": str(geojson)}
        data_json(record) if json else data("\t".join(record.values()))
    raise typer.Exit(talk.exit_code())


def _files(paths: list[Path], suffix: str) -> list[Path]:
    """Prediction files: those named, and those in folders named."""
    found = [file for path in paths for file in (sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path])]
    if not found:
        raise PredictionError(f"There is no prediction (*{suffix}) in {', '.join(map(str, paths))}")
    return found


def _thumbnail(prediction: SlidePrediction, path: Path, size: int, workers: int | None) -> tuple[UInt8Array, Frame]:
    """The slide as one picture of at most `size` pixels a side; `PredictionError` where it is not the one predicted."""
    from wsi_attn.data.sources import open_source
    from wsi_attn.slides.view import read_view

    if not path.exists():
        raise PredictionError(f"The slide {path} is not there any more; say where it lies with --slide")
    with open_source(path) as source:
        if source.info.fingerprint != prediction.fingerprint:
            raise PredictionError(f"{path} is not the slide that was predicted; say where that lies with --slide")
        downsample = max(1.0, max(source.info.size0) / size)
        view = read_view(source, downsample, downsample, workers=workers)
        return view.pixels, view.frame
