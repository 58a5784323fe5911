"""Calls of threads that are interrupted, on a `Mount`."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from pysshfs.vfs import caller
from pysshfs.vfs.filesystem import ROOT_NUMBER
from pysshfs.vfs.renames import RENAME_NOREPLACE
from tests.support.cuts import Kernel, new_tree
from tests.support.fake_mount import Mount, Task, mounted, settle, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

EXCLUSIVE = os.O_RDWR | os.O_EXCL


async def as_thread(tid: int, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    caller.current.set(caller.Caller(tid))
    return await call(*arguments)


def leftovers(mount: Mount) -> tuple[int, int]:
    return mount.fs.server.waiting, len(mount.fs.server.orphans)


class Interrupted:
    """A mount on which one call was interrupted; what is left of it goes on, unanswered."""

    def __init__(self, mount: Mount, nursery: trio.Nursery) -> None:
        self.mount = mount
        self.kernel = Kernel(mount)
        self.nursery = nursery

    def start(self, tid: int, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Task:
        return start(self.nursery, as_thread, tid, call, *arguments)

    async def interrupt(
        self, tid: int, call: Callable[..., Awaitable[Any]], *arguments: Any
    ) -> None:
        task = self.start(tid, call, *arguments)
        await settle()
        assert not task.done
        task.scope.cancel()
        await settle()
        assert task.done

    async def answer(self) -> None:
        self.mount.remote.release()
        await settle()


@asynccontextmanager
async def prepared(held: bool = True, **options: Any) -> AsyncIterator[Interrupted]:
    """`d` is a directory, `f` and `g` are files; the kernel has seen them, and that no `new` is."""
    tree = new_tree()
    tree.mkdir(b"d")
    tree.write_file(b"f", b"content")
    tree.write_file(b"g", b"other")
    async with mounted(tree, **options) as mount, trio.open_nursery() as nursery:
        for name in (b"d", b"f", b"g"):
            await mount.entry(name)
        assert await mount.find(b"new") is None
        await settle()  # what these have listed is here
        mount.remote.calls.clear()
        if held:
            mount.remote.hold()
        yield Interrupted(mount, nursery)
        mount.remote.release()
        await settle()
        assert mount.fs.server.waiting == 0
        assert mount.fs.statistics()["open_files"] == 0


CHANGES: dict[str, tuple[Callable[[Mount], Awaitable[Any]], str]] = {
    "mkdir": (lambda mount: mount.fs.mkdir(ROOT_NUMBER, b"new", 0o755), "mkdir"),
    "symlink": (lambda mount: mount.fs.symlink(ROOT_NUMBER, b"new", b"f"), "symlink"),
    "unlink": (lambda mount: mount.fs.unlink(ROOT_NUMBER, b"f"), "remove"),
    "rmdir": (lambda mount: mount.fs.rmdir(ROOT_NUMBER, b"d"), "rmdir"),
    "rename": (
        lambda mount: mount.fs.rename(ROOT_NUMBER, b"f", ROOT_NUMBER, b"new", 0),
        "posix_rename",
    ),
    "rename, not replacing": (
        lambda mount: mount.fs.rename(ROOT_NUMBER, b"f", ROOT_NUMBER, b"new", RENAME_NOREPLACE),
        "rename",
    ),
    "link": (lambda mount: link(mount), "link"),
    "create": (lambda mount: create(mount), "open"),
}
changes = pytest.mark.parametrize("change", CHANGES)


async def link(mount: Mount) -> None:
    inodes = mount.fs.tree.inodes
    await mount.fs.link(inodes.number_for(inodes.root, b"f"), ROOT_NUMBER, b"new")


async def create(mount: Mount) -> None:
    reply, _ = await mount.fs.create(ROOT_NUMBER, b"new", 0o644, EXCLUSIVE)
    await mount.close(reply.fh)
