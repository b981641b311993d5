"""Heatmap image of one layer: thumbnail, colours of valid cells, and a legend."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin

from wsi_attn.errors import UsageError
from wsi_attn.geometry import Frame
from wsi_attn.heatmaps import legend
from wsi_attn.heatmaps.appearance import USUAL, Appearance
from wsi_attn.heatmaps.colour import UInt8Array, colourise, lookup_table
from wsi_attn.heatmaps.layer import DisplayValues, Layer, display_values
from wsi_attn.heatmaps.outlines import draw_outlines
from wsi_attn.heatmaps.raster import FloatArray, resample
from wsi_attn.heatmaps.text import INK, PAPER, QUIET, Colour, Line, text_block
from wsi_attn.json_types import JsonObject
from wsi_attn.paths import path_to_text, printable
from wsi_attn.store.predictions import SlidePrediction
from wsi_attn.store.records import AttendedRegion

OUTLINES = 10
"""Maximum number of framed and numbered regions; more would crowd the image."""

GREYING = 0.85
"""Maximum desaturation of the tissue below colour: a mixture of stain and colour would be misleading."""

FAINTEST = 0.2
"""Opacity of the lowest value relative to the highest: low values hide less."""

TALL = 1.4
"""Ratio of height to width from which the legend is placed to the right of the image."""

HAIRLINE: Colour = (214, 216, 222)


@dataclass(frozen=True)
class Caption:
    """Content of the legend: a name, lines below it, the pixel size at level 0 if known, and framed regions."""

    name: str
    lines: tuple[str, ...]
    mpp: tuple[float, float] | None
    regions: tuple[AttendedRegion, ...] = ()


def draw_layer(
    layer: Layer,
    caption: Caption,
    thumbnail: UInt8Array,
    frame: Frame,
    look: Appearance = USUAL,
) -> Image.Image:
    """Draw one layer over a thumbnail with a legend outside it.

    Parameters
    ----------
    layer
        The layer to draw.
    caption
        Text of the legend beside the colour bar and the scale bar.
    thumbnail
        uint8 (rows, columns, 3), RGB, the whole slide, of `frame.size`.
    frame
        Position of the thumbnail in level-0 coordinates.
    look
        Colours and mode: "rank" is each cell's percentile within the slide, "value" the values themselves, None
        `layer.mode`. The lowest value has `FAINTEST` of the opacity of the highest.

    Returns
    -------
    RGB image. Its first rows and columns are the thumbnail's own pixels, unscaled; the legend is below, or to the
    right of a tall slide. Equal input gives equal pixels.

    Raises
    ------
    UsageError : the thumbnail does not have `frame.size`.
    """
    if thumbnail.shape != (frame.size.height, frame.size.width, 3) or thumbnail.dtype != np.uint8:
        raise UsageError(
            f"The thumbnail is {thumbnail.dtype} {thumbnail.shape}; its frame requires uint8 "
            f"{(frame.size.height, frame.size.width, 3)}"
        )
    shown = display_values(layer, look.mode)
    picture = Image.fromarray(overlay(thumbnail, resample(shown.values, layer.frame, frame), look.alpha, look.colour))
    unit = letter_size(frame)
    draw_outlines(picture, frame, caption.regions, unit)
    tall = frame.size.height >= TALL * frame.size.width
    room = unit * 16 if tall else max(frame.size.width, unit * 20) - 2 * unit
    microns = caption.mpp[0] * frame.downsample_x if caption.mpp else None
    blocks = [
        text_block(_title(caption, unit), min(room, unit * 28)),
        _bar(shown, look.colour, unit, room),
        legend.scale_bar(microns, unit, room, _note(len(caption.regions))),
    ]
    return _with_legend(picture, blocks, unit, tall=tall)


def caption_of(prediction: SlidePrediction) -> Caption:
    """Slide, label with its probability, uncertainty and model; and the first `OUTLINES` attended regions."""
    probability = prediction.probabilities.get(prediction.label)
    answer = prediction.label if probability is None else f"{prediction.label} · probability {probability:.2f}"
    terms = ", ".join(f"{name} {value:.2f}" for name, value in prediction.uncertainty.items())
    lines = (answer, *([f"Uncertainty: {terms}"] if terms else []), prediction.model.get("name", "unnamed model"))
    return Caption(printable(Path(prediction.slide).name), lines, prediction.mpp, prediction.attention[:OUTLINES])


def overlay(thumbnail: UInt8Array, values: FloatArray, alpha: float, colour: str) -> UInt8Array:
    """Blend a thumbnail with colours.

    `values` is float32 (rows, columns), 0 to 1, of the thumbnail's size; where it is NaN the thumbnail is unchanged.
    Tissue below colour is desaturated to the same degree, so a colour has the same meaning on every stain.
    """
    kept, greyed, added = _mixture(alpha, colour)
    seen = ~np.isnan(values)
    index = np.where(seen, np.rint(np.clip(np.where(seen, values, 0), 0, 1) * 255), 256).astype(np.uint16)
    grey = np.asarray(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY), np.uint8) * greyed[index]
    blended = thumbnail * kept[index][..., None]
    blended += grey[..., None]
    blended += added[index]
    return np.asarray(np.rint(blended, out=blended), np.uint8)


@cache
def _mixture(alpha: float, colour: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Blending weights for each of 256 values and, at index 256, for invalid cells.

    Shares of the pixel (257,) and of its grey (257,), and the added colour (257, 3).
    """
    share = opacity(np.linspace(0, 1, 256, dtype=np.float32), alpha)
    pale = GREYING * share / max(alpha, 1e-6)
    kept, greyed = np.append((1 - pale) * (1 - share), 1), np.append(pale * (1 - share), 0)
    added = np.concatenate([lookup_table(colour) * share[:, None], np.zeros((1, 3))])
    return kept.astype(np.float32), greyed.astype(np.float32), added.astype(np.float32)


def colours_alone(layer: Layer, frame: Frame, look: Appearance) -> Image.Image:
    """A layer without slide and legend: RGBA of `frame.size`, transparent for invalid cells."""
    values = resample(display_values(layer, look.mode).values, layer.frame, frame)
    return Image.fromarray(colourise(values, np.full(values.shape, look.alpha, np.float32), look.colour))


def origin_of(prediction: SlidePrediction) -> JsonObject:
    """Provenance of a prediction for output files."""
    return {
        "slide": path_to_text(prediction.slide),
        "fingerprint": prediction.fingerprint,
        "label": prediction.label,
        "model": prediction.model,
        "software": prediction.software,
        "notice": legend.NOTICE,
    }


def png_bytes(image: Image.Image, origin: Mapping[str, object]) -> bytes:
    """Encode the image as PNG with `origin` as JSON in its text field `wsi-attn`."""
    words = PngImagePlugin.PngInfo()
    words.add_itxt("wsi-attn", json.dumps(origin, ensure_ascii=False, sort_keys=True))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=words)
    return buffer.getvalue()


def letter_size(frame: Frame) -> int:
    """Letter size in pixels for an image of this area; never too small to read."""
    return int(np.clip(round((frame.size.width * frame.size.height) ** 0.5 / 50), 13, 40))


def opacity(values: NDArray[np.float32], alpha: float = 1.0) -> FloatArray:
    """Opacity of values from 0 to 1, of which the highest has `alpha`."""
    return (alpha * (FAINTEST + (1 - FAINTEST) * values)).astype(np.float32)


def _title(caption: Caption, unit: int) -> list[Line]:
    small = max(12, round(unit * 0.85))
    first, *others = (*caption.lines, legend.NOTICE)
    return [
        (caption.name, round(unit * 1.25), INK),
        (first, unit, INK),
        *((line, small, QUIET) for line in others),
    ]


def _bar(shown: DisplayValues, colour: str, unit: int, room: int) -> Image.Image:
    # Over white at full opacity: the colours of the image, including their decreasing opacity.
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    seen = overlay(np.full((1, 256, 3), 255, np.uint8), ramp, 1.0, colour)
    caption: list[Line] = [(shown.title, unit, INK), (shown.subtitle, max(12, round(unit * 0.85)), QUIET)]
    return legend.colour_bar(seen[0], caption, shown.ticks, unit, room)


def _note(count: int) -> str:
    if count == 0:
        return ""
    return "Frame: most attended region" if count == 1 else f"Frames: {count} most attended regions"


def _with_legend(picture: Image.Image, blocks: list[Image.Image], unit: int, *, tall: bool) -> Image.Image:
    """A picture with the blocks of its legend below it, or to the right of a tall one."""
    if tall:
        (places, height), (left, top) = legend.in_column(blocks, unit), (picture.width, 0)
        size = picture.width + unit * 18, max(picture.height, height)
        line = (left, 0, left, size[1])
    else:
        width = max(picture.width, unit * 20)
        (places, height), (left, top) = legend.in_rows(blocks, width, unit), (0, picture.height)
        size = width, picture.height + height
        line = (0, top, width, top)
    canvas = Image.new("RGB", size, PAPER)
    canvas.paste(picture, (0, 0))
    ImageDraw.Draw(canvas).line(line, fill=HAIRLINE)
    for place in places:
        canvas.paste(place.block, (left + place.x, top + place.y))
    return canvas
