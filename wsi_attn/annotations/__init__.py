"""Annotations: polygons, boxes and masks, and the GeoJSON of QuPath that holds them."""
