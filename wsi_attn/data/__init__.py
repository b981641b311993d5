"""Data loading: manifests, splits, patch sources, augmentation and bags."""
