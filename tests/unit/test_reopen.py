"""Open files across a lost connection: by the name they have now, and only if they are the same."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio

from pysshfs.errors import (
    FX_FAILURE,
    FX_PERMISSION_DENIED,
    FilesystemError,
    RemoteStatusError,
)
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.cuts import Kernel, both, drop_and_reconnect, failing, new_tree
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.fake_remote import OPENSSH

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.writebackpool import WriteRecord
    from tests.support.memory_tree import MemoryTree

SMALL = OPENSSH._replace(max_write=10)


def with_file(data: bytes = b"content") -> MemoryTree:
    tree = new_tree()
    tree.write_file(b"f", data).mtime -= 100
    return tree


class Undelivered:
    """What the server did not get."""

    def __init__(self, mount: Mount) -> None:
        self.data: list[tuple[int, bytes]] = []
        mount.fs.tree.writebacks.on_undelivered = self._keep

    def _keep(self, inode: Inode, record: WriteRecord, error: FilesystemError) -> None:
        self.data.append((record.offset, bytes(record.data)))


# --- where they lie -----------------------------------------------------------------------------


async def test_files_are_opened_again_without_making_or_cutting_anything() -> None:
    tree = with_file()
    async with mounted(tree) as mount:
        files = [
            await mount.open(b"f"),
            await mount.open(b"f", os.O_RDWR),
            await mount.create(b"g", flags=os.O_RDWR | os.O_EXCL),
            await mount.create(b"f", flags=os.O_WRONLY | os.O_TRUNC),
        ]
        await mount.fs.write(files[3], 0, b"new")
        await mount.fs.flush(files[3])
        mount.remote.calls.clear()
        await drop_and_reconnect(mount)
        opens = [call[1:] for call in mount.remote.calls if call[0] == "open"]
        assert opens == [("f", "READ"), ("f", "READ|WRITE"), ("g", "READ|WRITE"), ("f", "WRITE")]
        assert tree.read_file(b"f") == b"new"
        assert await mount.fs.read(files[0], 0, 10) == b"new"
        for fh in files:
            await mount.close(fh)


async def test_more_files_than_are_opened_at_once() -> None:
    tree = new_tree()
    names = [b"%d" % i for i in range(150)]
    for name in names:
        tree.write_file(name, name)
    async with mounted(tree) as mount:
        files = {name: await mount.open(name) for name in names}
        tree.remove(b"70")
        await drop_and_reconnect(mount)
        for name, fh in files.items():
            if name == b"70":
                assert await failing(mount.fs.read(fh, 0, 10)) == errno.ESTALE
            else:
                assert await mount.fs.read(fh, 0, 10) == name
            await mount.close(fh)


@both
@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_file_is_opened_under_the_name_that_it_has_now(
    when: str, carried_out: bool
) -> None:
    tree = with_file()
    tree.mkdir(b"d")
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        fh = await mount.open(b"f", os.O_RDWR)
        directory = await mount.number(b"d")
        if when == "before":
            await mount.rename(b"f", b"d/g")
            await mount.rename(b"d", b"e")
        elif carried_out:
            mount.remote.hold()
        else:
            mount.remote.go_deaf()
        if when == "during":
            start(nursery, mount.fs.rename, ROOT_NUMBER, b"f", directory, b"g", 0)
            await settle()
        await mount.fs.write(fh, 0, b"CON")
        mount.remote.drop_connection()
        await mount.reconnect()
        await settle()
        await mount.close(fh)
        path = b"e/g" if when == "before" else b"d/g"
        assert tree.read_file(path) == b"CONtent"
        assert not tree.exists(b"f")


# --- what was changed meanwhile -----------------------------------------------------------------


async def test_a_reader_reads_on_in_a_file_that_has_grown() -> None:
    """tail -f"""
    tree = with_file(b"one\n")
    async with mounted(tree) as mount:
        kernel = Kernel(mount)
        fh, number = await mount.open(b"f"), await mount.number(b"f")
        assert await mount.fs.read(fh, 0, 100) == b"one\n"

        def grow() -> None:
            tree.append_file(b"f", b"two\n")

        await drop_and_reconnect(mount, grow)
        assert kernel.inodes == [number]
        assert await mount.fs.read(fh, 4, 100) == b"two\n"
        tree.append_file(b"f", b"three\n")
        assert await mount.fs.read(fh, 8, 100) == b"three\n"
        await mount.close(fh)


async def test_what_was_read_ahead_of_another_content_is_dropped() -> None:
    tree = with_file(b"a" * 300_000)
    async with mounted(tree) as mount:
        fh = await mount.open(b"f")
        assert await mount.fs.read(fh, 0, 1000) == b"a" * 1000  # and more is there
        await settle()

        def change() -> None:
            tree.write_file(b"f", b"b" * 300_000)

        await drop_and_reconnect(mount, change)
        assert await mount.fs.read(fh, 1000, 1000) == b"b" * 1000
        await mount.close(fh)


async def test_what_was_left_alone_stays_read() -> None:
    tree = with_file(b"a" * 300_000)
    async with mounted(tree) as mount:
        kernel = Kernel(mount)
        fh = await mount.open(b"f")
        await mount.fs.read(fh, 0, 1000)
        await settle()
        reads = mount.remote.count("read")
        await drop_and_reconnect(mount)
        assert await mount.fs.read(fh, 1000, 1000) == b"a" * 1000
        assert (mount.remote.count("read"), kernel.inodes) == (reads, [])
        await mount.close(fh)


def _replace_by_directory(tree: MemoryTree) -> None:
    tree.remove(b"f")
    tree.mkdir(b"f")


def _replace_by_symlink(tree: MemoryTree) -> None:
    tree.rename(b"f", b"elsewhere")
    tree.symlink(b"elsewhere", b"f")


GONE: dict[str, Callable[[MemoryTree], None]] = {
    "removed": lambda tree: tree.remove(b"f"),
    "a directory": _replace_by_directory,
    "a symlink": _replace_by_symlink,
}


@pytest.mark.parametrize("change", GONE.values(), ids=GONE)
async def test_what_is_not_the_file_any_more_is_stale(
    change: Callable[[MemoryTree], None], caplog: pytest.LogCaptureFixture
) -> None:
    tree = with_file()
    tree.write_file(b"other", b"fine")
    async with mounted(tree) as mount:
        fh, other = await mount.open(b"f", os.O_RDWR), await mount.open(b"other")
        await drop_and_reconnect(mount, lambda: change(tree))
        for _ in range(2):
            assert await failing(mount.fs.read(fh, 0, 10)) == errno.ESTALE
        assert await mount.fs.read(other, 0, 10) == b"fine"
        await drop_and_reconnect(mount)  # and it is not tried again
        lines = [record.getMessage() for record in caplog.records]
        assert sum("b'f' was open" in line for line in lines) == 1
        assert mount.remote.open_handles == ["other"]
        await mount.close(fh)
        await mount.close(other)


async def test_a_file_that_may_not_be_opened_any_more_is_stale() -> None:
    tree = with_file()
    async with mounted(tree) as mount:
        fh = await mount.open(b"f")
        mount.remote.fail_next("open", RemoteStatusError(FX_PERMISSION_DENIED))
        await drop_and_reconnect(mount)
        assert await failing(mount.fs.read(fh, 0, 10)) == errno.ESTALE
        await mount.close(fh)
        again = await mount.open(b"f")  # whoever opens it anew may find that it can
        assert await mount.fs.read(again, 0, 10) == b"content"
        await mount.close(again)


# --- data on its way ----------------------------------------------------------------------------


@pytest.mark.parametrize("heard", range(5))
async def test_data_whose_acknowledgement_was_lost_explains_the_size(heard: int) -> None:
    tree = with_file(b"12345")
    async with mounted(tree, capabilities=SMALL) as mount:
        undelivered = Undelivered(mount)
        fh, twin = await mount.open(b"f", os.O_WRONLY), await mount.open(b"f")
        mount.remote.hold()
        for at in range(4):
            if at == heard:
                mount.remote.go_deaf()
            await mount.fs.write(fh, at * 10, b"%d" % at * 10)
        mount.remote.drop_connection()
        await mount.reconnect()
        await mount.fs.flush(fh)
        expected = b"".join(b"%d" % at * 10 for at in range(4))
        assert tree.read_file(b"f") == expected
        assert await mount.fs.read(twin, 0, 100) == expected
        assert undelivered.data == []
        await mount.close(fh)
        await mount.close(twin)


@pytest.mark.parametrize("size", [0, 4, 41, 1000])
async def test_data_for_a_file_of_another_size_is_not_written(size: int) -> None:
    tree = with_file(b"12345")
    async with mounted(tree, capabilities=SMALL) as mount:
        undelivered = Undelivered(mount)
        fh, twin = await mount.open(b"f", os.O_WRONLY), await mount.open(b"f", os.O_WRONLY)
        mount.remote.go_deaf()
        for at in range(4):
            await mount.fs.write(fh, at * 10, b"%d" % at * 10)
        mount.remote.drop_connection()
        tree.write_file(b"f", b"x" * size)
        await mount.reconnect()
        assert tree.read_file(b"f") == b"x" * size
        assert undelivered.data == [(at * 10, b"%d" % at * 10) for at in range(4)]
        for each in (fh, twin):
            assert await failing(mount.fs.flush(each)) == errno.ESTALE
            await mount.fs.release(each)


@both
@pytest.mark.parametrize("size", [0, 3, 1000])
async def test_data_written_behind_a_truncation_is_not_taken_for_a_strangers(
    size: int, carried_out: bool
) -> None:
    tree = with_file(b"0123456789" * 3)
    async with mounted(tree, capabilities=SMALL) as mount, trio.open_nursery() as nursery:
        number, fh = await mount.number(b"f"), await mount.open(b"f", os.O_WRONLY)
        undelivered = Undelivered(mount)
        if carried_out:
            mount.remote.hold()
        else:
            mount.remote.go_deaf()
        cut = start(nursery, mount.fs.setattr, number, AttributeChange(size=size))
        await settle()
        await mount.fs.write(fh, 0, b"ABCDEFGHIJ")
        mount.remote.drop_connection()
        await mount.reconnect()
        await settle()
        cut.result()
        await mount.close(fh)
        assert undelivered.data == []
        longer = b"0123456789" * 2 + bytes(970) if size == 1000 else b""
        assert tree.read_file(b"f") == b"ABCDEFGHIJ" + longer


async def test_a_truncation_that_was_answered_counts_for_what_is_written_behind_it() -> None:
    tree = with_file(b"0123456789" * 3)
    async with mounted(tree, capabilities=SMALL, latency=1) as mount:
        number, fh = await mount.number(b"f"), await mount.open(b"f", os.O_WRONLY)
        async with trio.open_nursery() as nursery:
            cut = start(nursery, mount.fs.setattr, number, AttributeChange(size=0))
            await trio.sleep(0.5)
            await mount.fs.write(fh, 0, b"ABCDEFGHIJ")
            await trio.sleep(0.7)
            assert mount.fs.tree.writebacks.unacknowledged == 10
            mount.remote.drop_connection()
            await mount.reconnect()
        cut.result()
        await mount.close(fh)
        assert tree.read_file(b"f") == b"ABCDEFGHIJ"


async def test_an_append_counts_from_the_end_that_the_server_named() -> None:
    """Another client cut the file since it was looked at (a log that was rotated)."""
    tree = with_file(b"0123456789" * 3)
    async with mounted(tree, capabilities=SMALL) as mount:
        fh = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
        tree.write_file(b"f", b"")
        await mount.fs.write(fh, 30, b"short")
        mount.remote.go_deaf()
        mount.fs.tree.writebacks.push_all()
        mount.remote.drop_connection()
        await mount.reconnect()
        await mount.close(fh)
        assert tree.read_file(b"f") == b"short"


async def test_what_was_refused_does_not_count_for_the_size() -> None:
    tree = with_file(b"12345")
    async with mounted(tree, capabilities=SMALL) as mount:
        fh = await mount.open(b"f", os.O_WRONLY)
        mount.remote.fail_next("write", RemoteStatusError(FX_FAILURE))
        await mount.fs.write(fh, 100, b"no room")
        assert await failing(mount.fs.flush(fh)) == errno.EIO
        mount.remote.go_deaf()
        await mount.fs.write(fh, 5, b"6789012345")
        mount.remote.drop_connection()
        await mount.reconnect()
        await mount.close(fh)
        assert tree.read_file(b"f") == b"123456789012345"


async def test_what_was_unlinked_while_open_is_never_written_to_the_name() -> None:
    tree = with_file()
    async with mounted(tree) as mount:
        undelivered = Undelivered(mount)
        fh = await mount.open(b"f", os.O_RDWR)
        await mount.unlink(b"f")
        await mount.fs.write(fh, 0, b"lost")
        await drop_and_reconnect(mount, lambda: tree.write_file(b"f", b"another"))
        assert await failing(mount.fs.flush(fh)) == errno.ESTALE
        assert await failing(mount.fs.read(fh, 0, 1)) == errno.ESTALE
        assert tree.read_file(b"f") == b"another"
        assert undelivered.data == [(0, b"lost")]
        await mount.fs.release(fh)


@both
async def test_what_was_unlinked_during_the_loss_is_never_written_to_the_name(
    carried_out: bool,
) -> None:
    tree = with_file()
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        fh = await mount.open(b"f", os.O_RDWR)
        if carried_out:
            mount.remote.hold()
        else:
            mount.remote.go_deaf()
        task = start(nursery, mount.fs.unlink, ROOT_NUMBER, b"f")
        await settle()
        mount.remote.drop_connection()
        await mount.reconnect()
        await settle()
        task.result()
        await mount.fs.write(fh, 0, b"lost")
        if carried_out:
            assert await failing(mount.fs.flush(fh)) == errno.ESTALE
        else:  # it was opened again before the name went
            assert await mount.fs.read(fh, 0, 10) == b"lostent"
        await mount.fs.release(fh)
        assert not tree.root.children
