"""A class for every pixel of a slide: tiles blended without seams, label images, polygons, scores against masks."""
