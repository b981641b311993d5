"""HTML representations of predictions and stores for notebooks: a short table and a small, bounded image."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_attn.html import render
from wsi_attn.paths import printable

if TYPE_CHECKING:
    from wsi_attn.store.predictions import SlidePrediction
    from wsi_attn.store.tile_store import TileStore

SIDE = 320
"""Maximum longer side of an image in pixels."""

ROWS = 8
"""Maximum number of labels listed."""

THUMBNAIL_PIXELS = 40_000_000
"""Pixels of the coarsest level of a store that are read for its thumbnail, at most."""

LETTERS = 120
"""Maximum number of characters of a name."""


def prediction_html(prediction: SlidePrediction) -> str | None:
    """Label, most probable labels with probabilities, and the attention as ranks; None on failure."""
    try:
        rows = [
            ("Slide", Path(prediction.slide).name),
            ("Label", prediction.label),
            ("Model", prediction.model.get("name", "")),
            ("Tissue", f"{prediction.tissue_fraction:.0%} of the slide"),
        ]
        ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
        rows += [(f"p({name})", f"{value:.3f}") for name, value in ranked[:ROWS]]
        if len(ranked) > ROWS:
            rows.append(("", f"and {len(ranked) - ROWS} more labels"))
        return page(rows, _ranks(prediction.attention_map.values))
    except Exception:  # a notebook falls back to the text of `repr`
        return None


def store_html(store: TileStore) -> str | None:
    """A thumbnail from the coarsest level, sizes and grids; None on failure."""
    try:
        info, level = store.info, len(store.info.levels) - 1
        size = info.levels[level].size
        rows = [
            ("Store", store.path.name),
            ("Size", f"{info.size0.width} x {info.size0.height} px, {len(info.levels)} levels"),
            ("Pixel size", f"{info.mpp.x:g} x {info.mpp.y:g} µm" if info.mpp else "unknown"),
            ("Tissue", f"{store.meta.tissue.fraction:.0%} of the slide"),
        ]
        small = size.width * size.height <= THUMBNAIL_PIXELS
        return page(rows, store.read_region((0, 0), level, (size.width, size.height)) if small else None)
    except Exception:  # a notebook falls back to the text of `repr`
        return None


def page(rows: Sequence[tuple[str, str]], pixels: NDArray[np.uint8] | None) -> str:
    """A table of names and values beside an image, uint8 (rows, columns, 3 or 4)."""
    shown = [(_shortened(name), _shortened(value)) for name, value in rows]
    return render("store/notebook.html.jinja", rows=shown, png="" if pixels is None else _png(pixels))


def _shortened(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    image = Image.fromarray(pixels)
    scale = SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _ranks(values: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """Percentiles in the colours of viridis, RGBA, transparent for invalid cells; None without valid cells."""
    import cv2

    if values.ndim != 2 or values.size == 0:  # OpenCV crashes on it
        return None
    step = max(1, *(side // (4 * SIDE) for side in values.shape))
    values = values[::step, ::step]
    seen = ~np.isnan(values)
    order = np.argsort(np.argsort(values[seen], kind="stable"), kind="stable")
    index = np.zeros(values.shape, np.uint8)
    index[seen] = order * 255 // max(1, len(order) - 1)
    colours: Any = cv2.applyColorMap(index, cv2.COLORMAP_VIRIDIS)
    return np.dstack([colours[..., ::-1], np.where(seen, 255, 0)]).astype(np.uint8)
