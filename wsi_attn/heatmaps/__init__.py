"""Heatmap images: attention over the slide's thumbnail, with a legend."""
