"""Segmentation of slides and images: a class for every pixel."""
