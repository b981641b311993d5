"""Decoded tiles that were used last."""

from __future__ import annotations

from wsi_attn.contract import UInt8Array
from wsi_attn.recent import Recent


class TileCache(Recent[UInt8Array]):
    """Tiles by key, bounded by the bytes of their pixels."""

    def __init__(self, capacity_bytes: int) -> None:
        super().__init__(capacity_bytes, lambda tile: tile.nbytes)
