"""`wsi-attn tile`: slides into sharded OME-Zarr stores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wsi_attn.cli.options import Debug, Json, Overwrite, Quiet, SlideMpp, Slides, Threads, parse_slide_mpp, starting
from wsi_attn.cli.output import Console, data, data_json, expand, warn_about
from wsi_attn.errors import StoreError, TissueError, UsageError, WsiAttnError
from wsi_attn.files import Reservations

if TYPE_CHECKING:
    from wsi_attn.slide import SlideInfo
    from wsi_attn.tiling.config import TileSummary

Store = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="A store NAME.zarr, or a folder that receives STEM.zarr; the current folder by default.",
        show_default=False,
    ),
]
TileSize = Annotated[int, typer.Option("--tile-size", "--patch-size", help="Side of a tile in pixels.")]
Overlap = Annotated[int, typer.Option("--overlap", help="Pixels that neighbouring tiles share.")]
Mpp = Annotated[
    float | None, typer.Option("--mpp", help="Resolution wanted, µm/px; the slide's own pixels by default.")
]
MinTissue = Annotated[float, typer.Option("--min-tissue", help="Least tissue of a tile in the grid, 0 to 1.")]
Background = Annotated[
    Literal["keep", "skip"], typer.Option("--background", help="keep, or skip to leave out chunks without tissue.")
]
Tissue = Annotated[
    str,
    typer.Option(
        "--tissue",
        help="otsu, robust, none for the whole slide, a GeoJSON file in level-0 pixels, or a folder of STEM.geojson.",
        autocompletion=starting("otsu", "robust", "none"),
    ),
]
Codec = Annotated[
    Literal["auto", "passthrough", "zstd", "jpeg"],
    typer.Option(
        "--codec", help="auto, passthrough (copies the slide's JPEG tiles or refuses), zstd (lossless), or jpeg."
    ),
]
Quality = Annotated[int, typer.Option("--quality", help="Of --codec jpeg, 1 to 100.")]
Grid = Annotated[str, typer.Option("--grid", help="Name of the grid; another one is added to a store that is there.")]
Scores = Annotated[str, typer.Option("--scores", help="all, none, or names joined by commas.")]


def tile(
    slides: Slides,
    output: Store = Path(),
    tile_size: TileSize = 256,
    overlap: Overlap = 0,
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
    min_tissue: MinTissue = 0.1,
    background: Background = "keep",
    tissue: Tissue = "otsu",
    codec: Codec = "auto",
    quality: Quality = 90,
    grid: Grid = "default",
    scores: Scores = "all",
    overwrite: Overwrite = False,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Tile slides into Zarr: pixels, tissue mask, a grid of tiles and their scores."""
    from wsi_attn.tiling.config import TileConfig
    from wsi_attn.tiling.write import tile_slide

    inputs, own_mpp = expand(slides), parse_slide_mpp(slide_mpp)
    one = output.suffix == ".zarr"
    if one and len(inputs) > 1:
        raise UsageError(f"{output} is one store and {len(inputs)} slides were given; name a folder")
    if Path(tissue).is_file() and len(inputs) > 1:
        raise UsageError(
            f"--tissue {tissue} is of one slide and {len(inputs)} were given; name a folder of STEM.geojson"
        )
    method = "otsu" if Path(tissue).is_dir() else tissue
    config = TileConfig(tile_size, overlap, mpp, min_tissue, background, method, codec, quality, grid, scores)
    console = Console(quiet=quiet, total=len(inputs))
    reservations = Reservations()
    with console.progress("tile") as progress:
        for number, given in enumerate(inputs, 1):
            path = given.path
            try:
                with progress.item(number, len(inputs), path.name) as item, given.open(own_mpp) as slide:
                    store = output if one else output / f"{slide.info.name}.zarr"
                    reservations.reserve(store, path)
                    own = dataclasses.replace(config, tissue=_tissue_of(tissue, slide.info.name))
                    summary = tile_slide(slide, store, own, overwrite=overwrite, progress=item)
                    item.state = summary.state
            except WsiAttnError as error:
                console.fail(error)
                continue
            except OSError as error:
                console.fail(
                    StoreError(
                        f"Cannot tile {path} into {output}: {error.strerror}; mend that and run it again, it resumes"
                    )
                )
                continue
            _report(console, path, slide.info, summary, explain=codec == "auto")
            record = as_record(path, summary)
            data_json(record) if json else data(
                f"{path}\t{summary.path}\t{summary.tiles} of {summary.tiles_total} tiles\t"
                f"{summary.tissue_fraction:.3f} tissue\t{summary.unreadable_tiles} unreadable\t{summary.state}"
            )
    raise typer.Exit(console.exit_code())


def _report(console: Console, path: Path, info: SlideInfo, summary: TileSummary, *, explain: bool) -> None:
    """Lines about one store; `explain` says why tiles were not copied."""
    if summary.state == "skipped":
        console.info(f"{summary.path} is complete already; --overwrite tiles anew")
    for reason in dict.fromkeys(
        pixels.reason for pixels in summary.pixels if pixels.origin in ("copied", "resampled") and explain
    ):
        console.info(f"{path}: decoded and compressed anew as {summary.pixels[0].codec}, not passed through: {reason}")
    for level, pixels in enumerate(summary.pixels):
        if pixels.origin == "passthrough" and pixels.reason:
            console.info(f"{path}: level {level}: {pixels.reason}")
    if summary.unreadable_tiles:
        console.info(
            f"warning: {path}: {summary.unreadable_tiles} tiles could not be decoded; they are masked, not white"
        )
    if summary.tiles == 0:
        console.info(f"warning: {path}: no tissue was found, the grid is empty; --tissue none takes the whole slide")
    warn_about(console, path, info)
    if info.mpp is None:
        console.info(f"warning: {path}: no pixel size is recorded ({info.mpp_note}); --slide-mpp gives one")


def _tissue_of(tissue: str, name: str) -> str:
    """The method, or the file of one slide where a folder is named."""
    folder = Path(tissue)
    if not folder.is_dir():
        return tissue
    for suffix in (".tissue.geojson", ".geojson"):
        if (folder / f"{name}{suffix}").is_file():
            return str(folder / f"{name}{suffix}")
    raise TissueError(f"{folder} has no {name}.tissue.geojson and no {name}.geojson")


def as_record(path: Path, summary: Any) -> dict[str, Any]:
    """The JSON object of one store."""
    record = {key: value for key, value in vars(summary).items() if key not in ("name", "path", "pixels")}
    record["pixels"] = [pixels._asdict() for pixels in summary.pixels]
    return {"slide": str(path), "store": str(summary.path), **record}
