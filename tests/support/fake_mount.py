"""`Mount`: a `Filesystem` on a fake server, driven as the kernel drives it.

It counts the lookups that it is given and forgets them at the end, by numbers, so that a test can
say "open this path" without walking there. What is at hand is answered at once, as on a real mount
(`AskedAtHand`).
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from pysshfs.errors import FilesystemError
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER, Entry, Filesystem, OpenReply, WriteReply
from tests.support.fake_remote import OPENSSH, FakeRemote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pysshfs.remotefs import AttributeChange, Capabilities
    from tests.support.memory_tree import MemoryTree


class AskedAtHand(Filesystem):
    """Each operation that can be asked for what is at hand is, first, as `_quick.c` does; a request
    that it declines must have changed nothing."""

    async def lookup(self, parent: int, name: bytes) -> Entry | None:
        with suppress(FilesystemError):
            entry = self.at_hand.lookup(parent, name)
            if entry is not None:
                return entry if entry.number else None
        return await super().lookup(parent, name)

    async def getattr(self, number: int) -> Entry:
        with suppress(FilesystemError):
            entry = self.at_hand.getattr(number)
            if entry is not None:
                return entry
        return await super().getattr(number)

    async def setattr(self, number: int, change: AttributeChange, fh: int | None = None) -> Entry:
        if change.size is None:
            with suppress(FilesystemError):
                entry = self.at_hand.setattr(number, change, fh)
                if entry is not None:
                    return entry
        return await super().setattr(number, change, fh)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[OpenReply, Entry]:
        with suppress(FilesystemError):
            made = self.at_hand.create(parent, name, mode, flags)
            if made is not None:
                return made
        return await super().create(parent, name, mode, flags)

    async def unlink(self, parent: int, name: bytes) -> None:
        with suppress(FilesystemError):
            if self.at_hand.unlink(parent, name):
                return
        await super().unlink(parent, name)

    async def open(self, number: int, flags: int) -> OpenReply:
        with suppress(FilesystemError):
            opened = self.at_hand.open(number, flags)
            if opened is not None:
                return opened
        return await super().open(number, flags)

    async def read(self, fh: int, offset: int, length: int) -> bytes:
        data = self.at_hand.read(fh, offset, length)
        return await super().read(fh, offset, length) if data is None else data

    async def write(
        self, fh: int, offset: int, data: bytes, from_page_cache: bool = False
    ) -> WriteReply:
        written = self.at_hand.write(fh, offset, data)
        if written is not None:
            return WriteReply(written, offset_moved=False)
        return await super().write(fh, offset, data, from_page_cache)

    async def flush(self, fh: int) -> None:
        if not self.at_hand.flush(fh):
            await super().flush(fh)

    async def opendir(self, number: int) -> int:
        with suppress(FilesystemError):
            fh = self.at_hand.opendir(number)
            if fh is not None:
                return fh
        return await super().opendir(number)

    async def release(self, fh: int) -> None:
        if not self.at_hand.release(fh):
            await super().release(fh)


class Mount:
    """`fs` on `remote`; `tree` is what the server has. All paths are relative to the mount."""

    def __init__(self, fs: Filesystem, remote: FakeRemote) -> None:
        self.fs = fs
        self.remote = remote
        self.tree = remote.tree
        self.lookups: Counter[int] = Counter()

    # --- the connection -----------------------------------------------------------------------

    async def reconnect(self) -> None:
        """A new session after `remote.drop_connection`."""
        self.remote.connect_anew()
        await self.fs.server.resume(self.remote)

    # --- names ------------------------------------------------------------------------------

    async def find(self, path: bytes) -> Entry | None:
        """Walk to a path, one lookup for each component, as the kernel with cold caches does."""
        entry: Entry | None = None
        number = ROOT_NUMBER
        for name in path.split(b"/"):
            entry = await self.fs.lookup(number, name)
            if entry is None:
                return None
            number = entry.number
            self.lookups[number] += 1
        return entry

    async def entry(self, path: bytes) -> Entry:
        found = await self.find(path)
        assert found is not None, f"{path!r} is not there"
        return found

    async def number(self, path: bytes) -> int:
        return (await self.entry(path)).number if path else ROOT_NUMBER

    async def parent(self, path: bytes) -> tuple[int, bytes]:
        directory, _, name = path.rpartition(b"/")
        return await self.number(directory), name

    async def size(self, path: bytes) -> int:
        return (await self.entry(path)).attributes.size

    async def mkdir(self, path: bytes, mode: int = 0o755) -> Entry:
        return self.counted(await self.fs.mkdir(*await self.parent(path), mode))

    async def unlink(self, path: bytes) -> None:
        await self.fs.unlink(*await self.parent(path))

    async def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        await self.fs.rename(*await self.parent(old), *await self.parent(new), flags)

    async def setattr(self, path: bytes, change: AttributeChange) -> Entry:
        return await self.fs.setattr(await self.number(path), change)

    def counted(self, entry: Entry) -> Entry:
        self.lookups[entry.number] += 1
        return entry

    def forget(self, number: int) -> None:
        """Give back every lookup of this number."""
        self.fs.forget([(number, self.lookups.pop(number, 0))])

    def forget_all(self) -> None:
        lookups, self.lookups = self.lookups, Counter()
        self.fs.forget(list(lookups.items()))

    # --- files ------------------------------------------------------------------------------

    async def open(self, path: bytes, flags: int = os.O_RDONLY) -> int:
        return (await self.fs.open(await self.number(path), flags)).fh

    async def create(self, path: bytes, mode: int = 0o644, flags: int = os.O_RDWR) -> int:
        reply, entry = await self.fs.create(*await self.parent(path), mode, flags)
        self.counted(entry)
        return reply.fh

    async def close(self, fh: int) -> None:
        """The last close(2): flush, then release, which happens whatever flush says."""
        try:
            await self.fs.flush(fh)
        finally:
            await self.fs.release(fh)

    async def names(self, path: bytes = b"") -> list[bytes]:
        """A whole listing through one opendir, every name delivered with its attributes."""
        fh = await self.fs.opendir(await self.number(path))
        try:
            return await self.read_names(fh)
        finally:
            await self.fs.releasedir(fh)

    async def read_names(self, fh: int, offset: int = 0, most: int | None = None) -> list[bytes]:
        """Names from `offset` on, at most `most`, without the dots."""
        names: list[bytes] = []
        async with aclosing(self.fs.readdir(fh, offset)) as items:
            async for item in items:
                if item.name in (b".", b".."):
                    continue
                self.fs.delivered(fh, item)
                if item.entry is not None:
                    self.lookups[item.number] += 1
                names.append(item.name)
                if len(names) == most:
                    break
        return names


@asynccontextmanager
async def mounted(
    tree: MemoryTree | None = None,
    *,
    capabilities: Capabilities = OPENSSH,
    latency: float = 0.0,
    config: VfsConfig | None = None,
    is_system_file: Callable[[bytes], bool] | None = None,
) -> AsyncIterator[Mount]:
    """A mount for one test, which closes what it opens. That nothing is open on the server any
    more, and that the budgets are whole again, is asserted here."""
    async with FakeRemote.serve(tree, capabilities, latency) as remote:
        fs = AskedAtHand(
            remote, config or VfsConfig(), clock=trio.current_time, is_system_file=is_system_file
        )
        remote.on_lost = fs.server.lost
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.run)
            yield Mount(fs, remote)
            remote.release()
            fs.tree.files_ahead.clear()  # what nobody has come to
            fs.tree.directories_ahead.forget()
            await settle()
            await trio.sleep(10 * latency)  # files that are being opened on lanes are closed then
            assert remote.open_handles == []
            assert fs.tree.writebacks.unacknowledged == 0
            assert fs.tree.budget.read_ahead.held == 0
            nursery.cancel_scope.cancel()


class Task:
    """A call that runs beside the test: its outcome, once it has one."""

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.scope = trio.CancelScope()
        self.ended = trio.Event()

    async def run(self, call: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        with self.scope:
            try:
                self.value = await call(*arguments)
            except Exception as error:
                self.error = error
        self.done = True
        self.ended.set()

    def result(self) -> Any:
        assert self.done, "the call has not ended"
        if self.error is not None:
            raise self.error
        return self.value


def start(nursery: trio.Nursery, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Task:
    """Run a call beside the test; its exceptions stay in the `Task`."""
    task = Task()
    nursery.start_soon(task.run, call, *arguments)
    return task


async def settle() -> None:
    """Until every task waits for a reply, a time or the test."""
    await trio.testing.wait_all_tasks_blocked()
