"""`wsi-attn tile`: convert slides to sharded OME-Zarr stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import PixelSize, Slides, Write
from wsi_attn.cli.output import Console, data, data_json, expand, warn_about
from wsi_attn.errors import StoreError, UsageError, WsiAttnError
from wsi_attn.options import Option
from wsi_attn.outputs.names import Reservations, check_folder
from wsi_attn.tiling.config import TileConfig

if TYPE_CHECKING:
    from wsi_attn.slide import SlideInfo
    from wsi_attn.tiling.config import TileSummary


@dataclass(frozen=True)
class Target:
    """Where the stores go."""

    output: Annotated[
        Path,
        Option("Output store NAME.zarr, or a folder for STEM.zarr.", aliases=("-o",), default="the current folder"),
    ] = Path()


def tile(slides: Slides, target: Target, config: TileConfig, pixels: PixelSize, write: Write) -> None:
    """Convert slides to Zarr stores with pixels, tissue mask, a grid of tiles and tile scores."""
    from wsi_attn.tiling.write import tile_slide

    inputs, output = expand(slides), target.output
    one = output.suffix == ".zarr"
    if not one:
        check_folder(output, "--output")
    if one and len(inputs) > 1:
        raise UsageError(f"{output} is a single store, but {len(inputs)} slides were given; use a folder as --output")
    if Path(config.tissue).is_file() and len(inputs) > 1:
        raise UsageError(
            f"--tissue {config.tissue} is a single file, but {len(inputs)} slides were given; "
            "use a folder of STEM.geojson files"
        )
    console = Console(quiet=write.quiet, total=len(inputs))
    reservations = Reservations()
    with console.progress("tile") as progress:
        for number, given in enumerate(inputs, 1):
            path = given.path
            try:
                with progress.item(number, len(inputs), path.name) as item, given.open(pixels.slide_mpp) as slide:
                    store = output if one else output / f"{slide.info.name}.zarr"
                    reservations.reserve(store, path)
                    own = config.for_slide(slide.info.name)
                    summary = tile_slide(slide, store, own, overwrite=write.overwrite, progress=item)
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
            _report(console, path, slide.info, summary, explain=config.codec == "auto")
            record = as_record(path, summary)
            data_json(record) if write.json else data(
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


def as_record(path: Path, summary: TileSummary) -> Mapping[str, object]:
    """Return the JSON object of one store."""
    record = {key: value for key, value in vars(summary).items() if key not in ("name", "path", "pixels")}
    record["pixels"] = [pixels._asdict() for pixels in summary.pixels]
    return {"slide": str(path), "store": str(summary.path), **record}


COMMAND = Command("tile", tile)
