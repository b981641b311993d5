"""Tiling of a slide into a store: plan levels and tiles, read, encode, and resume interrupted runs."""
