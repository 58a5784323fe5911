"""The memory of all buffers and caches together: divided once, and kept to."""

from __future__ import annotations

import os
from typing import Final

import pytest
import trio

from pysshfs.vfs.budget import Budget
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.fake_mount import mounted, settle, start
from tests.support.fake_remote import OPENSSH
from tests.support.memory_tree import MemoryTree

MIB: Final = 1 << 20
BLOCK: Final = 128 * 1024


@pytest.mark.parametrize("cache_size", [MIB, 16 * MIB, 256 * MIB, 4096 * MIB])
@pytest.mark.parametrize("write_buffer", [64 << 10, 16 * MIB, 1024 * MIB])
@pytest.mark.parametrize("total_readahead", [0, 64 * MIB, 4096 * MIB])
def test_the_shares_together_are_no_more_than_the_whole(
    cache_size: int, write_buffer: int, total_readahead: int
) -> None:
    config = VfsConfig(
        cache_size=cache_size, write_buffer=write_buffer, total_readahead=total_readahead
    )
    budget = Budget(config)
    assert sum(share.most for share in budget.shares.values()) <= cache_size
    assert budget.written.most == min(write_buffer, cache_size // 2)
    assert budget.read_ahead.most <= total_readahead
    assert all(share.most > 0 for name, share in budget.shares.items() if name != "read_ahead")


def test_a_share_can_be_overdrawn_by_what_somebody_waits_for() -> None:
    share = Budget(VfsConfig()).read_ahead
    share.take(share.most)
    assert not share.has_room(1)
    share.take(1)
    share.give_back(share.most + 1)
    assert share.held == 0 and share.has_room(share.most)


async def test_under_load_the_ceiling_holds() -> None:
    """Writers that nobody answers, readers of large files, listings and names in passing: what is
    held past the ceiling are the blocks that are waited for."""
    tree = MemoryTree()
    for number in range(8):
        tree.write_file(b"large%d" % number, bytes(4 * MIB))
    for number in range(30):
        tree.mkdir(b"d%d" % number)
        for name in range(200):
            tree.write_file(b"d%d/name-%06d" % (number, name), b"")
    config = VfsConfig(cache_size=6 * MIB, readahead=2 * MIB, prefetch_ttl=0.0, stat_timeout=1000.0)
    abilities = OPENSSH._replace(max_write=BLOCK)
    async with mounted(tree, config=config, capabilities=abilities) as mount:
        readers = [await mount.open(b"large%d" % number) for number in range(8)]
        writers = [await mount.create(b"new%d" % number) for number in range(8)]
        for number in range(30):
            await mount.names(b"d%d" % number)
        held = []
        async with trio.open_nursery() as nursery:
            for step in range(4):
                mount.remote.hold()
                at = step * 512 * 1024
                for fh in writers:
                    start(nursery, mount.fs.write, fh, at, bytes(512 * 1024))
                for fh in readers:
                    start(nursery, mount.fs.read, fh, step * BLOCK, BLOCK)
                await settle()
                held.append(mount.fs.statistics()["cache_bytes"])
                mount.remote.release()
                await settle()
        budget = mount.fs.tree.budget
        assert max(held) > budget.written.most  # it was a load
        # Of each reader the block that it waits for and the one before.
        assert max(held) <= config.cache_size + len(readers) * 2 * BLOCK
        assert budget.metadata.held <= budget.metadata.most
        assert budget.listings.held <= budget.listings.most
        for fh in (*readers, *writers):
            await mount.close(fh)


async def test_a_small_ceiling_bounds_what_is_remembered() -> None:
    tree = MemoryTree()
    for number in range(1000):
        tree.write_file(b"name-%06d" % number, b"")
    config = VfsConfig(cache_size=400_000, cache_entries=1_000_000, stat_timeout=1000.0)
    async with mounted(tree, config=config) as mount:
        for number in range(1000):
            await mount.number(b"name-%06d" % number)
        statistics = mount.fs.statistics()
        assert 0 < statistics["metadata_bytes"] <= mount.fs.tree.budget.metadata.most
        assert await mount.names() and mount.fs.tree.cache.listing(ROOT_NUMBER) is None
        assert mount.fs.statistics()["listings_bytes"] == 0
        fh = await mount.open(b"name-000001", os.O_RDONLY)
        await mount.close(fh)
