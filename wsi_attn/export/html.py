"""Self-contained HTML file: slide, selectable heatmaps with opacity, top patches and provenance; no network access.

Images are embedded as data, so their sizes are limited: the slide by `SLIDE_SIDE` and `SLIDE_BYTES`, all heatmaps
together by `LAYERS_BYTES`, patches by number and side. The file stays below `MOST_BYTES` for any slide.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from wsi_attn import assets
from wsi_attn.errors import ExportError, UsageError
from wsi_attn.export.exporter import Entries, Exporter
from wsi_attn.export.job import Job
from wsi_attn.export.source import NO_LAYER, ExportSource
from wsi_attn.geometry import Frame
from wsi_attn.heatmaps.appearance import Mode
from wsi_attn.heatmaps.colour import lookup_table
from wsi_attn.heatmaps.contact_sheet import read_patches
from wsi_attn.heatmaps.layer import Layer, display_values
from wsi_attn.heatmaps.picture import FAINTEST
from wsi_attn.heatmaps.raster import FloatArray, resample
from wsi_attn.html import render
from wsi_attn.json_types import JsonObject
from wsi_attn.outputs import files
from wsi_attn.paths import printable
from wsi_attn.slide import Slide, UInt8Array
from wsi_attn.slides.view import read_view

MOST_BYTES = 15_000_000

SLIDE_SIDE = 4096
SLIDE_BYTES = 5_500_000
LAYER_SIDE = 1024
LAYERS_BYTES = 2_500_000
"""Limit of all heatmaps together, before base64, which adds a third."""

PATCHES = 12
PATCH_SIDE = 192
MOST_PATCHES = 48
MOST_LAYERS = 24

QUALITIES = (85, 75, 65, 50)


def write_html(job: Job, slide: Slide) -> Entries:
    """Write the page of a slide atomically; return the quantities that it shows and its size.

    Raises
    ------
    ExportError : too many heatmaps or patches, or the page would be too large.
    """
    config, subject = job.config, job.subject
    names = [name for name in (config.of or subject.layers) if name != NO_LAYER]
    patches = PATCHES if config.top is None else config.top
    layers = [subject.layer(name) for name in names]
    if len(layers) > MOST_LAYERS or patches > MOST_PATCHES:
        raise ExportError(
            f"A page contains at most {MOST_LAYERS} heatmaps and {MOST_PATCHES} patches; use --of and --top"
        )
    downsample = max(1.0, max(subject.size0) / min(config.size or SLIDE_SIDE, SLIDE_SIDE))
    view = read_view(slide, downsample, downsample, workers=config.workers, progress=job.progress)
    picture, frame = _bounded_jpeg(view.pixels, view.frame)
    prediction = subject.prediction
    data: JsonObject = {
        "slide": {"image": picture, "width": subject.size0.width, "height": subject.size0.height, **_frame(frame)},
        "layers": _layers(layers, subject, config.mode, config.colour),
        "regions": _patches(subject, slide, patches, layers),
        "label": prediction.label if prediction else "",
        "probabilities": dict(prediction.probabilities) if prediction else {},
        "uncertainty": dict(prediction.uncertainty) if prediction else {},
        "lines": [prediction.model.get("name", "unnamed model")] if prediction else list(subject.caption.lines),
        "mpp": list(subject.mpp) if subject.mpp else None,
        "origin": subject.origin,
    }
    library = assets.read_text("openseadragon/openseadragon.js").replace("</script", "<\\/script")
    script = assets.read_text("report/page.js")
    page = render(
        "export/page.html.jinja",
        title=f"{printable(subject.slide.name)} – wsi-attn",
        style=assets.read_text("report/page.css"),
        mark=subject.mark,
        opacity=round(config.alpha * 100),
        hashes=[_b64(hashlib.sha256(text.encode()).digest()) for text in (library, script)],
        data=data,
        library=library,
        script=script,
    ).encode()
    if len(page) > MOST_BYTES:
        raise ExportError(f"The page of {subject.path} would have {len(page)} bytes; use a smaller --size")
    files.write_bytes(job.path, page)
    return {"of": names, "bytes": len(page)}


def _bounded_jpeg(pixels: UInt8Array, frame: Frame) -> tuple[str, Frame]:
    """Encode a JPEG of at most `SLIDE_BYTES`, reducing first the quality, then the size by half."""
    while True:
        for quality in QUALITIES:
            data = _jpeg(pixels, quality)
            if len(data) <= SLIDE_BYTES:
                return f"data:image/jpeg;base64,{_b64(data)}", frame
        rows, columns = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
        image = Image.fromarray(pixels[:rows, :columns]).reduce(2)
        pixels = np.asarray(image)
        size = type(frame.size)(image.width, image.height)
        frame = Frame(size, frame.downsample_x * 2, frame.downsample_y * 2)


def _layers(layers: Sequence[Layer], subject: ExportSource, mode: Mode | None, colour: str) -> list[JsonObject]:
    shades = [display_values(layer, mode) for layer in layers]
    side = LAYER_SIDE
    while True:
        downsample = max(1.0, max(subject.size0) / side)
        frame = Frame.covering(subject.size0, downsample, downsample)
        images = [
            _indexed_png(resample(shown.values, layer.frame, frame), colour)
            for layer, shown in zip(layers, shades, strict=True)
        ]
        if sum(map(len, images)) <= LAYERS_BYTES or side <= 64:
            break
        side //= 2
    bar = _indexed_png(np.linspace(0, 1, 255, dtype=np.float32)[None], colour, opaque=True)
    return [
        {
            "name": layer.name,
            "title": shown.title,
            "subtitle": shown.subtitle,
            "ticks": list(shown.ticks),
            "image": f"data:image/png;base64,{_b64(image)}",
            "bar": f"data:image/png;base64,{_b64(bar)}",
            **_frame(frame),
        }
        for layer, shown, image in zip(layers, shades, images, strict=True)
    ]


def _indexed_png(values: FloatArray, colour: str, *, opaque: bool = False) -> bytes:
    """Palette PNG of values from 0 to 1: entry 0 is transparent, for NaN; low values have lower opacity."""
    seen = ~np.isnan(values)
    index = np.where(seen, 1 + np.rint(np.clip(np.nan_to_num(values), 0, 1) * 254), 0).astype(np.uint8)
    image = Image.fromarray(index)
    share = np.linspace(0, 1, 255)
    colours = lookup_table(colour)[np.rint(share * 255).astype(int)]
    alpha = np.full(255, 255) if opaque else np.rint(255 * (FAINTEST + (1 - FAINTEST) * share))
    image.putpalette(bytes(3) + colours.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(1) + alpha.astype(np.uint8).tobytes(), optimize=True)
    return buffer.getvalue()


def _patches(subject: ExportSource, slide: Slide, count: int, layers: Sequence[Layer]) -> list[JsonObject]:
    regions = subject.regions(count, layers[0].name if layers else None)
    return [
        {**vars(patch.region), "image": f"data:image/jpeg;base64,{_b64(_jpeg(patch.pixels, QUALITIES[0]))}"}
        for patch in read_patches(slide, regions, PATCH_SIDE)
    ]


def _frame(frame: Frame) -> JsonObject:
    return {
        "columns": frame.size.width,
        "rows": frame.size.height,
        "downsample_x": frame.downsample_x,
        "downsample_y": frame.downsample_y,
    }


def _jpeg(pixels: UInt8Array, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _export(job: Job) -> Entries:
    if job.config.top is not None and job.config.top > MOST_PATCHES:
        raise UsageError(f"A page shows at most {MOST_PATCHES} patches, not {job.config.top}")
    with job.subject.pixels() as slide:
        return write_html(job, slide)


HTML = Exporter((".html",), ("of", "mode", "alpha", "colour", "size", "top"), write=_export)
