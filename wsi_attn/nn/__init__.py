"""Operators that several attention systems share; pure tensors, no files."""
