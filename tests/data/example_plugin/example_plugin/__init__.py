"""One member of every family that wsi-attn opens to other packages."""
