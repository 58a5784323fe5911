"""Directories opened right behind their LSTAT, on a long link (`vfs/dirsahead.py`)."""

from __future__ import annotations

import pytest
import trio

from pysshfs.errors import FX_PERMISSION_DENIED, RemoteStatusError
from pysshfs.vfs import dirsahead
from pysshfs.vfs.config import VfsConfig
from tests.support.fake_mount import Mount, mounted, settle
from tests.support.memory_tree import MemoryTree

ROUND_TRIP = 0.05


def tree_with(*directories: bytes) -> MemoryTree:
    tree = MemoryTree()
    for directory in directories:
        tree.mkdir(directory)
        tree.write_file(directory + b"/file", b"content")
    return tree


def figures(mount: Mount) -> tuple[int, int]:
    """How many directories were opened ahead and used, and how many in vain."""
    told = mount.fs.statistics()
    return told["directories_opened_ahead"], told["directories_opened_in_vain"]


async def test_a_directory_is_listed_in_two_round_trips() -> None:
    async with mounted(tree_with(b"d"), latency=ROUND_TRIP) as mount:
        began = trio.current_time()
        assert await mount.names(b"d") == [b"file"]
        assert trio.current_time() - began == pytest.approx(2 * ROUND_TRIP)
        assert mount.remote.count("opendir") == 1
        await settle()
        assert figures(mount) == (1, 0)
        assert not mount.remote.open_handles


async def test_on_a_short_link_it_costs_no_question_in_vain() -> None:
    async with mounted(tree_with(b"d"), latency=dirsahead.FAR / 2) as mount:
        await mount.entry(b"d")
        assert mount.remote.count("opendir") == 0


async def test_one_name_of_a_directory_is_tried_and_no_more() -> None:
    tree = tree_with(b"d")
    for i in range(10):
        tree.write_file(b"%d" % i, b"")
    async with mounted(tree, latency=ROUND_TRIP) as mount:
        await mount.entry(b"0")
        await mount.entry(b"1")
        assert mount.remote.count("opendir") == 1
        await trio.sleep(dirsahead._LATELY)
        await mount.entry(b"2")
        assert mount.remote.count("opendir") == 2
        await trio.sleep(dirsahead._KEPT)
        assert figures(mount) == (0, 2)


async def test_what_nobody_opens_is_closed() -> None:
    async with mounted(tree_with(b"d"), latency=ROUND_TRIP) as mount:
        await mount.entry(b"d")
        assert len(mount.remote.open_handles) == 1
        await trio.sleep(dirsahead._KEPT + ROUND_TRIP)
        assert not mount.remote.open_handles
        assert figures(mount) == (0, 1)


async def test_at_most_so_many_are_open() -> None:
    names = [b"/".join([b"d"] * depth) for depth in range(1, dirsahead._MOST + 4)]
    async with mounted(tree_with(*names), latency=dirsahead.FAR) as mount:
        await mount.entry(names[-1])
        assert len(mount.remote.open_handles) == dirsahead._MOST


async def test_it_shows_what_was_made_here_meanwhile() -> None:
    """A server may list when a directory is opened."""
    async with mounted(tree_with(b"d"), latency=ROUND_TRIP) as mount:
        await mount.entry(b"d")
        await mount.mkdir(b"d/new")
        assert sorted(await mount.names(b"d")) == [b"file", b"new"]
        await settle()
        assert figures(mount) == (0, 1)


async def test_it_is_not_used_for_another_directory_of_that_name() -> None:
    async with mounted(tree_with(b"d"), latency=ROUND_TRIP) as mount:
        await mount.entry(b"d")
        await mount.rename(b"d", b"e")
        await mount.mkdir(b"d")
        assert await mount.names(b"d") == []
        assert await mount.names(b"e") == [b"file"]


async def test_it_is_not_used_for_one_that_was_made_in_its_place() -> None:
    async with mounted(tree_with(b"d"), latency=ROUND_TRIP) as mount:
        mount.tree.remove(b"d/file")
        entry = await mount.entry(b"d")
        mount.forget(entry.number)
        await mount.fs.rmdir(*await mount.parent(b"d"))
        await mount.mkdir(b"d")
        mount.tree.write_file(b"d/other", b"")
        assert await mount.names(b"d") == [b"other"]


async def test_a_directory_whose_names_are_known_is_not_opened() -> None:
    async with mounted(
        tree_with(b"d"), latency=ROUND_TRIP, config=VfsConfig(stat_timeout=0.1)
    ) as mount:
        await mount.names(b"d")
        opened = mount.remote.count("opendir")
        await trio.sleep(dirsahead._LATELY)
        mount.forget_all()
        await mount.entry(b"d")
        assert mount.remote.count("opendir") == opened


async def test_a_refusal_is_asked_for_again() -> None:
    async with mounted(tree_with(b"d"), latency=ROUND_TRIP) as mount:
        mount.remote.fail_next("opendir", RemoteStatusError(FX_PERMISSION_DENIED, "not now"))
        assert await mount.names(b"d") == [b"file"]
        assert mount.remote.count("opendir") == 2
        assert figures(mount) == (0, 1)


async def test_a_refusal_that_comes_while_it_is_waited_for_is_asked_for_again() -> None:
    async with mounted(tree_with(b"d"), latency=ROUND_TRIP) as mount:
        entry = await mount.entry(b"d")
        tree = mount.fs.tree
        await trio.sleep(dirsahead._KEPT + dirsahead._LATELY)
        mount.remote.fail_next("opendir", RemoteStatusError(FX_PERMISSION_DENIED, "not now"))
        tree.directories_ahead.looked_up(tree.inodes.root, b"d")
        fh = await mount.fs.opendir(entry.number)
        assert await mount.read_names(fh) == [b"file"]
        await mount.fs.releasedir(fh)


async def test_the_handle_of_a_lost_session_is_no_obstacle() -> None:
    async with mounted(tree_with(b"d"), latency=ROUND_TRIP) as mount:
        await mount.entry(b"d")
        mount.remote.drop_connection()
        await mount.reconnect()
        assert await mount.names(b"d") == [b"file"]


async def test_forgetting_closes_them() -> None:
    async with mounted(tree_with(b"d"), latency=ROUND_TRIP) as mount:
        await mount.entry(b"d")
        mount.fs.drop_caches()
        await trio.sleep(ROUND_TRIP)
        assert not mount.remote.open_handles


async def test_nothing_is_opened_below_the_depth() -> None:
    tree = tree_with(b"d", b"d/e")
    async with mounted(tree, latency=ROUND_TRIP, config=VfsConfig(max_depth=2)) as mount:
        await mount.entry(b"d/e")
        assert mount.remote.count("opendir") == 1
