"""Losing the connection again and again, giving it up, and what answers without one."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
import trio

from pysshfs.errors import ConnectionLostError, ProtocolError
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.cuts import Cuts, failing, new_tree
from tests.support.fake_mount import Mount, Task, mounted, settle, start
from tests.support.fake_remote import OPENSSH, ROOMY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SMALL = OPENSSH._replace(max_write=10)
LOST = ConnectionLostError("no way there")


# --- lost while it is being resumed -------------------------------------------------------------


class Everything:
    """A bit of all that can be under way, and how it must end."""

    def __init__(self, mount: Mount, nursery: trio.Nursery) -> None:
        self.mount = mount
        self._nursery = nursery
        self.tasks: dict[str, Task] = {}
        self.files: list[int] = []

    async def prepare(self) -> None:
        tree, mount = self.mount.tree, self.mount
        for name in (b"read", b"old", b"moved", b"cut", b"gone", b"open"):
            tree.write_file(name, name * 10).mtime -= 100
        tree.mkdir(b"dir")
        for at in range(6):
            tree.write_file(b"dir/%d" % at, b"")
        await mount.mkdir(b"known")
        self.files = [
            await mount.open(b"read"),
            await mount.open(b"open", os.O_WRONLY | os.O_APPEND),
            await mount.open(b"moved", os.O_RDWR),
        ]
        for name in (b"old", b"moved", b"cut", b"gone", b"dir"):
            await mount.number(name)
        for name in (b"made", b"created", b"symlink", b"link", b"there"):
            assert await mount.find(name) is None
        mount.remote.batch = 3

    def _start(self, name: str, call: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        self.tasks[name] = start(self._nursery, call, *arguments)

    async def begin(self) -> None:
        mount, fs = self.mount, self.mount.fs
        number = fs.tree.inodes.number_for
        root = fs.tree.inodes.root
        self._start("read", fs.read, self.files[0], 0, 1000)
        self._start("append", self._append)
        self._start("mkdir", fs.mkdir, ROOT_NUMBER, b"made", 0o755)
        self._start("create", fs.create, ROOT_NUMBER, b"created", 0o644, os.O_RDWR | os.O_EXCL)
        self._start("symlink", fs.symlink, ROOT_NUMBER, b"symlink", b"target")
        self._start("link", fs.link, number(root, b"old"), ROOT_NUMBER, b"link")
        self._start("unlink", fs.unlink, ROOT_NUMBER, b"gone")
        self._start("rename", fs.rename, ROOT_NUMBER, b"moved", ROOT_NUMBER, b"there", 0)
        self._start("truncate", fs.open, number(root, b"cut"), os.O_WRONLY | os.O_TRUNC)
        change = AttributeChange(mode=0o600)
        self._start("setattr", fs.setattr, number(root, b"old"), change)
        self._start("names", mount.names, b"dir")
        await settle()

    async def _append(self) -> None:
        await self.mount.fs.write(self.files[1], 0, b"0123456789" * 3)
        await self.mount.fs.fsync(self.files[1])

    async def check(self) -> None:
        mount, tree = self.mount, self.mount.tree
        results = {name: task.result() for name, task in self.tasks.items()}
        assert results["read"] == b"read" * 10
        assert sorted(results["names"]) == [b"%d" % at for at in range(6)]
        assert tree.read_file(b"open") == b"open" * 10 + b"0123456789" * 3
        assert tree.read_file(b"cut") == b""
        assert tree.find(b"old").mode & 0o777 == 0o600
        assert sorted(tree.root.children) == [
            b"created", b"cut", b"dir", b"known", b"link", b"made", b"old", b"open", b"read",
            b"symlink", b"there",
        ]  # fmt: skip
        assert await mount.fs.read(self.files[2], 0, 100) == b"moved" * 10
        for fh in (*self.files, results["create"][0].fh, results["truncate"].fh):
            await mount.close(fh)
        assert mount.fs.server.waiting == 0
        assert mount.fs.statistics()["open_files"] == 0


@pytest.mark.parametrize("first", range(1, 24, 2))
async def test_losses_at_every_moment_of_coming_back(first: int) -> None:
    """The first loss after `first` requests, the second (and a third like it) after each number of
    requests of the session after that."""
    reached_end = False
    second = 0
    while not reached_end:
        second += 1
        async with (
            mounted(new_tree(), capabilities=SMALL) as mount,
            trio.open_nursery() as nursery,
        ):
            everything = Everything(mount, nursery)
            await everything.prepare()
            cuts = Cuts(mount)
            cuts.arm(first, first % 4 == 1)
            await everything.begin()
            assert cuts.is_broken
            for carried_out in (True, False):
                cuts.arm(second, carried_out)
                mount.remote.drop_connection()
                await settle()
                cuts.forget()
                resuming = start(nursery, mount.reconnect)
                await settle()
                if not cuts.is_broken:
                    break
                assert resuming.error is None or isinstance(resuming.error, ConnectionLostError)
            reached_end = not cuts.is_broken
            cuts.arm(0, True)
            if cuts.is_broken:
                await cuts.recover()
            await settle()
            await everything.check()
    assert second > 10


async def test_what_came_just_before_the_second_loss_is_not_used_after_it() -> None:
    """Replies and the end of the session arrive together, before anybody looks at them."""
    tree = new_tree()
    for name in (b"a", b"b"):
        tree.write_file(name, name)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        files = [await mount.open(name) for name in (b"a", b"b")]
        created = start(nursery, mount.fs.create, ROOT_NUMBER, b"c", 0o644, os.O_RDWR)
        mount.remote.drop_connection()
        await settle()
        for rounds in (1, 2):  # the handles come with the first, what they are with the second
            mount.remote.connect_anew()
            mount.remote.hold()
            resuming = start(nursery, mount.fs.server.resume, mount.remote)
            for _ in range(rounds):
                await settle()
                mount.remote.deliver_now()
            mount.remote.drop_connection()
            await settle()
            assert isinstance(resuming.error, ConnectionLostError)
        await mount.reconnect()
        await settle()
        for fh, name in zip(files, (b"a", b"b"), strict=True):
            assert await mount.fs.read(fh, 0, 10) == name
            await mount.close(fh)
        reply, entry = created.result()
        mount.counted(entry)
        await mount.close(reply.fh)


# --- given up, and the end ----------------------------------------------------------------------


async def test_when_there_is_no_hope_calls_fail_but_data_is_kept() -> None:
    tree = new_tree()
    tree.write_file(b"f", b"content")
    async with mounted(tree, capabilities=SMALL) as mount, trio.open_nursery() as nursery:
        fh, number = await mount.open(b"f", os.O_WRONLY), await mount.number(b"f")
        mount.remote.go_deaf()
        await mount.fs.write(fh, 0, b"0123456789")
        await mount.fs.write(fh, 10, b"tail")
        tasks = [
            start(nursery, mount.fs.flush, fh),
            start(nursery, mount.fs.unlink, ROOT_NUMBER, b"g"),
            start(nursery, mount.fs.getattr, number),
        ]
        await settle()
        mount.remote.drop_connection()
        await settle()
        assert not any(task.done for task in tasks)
        mount.fs.server.given_up(LOST)
        await settle()
        for task in tasks:
            assert await failing(_result(task)) == errno.EIO
        assert await failing(mount.fs.write(fh, 14, b"no")) == errno.EIO
        assert await failing(mount.fs.mkdir(ROOT_NUMBER, b"d", 0o755)) == errno.EIO
        assert mount.fs.tree.writebacks.unacknowledged == 14
        await mount.fs.release(fh)
        await mount.reconnect()
        await settle()
        assert tree.read_file(b"f") == b"0123456789tail"
        await mount.mkdir(b"d")


async def test_who_waits_for_room_hears_that_there_is_no_hope() -> None:
    config = VfsConfig(write_buffer=10)
    async with mounted(new_tree(), config=config) as mount, trio.open_nursery() as nursery:
        fh = await mount.create(b"f")
        mount.remote.drop_connection()
        await mount.fs.write(fh, 0, b"0123456789")
        writing = start(nursery, mount.fs.write, fh, 10, b"more")
        await settle()
        assert not writing.done
        mount.fs.server.given_up(LOST)
        await settle()
        assert await failing(_result(writing)) == errno.EIO
        await mount.reconnect()
        await mount.close(fh)
        assert mount.tree.read_file(b"f") == b"0123456789"


@pytest.mark.parametrize("up", [True, False])
async def test_what_is_not_delivered_at_the_end_is_handed_over(up: bool) -> None:
    async with mounted(new_tree(), capabilities=SMALL) as mount, trio.open_nursery() as nursery:
        kept: list[tuple[int, bytes]] = []
        mount.fs.tree.writebacks.on_undelivered = lambda _inode, record, _error: kept.append(
            (record.offset, bytes(record.data))
        )
        fh = await mount.create(b"f")
        mount.remote.go_deaf()
        if not up:
            mount.remote.drop_connection()
        await mount.fs.write(fh, 0, b"0123456789tail")
        flush = start(nursery, mount.fs.flush, fh)
        await settle()
        mount.fs.end("unmounted")
        await settle()
        assert kept == [(0, b"0123456789"), (10, b"tail")]
        assert await failing(_result(flush)) == errno.EIO
        assert await failing(mount.fs.mkdir(ROOT_NUMBER, b"d", 0o755)) == errno.EIO
        assert mount.fs.server.waiting == 0
        await mount.fs.release(fh)
        assert mount.fs.statistics()["open_files"] == 0
        with pytest.raises(ConnectionLostError):
            await mount.reconnect()
        mount.remote.drop_connection()


async def test_nobody_takes_the_room_that_the_end_makes() -> None:
    config = VfsConfig(write_buffer=10)
    async with mounted(new_tree(), config=config) as mount, trio.open_nursery() as nursery:
        fh = await mount.create(b"f")
        mount.remote.drop_connection()
        await mount.fs.write(fh, 0, b"0123456789")
        writing = start(nursery, mount.fs.write, fh, 10, b"more")
        await settle()
        mount.fs.end("unmounted")
        await settle()
        assert await failing(_result(writing)) == errno.EIO
        await mount.fs.release(fh)


async def test_a_call_without_a_session_asks_for_one() -> None:
    async with mounted(new_tree()) as mount, trio.open_nursery() as nursery:
        asked: list[None] = []
        mount.fs.server.on_demand = lambda: asked.append(None)
        await mount.mkdir(b"d")
        assert asked == []
        mount.remote.drop_connection()
        task = start(nursery, mount.fs.unlink, ROOT_NUMBER, b"f")
        await settle()
        assert asked == [None]
        await mount.reconnect()
        await settle()
        assert await failing(_result(task)) == errno.ENOENT


async def test_whether_the_old_session_may_still_change_something() -> None:
    tree = new_tree()
    tree.write_file(b"f", b"content")
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        server, number = mount.fs.server, await mount.number(b"f")
        mount.fs.tree.cache.clear()
        for call, arguments, expected in (
            (mount.fs.getattr, (number,), False),
            (mount.fs.mkdir, (ROOT_NUMBER, b"d", 0o755), True),
        ):
            mount.remote.hold()
            task = start(nursery, call, *arguments)
            await settle()
            assert not server.in_doubt
            mount.remote.drop_connection()
            assert server.in_doubt is expected
            task.scope.cancel()
            await settle()
            await mount.reconnect()
            assert not server.in_doubt


async def test_a_request_that_breaks_each_session_is_given_up() -> None:
    tree = new_tree()
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        mount.remote.hold()
        task = start(nursery, mount.fs.mkdir, ROOT_NUMBER, b"d", 0o755)
        for _ in range(3):
            await settle()
            assert not task.done
            tree.rmdir(b"d")
            mount.remote.drop_connection(ProtocolError("nonsense"))
            await mount.reconnect()
            mount.remote.hold()
        mount.remote.release()
        await settle()
        assert await failing(_result(task)) == errno.EIO


# --- what answers without a connection ----------------------------------------------------------


async def test_the_root_and_the_statistics_are_told_as_last_known() -> None:
    config = VfsConfig(stat_timeout=0)
    tree = new_tree()
    tree.write_file(b"f", b"content")
    async with mounted(tree, config=config) as mount, trio.open_nursery() as nursery:
        number = await mount.number(b"f")
        root = await mount.fs.getattr(ROOT_NUMBER)
        assert await mount.fs.statfs() == ROOMY
        for lose in (mount.remote.hold, mount.remote.drop_connection):
            lose()
            begun = trio.current_time()
            tasks = [start(nursery, mount.fs.getattr, ROOT_NUMBER), start(nursery, mount.fs.statfs)]
            other = start(nursery, mount.fs.getattr, number)
            await trio.sleep(0.9)
            assert not any(task.done for task in tasks)
            await trio.sleep(0.2)
            entry = tasks[0].result()
            assert entry.attributes == root.attributes
            assert entry.entry_timeout == entry.attribute_timeout == 0
            assert tasks[1].result() == ROOMY
            await trio.sleep(100)
            assert not other.done
            other.scope.cancel()
            await settle()
            assert trio.current_time() - begun < 200
        await mount.reconnect()
        await settle()
        assert mount.fs.server.waiting == 0


async def test_a_root_that_was_never_known_is_waited_for_and_space_is_made_up() -> None:
    async with mounted(new_tree()) as mount, trio.open_nursery() as nursery:
        mount.remote.drop_connection()
        looking = start(nursery, mount.fs.getattr, ROOT_NUMBER)
        asking = start(nursery, mount.fs.statfs)
        await trio.sleep(1.1)
        assert asking.result().blocks_available > ROOMY.blocks_available
        await trio.sleep(60)
        assert not looking.done
        await mount.reconnect()
        await settle()
        looking.result()
        assert await mount.fs.statfs() == ROOMY


async def _result(task: Task) -> Any:
    return task.result()
