"""`wsi-attn info`: what a slide says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from wsi_attn.cli.options import Debug, Json, Quiet, SlideMpp, Slides, parse_slide_mpp
from wsi_attn.cli.output import Talk, data, data_json, expand
from wsi_attn.errors import WsiAttnError

if TYPE_CHECKING:
    from wsi_attn.contract import SlideInfo


def info(
    slides: Slides, slide_mpp: SlideMpp = None, json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Print levels, pixel size, compression and what else a slide says of itself."""
    from wsi_attn.data.sources import open_source

    paths = expand(slides)
    mpp = parse_slide_mpp(slide_mpp)
    talk = Talk(quiet=quiet, total=len(paths))
    for path in paths:
        try:
            with open_source(path, mpp) as slide:
                data_json(as_record(slide.info)) if json else data(as_text(slide.info))
        except WsiAttnError as error:
            talk.fail(error)
    raise typer.Exit(talk.exit_code())


def as_record(info: SlideInfo) -> dict[str, Any]:
    """The JSON object of one slide."""
    return {
        "slide": str(info.path),
        "vendor": info.vendor,
        "reader": info.reader,
        "width": info.size0.width,
        "height": info.size0.height,
        "mpp": list(info.mpp) if info.mpp else None,
        "mpp_source": info.mpp_source,
        "mpp_note": info.mpp_note,
        "objective_power": info.objective_power,
        "compression": info.compression,
        "levels": [
            {
                "width": level.size.width,
                "height": level.size.height,
                "downsample": [level.downsample_x, level.downsample_y],
                "tile_size": list(level.tile_size),
            }
            for level in info.levels
        ],
        "bounds": list(info.bounds) if info.bounds else None,
        "associated": list(info.associated),
        "icc_profile_bytes": len(info.icc_profile) if info.icc_profile else 0,
        "fingerprint": info.fingerprint,
        "properties": dict(info.properties),
    }


def as_text(info: SlideInfo) -> str:
    """A few lines for people."""
    mpp = f"{info.mpp.x:g} x {info.mpp.y:g} µm/px ({info.mpp_source})" if info.mpp else f"unknown: {info.mpp_note}"
    lines = [
        str(info.path),
        f"  {info.vendor}, {info.compression}, read by {info.reader}",
        f"  {info.size0.width} x {info.size0.height} px, mpp {mpp}",
    ]
    lines += [
        f"  level {index}: {level.size.width} x {level.size.height}, downsample {level.downsample_x:g}, "
        f"tiles {level.tile_size.width} x {level.tile_size.height}"
        for index, level in enumerate(info.levels)
    ]
    if info.objective_power:
        lines.append(f"  objective {info.objective_power:g}x (nominal)")
    if info.bounds:
        lines.append(f"  scanned area {tuple(info.bounds)}")
    if info.associated:
        lines.append(f"  associated images: {', '.join(info.associated)}")
    if "orientation" in " ".join(info.properties):
        lines += [f"  {key} {value}" for key, value in info.properties.items() if "orientation" in key]
    return "\n".join(lines)
