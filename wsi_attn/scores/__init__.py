"""Tile scores computed from pixels without learning: definitions in `scores.py`, kernels in `kernels.py`."""
