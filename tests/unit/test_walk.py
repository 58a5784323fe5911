"""Listing ahead of a walk: saves round trips, is trusted late, bounded, never out of date."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from pysshfs.vfs import walk
from pysshfs.vfs.config import VfsConfig
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from pysshfs.vfs.cache import CachedListing

ROUND_TRIP = 0.05
WIDTH, DEPTH = 4, 3


def tree(width: int = WIDTH, depth: int = DEPTH) -> MemoryTree:
    made = MemoryTree()

    def fill(above: bytes, left: int) -> None:
        for i in range(width):
            path = above + b"d%d" % i
            made.mkdir(path)
            made.write_file(path + b"/file", b"x")
            if left > 1:
                fill(path + b"/", left - 1)

    fill(b"", depth)
    return made


async def walked(mount: Mount, path: bytes = b"") -> AsyncIterator[bytes]:
    """As `ls -R` does: a directory, then, one by one, what lies below. Gives what was listed."""
    names = await mount.names(path)
    yield path
    for name in sorted(names):
        if name.startswith(b"d"):
            async for below in walked(mount, path + b"/" + name if path else name):
                yield below


async def test_a_walk_costs_a_fraction_of_its_round_trips() -> None:
    async with mounted(tree(), latency=ROUND_TRIP) as mount:
        began = trio.current_time()
        found = [path async for path in walked(mount)]
        took = trio.current_time() - began
        total = 1 + WIDTH + WIDTH**2 + WIDTH**3
        assert len(found) == len(set(found)) == total
        assert took < total * 2 * ROUND_TRIP / 3
        assert mount.remote.count("opendir") == total  # none twice
        assert mount.fs.statistics()["listed_in_vain"] == 0


async def looked_into(mount: Mount, path: bytes) -> None:
    """As people do: list the top, read that, list a directory that stands there."""
    await mount.names()
    await trio.sleep(1)
    await mount.names(path)


async def test_looking_into_one_directory_fetches_nothing() -> None:
    async with mounted(tree()) as mount:
        await looked_into(mount, b"d0")
        await settle()
        assert mount.remote.count("opendir") == 2


async def test_a_directory_opened_right_after_it_was_listed_is_a_walk() -> None:
    """What is fetched at first is bounded; it grows with the walk."""
    async with mounted(tree(width=100, depth=1)) as mount:
        await mount.names()
        await mount.names(b"d0")
        await settle()
        assert mount.remote.count("opendir") == 2 + walk._FIRST_AHEAD
        for i in range(1, 4):
            await mount.names(b"d%d" % i)
            await settle()
        assert mount.remote.count("opendir") == 101


async def test_directories_that_are_not_below_one_another_are_no_walk() -> None:
    async with mounted(tree()) as mount:
        for path in (b"d0/d0", b"d1/d1", b"d2/d2", b"d3/d3"):
            await mount.names(path)
        await settle()
        listed = [call for call in mount.remote.calls if call[0] == "opendir" and call[1]]
        assert len(listed) == 4


async def test_what_is_fetched_at_once_is_bounded() -> None:
    async with mounted(tree(width=40, depth=2)) as mount:
        await looked_into(mount, b"d0")
        mount.remote.hold()
        before = mount.remote.count("opendir")
        async with trio.open_nursery() as nursery:
            start(nursery, mount.names, b"d1")
            await settle()
            assert mount.remote.count("opendir") - before == 1 + walk._IN_FLIGHT
            mount.remote.release()


async def test_what_is_fetched_and_not_asked_for_is_bounded_and_counted() -> None:
    """At most a quarter of the cache; when it has expired unused it was in vain."""
    config = VfsConfig(cache_entries=80, directory_timeout=10)
    made = MemoryTree()
    for i in range(30):
        made.mkdir(b"d%02d" % i)
        for j in range(9):
            made.write_file(b"d%02d/%d" % (i, j), b"")
    async with mounted(made, config=config) as mount:
        for path in (b"", b"d00", b"d01"):
            await mount.names(path)
        await settle()
        ahead = mount.remote.count("opendir") - 3
        assert 1 <= ahead <= 80 // 4 // 9 + walk._IN_FLIGHT
        await trio.sleep(11)
        for path in (b"", b"d28", b"d29"):
            await mount.names(path)
        await settle()
        assert mount.fs.statistics()["listed_in_vain"] >= ahead - 2


async def test_room_is_not_searched_for_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large tree as much is ahead as may be, all the time; what is ahead is gone through to
    see what has expired."""
    config = VfsConfig(cache_entries=80)
    made = MemoryTree()
    for i in range(60):
        made.mkdir(b"d%02d" % i)
    async with mounted(made, config=config) as mount:
        for path in (b"", b"d00", b"d01"):
            await mount.names(path)
        await settle()
        ahead = mount.fs.tree.walk
        assert ahead._unused_room > ahead._most_unused
        looked_at: list[int] = []
        listing = mount.fs.tree.cache.listing

        def counted(number: int) -> CachedListing | None:
            looked_at.append(number)
            return listing(number)

        monkeypatch.setattr(mount.fs.tree.cache, "listing", counted)
        await trio.sleep(1)
        assert not ahead._has_room()
        once = len(looked_at)
        assert once == len(ahead._unused)
        assert not ahead._has_room()
        assert len(looked_at) == once
        await trio.sleep(walk._SEARCH_INTERVAL)
        assert not ahead._has_room()
        assert len(looked_at) == 2 * once


async def test_an_opendir_waits_for_its_listing_that_is_under_way() -> None:
    async with mounted(tree()) as mount:
        await looked_into(mount, b"d0")
        mount.remote.hold()
        async with trio.open_nursery() as nursery:
            listing = start(nursery, mount.names, b"d1")
            await settle()
            asked = mount.remote.count("opendir")
            beside = start(nursery, mount.names, b"d2")
            await settle()
            assert not beside.done
            assert mount.remote.count("opendir") == asked
            mount.remote.release()
        assert sorted(beside.result()) == sorted(listing.result())


async def test_a_name_made_while_its_directory_is_listed_ahead_is_seen() -> None:
    async with mounted(tree()) as mount:
        await mount.names()
        await mount.names(b"d0")
        number = await mount.number(b"d2")
        mount.remote.hold()
        async with trio.open_nursery() as nursery:
            start(nursery, mount.names, b"d1")
            await settle()
            start(nursery, mount.mkdir, b"d2/new")
            await settle()
            mount.remote.release()
        assert b"new" in await mount.names(b"d2")
        assert number == await mount.number(b"d2")


async def test_a_directory_that_is_gone_harms_nobody() -> None:
    made = tree()
    async with mounted(made) as mount:
        await mount.names()
        await mount.names(b"d0")
        for path in (b"d2/d0", b"d2/d1"):
            for i in range(WIDTH):
                made.remove(path + b"/d%d/file" % i)
                made.rmdir(path + b"/d%d" % i)
            made.remove(path + b"/file")
            made.rmdir(path)
        assert [path async for path in walked(mount, b"d1")]
        assert await mount.names(b"d2/d2")
        before = len(mount.fs.tree.inodes)
        mount.forget_all()
        await settle()
        assert len(mount.fs.tree.inodes) < before


async def test_without_a_listing_cache_nothing_is_fetched() -> None:
    async with mounted(tree(), config=VfsConfig(directory_timeout=0)) as mount:
        found = [path async for path in walked(mount)]
        await settle()
        assert mount.remote.count("opendir") == len(found)


async def test_a_walk_larger_than_the_bound_is_listed_ahead_to_its_end() -> None:
    made = MemoryTree()
    for i in range(30):
        made.mkdir(b"d%02d" % i)
        for j in range(9):
            made.write_file(b"d%02d/%d" % (i, j), b"")
    async with mounted(made, config=VfsConfig(cache_entries=350)) as mount:
        for path in (b"", *(b"d%02d" % i for i in range(30))):
            await mount.names(path)
            await settle()
        # All but the one that makes the pattern.
        assert mount.fs.statistics()["listed_ahead"] == 29


async def test_a_walk_by_name_is_listed_ahead_in_that_order() -> None:
    """`ls -R` sorts what the server lists in any order."""
    names = [b"d%03d" % i for i in range(300)]
    made = MemoryTree()
    made.mkdir(b"d")
    for name in random.Random(1).sample(names, len(names)):
        for path in (b"d/" + name, b"d/" + name + b"/d1", b"d/" + name + b"/d0"):
            made.mkdir(path)
    config = VfsConfig(cache_entries=1000)  # which does not hold all
    async with mounted(made, latency=ROUND_TRIP, config=config) as mount:
        began = trio.current_time()
        found = [path async for path in walked(mount)]
        assert len(found) == 2 + 3 * len(names)
        assert trio.current_time() - began < len(found) * 2 * ROUND_TRIP / 12
        await trio.sleep(config.directory_timeout)
        assert mount.fs.statistics()["listed_in_vain"] <= walk._FIRST_AHEAD
        # And one that goes as the listing does, after it.
        for name in await mount.names(b"d"):
            await mount.names(b"d/" + name)
        assert mount.fs.statistics()["listed_in_vain"] <= 2 * walk._FIRST_AHEAD


async def test_a_directory_too_long_for_the_bound_is_left_to_the_program() -> None:
    made = MemoryTree()
    for path in (b"d0", b"d0/d0", b"d0/d0/d0"):
        made.mkdir(path)
    for i in range(5000):
        made.write_file(b"d0/d0/d0/%d" % i, b"")
    async with mounted(made, config=VfsConfig(cache_entries=400)) as mount:
        for path in (b"", b"d0", b"d0/d0"):
            await mount.names(path)
        await settle()
        assert mount.remote.count("opendir") == 4
        assert mount.remote.count("readdir") < 40  # of 50 for the whole
        assert mount.remote.open_handles == []
        assert len(await mount.names(b"d0/d0/d0")) == 5000


async def test_what_is_remembered_of_a_long_walk_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walk, "_MOST_EXPECTED", 10)
    async with mounted(tree(width=1, depth=40)) as mount:
        found = [path async for path in walked(mount)]
        await settle()
        assert len(found) == 41
        assert len(mount.fs.tree.walk._followed) <= 10
        assert mount.remote.count("opendir") == len(found)  # none twice
