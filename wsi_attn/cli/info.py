"""`wsi-attn info`: the metadata of slides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import PixelSize, Report, Slides
from wsi_attn.cli.output import Console, data, data_json, expand, warn_about
from wsi_attn.errors import WsiAttnError
from wsi_attn.json_types import JsonObject

if TYPE_CHECKING:
    from wsi_attn.data.inputs import Input
    from wsi_attn.slide import Item, Slide, SlideInfo


def info(slides: Slides, pixels: PixelSize, report: Report) -> None:
    """Print levels, pixel size, compression and other metadata of slides, images or stores."""
    inputs = expand(slides)
    console = Console(quiet=report.quiet)

    def show(given: Input, _item: Item) -> Iterator[None]:
        with given.open(pixels.slide_mpp) as slide:
            tiles = [tiles_of(slide, level) for level in range(len(slide.info.levels))]
            warn_about(console, given.path, slide.info)
            data_json(as_record(slide.info, tiles)) if report.json else data(as_text(slide.info, tiles))
        yield

    console.each("info", inputs, show)


@dataclass(frozen=True)
class LevelTiles:
    """Storage of the tiles of one level; `reason` states why they cannot be copied and is empty if they can."""

    compression: str
    reason: str


def tiles_of(slide: Slide, level: int) -> LevelTiles:
    """Return the compression of a level and whether its tiles can be copied into a store without decoding."""
    compression = slide.info.properties.get(f"tiff.level[{level}].compression", slide.info.compression)
    try:
        slide.encoded_tiles(level)
    except WsiAttnError as error:
        return LevelTiles(compression, str(error))
    return LevelTiles(compression, "")


def as_record(info: SlideInfo, tiles: Sequence[LevelTiles]) -> JsonObject:
    """Return the JSON object of one slide."""
    return {
        "slide": str(info.path),
        "vendor": info.vendor,
        "reader": info.reader,
        "width": info.size0.width,
        "height": info.size0.height,
        "mpp": list(info.mpp) if info.mpp else None,
        "mpp_source": info.mpp_source,
        "mpp_note": info.mpp_note or info.mpp_contradiction,
        "objective_power": info.objective_power,
        "compression": info.compression,
        "levels": [
            {
                "width": level.size.width,
                "height": level.size.height,
                "downsample": [level.downsample_x, level.downsample_y],
                "tile_size": list(level.tile_size),
                "compression": stored.compression,
                "passthrough": not stored.reason,
                "passthrough_reason": stored.reason,
            }
            for level, stored in zip(info.levels, tiles, strict=True)
        ],
        "other_images": list(info.other_images),
        "bounds": list(info.bounds) if info.bounds else None,
        "associated": list(info.associated),
        "icc_profile": info.icc_profile is not None,
        "icc_profile_bytes": len(info.icc_profile) if info.icc_profile else 0,
        "fingerprint": info.fingerprint,
        "properties": dict(info.properties),
    }


def as_text(info: SlideInfo, tiles: Sequence[LevelTiles]) -> str:
    """Return the human-readable summary."""
    mpp = f"{info.mpp.x:g} x {info.mpp.y:g} µm/px ({info.mpp_source})" if info.mpp else f"unknown: {info.mpp_note}"
    lines = [
        str(info.path),
        f"  {info.vendor}, {info.compression}, read by {info.reader}",
        f"  {info.size0.width} x {info.size0.height} px, mpp {mpp}",
    ]
    lines += [
        f"  level {index}: {level.size.width} x {level.size.height}, downsample {level.downsample_x:g}, "
        f"tiles {level.tile_size.width} x {level.tile_size.height} {stored.compression}, "
        + (f"decoded when tiled: {stored.reason}" if stored.reason else "copied without decoding when tiled")
        for index, (level, stored) in enumerate(zip(info.levels, tiles, strict=True))
    ]
    if info.objective_power:
        lines.append(f"  objective {info.objective_power:g}x (nominal)")
    if info.bounds:
        lines.append(f"  scanned area {tuple(info.bounds)}")
    lines += [f"  other image {image}" for image in info.other_images]
    if info.associated:
        lines.append(f"  associated images: {', '.join(info.associated)}")
    lines.append(f"  colour profile {len(info.icc_profile)} bytes" if info.icc_profile else "  no colour profile")
    lines.append(f"  fingerprint {info.fingerprint[:16]}")
    if "orientation" in " ".join(info.properties):
        lines += [f"  {key} {value}" for key, value in info.properties.items() if "orientation" in key]
    return "\n".join(lines)


COMMAND = Command("info", info)
