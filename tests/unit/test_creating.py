"""What making files costs: requests, and round trips on the virtual clock."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

import pytest
import trio

from pysshfs.errors import FX_FAILURE, FX_PERMISSION_DENIED, FilesystemError, RemoteStatusError
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.fake_mount import mounted, settle, start
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Any

    from tests.support.fake_mount import Mount

DENIED: Final = RemoteStatusError(FX_PERMISSION_DENIED, "no")
FAILED: Final = RemoteStatusError(FX_FAILURE, "no")
TIMES: Final = AttributeChange(atime=1_100_000_000, mtime=1_200_000_000)


async def round_trips(awaitable: Awaitable[Any]) -> float:
    """How many latencies of 1 s this takes."""
    begun = trio.current_time()
    await awaitable
    return trio.current_time() - begun


class Told:
    """What the kernel was told to forget."""

    def __init__(self, mount: Mount) -> None:
        self.inodes: list[int] = []
        mount.fs.tree.kernel = self

    def entry_changed(self, parent: int, name: bytes) -> None:
        pass

    def inode_changed(self, number: int) -> None:
        self.inodes.append(number)


@pytest.mark.parametrize("server_umask", [0o022, 0o077])
async def test_making_takes_one_round_trip(server_umask: int) -> None:
    """Also where the server's umask takes away what was asked for: that is given back behind."""
    async with mounted(MemoryTree(server_umask), latency=1) as mount:
        fs = mount.fs
        assert await round_trips(fs.mkdir(ROOT_NUMBER, b"d", 0o775)) == 1
        assert await round_trips(fs.symlink(ROOT_NUMBER, b"s", b"target")) == 1
        assert await round_trips(fs.mknod(ROOT_NUMBER, b"n", stat.S_IFREG | 0o664)) == 1
        begun = trio.current_time()
        opened, entry = await fs.create(ROOT_NUMBER, b"f", 0o664, os.O_RDWR)
        assert trio.current_time() - begun == 1
        assert entry.attributes.mode & 0o777 == 0o664
        assert await round_trips(fs.link(entry.number, ROOT_NUMBER, b"l")) <= 2
        await mount.close(opened.fh)
        await trio.sleep(1)
        tree = mount.tree
        assert tree.find(b"d").mode & 0o777 == 0o775
        assert tree.find(b"n").mode & 0o777 == 0o664
        assert tree.find(b"f").mode & 0o777 == 0o664


async def test_unpacking_a_file_takes_two_round_trips() -> None:
    """As tar does it for root: times, owner, mode. The mode is waited for, and all that went before
    is acknowledged with it, so that close has nothing to wait for."""
    async with mounted(MemoryTree(0o022), latency=1) as mount:
        fs = mount.fs
        begun = trio.current_time()
        opened, entry = await fs.create(ROOT_NUMBER, b"f", 0o600, os.O_WRONLY)
        await fs.write(opened.fh, 0, b"data")
        told = await fs.setattr(entry.number, TIMES._replace(atime=None))
        assert told.attributes[4:] == (entry.attributes.atime, TIMES.mtime)
        assert await fs.getattr(entry.number) == told  # the kernel asks before a chown
        await fs.setattr(entry.number, AttributeChange(uid=1000, gid=1000))
        told = await fs.setattr(entry.number, AttributeChange(mode=0o644))
        assert trio.current_time() - begun == 2
        await mount.close(opened.fh)
        assert trio.current_time() - begun == 2
        assert [call[0] for call in mount.remote.calls] == [
            "open", "lstat", "write", "fsetstat", "fsetstat", "close"
        ]  # fmt: skip
        node = mount.tree.find(b"f")
        assert told.attributes == (node.mode, 4, node.uid, node.gid, node.atime, node.mtime)
        assert told.attributes[4:] == (entry.attributes.atime, TIMES.mtime)
        await trio.sleep(1)
        requests = len(mount.remote.calls)
        assert (await fs.getattr(entry.number)).attributes == told.attributes
        assert len(mount.remote.calls) == requests


async def test_the_time_of_a_directory_made_here_is_set_in_one_round_trip() -> None:
    async with mounted(latency=1) as mount:
        fs = mount.fs
        made = await fs.mkdir(ROOT_NUMBER, b"d", 0o755)
        opened, _ = await fs.create(made.number, b"f", 0o644, os.O_WRONLY)
        await mount.close(opened.fh)
        change = AttributeChange(mtime=TIMES.mtime)
        assert await round_trips(fs.setattr(made.number, change)) == 1
        node = mount.tree.find(b"d")
        assert (node.atime, node.mtime) == (made.attributes.atime, TIMES.mtime)


async def test_an_owner_and_a_mode_that_it_has_already_cost_nothing() -> None:
    async with mounted(latency=1) as mount:
        fs = mount.fs
        opened, entry = await fs.create(ROOT_NUMBER, b"f", 0o640, os.O_WRONLY)
        await fs.write(opened.fh, 0, b"data")
        begun, requests = trio.current_time(), len(mount.remote.calls)
        for change in (
            AttributeChange(uid=1000, gid=1000),
            AttributeChange(gid=1000),
            AttributeChange(mode=0o640),
        ):
            told = await fs.setattr(entry.number, change)
            assert (told.attributes.size, told.attributes.mode & 0o7777) == (4, 0o640)
            assert told.attribute_timeout == 0  # when it was written, the server will tell
        assert (trio.current_time(), len(mount.remote.calls)) == (begun, requests)
        await fs.setattr(entry.number, TIMES)
        await mount.close(opened.fh)
        assert trio.current_time() - begun == 1


async def test_a_change_that_changes_nothing_by_what_was_said_lately_is_not_sent() -> None:
    tree = MemoryTree()
    tree.write_file(b"f", b"")
    tree.mkdir(b"d", 0o750)
    same = AttributeChange(uid=1000), AttributeChange(gid=1000, mode=0o750)
    async with mounted(tree) as mount:
        number = await mount.number(b"d")
        for change in same:
            await mount.fs.setattr(number, change)
        assert mount.remote.count("setstat") == 0
        tree.find(b"d").mode = stat.S_IFDIR | 0o777
        await trio.sleep(3)
        await mount.fs.setattr(number, same[1])
        assert tree.find(b"d").mode & 0o777 == 0o750
    async with mounted(tree, config=VfsConfig(directory_mask=0o27)) as mount:
        await mount.number(b"d")
        tree.find(b"d").mode = stat.S_IFDIR | 0o557
        await mount.setattr(b"d", AttributeChange(mode=0o750))  # what a mask hides stays
        assert tree.find(b"d").mode & 0o777 == 0o757


async def test_what_was_known_long_ago_is_not_enough_to_leave_a_change_out() -> None:
    async with mounted() as mount:
        opened, entry = await mount.fs.create(ROOT_NUMBER, b"secret", 0o600, os.O_WRONLY)
        mount.tree.find(b"secret").mode = stat.S_IFREG | 0o644
        await trio.sleep(3)
        await mount.fs.setattr(entry.number, AttributeChange(mode=0o600))
        assert mount.tree.find(b"secret").mode & 0o777 == 0o600
        await mount.close(opened.fh)


async def test_without_an_attribute_cache_no_change_is_left_out() -> None:
    async with mounted(config=VfsConfig(stat_timeout=0)) as mount:
        opened, entry = await mount.fs.create(ROOT_NUMBER, b"f", 0o600, os.O_WRONLY)
        mount.tree.find(b"f").mode = stat.S_IFREG | 0o644
        await mount.fs.setattr(entry.number, AttributeChange(mode=0o600))
        assert mount.tree.find(b"f").mode & 0o777 == 0o600
        await mount.close(opened.fh)


async def test_a_new_mode_or_owner_is_accepted_before_the_call_returns() -> None:
    """Who cannot have it hears of it there, and not again at close, which cp would not forgive."""
    async with mounted() as mount:
        fs = mount.fs
        opened, entry = await fs.create(ROOT_NUMBER, b"f", 0o600, os.O_WRONLY)
        for change in (AttributeChange(uid=1, gid=1), AttributeChange(mode=0o4711)):
            mount.remote.fail_next("fsetstat", DENIED)
            with pytest.raises(FilesystemError) as refused:
                await fs.setattr(entry.number, change)
            assert refused.value.errno == errno.EACCES
        await fs.write(opened.fh, 0, b"data")
        assert (await fs.getattr(entry.number)).attributes.mode & 0o7777 == 0o600
        await mount.close(opened.fh)


async def test_times_and_size_that_are_refused_fail_the_close_once() -> None:
    async with mounted(latency=1) as mount:
        fs, told = mount.fs, Told(mount)
        for change in (TIMES, AttributeChange(size=9)):
            opened, entry = await fs.create(ROOT_NUMBER, b"f", 0o600, os.O_WRONLY | os.O_TRUNC)
            await fs.write(opened.fh, 0, b"data")
            mount.remote.fail_next("fsetstat", DENIED)
            await fs.setattr(entry.number, change)
            with pytest.raises(FilesystemError) as failed:
                await fs.flush(opened.fh)
            assert failed.value.errno == errno.EACCES
            await fs.flush(opened.fh)  # dup(2) has another descriptor of the same open file
            await fs.release(opened.fh)
            assert told.inodes == [entry.number]
            assert (await fs.getattr(entry.number)).attributes.size == 4
            told.inodes.clear()
            await fs.unlink(ROOT_NUMBER, b"f")


async def test_data_is_cut_where_it_was_cut_among_the_writes() -> None:
    async with mounted(latency=1) as mount:
        fs = mount.fs
        opened, entry = await fs.create(ROOT_NUMBER, b"f", 0o600, os.O_RDWR | os.O_APPEND)
        begun = trio.current_time()
        await fs.write(opened.fh, 0, b"0123456789", from_page_cache=True)
        told = await fs.setattr(entry.number, AttributeChange(size=4), opened.fh)
        assert told.attributes.size == 4
        assert trio.current_time() == begun
        await fs.write(opened.fh, 10, b"abc")  # appended
        await fs.setattr(entry.number, AttributeChange(size=5), opened.fh)
        await fs.write(opened.fh, 7, b"xyz")
        assert await fs.read(opened.fh, 0, 100) == b"0123axyz"
        assert (await fs.getattr(entry.number)).attributes.size == 8
        await mount.close(opened.fh)
        assert mount.tree.find(b"f").data == b"0123axyz"


async def test_what_is_written_after_the_times_were_set_moves_them() -> None:
    async with mounted(latency=1) as mount:
        fs = mount.fs
        opened, entry = await fs.create(ROOT_NUMBER, b"f", 0o600, os.O_WRONLY)
        await fs.setattr(entry.number, TIMES)
        await fs.write(opened.fh, 0, b"data")
        mount.tree.now += 5
        told = (await fs.getattr(entry.number)).attributes
        assert (told.mtime, told.size) == (mount.tree.find(b"f").mtime, 4)
        await mount.close(opened.fh)
        assert (await fs.getattr(entry.number)).attributes.mtime == mount.tree.find(b"f").mtime


@pytest.mark.parametrize("carried_out", [False, True])
async def test_times_that_were_on_their_way_outlive_the_connection(carried_out: bool) -> None:
    async with mounted(MemoryTree(0o077)) as mount:
        fs = mount.fs
        opened, entry = await fs.create(ROOT_NUMBER, b"f", 0o664, os.O_WRONLY)
        await fs.write(opened.fh, 0, b"data")
        mount.remote.hold()
        if not carried_out:
            mount.remote.go_deaf()
        await fs.setattr(entry.number, TIMES)
        mount.remote.drop_connection()
        await mount.reconnect()
        await mount.close(opened.fh)
        node = mount.tree.find(b"f")
        assert (bytes(node.data), node.atime, node.mtime) == (b"data", TIMES.atime, TIMES.mtime)
        assert node.mode & 0o777 == 0o664


async def test_a_mode_on_its_way_to_a_directory_follows_its_rename() -> None:
    async with mounted(MemoryTree(0o077)) as mount:
        mount.remote.fail_next("setstat", FAILED)  # otherwise it is carried out at once
        await mount.mkdir(b"old", 0o755)
        mount.tree.umask = 0
        await settle()
        mount.tree.umask = 0o077
        async with trio.open_nursery() as nursery:
            mount.remote.hold()
            making = start(nursery, mount.fs.mkdir, ROOT_NUMBER, b"new", 0o755)
            await settle()
            mount.remote.deliver_now()
            mount.remote.go_deaf()
            await settle()
            assert making.done
            mount.lookups[making.result().number] += 1
            renaming = start(nursery, mount.fs.rename, ROOT_NUMBER, b"new", ROOT_NUMBER, b"last", 0)
            await settle()
            mount.remote.drop_connection()
            mount.tree.rename(b"new", b"last")  # as if that had been carried out, and the mode not
            await mount.reconnect()
            await settle()
            assert renaming.done
        assert mount.tree.find(b"last").mode & 0o777 == 0o755


async def test_what_is_absent_from_a_directory_made_here_is_not_asked_for() -> None:
    async with mounted(latency=0.1) as mount:
        fs = mount.fs
        directory = (await fs.mkdir(ROOT_NUMBER, b"d", 0o755)).number
        requests = len(mount.remote.calls)
        for name in (b"a", b"b"):
            assert await fs.lookup(directory, name) is None
        assert len(mount.remote.calls) == requests
        opened, _ = await fs.create(directory, b"a", 0o644, os.O_WRONLY)
        await mount.close(opened.fh)
        await fs.mkdir(directory, b"b", 0o755)
        assert await fs.lookup(directory, b"a") is not None
        assert await fs.lookup(directory, b"b") is not None
        requests = len(mount.remote.calls)
        assert await fs.lookup(directory, b"c") is None
        assert len(mount.remote.calls) == requests
        await fs.rename(directory, b"a", directory, b"c", 0)
        await fs.unlink(directory, b"c")
        requests = len(mount.remote.calls)
        assert await fs.lookup(directory, b"a") is None
        assert await fs.lookup(directory, b"c") is None
        assert len(mount.remote.calls) == requests


async def test_what_others_make_in_a_directory_made_here_is_seen_in_time() -> None:
    async with mounted() as mount:
        fs = mount.fs
        directory = (await fs.mkdir(ROOT_NUMBER, b"d", 0o755)).number
        mount.tree.write_file(b"d/theirs", b"")
        assert await fs.lookup(directory, b"theirs") is None
        for _ in range(5):  # it is being filled
            await trio.sleep(0.9)
            await fs.mkdir(directory, b"%d" % (10 * trio.current_time()), 0o755)
        assert await fs.lookup(directory, b"other") is None
        assert mount.remote.count("lstat") == 6  # of what was made
        await trio.sleep(1.1)
        assert await fs.lookup(directory, b"theirs") is not None


async def test_a_directory_that_others_put_in_the_place_of_ours_is_another() -> None:
    async with mounted() as mount:
        fs = mount.fs
        await mount.mkdir(b"d")
        assert await fs.lookup(await mount.number(b"d"), b"x") is None
        mount.forget_all()
        await fs.rmdir(ROOT_NUMBER, b"d")
        mount.tree.mkdir(b"d", 0o755)
        mount.tree.write_file(b"d/x", b"")
        await trio.sleep(2)
        assert await mount.find(b"d/x") is not None


async def test_a_size_is_set_when_the_file_was_changed_during_an_append() -> None:
    async with mounted(latency=1) as mount:
        fs = mount.fs
        flags = os.O_RDWR | os.O_APPEND
        opened, entry = await fs.create(ROOT_NUMBER, b"f", 0o600, flags)
        async with trio.open_nursery() as nursery:
            appending = start(nursery, fs.write, opened.fh, 0, b"0123456789")
            await settle()  # it asks where the file ends
            change = AttributeChange(size=4)
            cutting = start(nursery, fs.setattr, entry.number, change, opened.fh)
            await settle()
            fs.tree.changed(fs.tree.inodes.get(entry.number))
        assert appending.result().written == 10
        assert cutting.result().attributes.size == 4
        await mount.close(opened.fh)
        assert mount.tree.find(b"f").data == b"0123"
