"""`TissueMask`: a tissue raster in level-0 coordinates, and its coverage of arbitrary regions.

Depends on geometry only; `detect.py` computes masks and `tiling` decides which tiles to keep.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.geometry import Frame, Size

BoolArray = NDArray[np.bool_]
Regions0 = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue of one slide at the resolution of a low-resolution view.

    `mask` is bool (rows, columns) over `frame`; `readable` has the same shape and is False where the view could not
    be read; such pixels are never tissue. `measure` and `threshold` are the rule behind the mask before cleaning: a
    pixel is tissue if its measure (see `detect.MEASURES`) exceeds the threshold; the score `tissue` applies the
    same rule to full-resolution pixels. `size0` is the size of the slide in level-0 pixels: the last row and column
    of a frame may extend beyond it.
    """

    mask: BoolArray
    frame: Frame
    method: str
    measure: str
    threshold: int
    readable: BoolArray
    size0: Size

    @property
    def fraction(self) -> float:
        """Share of the slide's area that is tissue, 0 to 1."""
        return float(self.coverage(np.array([[0, 0, *self.size0]]))[0])

    def coverage(self, regions0: Regions0) -> NDArray[np.float32]:
        """Share of tissue in the part of each region that lies inside the slide.

        Partly covered mask pixels count by their covered area. Areas outside the slide do not count, so a tile
        at the border is evaluated by the pixels it has, like its score.

        Parameters
        ----------
        regions0
            (N, 4), columns x, y, width, height in level-0 pixels; int64, or float64 for parts of pixels.

        Returns
        -------
        float32 (N,), 0 to 1; 0 for a region wholly outside, (0,) for no regions; never NaN.
        """
        return raster_coverage(self.mask, self.frame, self.size0, regions0)

    def on(self, frame: Frame) -> BoolArray:
        """Return the mask on another frame: each pixel has the value at its centre; bool (rows, columns).

        Beyond the border of the mask its last pixel continues.
        """

        def nearest(count: int, factor: float, limit: int) -> NDArray[np.int64]:
            return np.minimum(((np.arange(count) + 0.5) * factor).astype(np.int64), limit - 1)

        rows = nearest(frame.size.height, frame.downsample_y / self.frame.downsample_y, self.mask.shape[0])
        columns = nearest(frame.size.width, frame.downsample_x / self.frame.downsample_x, self.mask.shape[1])
        return np.asarray(self.mask[rows][:, columns])

    def unknown(self, regions0: Regions0) -> NDArray[np.float32]:
        """Share of each region whose view could not be read, computed like `coverage`."""
        if self.readable.all():
            return np.zeros(len(regions0), np.float32)
        return raster_coverage(~self.readable, self.frame, self.size0, regions0)


def drop_specks(mask: BoolArray, area: float) -> BoolArray:
    """Remove 8-connected components of fewer than `area` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False  # label 0 is the background
    return np.asarray(keep[labels])


def raster_coverage(raster: BoolArray, frame: Frame, size0: Size, regions0: Regions0) -> NDArray[np.float32]:
    """Share of each region, inside the slide, in which a raster is True.

    The raster is piecewise constant, so its integral image is bilinear within a pixel and interpolating that
    linearly weights partial pixels exactly. Cost O(pixels + N).
    """
    rows, columns = raster.shape
    counts = cv2.integral(raster.astype(np.uint8), sdepth=cv2.CV_32S)
    integral = np.asarray(counts, np.int32)  # (rows + 1, columns + 1)
    regions = np.asarray(regions0, np.float64).reshape(-1, 4)
    limit_x = min(float(columns), size0.width / frame.downsample_x)
    limit_y = min(float(rows), size0.height / frame.downsample_y)
    x0 = np.clip(regions[:, 0] / frame.downsample_x, 0, limit_x)
    y0 = np.clip(regions[:, 1] / frame.downsample_y, 0, limit_y)
    x1 = np.clip((regions[:, 0] + regions[:, 2]) / frame.downsample_x, 0, limit_x)
    y1 = np.clip((regions[:, 1] + regions[:, 3]) / frame.downsample_y, 0, limit_y)
    lower = _bilinear(integral, x1, y1) - _bilinear(integral, x0, y1)
    upper = _bilinear(integral, x1, y0) - _bilinear(integral, x0, y0)
    covered = lower - upper
    area = (x1 - x0) * (y1 - y0)
    share = np.divide(covered, area, out=np.zeros_like(area), where=area > 0)
    return np.clip(share, 0, 1).astype(np.float32)


def _bilinear(integral: NDArray[np.int32], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    column = np.minimum(x.astype(np.int64), integral.shape[1] - 2)
    row = np.minimum(y.astype(np.int64), integral.shape[0] - 2)
    right, down = x - column, y - row
    above = integral[row, column] * (1 - right) + integral[row, column + 1] * right
    below = integral[row + 1, column] * (1 - right) + integral[row + 1, column + 1] * right
    return np.asarray(above * (1 - down) + below * down)
