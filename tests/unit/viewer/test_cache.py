"""Bounded memory: the cache keeps to its bytes, the pool to its number, and nothing is closed under a reader."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsi_attn.lru import LruCache
from wsi_attn.viewer.cache import Pool


class Item:
    """Says whether it is open."""

    opened = 0

    def __init__(self, key: str) -> None:
        Item.opened += 1
        self.key, self.closed = key, False

    def close(self) -> None:
        self.closed = True


def test_cache_forgets_what_was_used_longest_ago() -> None:
    cache = LruCache(10)
    cache.put("a", b"1234")
    cache.put("b", b"1234")
    assert cache.get("a") == b"1234"
    cache.put("c", b"1234")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"1234", None, b"1234")
    cache.put("a", b"1")
    cache.put("d", b"12345")
    assert (cache.get("a"), cache.get("c"), cache.get("d")) == (b"1", b"1234", b"12345")
    cache.put("huge", b"1" * 11)
    assert cache.get("huge") is None


def test_pool_closes_the_least_used() -> None:
    pool: Pool[Item] = Pool(Item, 2)
    items = {}
    for key in "abac":
        with pool.use(key) as item:
            items[key] = item
            assert not item.closed
    assert [items[key].closed for key in "abc"] == [False, True, False]
    pool.close()
    assert all(item.closed for item in items.values())


def test_pool_never_closes_what_is_in_use() -> None:
    pool: Pool[Item] = Pool(Item, 1)
    with pool.use("a") as first:
        with pool.use("b") as second:
            assert not first.closed
        assert second.closed
        pool.close()
        assert not first.closed
    assert first.closed


def test_what_is_not_open_is_not_opened() -> None:
    pool: Pool[Item] = Pool(Item, 1)
    with pool.use_if_open("a") as nothing:
        assert nothing is None
    with pool.use("a") as opened:
        pass
    with pool.use_if_open("a") as same:
        assert same is opened
        with pool.use("b"):
            pass
        assert not opened.closed
    assert len(pool) == 1
    pool.close()
    assert opened.closed


def test_an_item_is_opened_once_by_many_threads() -> None:
    def slow(key: str) -> Item:
        time.sleep(0.02)
        return Item(key)

    pool: Pool[Item] = Pool(slow, 2)
    Item.opened = 0
    start = threading.Barrier(8)

    def use(_: int) -> Item:
        start.wait()
        with pool.use("a") as item:
            return item

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(use, range(8)))) == 1
    assert Item.opened == 1


def test_a_failed_opening_is_tried_again() -> None:
    attempts = []

    def fail_once(key: str) -> Item:
        attempts.append(key)
        if len(attempts) == 1:
            raise OSError("not now")
        return Item(key)

    pool: Pool[Item] = Pool(fail_once, 1)
    with pytest.raises(OSError, match="not now"), pool.use("a"):
        pass
    with pool.use("a") as item:
        assert item.key == "a"
