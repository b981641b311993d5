"""From a slide to its store: which levels and tiles, reading and encoding them, resuming what was interrupted."""
