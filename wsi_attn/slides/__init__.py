"""Readers of slides and images: one interface, one reader per family of formats."""
