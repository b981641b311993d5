"""Files of other kinds that the program hands on, read as text; OpenSeadragon 6.1.1 is under its own licence."""

from __future__ import annotations

from importlib.resources import files


def read_text(name: str) -> str:
    """One asset, such as `openseadragon/openseadragon.js`."""
    return (files(__name__) / name).read_text(encoding="utf-8")
