"""`wsi-attn tile`: convert slides to sharded OME-Zarr stores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wsi_attn.cli.options import Debug, Json, Overwrite, Quiet, SlideMpp, Slides, Threads, parse_slide_mpp, starting
from wsi_attn.cli.output import Console, data, data_json, expand, warn_about
from wsi_attn.errors import StoreError, TissueError, UsageError, WsiAttnError
from wsi_attn.outputs.names import Reservations, check_folder

if TYPE_CHECKING:
    from wsi_attn.slide import SlideInfo
    from wsi_attn.tiling.config import TileSummary

Store = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="Output store NAME.zarr, or a folder for STEM.zarr; the current folder by default.",
        show_default=False,
    ),
]
TileSize = Annotated[int, typer.Option("--tile-size", "--patch-size", help="Tile side in pixels.")]
Overlap = Annotated[int, typer.Option("--overlap", help="Overlap of neighbouring tiles in pixels.")]
Mpp = Annotated[
    float | None, typer.Option("--mpp", help="Resolution of the store in µm/px; the resolution of level 0 by default.")
]
MinTissue = Annotated[
    float, typer.Option("--min-tissue", help="Minimum tissue share of the tiles in the grid, 0 to 1.")
]
Background = Annotated[
    Literal["keep", "skip"],
    typer.Option("--background", help="Chunks without tissue: keep, or skip to leave them out."),
]
Tissue = Annotated[
    str,
    typer.Option(
        "--tissue",
        help="Tissue detection: otsu, robust, none (whole slide), a GeoJSON file, or a folder of STEM.geojson files.",
        autocompletion=starting("otsu", "robust", "none"),
    ),
]
Codec = Annotated[
    Literal["auto", "passthrough", "zstd", "jpeg"],
    typer.Option(
        "--codec",
        help="Codec: auto, passthrough (copy the encoded tiles of the slide or fail), zstd (lossless) or jpeg.",
    ),
]
Quality = Annotated[int, typer.Option("--quality", help="Quality of --codec jpeg, 1 to 100.")]
Grid = Annotated[str, typer.Option("--grid", help="Name of the grid; a new name adds a grid to an existing store.")]
Scores = Annotated[str, typer.Option("--scores", help="Tile scores: all, none, or comma-separated names.")]


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
    """Convert slides to Zarr stores with pixels, tissue mask, a grid of tiles and tile scores."""
    from wsi_attn.tiling.config import TileConfig
    from wsi_attn.tiling.write import tile_slide

    inputs, own_mpp = expand(slides), parse_slide_mpp(slide_mpp)
    one = output.suffix == ".zarr"
    if not one:
        check_folder(output, "--output")
    if one and len(inputs) > 1:
        raise UsageError(f"{output} is a single store, but {len(inputs)} slides were given; use a folder as --output")
    if Path(tissue).is_file() and len(inputs) > 1:
        raise UsageError(
            f"--tissue {tissue} is a single file, but {len(inputs)} slides were given; "
            "use a folder of STEM.geojson files"
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
                        f"Cannot tile {path} into {output}: {error.strerror}; fix it and rerun the command to resume"
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
    """Print messages about one store; `explain` adds why tiles were not copied."""
    if summary.state == "skipped":
        console.info(f"{summary.path} is already complete; use --overwrite to tile again")
    for reason in dict.fromkeys(
        pixels.reason for pixels in summary.pixels if pixels.origin in ("copied", "resampled") and explain
    ):
        console.info(f"{path}: decoded and recompressed as {summary.pixels[0].codec}, not copied: {reason}")
    for level, pixels in enumerate(summary.pixels):
        if pixels.origin == "passthrough" and pixels.reason:
            console.info(f"{path}: level {level}: {pixels.reason}")
    if summary.unreadable_tiles:
        console.info(f"warning: {path}: {summary.unreadable_tiles} tiles could not be decoded and are masked")
    if summary.tiles == 0:
        console.info(f"warning: {path}: no tissue found, the grid is empty; use --tissue none for the whole slide")
    warn_about(console, path, info)
    if info.mpp is None:
        console.info(f"warning: {path}: unknown pixel size ({info.mpp_note}); set it with --slide-mpp")


def _tissue_of(tissue: str, name: str) -> str:
    """Return the method, or the file of one slide if `tissue` is a folder."""
    folder = Path(tissue)
    if not folder.is_dir():
        return tissue
    for suffix in (".tissue.geojson", ".geojson"):
        if (folder / f"{name}{suffix}").is_file():
            return str(folder / f"{name}{suffix}")
    raise TissueError(f"{folder} contains neither {name}.tissue.geojson nor {name}.geojson")


def as_record(path: Path, summary: Any) -> dict[str, Any]:
    """Return the JSON object of one store."""
    record = {key: value for key, value in vars(summary).items() if key not in ("name", "path", "pixels")}
    record["pixels"] = [pixels._asdict() for pixels in summary.pixels]
    return {"slide": str(path), "store": str(summary.path), **record}
