"""What is answered without waiting: only what is known, and as the operation itself would.

That it changes nothing where it declines, every other test of the file system shows: they all ask
here first (`tests/support/fake_mount.py`).
"""

from __future__ import annotations

import os

import pytest
import trio

from pysshfs.errors import FX_FAILURE, FilesystemError, RemoteStatusError
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.fake_mount import Mount, mounted, settle
from tests.support.memory_tree import MemoryTree


def a_tree() -> MemoryTree:
    tree = MemoryTree()
    for i in range(10):
        tree.write_file(b"f%d" % i, b"content")
    tree.write_file(b"large", bytes(range(256)) * 4096)
    return tree


async def test_names_and_attributes_are_answered_while_they_are_known() -> None:
    async with mounted(a_tree()) as mount:
        at_hand = mount.fs.at_hand
        assert at_hand.lookup(ROOT_NUMBER, b"f1") is None
        entry = await mount.entry(b"f1")
        asked = len(mount.remote.calls)
        assert at_hand.getattr(entry.number) == entry
        again = at_hand.lookup(ROOT_NUMBER, b"f1")
        assert again is not None
        assert mount.counted(again) == entry  # and it has one lookup more to forget
        assert len(mount.remote.calls) == asked
        await trio.sleep(VfsConfig().stat_timeout + 1)
        assert at_hand.getattr(entry.number) is None
        assert at_hand.lookup(ROOT_NUMBER, b"f1") is None


async def test_a_name_that_is_known_to_be_absent_has_number_0() -> None:
    async with mounted(a_tree(), config=VfsConfig(negative_timeout=1)) as mount:
        assert await mount.find(b"no") is None
        entry = mount.fs.at_hand.lookup(ROOT_NUMBER, b"no")
        assert entry is not None
        assert (entry.number, entry.entry_timeout) == (0, 1)
        await trio.sleep(1.1)
        assert mount.fs.at_hand.lookup(ROOT_NUMBER, b"no") is None


async def test_an_inode_that_nobody_knows_is_an_error_here_as_there() -> None:
    async with mounted(a_tree()) as mount:
        for ask in (mount.fs.at_hand.getattr, mount.fs.getattr):
            with pytest.raises(FilesystemError):
                outcome = ask(12345)
                if outcome is not None and not hasattr(outcome, "number"):
                    await outcome


async def opened_ahead(mount: Mount) -> int:
    """The number of a file that is here before anybody opens it."""
    await mount.names()
    for name in (b"f0", b"f1", b"f2"):
        await mount.close(await mount.open(name))
    await settle()
    return await mount.number(b"f3")


async def test_a_file_that_is_here_is_opened_at_once() -> None:
    async with mounted(a_tree()) as mount:
        at_hand = mount.fs.at_hand
        number = await opened_ahead(mount)
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
            assert at_hand.open(number, flags) is None
        asked = mount.remote.count("open")
        opened = at_hand.open(number, os.O_RDONLY)
        assert opened is not None
        assert at_hand.read(opened.fh, 0, 4096) == b"content"
        assert mount.remote.count("open") == asked
        assert at_hand.open(number, os.O_RDONLY) is None  # one handle is one open file
        await mount.close(opened.fh)


async def test_a_file_that_is_still_on_its_way_is_waited_for_by_the_operation() -> None:
    async with mounted(a_tree(), latency=0.05) as mount:
        await mount.names()
        for name in (b"f0", b"f1", b"f2"):
            await mount.close(await mount.open(name))
        assert mount.fs.statistics()["opened_ahead"]
        number = await mount.number(b"f3")
        assert mount.fs.at_hand.open(number, os.O_RDONLY) is None
        fh = await mount.open(b"f3")
        assert mount.fs.statistics()["opened_in_vain"] == 0
        await mount.close(fh)


async def test_a_read_is_answered_from_what_was_read_ahead_and_goes_on_reading_ahead() -> None:
    content = bytes(range(256)) * 4096
    async with mounted(a_tree()) as mount:
        at_hand = mount.fs.at_hand
        fh = await mount.open(b"large")
        assert at_hand.read(fh, 0, 131072) is None
        assert await mount.fs.read(fh, 0, 131072) == content[:131072]
        for at in range(131072, len(content), 131072):
            await settle()
            assert at_hand.read(fh, at, 131072) == content[at : at + 131072]
        assert at_hand.read(fh, len(content), 4096) is None  # only the server knows
        assert at_hand.read(fh, 4096, 4096) is None  # not where the reader is
        assert at_hand.read(12345, 0, 10) is None
        assert mount.remote.count("read") == len(content) // 131072
        await mount.close(fh)


async def test_a_read_of_what_is_being_written_is_not_answered() -> None:
    async with mounted(a_tree()) as mount:
        fh = await mount.open(b"large", os.O_RDWR)
        await mount.fs.read(fh, 0, 4096)
        await settle()
        mount.remote.hold()
        await mount.fs.write(fh, 4096, b"new")
        assert mount.fs.at_hand.read(fh, 4096, 4096) is None
        mount.remote.release()
        assert (await mount.fs.read(fh, 4096, 4096))[:3] == b"new"
        await mount.close(fh)


async def test_a_write_is_taken_while_there_is_room() -> None:
    async with mounted(a_tree(), config=VfsConfig(write_buffer=1 << 20)) as mount:
        at_hand = mount.fs.at_hand
        fh = await mount.open(b"f1", os.O_WRONLY)
        await mount.fs.write(fh, 0, b"a")
        mount.remote.hold()
        assert at_hand.write(fh, 1, b"bc") == 2
        assert at_hand.write(fh, 3, bytes(2 << 20)) is None
        assert at_hand.write(fh, (1 << 63) - 1, b"too far") is None
        assert at_hand.flush(fh) is None
        mount.remote.release()
        await mount.fs.flush(fh)
        assert at_hand.flush(fh) is True
        await mount.close(fh)
        assert mount.tree.read_file(b"f1") == b"abctent"


async def test_an_error_of_writing_is_reported_by_the_operation() -> None:
    async with mounted(a_tree()) as mount:
        fh = await mount.open(b"f1", os.O_WRONLY)
        mount.remote.fail_next("write", RemoteStatusError(FX_FAILURE, "no space"))
        await mount.fs.write(fh, 0, b"a")
        mount.fs.tree.writebacks.push_all()
        await settle()
        assert mount.fs.at_hand.flush(fh) is None
        assert mount.fs.at_hand.write(fh, 1, b"b") is None
        with pytest.raises(FilesystemError):
            await mount.fs.flush(fh)
        assert mount.fs.at_hand.flush(fh) is True
        await mount.fs.release(fh)


async def test_who_appends_or_writes_through_asks_the_server() -> None:
    async with mounted(a_tree(), config=VfsConfig(synchronous_writes=True)) as mount:
        fh = await mount.open(b"f1", os.O_WRONLY)
        await mount.fs.write(fh, 0, b"a")
        assert mount.fs.at_hand.write(fh, 1, b"b") is None
        await mount.close(fh)
    async with mounted(a_tree()) as mount:
        fh = await mount.open(b"f1", os.O_WRONLY | os.O_APPEND)
        await mount.fs.write(fh, 7, b"a")
        assert mount.fs.at_hand.write(fh, 8, b"b") is None
        await mount.close(fh)


async def test_closing_never_waits() -> None:
    async with mounted(a_tree()) as mount:
        at_hand = mount.fs.at_hand
        fh = await mount.open(b"f1", os.O_RDWR)
        assert at_hand.release(fh) is True
        assert at_hand.release(fh) is None
        directory = await mount.fs.opendir(ROOT_NUMBER)
        assert at_hand.releasedir(directory)
        assert mount.fs.statistics()["open_directories"] == 0


async def test_nobody_waits_for_a_close() -> None:
    async with mounted(a_tree()) as mount:
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            await mount.close(await mount.open(b"f1", flags))
        await mount.close(await mount.create(b"new"))
        await settle()
        assert mount.remote.closed_lazily == [True] * 4


async def test_a_name_is_known_from_a_listing() -> None:
    async with mounted(a_tree()) as mount:
        at_hand, cache = mount.fs.at_hand, mount.fs.tree.cache
        await mount.names()
        mount.forget_all()
        number = mount.fs.tree.inodes.number_for(mount.fs.tree.inodes.root, b"f1")
        cache.drop_attributes(number)
        asked = len(mount.remote.calls)
        entry = at_hand.lookup(ROOT_NUMBER, b"f1")
        assert entry is not None
        assert (mount.counted(entry).number, entry.attributes.size) == (number, 7)
        cache.drop_attributes(number)
        assert at_hand.getattr(number) == entry
        assert at_hand.lookup(ROOT_NUMBER, b"no") is None  # it was not seen to search
        assert len(mount.remote.calls) == asked


async def test_a_search_is_answered_from_a_listing() -> None:
    async with mounted(a_tree(), config=VfsConfig(negative_timeout=1)) as mount:
        await mount.names()
        for name in (b"a", b"b", b"c"):
            assert await mount.find(name) is None
        await mount.names()
        asked = len(mount.remote.calls)
        entry = mount.fs.at_hand.lookup(ROOT_NUMBER, b"d")
        assert entry is not None
        assert entry.number == 0
        assert len(mount.remote.calls) == asked
