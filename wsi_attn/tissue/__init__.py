"""Tissue detection on low-resolution views, and tissue coverage of tiles."""
