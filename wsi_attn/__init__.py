"""wsi-attn: attention models for whole-slide and microscopy images. Importing it loads nothing heavy."""

__version__ = "0.1.0"
