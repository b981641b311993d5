"""Colour profiles: what a file holds is checked, and a damaged one is left out with a note."""

from __future__ import annotations

import io

from PIL import ImageCms

DAMAGED = "its colour profile is damaged and was left out"


def checked_profile(data: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    """An ICC profile if it can be read, and notes on one that cannot."""
    if not data:
        return None, ()
    try:
        ImageCms.getOpenProfile(io.BytesIO(data))
    except (ImageCms.PyCMSError, OSError):
        return None, (DAMAGED,)
    return data, ()
