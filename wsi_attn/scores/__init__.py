"""Tile scores computed from pixels without learning: `scores.py`, the built-in ones in `fused.py` and `kernels.py`."""
