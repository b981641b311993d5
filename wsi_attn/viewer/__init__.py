"""Local, read-only web viewer of slides, stores and predictions."""
