"""Decoded tiles that were used last, bounded in bytes, shared by threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from wsi_attn.contract import UInt8Array


class TileCache:
    """Tiles by key; the one not used for longest makes room.

    Parameters
    ----------
    capacity_bytes
        Sum of what is held; a single tile beyond it is not kept.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._tiles: OrderedDict[Hashable, UInt8Array] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> UInt8Array | None:
        """The tile, not to be written to, or None."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: Hashable, tile: UInt8Array) -> None:
        """Keep a tile, unless another thread was quicker."""
        with self._lock:
            if key in self._tiles or tile.nbytes > self.capacity_bytes:
                return
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self.capacity_bytes:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0
