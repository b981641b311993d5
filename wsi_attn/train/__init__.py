"""Training: from a manifest to a run folder with a checkpoint."""
