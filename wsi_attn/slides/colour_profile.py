"""Validation of colour profiles: a damaged profile is discarded with a note."""

from __future__ import annotations

import io

from PIL import ImageCms

DAMAGED = "its colour profile is damaged and was ignored"


def checked_profile(data: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    """Return the ICC profile if it is readable, otherwise None and a note."""
    if not data:
        return None, ()
    try:
        ImageCms.getOpenProfile(io.BytesIO(data))
    except (ImageCms.PyCMSError, OSError):
        return None, (DAMAGED,)
    return data, ()
