"""What is sent again when its reply was lost, and what is looked at first: rule after rule.

Each is tried with a server that did what it was asked to and with one that never heard of it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest
import trio

from pysshfs.errors import FilesystemError
from pysshfs.remotefs import AttributeChange, OpenMode
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.cuts import begin_loss, both, failing, lose, new_tree
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.fake_remote import OPENSSH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pysshfs.reply import Reply
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.server import Server
    from tests.support.memory_tree import MemoryTree, Node

SMALL = OPENSSH._replace(max_write=10)
UPDATE = OpenMode.READ | OpenMode.WRITE


# --- what is simply repeated --------------------------------------------------------------------

ASKING: dict[str, Callable[[Server, OpenFileHandle], Reply[Any]]] = {
    "lstat": lambda server, _: server.lstat(b"f"),
    "fstat": lambda server, handle: server.fstat(handle),
    "statvfs": lambda server, _: server.statvfs(b""),
    "readlink": lambda server, _: server.readlink(b"l"),
    "realpath": lambda server, _: server.realpath(b"/l"),
    "read": lambda server, handle: server.read(handle, 1, 3),
}


@both
@pytest.mark.parametrize("method", ASKING)
async def test_what_only_asks_is_asked_again(method: str, carried_out: bool) -> None:
    tree = new_tree()
    tree.write_file(b"f", b"hello")
    tree.symlink(b"f", b"l")
    async with mounted(tree) as mount:
        mount.remote.realpaths[b"/l"] = b"/f"
        server = mount.fs.server
        handle = await server.open(b"f", UPDATE)

        async def ask() -> Any:
            return await ASKING[method](server, handle)

        expected = await ask()
        assert await lose(mount, carried_out, ask) == expected
        assert server.waiting == 0
        server.close(handle)


CHANGING: dict[str, Callable[[Server, OpenFileHandle], Reply[None]]] = {
    "setstat": lambda server, _: server.setstat(b"f", AttributeChange(mode=0o600, size=2)),
    "fsetstat": lambda server, fh: server.fsetstat(fh, AttributeChange(mode=0o600, size=2)),
    "lsetstat": lambda server, _: server.lsetstat(b"f", AttributeChange(mode=0o600, size=2)),
    "fsync": lambda server, handle: server.fsync(handle),
}


@both
@pytest.mark.parametrize("method", CHANGING)
async def test_what_sets_is_set_again(method: str, carried_out: bool) -> None:
    tree = new_tree()
    node = tree.write_file(b"f", b"hello")
    async with mounted(tree) as mount:
        server = mount.fs.server
        handle = await server.open(b"f", UPDATE)

        async def change() -> None:
            await CHANGING[method](server, handle)

        await lose(mount, carried_out, change)
        if method != "fsync":
            assert (stat.S_IMODE(node.mode), bytes(node.data)) == (0o600, b"he")
        assert mount.remote.count(method) == 2
        assert server.waiting == 0
        server.close(handle)


@both
async def test_an_open_of_what_exists_is_repeated(carried_out: bool) -> None:
    tree = new_tree()
    tree.write_file(b"f", b"hello")
    async with mounted(tree) as mount:
        number = await mount.number(b"f")
        reply = await lose(mount, carried_out, mount.fs.open, number, os.O_RDONLY)
        assert await mount.fs.read(reply.fh, 0, 10) == b"hello"
        assert mount.remote.open_handles == ["f"]
        await mount.close(reply.fh)


@both
async def test_a_truncation_is_repeated(carried_out: bool) -> None:
    tree = new_tree()
    node = tree.write_file(b"f", b"hello")
    async with mounted(tree) as mount:
        number = await mount.number(b"f")
        change = AttributeChange(size=2)
        entry = await lose(mount, carried_out, mount.fs.setattr, number, change)
        assert (entry.attributes.size, bytes(node.data)) == (2, b"he")


@pytest.mark.parametrize("heard", [0, 1, 3, 5])
async def test_writes_are_repeated_in_order_after_a_prefix_was_carried_out(heard: int) -> None:
    async with mounted(new_tree(), capabilities=SMALL) as mount:
        fh = await mount.create(b"f")
        mount.remote.hold()
        for at in range(5):
            if at == heard:
                mount.remote.go_deaf()
            await mount.fs.write(fh, at * 5, b"%d" % at * 10)  # each is half overwritten
        async with trio.open_nursery() as nursery:
            flush = start(nursery, mount.fs.flush, fh)
            await settle()
            mount.remote.drop_connection()
            assert not flush.done
            await mount.reconnect()
        flush.result()
        expected = b"".join(b"%d" % at * 5 for at in range(4)) + b"4" * 10
        assert mount.tree.read_file(b"f") == expected
        await mount.close(fh)


@both
async def test_a_sync_waits_until_its_data_is_acknowledged_on_the_session_that_is_up(
    carried_out: bool,
) -> None:
    async with mounted(new_tree(), capabilities=SMALL) as mount, trio.open_nursery() as nursery:
        fh = await mount.create(b"f")
        begin_loss(mount, carried_out)
        await mount.fs.write(fh, 0, b"0123456789")
        sync = start(nursery, mount.fs.fsync, fh)
        await settle()
        mount.remote.drop_connection()
        mount.remote.calls.clear()
        mount.remote.connect_anew()
        await mount.fs.server.resume(mount.remote)
        mount.remote.hold()
        await settle()
        assert not sync.done
        methods = [call[0] for call in mount.remote.calls]
        assert methods.index("write") < methods.index("fsync")
        mount.remote.calls.clear()
        mount.remote.release()
        await settle()
        sync.result()
        # Once more, now that the data is acknowledged: nothing says on which session it went.
        assert [call[0] for call in mount.remote.calls] == ["fsync"]
        await mount.close(fh)


async def test_a_server_that_takes_less_than_before_is_asked_for_less() -> None:
    tree = new_tree()
    tree.write_file(b"f", bytes(range(250)))
    async with mounted(tree, capabilities=OPENSSH._replace(max_read=128)) as mount:
        fh = await mount.open(b"f")

        def shrink() -> None:
            mount.remote.capabilities = OPENSSH._replace(max_read=50)

        data = await lose(mount, False, mount.fs.read, fh, 0, 250, meanwhile=shrink)
        assert data == bytes(range(250))
        await mount.close(fh)


# --- what is made: looked at --------------------------------------------------------------------


async def create(mount: Mount, flags: int = os.O_RDWR | os.O_EXCL, mode: int = 0o640) -> bytes:
    """The name that is created."""
    reply, entry = await mount.fs.create(ROOT_NUMBER, b"new", mode, flags)
    mount.counted(entry)
    await mount.close(reply.fh)
    return b"new"


async def mkdir(mount: Mount) -> bytes:
    mount.counted(await mount.fs.mkdir(ROOT_NUMBER, b"new", 0o750))
    return b"new"


async def symlink(mount: Mount) -> bytes:
    mount.counted(await mount.fs.symlink(ROOT_NUMBER, b"new", b"target"))
    return b"new"


async def link(mount: Mount) -> bytes:
    number = mount.fs.tree.inodes.number_for(mount.fs.tree.inodes.root, b"old")
    mount.counted(await mount.fs.link(number, ROOT_NUMBER, b"new"))
    return b"new"


async def mknod(mount: Mount) -> bytes:
    mount.counted(await mount.fs.mknod(ROOT_NUMBER, b"new", stat.S_IFREG | 0o640))
    return b"new"


MAKING = {"create": create, "mkdir": mkdir, "symlink": symlink, "link": link, "mknod": mknod}
making = pytest.mark.parametrize("make", MAKING.values(), ids=MAKING)


def with_old() -> MemoryTree:
    tree = new_tree()
    tree.write_file(b"old", b"content")
    return tree


async def seen_absent(mount: Mount) -> None:
    """As the kernel does before it makes anything; it knows the rest, too."""
    await mount.entry(b"old")
    assert await mount.find(b"new") is None
    mount.remote.calls.clear()


@both
@making
async def test_what_was_made_is_made_once(
    make: Callable[[Mount], Awaitable[bytes]], carried_out: bool
) -> None:
    async with mounted(with_old()) as mount:
        await seen_absent(mount)
        await lose(mount, carried_out, make, mount)
        assert sorted(mount.tree.root.children) == [b"new", b"old"]
        assert mount.fs.server.waiting == 0
        assert await mount.find(b"new") is not None


@making
async def test_strictly_nothing_is_guessed(make: Callable[[Mount], Awaitable[bytes]]) -> None:
    async with mounted(with_old(), config=VfsConfig(strict_ambiguity=True)) as mount:
        await seen_absent(mount)
        assert await failing(lose(mount, True, make, mount)) == errno.EIO


@making
async def test_strictly_what_was_not_made_is_made(
    make: Callable[[Mount], Awaitable[bytes]],
) -> None:
    async with mounted(with_old(), config=VfsConfig(strict_ambiguity=True)) as mount:
        await seen_absent(mount)
        await lose(mount, False, make, mount)
        assert mount.tree.exists(b"new")


@making
async def test_a_name_that_was_not_known_to_be_absent_is_taken(
    make: Callable[[Mount], Awaitable[bytes]],
) -> None:
    async with mounted(with_old()) as mount:
        await mount.entry(b"old")
        assert await failing(lose(mount, True, make, mount)) == errno.EEXIST


def replaced(tree: MemoryTree, kind: int, **changes: int) -> Callable[[], None]:
    """Another client removes what was made and makes something of its own."""

    def replace() -> None:
        del tree.root.children[b"new"]
        if stat.S_ISDIR(kind):
            node: Node = tree.mkdir(b"new", 0o750)
        elif stat.S_ISLNK(kind):
            node = tree.symlink(b"target", b"new")
        else:
            node = tree.create(b"new", 0o640)
        for name, value in changes.items():
            setattr(node, name, value)

    return replace


OTHERS: dict[str, tuple[Callable[[Mount], Awaitable[bytes]], int, dict[str, Any]]] = {
    "a directory's owner": (mkdir, stat.S_IFDIR, {"uid": 7}),
    "a directory's mode": (mkdir, stat.S_IFDIR, {"mode": stat.S_IFDIR | 0o777}),
    "a directory's time": (mkdir, stat.S_IFDIR, {"mtime": new_tree().now - 60}),
    "a file for a directory": (mkdir, stat.S_IFREG, {}),
    "a file's owner": (create, stat.S_IFREG, {"uid": 7}),
    "a file's mode": (create, stat.S_IFREG, {"mode": stat.S_IFREG | 0o644}),
    "a file's size": (create, stat.S_IFREG, {"data": bytearray(b"x")}),
    "a file's time": (create, stat.S_IFREG, {"mtime": new_tree().now - 60}),
    "a file's time to come": (create, stat.S_IFREG, {"mtime": new_tree().now + 600}),
    "a directory for a file": (create, stat.S_IFDIR, {}),
    "a symlink's target": (symlink, stat.S_IFLNK, {"target": b"elsewhere"}),
    "a symlink's owner": (symlink, stat.S_IFLNK, {"uid": 7}),
    "a symlink's time": (symlink, stat.S_IFLNK, {"mtime": new_tree().now - 60}),
    "a file for a symlink": (symlink, stat.S_IFREG, {}),
    "a file for a link": (link, stat.S_IFREG, {}),
    "a directory for a link": (link, stat.S_IFDIR, {}),
}


@pytest.mark.parametrize(("make", "kind", "changes"), OTHERS.values(), ids=OTHERS)
async def test_what_another_made_is_not_ours(
    make: Callable[[Mount], Awaitable[bytes]], kind: int, changes: dict[str, Any]
) -> None:
    tree = with_old()
    async with mounted(tree) as mount:
        await mount.mkdir(b"known")  # so owner and clock are
        await seen_absent(mount)
        other = replaced(tree, kind, **changes)
        assert await failing(lose(mount, True, make, mount, meanwhile=other)) == errno.EEXIST


@pytest.mark.parametrize(
    ("made", "kind"),
    [(mkdir, stat.S_IFDIR), (create, stat.S_IFREG), (symlink, stat.S_IFLNK)],
)
async def test_what_the_same_user_made_in_the_same_way_passes_for_ours(
    made: Callable[[Mount], Awaitable[bytes]], kind: int
) -> None:
    """The counterpart of the above: it is the difference that tells, not the replacing."""
    tree = with_old()
    async with mounted(tree) as mount:
        await mount.mkdir(b"known")
        await seen_absent(mount)
        await lose(mount, True, made, mount, meanwhile=replaced(tree, kind))


async def test_a_reply_that_came_late_does_not_set_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was made before a long loss is old when its reply comes; the server's clock is not."""
    tree = with_old()
    monkeypatch.setattr("pysshfs.vfs.repeat.time.time", lambda: tree.now)

    def long_after() -> None:
        tree.now += 1000

    async with mounted(tree) as mount:
        await seen_absent(mount)
        await lose(mount, True, mkdir, mount, meanwhile=long_after)
        await mount.fs.rmdir(ROOT_NUMBER, b"new")
        await lose(mount, True, mkdir, mount)


async def test_what_another_made_before_ours_was_sent_is_not_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waited for a session for a long time, and that was lost, too."""
    tree = with_old()
    monkeypatch.setattr("pysshfs.vfs.repeat.time.time", lambda: tree.now)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        await mount.mkdir(b"known")
        await seen_absent(mount)
        mount.remote.drop_connection()
        task = start(nursery, mkdir, mount)
        await settle()
        tree.now += 500
        tree.mkdir(b"new", 0o750)
        tree.now += 500
        mount.remote.connect_anew()
        mount.remote.go_deaf()
        await mount.fs.server.resume(mount.remote)
        mount.remote.drop_connection()
        await mount.reconnect()
        await settle()
        assert isinstance(task.error, FilesystemError)
        assert task.error.errno == errno.EEXIST


# --- create without O_EXCL ----------------------------------------------------------------------


@both
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_TRUNC])
async def test_a_create_that_is_not_exclusive_simply_succeeds(
    carried_out: bool, known: bool, strict: bool, flags: int
) -> None:
    config = VfsConfig(strict_ambiguity=strict)
    async with mounted(with_old(), config=config) as mount:
        if known:
            await seen_absent(mount)
        await lose(mount, carried_out, create, mount, flags)
        assert mount.tree.read_file(b"new") == b""


@both
async def test_a_create_of_what_exists_opens_it(carried_out: bool) -> None:
    tree = with_old()
    tree.write_file(b"new", b"content")
    async with mounted(tree) as mount:
        await lose(mount, carried_out, create, mount, os.O_RDWR)
        assert tree.read_file(b"new") == b"content"
