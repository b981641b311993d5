"""Numbers computed from the pixels of tiles without learning; `scores.py` names them, `kernels.py` computes them."""
