"""Prediction and evaluation of slides with a trained checkpoint."""
