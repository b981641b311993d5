"""Metrics with intervals, the quality of attention, and the thumbnail baseline that a trained model must clear."""
