"""`wsi-attn tile`: convert slides to sharded OME-Zarr stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import PixelSize, Slides, Write
from wsi_attn.cli.output import Console, data, data_json, expand, warn_about
from wsi_attn.errors import StoreError, UsageError
from wsi_attn.options import Option
from wsi_attn.outputs.names import Reservations, check_folder
from wsi_attn.tiling.config import TileConfig

if TYPE_CHECKING:
    from wsi_attn.data.inputs import Input
    from wsi_attn.slide import Item, SlideInfo
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
    console, reservations = Console(quiet=write.quiet), Reservations()

    def work(given: Input, item: Item) -> Iterator[None]:
        with given.open(pixels.slide_mpp) as slide:
            store = output if one else output / f"{slide.info.name}.zarr"
            reservations.reserve(store, given.path)
            own = config.for_slide(slide.info.name)
            summary = tile_slide(slide, store, own, overwrite=write.overwrite, progress=item)
            item.state = summary.state
        yield
        _report(console, given.path, slide.info, summary, explain=config.codec == "auto")
        data_json(as_record(given.path, summary)) if write.json else data(
            f"{given.path}\t{summary.path}\t{summary.tiles} of {summary.tiles_total} tiles\t"
            f"{summary.tissue_fraction:.3f} tissue\t{summary.unreadable_tiles} unreadable\t{summary.state}"
        )

    def unwritten(path: Path, reason: object) -> StoreError:
        return StoreError(f"Cannot tile {path} into {output}: {reason}; fix it and rerun the command to resume")

    console.each("tile", inputs, work, unwritten)


def _report(console: Console, path: Path, info: SlideInfo, summary: TileSummary, *, explain: bool) -> None:
    """Print messages about one store; `explain` adds why tiles were not copied."""
    if summary.state == "skipped":
        console.skipped(summary.path, "tile")
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
