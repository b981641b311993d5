"""Metrics with intervals, attention quality, calibration, reports and the thumbnail baseline."""
