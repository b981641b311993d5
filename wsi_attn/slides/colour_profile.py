"""Validation of colour profiles: a damaged profile, or one of other colours, is discarded with a note."""

from __future__ import annotations

import io

from PIL import ImageCms

DAMAGED = "its colour profile is damaged and was ignored"
RGB = "RGB"


def checked_profile(data: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    """Return the ICC profile if it is readable and describes RGB, otherwise None and a note."""
    if not data:
        return None, ()
    try:
        colours = ImageCms.getOpenProfile(io.BytesIO(data)).profile.xcolor_space.strip()
    except (ImageCms.PyCMSError, OSError):
        return None, (DAMAGED,)
    if colours != RGB:
        return None, (f"its colour profile describes {colours} and not RGB, and was ignored",)
    return data, ()
