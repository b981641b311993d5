"""Predictions as files that other tools of a pathology lab open."""
