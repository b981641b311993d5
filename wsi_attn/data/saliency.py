"""Saliency relative to the border of an image: an estimate of the lesion for images without boxes.

(1)  u_k(x) = sqrt( (v_x - mean_k)^T Q_k^-1 (v_x - mean_k) )   v the Lab colour, k one of the four sides of the border
(2)  U = sum_k u_k / max u_k  -  max_k( u_k / max u_k )         one side may contain part of the object

The backgroundness cue of Zhang, Sclaroff, Lin, Shen, Price, Mech, "Minimum Barrier Salient Object Detection at 80 FPS",
ICCV 2015. Otsu's threshold follows, as in the journal version of CARE, which derives boxes from a saliency map.

Differences: only the cue is used, without the distance transform to which the paper adds it. The image is blurred with
5 pixels first, and a variance of 1 is added to Q_k, so that it is invertible for a border of uniform colour.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.annotations.boxes import FoundBoxes, boxes_from
from wsi_attn.slide import Slide, UInt8Array
from wsi_attn.slides.view import View, read_view

VIEW_SIDE = 256
"""Maximum longer side of the view on which boxes are found, pixels."""

RIM = 0.1
"""Depth of the border as a share of the square root of the image area."""

BLUR = 5
"""Side of the Gaussian kernel, pixels; suppresses grain."""

LEAST_VARIANCE = 1.0
"""Added to the colour variance of the border, Lab units squared: about the smallest visible difference."""


def overview(slide: Slide) -> View:
    """Read the whole slide, at most `VIEW_SIDE` pixels wide and high."""
    factor = max(1.0, max(slide.info.size0) / VIEW_SIDE)
    return read_view(slide, factor, factor, workers=1)


def salient_boxes(slide: Slide) -> FoundBoxes:
    """Return boxes around salient regions of a view of the whole slide."""
    salience = saliency(overview(slide).pixels)
    return boxes_from(salience, salient_mask(salience), slide.info.size0)


def saliency(pixels: UInt8Array) -> NDArray[np.float32]:
    """Return the saliency of equation (2), scaled to 0 to 1.

    Parameters
    ----------
    pixels
        uint8 (rows, columns, 3), RGB.

    Returns
    -------
    float32 (rows, columns); all 0 if nothing is salient.
    """
    light = cv2.GaussianBlur(pixels, (BLUR, BLUR), 0).astype(np.float32) / 255
    lab = np.asarray(cv2.cvtColor(light, cv2.COLOR_RGB2LAB), np.float64)
    depth = max(1, round(RIM * float(np.sqrt(lab.shape[0] * lab.shape[1]))))
    sides = (lab[:depth], lab[-depth:], lab[:, :depth], lab[:, -depth:])
    maps = np.stack([_scaled(_distance(lab, side.reshape(-1, 3))) for side in sides])
    return _scaled(maps.sum(axis=0) - maps.max(axis=0)).astype(np.float32)


def salient_mask(salience: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Threshold with Otsu's method: bool of the same shape, all False if nothing is salient."""
    levels = np.rint(salience * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    return np.asarray(levels > threshold)


def _distance(lab: NDArray[np.float64], side: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return equation (1), (rows, columns), from the colours (n, 3) of one side of the border."""
    centred = side - side.mean(axis=0)
    spread = centred.T @ centred / len(side) + LEAST_VARIANCE * np.eye(3)
    away = lab - side.mean(axis=0)
    return np.asarray(np.sqrt(np.einsum("hwi,ij,hwj->hw", away, np.linalg.inv(spread), away)))


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide by the maximum; all 0 if the maximum is within rounding error."""
    highest = values.max()
    return values / highest if highest > 1e-3 else np.zeros_like(values)
