"""wsi-attn: attention models for whole-slide and microscopy images. Importing it loads nothing heavy."""

__version__ = "0.1.0"

from wsi_attn.threads import set_wait_policy

set_wait_policy()  # OpenMP reads it when torch, scikit-learn or numba are loaded
