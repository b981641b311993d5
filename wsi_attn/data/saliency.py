"""What stands out from the rim of an image: a guess at where the lesion is, for images without boxes.

(1)  u_k(x) = sqrt( (v_x - mean_k)^T Q_k^-1 (v_x - mean_k) )   v the Lab colour, k one of the four sides of the rim
(2)  U = sum_k u_k / max u_k  -  max_k( u_k / max u_k )         one side may hold part of the object

The backgroundness cue of Zhang, Sclaroff, Lin, Shen, Price, Mech, "Minimum Barrier Salient Object Detection at 80 FPS",
ICCV 2015. Then Otsu's threshold, as CARE's journal version has boxes come from a saliency map.

Departures. The cue alone, without the distance transform that the paper adds it to. A blur of 5 pixels beforehand, and
a variance of 1 added to Q_k, so that a rim of one colour can be inverted.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.slide import UInt8Array

RIM = 0.1
"""Depth of the rim, as a share of the root of the image's area."""

BLUR = 5
"""Side of the Gaussian, pixels: grain must not stand out."""

LEAST_VARIANCE = 1.0
"""Added to the variance of a rim's colour, Lab units squared: about the smallest difference that is seen."""


def saliency(pixels: UInt8Array) -> NDArray[np.float32]:
    """Equation (2), scaled to 0 to 1.

    Parameters
    ----------
    pixels
        uint8 (rows, columns, 3), RGB.

    Returns
    -------
    float32 (rows, columns); 0 everywhere where nothing stands out.
    """
    light = cv2.GaussianBlur(pixels, (BLUR, BLUR), 0).astype(np.float32) / 255
    lab = np.asarray(cv2.cvtColor(light, cv2.COLOR_RGB2LAB), np.float64)
    depth = max(1, round(RIM * float(np.sqrt(lab.shape[0] * lab.shape[1]))))
    sides = (lab[:depth], lab[-depth:], lab[:, :depth], lab[:, -depth:])
    maps = np.stack([_scaled(_distance(lab, side.reshape(-1, 3))) for side in sides])
    return _scaled(maps.sum(axis=0) - maps.max(axis=0)).astype(np.float32)


def salient_mask(salience: NDArray[np.float32]) -> NDArray[np.bool_]:
    """What lies above Otsu's threshold: bool of the same shape, False everywhere where nothing stands out."""
    levels = np.rint(salience * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    return np.asarray(levels > threshold)


def _distance(lab: NDArray[np.float64], side: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equation (1): (rows, columns) from the colours (n, 3) of one side of the rim."""
    centred = side - side.mean(axis=0)
    spread = centred.T @ centred / len(side) + LEAST_VARIANCE * np.eye(3)
    away = lab - side.mean(axis=0)
    return np.asarray(np.sqrt(np.einsum("hwi,ij,hwj->hw", away, np.linalg.inv(spread), away)))


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divided by the largest; 0 everywhere where all is less than rounding."""
    highest = values.max()
    return values / highest if highest > 1e-3 else np.zeros_like(values)
