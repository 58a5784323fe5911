"""Losing the connection of a `Mount`, at a moment of the test's choice, and finding it again.

What was carried out when a connection is lost is a prefix of what was sent: `lose` loses the
replies to what one call sent first, `Cuts.arm` those from a given request on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

from pysshfs.errors import ConnectionLostError, FilesystemError
from tests.support.fake_mount import Mount, settle, start
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# For each rule: the server did what it was asked to and its reply was lost, or it never heard.
both = pytest.mark.parametrize("carried_out", [True, False], ids=["done", "unheard"])


def new_tree() -> MemoryTree:
    """A server whose clock is right."""
    tree = MemoryTree()
    tree.now = int(time.time())
    return tree


class Kernel:
    """What the kernel was told to forget."""

    def __init__(self, mount: Mount) -> None:
        self.entries: list[bytes] = []
        self.inodes: list[int] = []
        mount.fs.tree.kernel = self

    def entry_changed(self, parent: int, name: bytes) -> None:
        self.entries.append(name)

    def inode_changed(self, number: int) -> None:
        self.inodes.append(number)


def begin_loss(mount: Mount, carried_out: bool) -> None:
    """From now on nothing is answered; what is sent is carried out, or not."""
    if carried_out:
        mount.remote.hold()
    else:
        mount.remote.go_deaf()


async def lose(
    mount: Mount,
    carried_out: bool,
    call: Callable[..., Awaitable[Any]],
    *arguments: Any,
    meanwhile: Callable[[], object] = lambda: None,
) -> Any:
    """The outcome of a call that loses the connection with its first requests. `meanwhile` is what
    others do on the server before the next session."""
    async with trio.open_nursery() as nursery:
        begin_loss(mount, carried_out)
        task = start(nursery, call, *arguments)
        await settle()
        assert not task.done
        mount.remote.drop_connection()
        meanwhile()
        await settle()
        assert not task.done
        await mount.reconnect()
    return task.result()


async def drop_and_reconnect(mount: Mount, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Lose a connection on which nothing is out."""
    mount.remote.drop_connection()
    meanwhile()
    await mount.reconnect()
    await settle()


async def failing(call: Awaitable[Any]) -> int:
    """The errno with which a call fails."""
    with pytest.raises(FilesystemError) as caught:
        await call
    return caught.value.errno


async def _first_of(*events: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)


class Cuts:
    """Has the connection break at requests that are counted beforehand, again and again."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._left = 0
        self._carried_out = True
        self._broken = trio.Event()
        self.count = 0  # how many there were
        self.after_each: Callable[[], None] = lambda: None
        mount.remote.on_request = self._requested

    def arm(self, requests: int, carried_out: bool) -> None:
        """Break at the request with this number from now; 0 takes it back."""
        self._left, self._carried_out = requests, carried_out

    @property
    def is_broken(self) -> bool:
        return self._broken.is_set()

    def forget(self) -> None:
        """The connection that was broken is gone."""
        self._broken = trio.Event()
        self.after_each()

    def _requested(self) -> None:
        if self._broken.is_set():
            self._mount.remote.go_deaf()
            return
        self._left -= 1
        if self._left == 0:
            self._broken.set()
            begin_loss(self._mount, self._carried_out)
            self._mount.remote.hold()

    async def recover(self) -> None:
        """Drop the connection, and connect anew until a session lasts."""
        async with trio.open_nursery() as nursery:
            while True:
                self.count += 1
                self._mount.remote.drop_connection()
                await settle()
                self.forget()
                task = start(nursery, self._mount.reconnect)
                await _first_of(task.ended, self._broken)
                await settle()
                if not self.is_broken:
                    task.result()
                    return
                assert task.error is None or isinstance(task.error, ConnectionLostError)

    async def run(self) -> None:
        """Recover from each break. Ends by cancellation."""
        while True:
            await self._broken.wait()
            await settle()
            await self.recover()
