"""Tensor operators shared by the attention systems; no file access."""
