"""`-o async_ops`: answered at once, carried out in order, failures reported once and where."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from pysshfs.errors import (
    FX_PERMISSION_DENIED,
    ConnectionLostError,
    FilesystemError,
    RemoteStatusError,
)
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.ahead import takes_nothing
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from pysshfs.vfs.renames import RENAME_NOREPLACE
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from pysshfs.vfs.filesystem import Entry

DENIED: Final = RemoteStatusError(FX_PERMISSION_DENIED, "no")
TIMES: Final = AttributeChange(atime=1_100_000_000, mtime=1_200_000_000)


class Told:
    """What the kernel was told to forget."""

    def __init__(self, mount: Mount) -> None:
        self.names: list[bytes] = []
        self.inodes: list[int] = []
        mount.fs.tree.kernel = self

    def entry_changed(self, parent: int, name: bytes) -> None:
        self.names.append(name)

    def inode_changed(self, number: int) -> None:
        self.inodes.append(number)


class Ready:
    """A mount whose directory `d` was made here, so that the server's ways are known."""

    def __init__(self, mount: Mount, number: int) -> None:
        self.mount = mount
        self.fs = mount.fs
        self.tree = mount.tree
        self.d = number

    async def at_once(self, call: Awaitable[Any]) -> Any:
        begun = trio.current_time()
        value = await call
        assert trio.current_time() == begun, "it waited for the server"
        return value

    async def create(self, name: bytes, data: bytes, mode: int = 0o644) -> tuple[int, Entry]:
        opened, entry = await self.at_once(
            self.fs.create(self.d, name, mode, os.O_WRONLY | os.O_EXCL)
        )
        if data:
            await self.at_once(self.fs.write(opened.fh, 0, data))
        return opened.fh, entry

    async def close(self, fh: int) -> None:
        await self.at_once(self.mount.close(fh))

    async def write_file(self, name: bytes, data: bytes) -> Entry:
        fh, entry = await self.create(name, data)
        await self.close(fh)
        return entry

    async def found(self, name: bytes) -> Entry:
        entry = await self.fs.lookup(self.d, name)
        assert entry is not None
        return self.mount.counted(entry)

    async def failed(self) -> list[int | None]:
        """The errnos that flush tells, until it tells none."""
        await self.fs.flush_all()
        found: list[int | None] = []
        while True:
            try:
                self.fs.raise_broken_promise()
            except FilesystemError as error:
                found.append(error.errno)
            else:
                return found


@asynccontextmanager
async def ready(umask: int = 0, latency: float = 1.0, **config: Any) -> AsyncIterator[Ready]:
    settings = VfsConfig(async_ops=True, **config)
    tree = MemoryTree(umask)
    with pytest.MonkeyPatch.context() as patch:
        # The server's clock goes as ours.
        patch.setattr("time.time", lambda: float(tree.now))
        async with mounted(tree, latency=latency, config=settings) as mount:
            await mount.fs.getattr(ROOT_NUMBER)
            made = mount.counted(await mount.fs.mkdir(ROOT_NUMBER, b"d", 0o755))
            yield Ready(mount, made.number)
            mount.remote.release()
            await mount.fs.flush_all()
            await trio.sleep(3)


async def test_a_tree_is_made_at_once_and_carried_out_in_order() -> None:
    async with ready(umask=0o077) as it:
        sub = (await it.at_once(it.fs.mkdir(it.d, b"sub", 0o755))).number
        opened, entry = await it.at_once(it.fs.create(sub, b"f", 0o600, os.O_WRONLY))
        assert await it.at_once(it.fs.lookup(sub, b"other")) is None
        assert await it.at_once(it.fs.lookup(sub, b"f")) is not None
        await it.at_once(it.fs.write(opened.fh, 0, b"data"))
        change = TIMES._replace(atime=None)
        told = (await it.at_once(it.fs.setattr(entry.number, change))).attributes
        assert (told.size, told.mtime) == (4, TIMES.mtime)
        assert (await it.at_once(it.fs.getattr(entry.number))).attributes == told
        await it.at_once(it.fs.setattr(entry.number, AttributeChange(uid=1000, gid=1000)))
        told = (
            await it.at_once(it.fs.setattr(entry.number, AttributeChange(mode=0o644)))
        ).attributes
        await it.close(opened.fh)
        link = await it.at_once(it.fs.symlink(sub, b"link", b"f"))
        assert await it.at_once(it.fs.readlink(link.number)) == b"f"
        assert await it.failed() == []
        node = it.tree.find(b"d/sub/f")
        assert (bytes(node.data), node.mode & 0o777) == (b"data", 0o644)
        assert told == (node.mode, 4, node.uid, node.gid, node.atime, node.mtime)
        assert it.tree.find(b"d/sub").mode & 0o777 == 0o755
        assert it.tree.find(b"d/sub/link").target == b"f"


async def test_attributes_that_were_foreseen_are_the_servers() -> None:
    async with ready(umask=0o022) as it:
        told = Told(it.mount)
        it.tree.now += 7
        fh, entry = await it.create(b"f", b"", 0o664)
        await it.close(fh)
        sub = await it.at_once(it.fs.mkdir(it.d, b"s", 0o775))
        await it.fs.flush_all()
        node = it.tree.find(b"d/f")
        assert entry.attributes == (node.mode, 0, node.uid, node.gid, node.atime, node.mtime)
        assert it.tree.find(b"d/s").mode == sub.attributes.mode
        assert told.inodes == []


async def test_a_special_bit_is_asked_for_and_waited_for() -> None:
    async with ready() as it:
        begun = trio.current_time()
        opened, entry = await it.fs.create(it.d, b"f", 0o4755, os.O_WRONLY)
        made = await it.fs.mkdir(it.d, b"s", 0o1777)
        assert trio.current_time() - begun == 2
        await it.mount.close(opened.fh)
        assert entry.attributes.mode == it.tree.find(b"d/f").mode
        assert made.attributes.mode == it.tree.find(b"d/s").mode
        assert stat.S_IMODE(entry.attributes.mode) == 0o4755


async def test_the_kernel_is_told_where_the_truth_differs() -> None:
    async with ready() as it:
        told = Told(it.mount)
        it.fs.tree.marks.uid = 77
        entry = await it.write_file(b"g", b"")
        assert entry.attributes.uid == 77
        await it.fs.flush_all()
        assert told.inodes == [entry.number]
        assert (await it.fs.getattr(entry.number)).attributes.uid == 1000


async def test_removing_a_tree_is_answered_at_once() -> None:
    async with ready() as it:
        sub = it.mount.counted(await it.fs.mkdir(it.d, b"sub", 0o755)).number
        opened, entry = await it.fs.create(sub, b"f", 0o644, os.O_WRONLY)
        it.mount.lookups[entry.number] += 1
        await it.mount.close(opened.fh)
        await it.fs.flush_all()
        await it.at_once(it.fs.unlink(sub, b"f"))
        assert await it.at_once(it.fs.lookup(sub, b"f")) is None
        await it.at_once(it.fs.rmdir(it.d, b"sub"))
        assert await it.failed() == []
        assert not it.tree.exists(b"d/sub")


async def test_a_directory_that_is_not_empty_is_refused_by_the_server() -> None:
    async with ready() as it:
        sub = await it.fs.mkdir(it.d, b"sub", 0o755)
        await it.fs.mkdir(sub.number, b"inner", 0o755)
        with pytest.raises(FilesystemError) as refused:
            await it.fs.rmdir(it.d, b"sub")
        assert refused.value.errno == errno.ENOTEMPTY
        assert await it.failed() == []


async def test_another_operation_on_the_same_name_waits() -> None:
    async with ready() as it:
        await it.write_file(b"f", b"data")
        begun = trio.current_time()
        await it.fs.unlink(it.d, b"f")
        assert trio.current_time() - begun == 1
        await it.fs.mkdir(it.d, b"f", 0o755)
        assert await it.failed() == []
        assert it.tree.find(b"d/f").is_directory


@pytest.mark.parametrize("is_lost", [False, True])
async def test_attributes_of_one_name_are_set_one_after_the_other(is_lost: bool) -> None:
    """As tar does with each directory at its end; a removal still waits for them."""
    async with ready() as it:
        sub = (await it.at_once(it.fs.mkdir(it.d, b"sub", 0o755))).number
        assert await it.failed() == []
        await it.at_once(it.fs.setattr(sub, TIMES))
        told = (await it.at_once(it.fs.setattr(sub, AttributeChange(mode=0o775)))).attributes
        assert (told.mode & 0o777, told.mtime) == (0o775, TIMES.mtime)
        if is_lost:
            it.mount.remote.drop_connection()
            await it.mount.reconnect()
        begun = trio.current_time()
        await it.fs.rmdir(it.d, b"sub")
        assert trio.current_time() - begun >= 1
        await it.fs.mkdir(it.d, b"sub", 0o755)
        methods = [call[0] for call in it.mount.remote.calls]
        first = methods.index("setstat")
        assert methods[first : methods.index("rmdir")].count("setstat") == (4 if is_lost else 2)
        assert await it.failed() == []


async def test_what_is_promised_is_in_no_hurry_until_somebody_waits() -> None:
    async with ready() as it:
        remote = it.mount.remote
        before = remote.unhurried_calls, remote.hurried
        sub = (await it.at_once(it.fs.mkdir(it.d, b"sub", 0o755))).number
        await it.at_once(it.fs.symlink(sub, b"link", b"f"))
        assert remote.unhurried_calls == before[0] + 4  # each with a look at it
        assert remote.hurried == before[1]
        await it.fs.rename(it.d, b"sub", it.d, b"other", 0)
        assert remote.hurried > before[1]


async def test_a_rename_waits_for_what_was_promised() -> None:
    async with ready() as it:
        await it.write_file(b"f", b"data")
        it.mount.remote.hold()
        async with trio.open_nursery() as nursery:
            renaming = start(nursery, it.fs.rename, it.d, b"f", ROOT_NUMBER, b"g", 0)
            await trio.sleep(5)
            assert not renaming.done and not it.mount.remote.count("posix_rename")
            it.mount.remote.release()
        await it.fs.flush_all()
        assert it.tree.find(b"g").data == b"data"


async def test_a_rename_is_answered_at_once() -> None:
    async with ready() as it:
        await it.write_file(b"f", b"new")
        await it.write_file(b"g", b"old")
        await it.fs.flush_all()
        await it.found(b"f")
        it.mount.remote.hold()
        await it.at_once(it.fs.rename(it.d, b"f", it.d, b"g", 0))
        entry = await it.at_once(it.fs.lookup(it.d, b"g"))
        assert it.mount.counted(entry).attributes.size == 3
        assert await it.at_once(it.fs.lookup(it.d, b"f")) is None
        it.mount.remote.release()
        await it.fs.flush_all()
        assert list(it.tree.find(b"d").children) == [b"g"]
        assert it.tree.find(b"d/g").data == b"new"


async def test_what_a_directory_holds_goes_with_it_at_once() -> None:
    async with ready() as it:
        sub = it.mount.counted(await it.fs.mkdir(it.d, b"sub", 0o755)).number
        await it.fs.mkdir(sub, b"below", 0o755)
        await it.fs.flush_all()
        it.mount.remote.hold()
        await it.at_once(it.fs.rename(it.d, b"sub", it.d, b"moved", RENAME_NOREPLACE))
        it.mount.remote.release()
        await it.fs.flush_all()
        it.mount.remote.hold()
        await it.at_once(it.fs.mkdir(sub, b"new", 0o755))
        async with trio.open_nursery() as nursery:
            again = start(nursery, it.fs.rename, it.d, b"moved", it.d, b"again", 0)
            await trio.sleep(5)
            assert not again.done, "what is promised below it would be looked for elsewhere"
            it.mount.remote.release()
        await it.fs.flush_all()
        assert sorted(it.tree.find(b"d/again").children) == [b"below", b"new"]


async def test_a_name_that_was_given_up_is_not_taken_before_the_server_has_moved_it() -> None:
    async with ready() as it:
        await it.write_file(b"f", b"old")
        await it.fs.flush_all()
        it.mount.remote.hold()
        await it.at_once(it.fs.rename(it.d, b"f", it.d, b"g", 0))
        async with trio.open_nursery() as nursery:
            making = start(nursery, it.fs.mkdir, it.d, b"f", 0o755)
            await trio.sleep(5)
            assert not making.done
            it.mount.remote.release()


async def test_a_name_that_is_going_to_be_free_is_not_taken_before_it_is() -> None:
    async with ready() as it:
        await it.write_file(b"f", b"new")
        await it.write_file(b"g", b"old")
        await it.fs.flush_all()
        it.mount.remote.hold()
        await it.at_once(it.fs.unlink(it.d, b"g"))
        async with trio.open_nursery() as nursery:
            renaming = start(nursery, it.fs.rename, it.d, b"f", it.d, b"g", 0)
            await trio.sleep(5)
            assert not renaming.done
            it.mount.remote.release()
        assert it.tree.find(b"d/g").data == b"new"


async def test_a_new_file_is_moved_behind_its_data() -> None:
    """As editors and rsync write. One round trip for the handle, one for the data; none for the
    rename, which follows both."""
    async with ready(latency=1.0) as it:
        begun = trio.current_time()
        await it.write_file(b"f.new", b"data")
        await it.fs.rename(it.d, b"f.new", it.d, b"f", 0)
        assert trio.current_time() - begun == 2
        await it.fs.flush_all()
        assert it.tree.find(b"d/f").data == b"data"


async def test_what_is_moved_twice_is_known_for_what_it_is() -> None:
    async with ready() as it:
        await it.write_file(b"f", b"data")
        await it.fs.flush_all()
        await it.found(b"f")
        await it.at_once(it.fs.rename(it.d, b"f", it.d, b"g", 0))
        await it.fs.flush_all()
        it.mount.remote.go_deaf()
        await it.at_once(it.fs.rename(it.d, b"g", it.d, b"h", 0))
        it.mount.remote.drop_connection()
        it.tree.write_file(b"d/g", b"of another client")
        await it.mount.reconnect()
        assert await it.failed() == [errno.EIO]
        assert list(it.tree.find(b"d").children) == [b"g"]


async def test_what_is_open_moves_when_the_server_has_said_so() -> None:
    """After a lost connection it is opened again by its path."""
    async with ready() as it:
        sub = it.mount.counted(await it.fs.mkdir(it.d, b"sub", 0o755)).number
        opened, _ = await it.fs.create(sub, b"f", 0o644, os.O_WRONLY | os.O_EXCL)
        await it.fs.flush_all()
        it.mount.remote.hold()
        async with trio.open_nursery() as nursery:
            renaming = start(nursery, it.fs.rename, it.d, b"sub", it.d, b"moved", 0)
            await trio.sleep(5)
            assert not renaming.done
            it.mount.remote.release()
        await it.close(opened.fh)


async def test_names_that_are_going_to_be_made_are_not_looked_up() -> None:
    """But the first, of a directory in which nothing was made for a while."""
    async with ready(latency=0.1) as it:
        await it.write_file(b"f", b"data")
        await it.fs.flush_all()
        await trio.sleep(5)
        for asked, name in [(1, b"one"), (0, b"two"), (0, b"three")]:
            before = it.mount.remote.count("lstat")
            assert await it.fs.lookup(it.d, name) is None
            assert it.mount.remote.count("lstat") == before + asked
            await it.at_once(it.fs.mkdir(it.d, name, 0o755))
            await it.fs.flush_all()


async def test_a_link_is_made_at_once() -> None:
    async with ready() as it:
        entry = await it.write_file(b"f", b"data")
        await it.fs.flush_all()
        it.mount.remote.hold()
        made = it.mount.counted(await it.at_once(it.fs.link(entry.number, it.d, b"g")))
        assert made.attributes.size == 4
        async with trio.open_nursery() as nursery:
            removing = start(nursery, it.fs.unlink, it.d, b"f")
            await trio.sleep(5)
            assert not removing.done, "the second name is told by the first"
            it.mount.remote.release()
        await it.fs.flush_all()
        assert list(it.tree.find(b"d").children) == [b"g"]
        assert it.tree.find(b"d/g").data == b"data"


@pytest.mark.parametrize("carried_out", [False, True])
async def test_moves_and_links_outlive_the_connection(carried_out: bool) -> None:
    async with ready() as it:
        for name in (b"f", b"g", b"h"):
            entry = await it.write_file(name, name)
        sub = it.mount.counted(await it.fs.mkdir(it.d, b"sub", 0o755)).number
        await it.fs.flush_all()
        it.mount.remote.hold()
        if not carried_out:
            it.mount.remote.go_deaf()
        await it.at_once(it.fs.rename(it.d, b"f", it.d, b"g", 0))
        await it.at_once(it.fs.rename(it.d, b"sub", it.d, b"moved", 0))
        await it.at_once(it.fs.mkdir(sub, b"below", 0o755))
        await it.at_once(it.fs.link(entry.number, sub, b"linked"))
        it.mount.remote.drop_connection()
        await it.mount.reconnect()
        assert await it.failed() == []
        assert sorted(it.tree.find(b"d").children) == [b"g", b"h", b"moved"]
        assert sorted(it.tree.find(b"d/moved").children) == [b"below", b"linked"]
        assert it.tree.find(b"d/g").data == b"f"
        assert it.tree.find(b"d/moved/linked") is it.tree.find(b"d/h")


@pytest.mark.parametrize("call", ["rename", "replace", "link"])
async def test_a_refused_move_or_link_is_told_and_taken_back(call: str) -> None:
    async with ready() as it:
        entry = await it.write_file(b"f", b"new")
        await it.write_file(b"g", b"old")
        await it.fs.flush_all()
        told = Told(it.mount)
        it.mount.remote.fail_next("link" if call == "link" else "posix_rename", DENIED)
        match call:
            case "rename":
                await it.at_once(it.fs.rename(it.d, b"f", it.d, b"x", 0))
            case "replace":
                await it.at_once(it.fs.rename(it.d, b"f", it.d, b"g", 0))
            case _:
                it.mount.counted(await it.at_once(it.fs.link(entry.number, it.d, b"x")))
        assert await it.failed() == [errno.EACCES]
        assert told.names
        assert await it.fs.lookup(it.d, b"x") is None
        found = await it.found(b"f")
        assert found.number == entry.number
        opened = await it.fs.open(found.number, os.O_RDONLY)
        assert await it.fs.read(opened.fh, 0, 10) == b"new"
        await it.close(opened.fh)
        assert (await it.found(b"g")).attributes.size == 3


async def test_what_is_read_was_written() -> None:
    async with ready() as it:
        entry = await it.write_file(b"f", b"data")
        reading = await it.fs.open(entry.number, os.O_RDONLY)
        assert await it.fs.read(reading.fh, 0, 10) == b"data"
        await it.mount.close(reading.fh)


async def test_a_secret_is_one_before_the_call_returns() -> None:
    """A mode that takes permissions away, and an owner, are waited for."""
    async with ready() as it:
        fh, entry = await it.create(b"f", b"", 0o644)
        begun = trio.current_time()
        await it.fs.setattr(entry.number, AttributeChange(mode=0o600))
        assert trio.current_time() - begun >= 1
        assert it.tree.find(b"d/f").mode & 0o777 == 0o600
        it.mount.remote.fail_next("fsetstat", DENIED)
        with pytest.raises(FilesystemError):
            await it.fs.setattr(entry.number, AttributeChange(uid=1, gid=1))
        await it.close(fh)
        assert await it.failed() == []


# --- failures ---------------------------------------------------------------------------------


async def test_a_refused_create_is_reported_where_it_can_be() -> None:
    async with ready() as it:
        told = Told(it.mount)
        it.mount.remote.fail_next("open", DENIED)
        fh, entry = await it.create(b"f", b"data")
        await it.fs.write(fh, 4, b"more")
        with pytest.raises(FilesystemError) as failed:
            await it.fs.fsync(fh)
        assert failed.value.errno == errno.EACCES
        await it.close(fh)  # it was reported to this file
        assert told.names == [b"f"]
        assert entry.number in told.inodes
        directory = await it.fs.opendir(it.d)
        with pytest.raises(FilesystemError) as failed:
            await it.fs.fsyncdir(directory)
        assert failed.value.errno == errno.EACCES
        await it.fs.fsyncdir(directory)
        await it.fs.releasedir(directory)
        assert await it.failed() == []
        assert await it.fs.lookup(it.d, b"f") is None


async def test_what_was_written_to_a_file_that_could_not_be_made_is_saved() -> None:
    lost: list[tuple[bytes, int, bytes]] = []
    async with ready() as it:
        it.fs.tree.writebacks.on_undelivered = lambda inode, record, _error: lost.append(
            (inode.path(), record.offset, bytes(record.data))
        )
        it.mount.remote.fail_next("open", DENIED)
        await it.write_file(b"f", b"data")
        assert await it.failed() == [errno.EACCES]
        assert lost == [(b"d/f", 0, b"data")]


@pytest.mark.parametrize("call", ["mkdir", "symlink", "unlink", "rmdir", "setattr"])
async def test_a_refusal_is_told_to_the_next_flush_and_the_truth_is_seen(call: str) -> None:
    async with ready() as it:
        await it.write_file(b"file", b"data")
        sub = await it.fs.mkdir(it.d, b"sub", 0o755)
        await it.fs.flush_all()
        told = Told(it.mount)
        method = {"unlink": "remove", "setattr": "setstat"}.get(call, call)
        it.mount.remote.fail_next(method, DENIED)
        match call:
            case "mkdir":
                await it.at_once(it.fs.mkdir(it.d, b"x", 0o755))
            case "symlink":
                await it.at_once(it.fs.symlink(it.d, b"x", b"target"))
            case "unlink":
                await it.at_once(it.fs.unlink(it.d, b"file"))
            case "rmdir":
                await it.at_once(it.fs.rmdir(it.d, b"sub"))
            case _:
                await it.at_once(it.fs.setattr(sub.number, TIMES))
        assert await it.failed() == [errno.EACCES]
        assert told.names or told.inodes == [sub.number]
        assert (await it.fs.lookup(it.d, b"x")) is None
        assert (await it.fs.lookup(it.d, b"file")) is not None
        found = await it.fs.lookup(it.d, b"sub")
        assert found is not None and found.attributes.mtime == it.tree.find(b"d/sub").mtime
        it.fs.forget([(found.number, 2)])


async def test_what_is_gone_already_is_removed() -> None:
    async with ready() as it:
        await it.write_file(b"f", b"")
        await it.fs.flush_all()
        it.tree.remove(b"d/f")
        await it.at_once(it.fs.unlink(it.d, b"f"))
        assert await it.failed() == []


async def test_a_name_that_another_client_took_is_not_ours() -> None:
    async with ready() as it:
        it.tree.write_file(b"d/f", b"theirs").mode = stat.S_IFREG | 0o600
        it.tree.mkdir(b"d/g", 0o700)
        with contextlib.suppress(FilesystemError):
            await it.fs.mkdir(it.d, b"g", 0o755)
        await it.write_file(b"f", b"ours")
        assert await it.failed() != []
        assert it.tree.find(b"d/f").data == b"theirs"
        assert it.tree.find(b"d/f").mode & 0o777 == 0o600
        assert it.tree.find(b"d/g").mode & 0o777 == 0o700
        assert await it.mount.size(b"d/f") == 6


async def test_data_that_is_refused_after_its_close_is_told_to_flush() -> None:
    async with ready() as it:
        it.mount.remote.fail_next("write", DENIED)
        await it.write_file(b"f", b"data")
        assert await it.failed() == [errno.EIO]


# --- bounds and interrupts --------------------------------------------------------------------


async def test_who_promises_too_much_waits_and_can_be_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pysshfs.vfs.promises._MOST", 6)
    async with ready() as it:
        for number in range(3):  # two requests each
            await it.at_once(it.fs.mkdir(it.d, b"%d" % number, 0o755))
        requests = len(it.mount.remote.calls)
        with trio.move_on_after(0.5) as scope:
            await it.fs.mkdir(it.d, b"x", 0o755)
        assert scope.cancelled_caught
        assert len(it.mount.remote.calls) == requests
        await it.fs.mkdir(it.d, b"y", 0o755)
        assert await it.failed() == []
        assert sorted(it.tree.find(b"d").children) == [b"0", b"1", b"2", b"y"]


async def test_a_second_name_in_a_directory_that_was_not_listed_has_it_listed() -> None:
    async with ready() as it:
        it.tree.mkdir(b"old", 0o755)
        it.tree.write_file(b"old/there", b"")
        old = await it.mount.number(b"old")
        await it.fs.mkdir(old, b"a", 0o755)
        await it.fs.mkdir(old, b"b", 0o755)
        await it.at_once(it.fs.mkdir(old, b"c", 0o755))
        assert await it.failed() == []
        assert sorted(it.tree.find(b"old").children) == [b"a", b"b", b"c", b"there"]


# --- lost connections -------------------------------------------------------------------------


@pytest.mark.parametrize("carried_out", [False, True])
async def test_promises_outlive_the_connection(carried_out: bool) -> None:
    async with ready(umask=0o022) as it:
        await it.write_file(b"old", b"")
        await it.fs.flush_all()
        it.mount.remote.hold()
        if not carried_out:
            it.mount.remote.go_deaf()
        sub = (await it.fs.mkdir(it.d, b"sub", 0o755)).number
        opened, entry = await it.fs.create(sub, b"f", 0o664, os.O_WRONLY)
        await it.fs.write(opened.fh, 0, b"data")
        await it.fs.setattr(entry.number, TIMES)
        await it.mount.close(opened.fh)
        await it.fs.symlink(sub, b"link", b"f")
        await it.fs.unlink(it.d, b"old")
        it.mount.remote.drop_connection()
        await it.fs.mkdir(it.d, b"later", 0o755)
        await it.mount.reconnect()
        assert await it.failed() == []
        node = it.tree.find(b"d/sub/f")
        assert (bytes(node.data), node.mtime) == (b"data", TIMES.mtime)
        assert node.mode & 0o777 == 0o664
        assert it.tree.find(b"d/sub/link").target == b"f"
        assert sorted(it.tree.find(b"d").children) == [b"later", b"sub"]


async def test_many_promises_are_settled_together() -> None:
    async with ready() as it:
        it.mount.remote.hold()
        for number in range(20):
            await it.write_file(b"%d" % number, b"data")
        it.mount.remote.drop_connection()
        it.mount.remote.connect_anew()
        begun = trio.current_time()
        await it.fs.server.resume(it.mount.remote)
        assert trio.current_time() - begun == 2  # a look, and opening what was made
        assert await it.failed() == []
        assert len(it.tree.find(b"d").children) == 20


async def test_a_connection_that_is_lost_while_the_handle_is_new() -> None:
    """The OPEN was answered, the WRITE behind it was not."""
    async with ready() as it:
        it.mount.remote.hold()
        fh, _ = await it.create(b"f", b"data")
        it.mount.remote.deliver_now()
        it.mount.remote.go_deaf()
        it.mount.remote.drop_connection()
        await it.close(fh)
        await it.mount.reconnect()
        assert await it.failed() == []
        assert it.tree.find(b"d/f").data == b"data"


async def test_without_hope_nothing_waits_for_ever() -> None:
    async with ready() as it:
        it.mount.remote.hold()
        await it.write_file(b"f", b"data")
        async with trio.open_nursery() as nursery:
            flushing = start(nursery, it.fs.flush_all)
            await settle()
            it.mount.remote.drop_connection()
            it.fs.server.given_up(ConnectionLostError("no hope"))
            await settle()
            assert isinstance(flushing.error, ConnectionLostError)
            with pytest.raises(ConnectionLostError):
                await it.fs.mkdir(it.d, b"x", 0o755)
        await it.mount.reconnect()  # it came after all
        assert await it.failed() == []
        assert it.tree.find(b"d/f").data == b"data"


def test_modes_that_take_nothing_away() -> None:
    assert takes_nothing(stat.S_IFREG | 0o600, 0o644)
    assert takes_nothing(stat.S_IFREG | 0o600, None)
    assert not takes_nothing(stat.S_IFREG | 0o644, 0o600)
    assert not takes_nothing(stat.S_IFREG | 0o755, 0o4755)
