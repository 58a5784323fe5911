"""Files that are closed while there is no connection, or while it comes back."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest
import trio

from pysshfs.errors import FX_PERMISSION_DENIED, FilesystemError, RemoteStatusError
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.cuts import both, new_tree
from tests.support.fake_mount import Mount, mounted, settle, start

if TYPE_CHECKING:
    from tests.support.memory_tree import MemoryTree


def with_file() -> MemoryTree:
    tree = new_tree()
    tree.write_file(b"f", b"content")
    return tree


async def test_a_file_that_is_closed_meanwhile_is_not_opened_again() -> None:
    tree = with_file()
    async with mounted(tree) as mount:
        fh = await mount.open(b"f")
        mount.remote.drop_connection()
        await mount.close(fh)
        mount.remote.calls.clear()
        await mount.reconnect()
        await settle()
        assert mount.remote.calls == []
        assert mount.fs.statistics()["open_files"] == 0


async def test_a_file_that_is_closed_while_it_is_opened_again_is_closed() -> None:
    tree = with_file()
    async with mounted(tree, latency=1) as mount:
        fh = await mount.open(b"f")
        for wait in (0.5, 1.5):
            mount.remote.drop_connection()
            async with trio.open_nursery() as nursery:
                start(nursery, mount.reconnect)
                await trio.sleep(wait)
                if wait == 1.5:
                    await mount.close(fh)
            await trio.sleep(2)
        assert mount.remote.open_handles == []


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5])
async def test_a_file_that_is_closed_before_all_others_are_open_is_closed(after: int) -> None:
    tree = new_tree()
    names = [b"%d" % at for at in range(70)]  # two batches
    for name in names:
        tree.write_file(name, name)
    async with mounted(tree, latency=1) as mount, trio.open_nursery() as nursery:
        files = [await mount.open(name) for name in names]
        mount.remote.drop_connection()
        resuming = start(nursery, mount.reconnect)
        await trio.sleep(after + 0.5)
        await mount.close(files.pop(0))
        await trio.sleep(20)
        resuming.result()
        assert "0" not in mount.remote.open_handles
        for fh in files:
            await mount.close(fh)
        await trio.sleep(5)


async def test_a_file_that_was_made_and_closed_while_others_are_opened_is_closed() -> None:
    tree = with_file()
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        fh = await mount.open(b"f")
        await mount.mkdir(b"known")
        assert await mount.find(b"new") is None
        mount.remote.hold()
        mode = stat.S_IFREG | 0o644
        making = start(nursery, mount.fs.mknod, ROOT_NUMBER, b"new", mode)
        await settle()
        mount.remote.drop_connection()
        await mount.reconnect()
        await settle()
        mount.counted(making.result())
        assert mount.remote.open_handles == ["f"]
        await mount.close(fh)


@both
async def test_data_of_a_file_that_was_closed_is_delivered_later(carried_out: bool) -> None:
    async with mounted(new_tree()) as mount:
        fh = await mount.create(b"f")
        if carried_out:
            mount.remote.hold()
        else:
            mount.remote.go_deaf()
        await mount.fs.write(fh, 0, b"first ")
        mount.fs.tree.writebacks.push_all()
        mount.remote.drop_connection()
        await mount.fs.write(fh, 6, b"second")
        await mount.fs.release(fh)
        assert mount.fs.statistics()["open_files"] == 1
        await mount.reconnect()
        await settle()
        assert mount.tree.read_file(b"f") == b"first second"
        assert mount.fs.statistics()["open_files"] == 0


# --- permissions of one's own -------------------------------------------------------------------


def forbid_once(mount: Mount, times: int) -> None:
    """The next OPENs are refused as the server refuses an ordinary user a 0444 file."""
    mount.remote.fail_next("open", RemoteStatusError(FX_PERMISSION_DENIED), times)


async def test_what_was_created_read_only_is_written_to_the_end() -> None:
    """As git does with its objects: the mode forbids opening, not writing."""
    async with mounted(new_tree()) as mount:
        fh = await mount.create(b"object", 0o444, os.O_WRONLY)
        mount.remote.hold()
        await mount.fs.write(fh, 0, b"content")
        mount.remote.drop_connection()
        forbid_once(mount, 2)  # the attempt, and the one that tells why
        await mount.reconnect()
        await mount.close(fh)
        assert mount.tree.read_file(b"object") == b"content"
        assert mount.tree.find(b"object").mode == stat.S_IFREG | 0o444


async def test_the_creation_of_what_is_read_only_may_be_in_doubt() -> None:
    async with mounted(new_tree()) as mount, trio.open_nursery() as nursery:
        assert await mount.find(b"object") is None
        mount.remote.hold()
        creating = start(
            nursery, mount.fs.create, ROOT_NUMBER, b"object", 0o444, os.O_WRONLY | os.O_EXCL
        )
        await settle()
        mount.remote.drop_connection()
        forbid_once(mount, 1)
        await mount.reconnect()
        await settle()
        reply, entry = creating.result()
        mount.counted(entry)
        await mount.fs.write(reply.fh, 0, b"content")
        await mount.close(reply.fh)
        assert mount.tree.read_file(b"object") == b"content"
        assert mount.tree.find(b"object").mode == stat.S_IFREG | 0o444


async def test_the_permission_of_anothers_file_is_not_touched() -> None:
    tree = new_tree()
    tree.write_file(b"f", b"old")
    async with mounted(tree) as mount:
        fh = await mount.open(b"f", os.O_RDWR)
        mount.remote.drop_connection()
        forbid_once(mount, 1)
        await mount.reconnect()
        assert mount.remote.count("setstat") == 0
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.read(fh, 0, 10)
        assert caught.value.errno == errno.ESTALE
        await mount.fs.release(fh)
