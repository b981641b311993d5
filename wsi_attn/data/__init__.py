"""From files to bags: manifests, splits, sources of patches, augmentation."""
