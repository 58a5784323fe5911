"""`-o async_ops` on a long link: what has to be known for a promise is asked for at once."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from pysshfs.remotefs import AttributeChange
from pysshfs.vfs import dirsahead
from pysshfs.vfs.config import VfsConfig
from tests.support.fake_mount import Mount, mounted, settle
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROUND_TRIP = 0.05


@asynccontextmanager
async def ready(latency: float = ROUND_TRIP) -> AsyncIterator[Mount]:
    """A mount that knows what its server makes of a mode, with a directory it knows nothing of."""
    tree = MemoryTree()
    tree.mkdir(b"d")
    tree.write_file(b"d/file", b"content")
    config = VfsConfig(async_ops=True)
    async with mounted(tree, latency=latency, config=config) as mount:
        await mount.mkdir(b"first")
        await trio.sleep(dirsahead._LATELY)
        yield mount
        await mount.fs.flush_all()


def promised(mount: Mount) -> int:
    return mount.fs.statistics()["unanswered_operations"]


async def test_the_first_name_is_made_without_waiting() -> None:
    async with ready() as mount:
        began = trio.current_time()
        assert await mount.find(b"d/new") is None
        await mount.mkdir(b"d/new")
        assert trio.current_time() - began == pytest.approx(2 * ROUND_TRIP)  # of the two lookups
        assert promised(mount) > 0


async def test_on_a_short_link_the_first_name_is_waited_for() -> None:
    async with ready(dirsahead.FAR / 2) as mount:
        assert await mount.find(b"d/new") is None
        await mount.mkdir(b"d/new")
        assert promised(mount) == 0
        assert mount.remote.count("opendir") == 0


async def test_a_listing_that_is_on_its_way_is_waited_for() -> None:
    async with ready() as mount:
        await mount.find(b"nothing")  # so the directory is not opened with its lookup
        opened = mount.remote.count("opendir")
        assert await mount.find(b"d/new") is None
        assert mount.remote.count("opendir") == opened + 2  # for all names, and for this one
        await mount.mkdir(b"d/new")
        assert promised(mount) > 0


async def test_a_directory_that_is_known_is_opened_without_waiting() -> None:
    async with ready() as mount:
        await mount.find(b"d/new")
        await mount.mkdir(b"d/new")
        number = await mount.number(b"d")
        began, opened = trio.current_time(), mount.remote.count("opendir")
        fh = await mount.fs.opendir(number)
        assert (trio.current_time(), mount.remote.count("opendir")) == (began, opened)
        assert sorted(await mount.read_names(fh)) == [b"file", b"new"]
        await mount.fs.releasedir(fh)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (AttributeChange(mode=0), (0, 1_000)),  # takes something away, so it is waited for
        (AttributeChange(uid=12, gid=34), (0o644, 1_000)),
        (AttributeChange(size=10), (0o644, 10)),
    ],
)
async def test_what_is_changed_while_its_file_is_closed_is_changed(
    change: AttributeChange, wanted: tuple[int, int]
) -> None:
    """By its path, then: the handle is gone when the change can be sent."""
    async with ready() as mount:
        await mount.find(b"d/new")
        fh = await mount.create(b"d/new")
        await mount.fs.write(fh, 0, b"x" * 1_000)
        await mount.fs.flush(fh)
        await mount.fs.flush_all()
        number = await mount.number(b"d/new")
        # Something about the name is not answered yet, which the change waits for.
        mount.counted(await mount.fs.link(number, await mount.number(b"d"), b"other"))
        assert promised(mount) > 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.fs.setattr, number, change)
            await settle()
            await mount.fs.release(fh)
        await mount.fs.flush_all()
        node = mount.tree.find(b"d/new")
        assert (node.mode & 0o7777, len(node.data)) == wanted
        if change.uid is not None:
            assert (node.uid, node.gid) == (12, 34)
