"""Attention systems, one file each, with their common base classes and the checkpoint format."""
