"""Semantic segmentation of slides: blended tiles, label images, polygons and evaluation against masks."""
