"""Layout of what the kernels sum over the pixels of a tile, which the scores are computed from."""

TISSUE, FOCUS, ENTROPY, DENSITY, PEN, FOLD, SHARPNESS = 1, 2, 4, 8, 16, 32, 64
"""Groups of sums that a kernel computes, as bits."""

COUNT_TISSUE, SQUARES_LAPLACE, VOLLATH, ENTROPY_BITS, LOG2_RED, LOG2_GREEN, LOG2_BLUE, COUNT_PEN, COUNT_FOLD = range(9)
COLUMNS = 9
"""Columns of the kernels' result per tile: sums over pixels, and the entropy."""
