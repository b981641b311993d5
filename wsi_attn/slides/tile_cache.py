"""Least-recently-used cache of decoded tiles."""

from __future__ import annotations

from wsi_attn.lru import LruCache
from wsi_attn.slide import UInt8Array


class TileCache(LruCache[UInt8Array]):
    """Cache of tiles by key, bounded by the bytes of their pixels."""

    def __init__(self, capacity_bytes: int) -> None:
        super().__init__(capacity_bytes, lambda tile: tile.nbytes)
