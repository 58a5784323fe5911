"""Programs at work on a connection that breaks all the time, against a plain model.

Each seed is one run of a few workers, every one in a directory of its own; a cut comes after a
random number of requests, of which the last was carried out or not, also while the one before is
being recovered from. All operations must succeed, and the server must hold what the model holds.
"""

from __future__ import annotations

import errno
import os
import random
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest
import trio

from pysshfs.errors import FilesystemError
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs import caller
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.renames import RENAME_NOREPLACE
from tests.support.cuts import Cuts, new_tree
from tests.support.fake_mount import Mount, mounted
from tests.support.fake_remote import OPENSSH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pysshfs.remotefs import Capabilities
    from tests.support.memory_tree import MemoryTree, Node

T = TypeVar("T")
SMALL = OPENSSH._replace(max_write=16, max_read=64)
_NAMES: Final = [b"a", b"b", b"c", b"d"]
_DIRECTORY: Final = "directory"


class Worker:
    """One program: what it does is right if `model` (name to content) comes true."""

    def __init__(self, mount: Mount, place: bytes, chance: random.Random, *, hurried: bool) -> None:
        self.model: dict[bytes, bytearray | bytes | str] = {}
        self._mount = mount
        self._place = place
        self._chance = chance
        self._hurried = hurried
        self._open: dict[int, tuple[bytearray, bool]] = {}  # content, whether it appends

    def _path(self, name: bytes) -> bytes:
        return self._place + b"/" + name

    async def work(self, tid: int, steps: int) -> None:
        caller.current.set(caller.Caller(tid))
        for _ in range(steps):
            name = self._chance.choice(_NAMES)
            step = self._chance.choice(
                [
                    self.create, self.create, self.write, self.write, self.write, self.read,
                    self.rename, self.rename, self.remove, self.truncate, self.look, self.list,
                    self.link, self.sync, self.close,
                ]
            )  # fmt: skip
            await step(name)
        while self._open:
            await self.close(b"")

    async def _persist(
        self,
        call: Callable[..., Awaitable[T]],
        *arguments: Any,
        needs: bytes | None = None,
        makes: bytes | None = None,
    ) -> T | None:
        """Make a call again and again for as long as it is interrupted, looking at its names first
        as the kernel does. What was interrupted may have happened all the same: None when it did,
        and nobody knew that it was this thread's."""
        interrupted = False
        while True:
            patience = self._chance.choice([0.005, 0.015, 0.5, 1000]) if self._hurried else 1e6
            with trio.move_on_after(patience):
                try:
                    return await call(*arguments)
                except FilesystemError as error:
                    if not interrupted or error.errno not in (errno.ENOENT, errno.EEXIST):
                        raise
                    return None
            interrupted = True
            if needs is not None and await self._mount.find(needs) is None:
                return None
            if makes is not None and needs is None and await self._mount.find(makes) is not None:
                return None

    async def create(self, name: bytes) -> None:
        mount, path = self._mount, self._path(name)
        if name in self.model:
            content = self.model[name]
            if not isinstance(content, bytearray):
                return
            flags = os.O_RDWR | self._chance.choice([0, os.O_TRUNC, os.O_APPEND])
            fh = await mount.open(path, flags)
            if flags & os.O_TRUNC:
                content.clear()
        else:
            assert await mount.find(path) is None
            kind = self._chance.randrange(4)
            if kind == 0:
                await self._persist(mount.mkdir, path, makes=path)
                self.model[name] = _DIRECTORY
                return
            if kind == 1:
                parent, last = await mount.parent(path)
                await self._persist(mount.fs.symlink, parent, last, b"target", makes=path)
                self.model[name] = b"target"
                return
            flags = self._chance.choice([os.O_RDWR | os.O_EXCL, os.O_RDWR | os.O_APPEND])
            made = await self._persist(mount.create, path, 0o644, flags, makes=path)
            fh = made or await mount.open(path, flags & ~os.O_EXCL)
            self.model[name] = content = bytearray()
        self._open[fh] = content, bool(flags & os.O_APPEND)

    def _any_open(self) -> int | None:
        return self._chance.choice(list(self._open)) if self._open else None

    def _is_named(self, content: bytearray) -> bool:
        return any(known is content for known in self.model.values())

    async def write(self, _: bytes) -> None:
        fh = self._any_open()
        if fh is None:
            return
        content, appends = self._open[fh]
        data = self._chance.randbytes(self._chance.randrange(1, 40))
        at = len(content) if appends else self._chance.randrange(len(content) + 1)
        await self._persist(self._mount.fs.write, fh, at, data)
        content[at : at + len(data)] = data

    async def read(self, _: bytes) -> None:
        fh = self._any_open()
        if fh is not None:
            content, _appends = self._open[fh]
            at = self._chance.randrange(len(content) + 1)
            data = await self._persist(self._mount.fs.read, fh, at, 30)
            assert data == bytes(content[at : at + 30])

    async def sync(self, _: bytes) -> None:
        fh = self._any_open()
        if fh is not None:
            await self._persist(self._mount.fs.fsync, fh)

    async def close(self, _: bytes) -> None:
        fh = self._any_open()
        if fh is not None:
            del self._open[fh]
            if self._chance.randrange(2):
                await self._mount.close(fh)
            else:
                await self._mount.fs.release(fh)

    async def _let_go(self, name: bytes) -> None:
        """A file without a name would not outlive the connection, which is not what is tried."""
        content = self.model.get(name)
        for fh in [fh for fh, (known, _) in self._open.items() if known is content]:
            del self._open[fh]
            await self._mount.close(fh)

    async def rename(self, name: bytes) -> None:
        new = self._chance.choice(_NAMES)
        if name not in self.model or name == new:
            return
        source, target = self.model[name], self.model.get(new)
        if target is not None and _DIRECTORY in (source, target):
            replaces = self._mount.remote.capabilities.posix_rename
            if source != target or not replaces:
                return
        flags = self._chance.choice([0, RENAME_NOREPLACE]) if target is None else 0
        await self._let_go(new)
        await self._mount.entry(self._path(name))
        assert (await self._mount.find(self._path(new)) is None) is (target is None)
        old_path, new_path = self._path(name), self._path(new)
        await self._persist(
            self._mount.rename, old_path, new_path, flags, needs=old_path, makes=new_path
        )
        self.model[new] = self.model.pop(name)

    async def remove(self, name: bytes) -> None:
        mount = self._mount
        if name in self.model:
            await self._let_go(name)
            parent, last = await mount.parent(self._path(name))
            await mount.entry(self._path(name))
            content = self.model.pop(name)
            remove = mount.fs.rmdir if content == _DIRECTORY else mount.fs.unlink
            await self._persist(remove, parent, last, needs=self._path(name))

    async def truncate(self, name: bytes) -> None:
        content = self.model.get(name)
        if isinstance(content, bytearray):
            size = self._chance.randrange(60)
            change = AttributeChange(size=size)
            await self._persist(self._mount.setattr, self._path(name), change)
            del content[size:]
            content.extend(bytes(size - len(content)))

    async def look(self, name: bytes) -> None:
        content = self.model.get(name)
        entry = await self._mount.find(self._path(name))
        assert (entry is None) is (content is None)
        if entry is not None and content != _DIRECTORY:
            assert content is not None
            assert entry.attributes.size == len(content)

    async def list(self, _: bytes) -> None:
        assert sorted(await self._mount.names(self._place)) == sorted(self.model)

    async def link(self, name: bytes) -> None:
        new = self._chance.choice(_NAMES)
        content = self.model.get(name)
        if new in self.model or not isinstance(content, bytearray):
            return
        await self._let_go(name)  # one file under two names would be two here
        mount = self._mount
        number = await mount.number(self._path(name))
        assert await mount.find(self._path(new)) is None
        parent, last = await mount.parent(self._path(new))
        await self._persist(mount.fs.link, number, parent, last, makes=self._path(new))
        await mount.unlink(self._path(name))
        self.model[new] = self.model.pop(name)


def found(node: Node) -> bytes | str:
    if node.is_directory:
        return _DIRECTORY
    return node.target if node.is_symlink else bytes(node.data)


async def one_run(
    seed: int,
    capabilities: Capabilities,
    tree: MemoryTree,
    *,
    hurried: bool,
    async_ops: bool = False,
) -> None:
    chance = random.Random(seed)
    config = VfsConfig(
        write_buffer=chance.choice([50, 10_000]),
        stat_timeout=chance.choice([0.0, 20.0]),
        negative_timeout=chance.choice([0.0, 1.0]),
        async_ops=async_ops,
    )
    async with mounted(tree, capabilities=capabilities, config=config, latency=0.01) as mount:
        mount.remote.batch = 2
        workers = [Worker(mount, b"place%d" % at, chance, hurried=hurried) for at in range(3)]
        for worker in workers:
            await mount.mkdir(worker._place)
        cuts = Cuts(mount)
        cuts.after_each = lambda: cuts.arm(chance.choice([4, 15, 50, 150]), chance.random() < 0.5)
        cuts.arm(chance.randrange(1, 30), carried_out=chance.random() < 0.5)
        async with trio.open_nursery() as background:
            background.start_soon(cuts.run)
            async with trio.open_nursery() as nursery:
                for tid, worker in enumerate(workers, 1):
                    nursery.start_soon(worker.work, tid, 60)
            cuts.after_each = lambda: cuts.arm(0, True)
            cuts.after_each()
            await trio.sleep(10)  # whatever is broken is recovered from
            await mount.fs.flush_all()
            background.cancel_scope.cancel()
        for worker in workers:
            node = tree.find(worker._place)
            there = {name: found(child) for name, child in node.children.items()}
            assert there == {
                name: content if isinstance(content, str) else bytes(content)
                for name, content in worker.model.items()
            }
        assert cuts.count
        assert mount.fs.server.waiting == 0
        assert mount.fs.statistics()["open_files"] == 0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("extension", [True, False])
@pytest.mark.parametrize("hurried", [True, False])
async def test_programs_at_work(seed: int, extension: bool, hurried: bool) -> None:
    """`hurried`: each call is interrupted now and then, and made again."""
    capabilities = SMALL._replace(posix_rename=extension)
    await one_run(seed, capabilities, new_tree(), hurried=hurried)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("hurried", [True, False])
async def test_programs_that_are_told_at_once(seed: int, hurried: bool) -> None:
    await one_run(seed, SMALL, new_tree(), hurried=hurried, async_ops=True)
