"""Perceptually uniform colour maps: equal steps in value look like equal steps in colour, also in greyscale print."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import UnknownNameError
from wsi_attn.heatmaps.appearance import COLOURS

UInt8Array = NDArray[np.uint8]


def lookup_table(name: str) -> UInt8Array:
    """The 256 colours of a map, lowest first: uint8 (256, 3), RGB.

    Raises
    ------
    UnknownNameError : unknown colour map; the message lists the available ones.
    """
    if name not in COLOURS:
        raise UnknownNameError(
            f"Unknown colour map {name!r}; available: {', '.join(COLOURS)}", "colour map", name, COLOURS
        )
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    coloured = cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{name.upper()}"))
    return np.asarray(coloured, np.uint8)[:, 0, ::-1].copy()


def colourise(values: NDArray[np.float32], opacity: NDArray[np.float32], name: str) -> UInt8Array:
    """Apply a colour map to a raster.

    Parameters
    ----------
    values
        float32 (rows, columns), 0 to 1; clipped; NaN is transparent.
    opacity
        float32 (rows, columns), 0 to 1.
    name
        One of `COLOURS`.

    Returns
    -------
    uint8 (rows, columns, 4), RGBA, alpha not premultiplied; all four are 0 where `values` is NaN.
    """
    seen = ~np.isnan(values)
    index = np.rint(np.clip(np.where(seen, values, 0), 0, 1) * 255).astype(np.uint8)
    alpha = np.rint(np.clip(np.where(seen, opacity, 0), 0, 1) * 255).astype(np.uint8)
    rgba: UInt8Array = np.concatenate([lookup_table(name)[index], alpha[..., None]], axis=-1)
    rgba[~seen] = 0
    return rgba
