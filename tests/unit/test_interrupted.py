"""Calls that are interrupted before they were sent, or that only ask, leave nothing; and what a
caller learns of itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import trio

from pysshfs.remotefs import AttributeChange
from pysshfs.vfs import caller
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.fake_mount import settle, start
from tests.support.fake_remote import OPENSSH
from tests.support.interrupts import CHANGES, changes, leftovers, prepared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.fake_mount import Mount

PLAIN = OPENSSH._replace(posix_rename=False)

# --- what was not sent --------------------------------------------------------------------------


@changes
async def test_what_was_not_sent_is_taken_back(change: str) -> None:
    call, _ = CHANGES[change]
    for capabilities in (OPENSSH, PLAIN):
        async with prepared(held=False, capabilities=capabilities) as it:
            mount = it.mount
            mount.remote.drop_connection()
            before = sorted(mount.tree.root.children)
            await it.interrupt(7, call, mount)
            assert leftovers(mount) == (0, 0)
            await mount.reconnect()
            await settle()
            assert mount.remote.calls == []
            assert sorted(mount.tree.root.children) == before
            assert it.kernel.entries == []


async def test_a_change_of_attributes_that_was_not_sent_is_taken_back() -> None:
    async with prepared(held=False) as it:
        mount = it.mount
        number = await mount.number(b"f")
        mount.remote.calls.clear()
        mount.remote.drop_connection()
        await it.interrupt(7, mount.fs.setattr, number, AttributeChange(mode=0o600))
        assert leftovers(mount) == (0, 0)
        await mount.reconnect()
        await settle()
        assert mount.remote.calls == []


async def test_what_was_found_not_to_have_happened_is_taken_back() -> None:
    """Between the look at it and the next time that it would be sent."""
    async with prepared(held=False, latency=1) as it:
        mount = it.mount
        fh = await mount.open(b"f")  # to be opened again meanwhile
        mount.remote.go_deaf()
        task = it.start(7, mount.fs.mkdir, ROOT_NUMBER, b"new", 0o755)
        await settle()
        mount.remote.drop_connection()
        resuming = start(it.nursery, mount.reconnect)
        await trio.sleep(1.5)
        task.scope.cancel()
        await trio.sleep(10)
        resuming.result()
        assert mount.remote.count("mkdir") == 1
        assert leftovers(mount) == (0, 0)
        await mount.close(fh)
        await trio.sleep(2)


async def test_a_rename_without_the_extension_is_taken_back_halfway() -> None:
    async with prepared(held=False, capabilities=PLAIN, latency=1) as it:
        mount = it.mount
        task = it.start(7, mount.fs.rename, ROOT_NUMBER, b"f", ROOT_NUMBER, b"g", 0)
        await trio.sleep(2.9)  # it was refused, and looked at
        mount.remote.go_deaf()
        await trio.sleep(1)
        assert mount.remote.count("rename") == 3  # one aside, and in its place
        mount.remote.drop_connection()
        await settle()
        assert not task.done
        task.scope.cancel()
        await settle()
        mount.tree.remove(b"g")
        await mount.reconnect()
        await trio.sleep(5)
        assert sorted(mount.tree.root.children) == [b"d", b"f"]


# --- what only asks -----------------------------------------------------------------------------

ASKS: dict[str, Callable[[Mount], Awaitable[Any]]] = {
    "getattr": lambda mount: mount.fs.getattr(
        mount.fs.tree.inodes.child(mount.fs.tree.inodes.root, b"f").number  # type: ignore[union-attr]  # it was looked up
    ),
    "lookup": lambda mount: mount.fs.lookup(ROOT_NUMBER, b"another"),
    "statfs": lambda mount: mount.fs.statfs(),
    "opendir": lambda mount: mount.fs.opendir(ROOT_NUMBER),
    "open": lambda mount: mount.open(b"f"),
}


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("ask", ASKS)
async def test_what_only_asks_leaves_nothing(ask: str, up: bool) -> None:
    async with prepared(held=False) as it:
        mount = it.mount
        mount.fs.tree.cache.clear()
        if up:
            mount.remote.hold()
        else:
            mount.remote.drop_connection()
        await it.interrupt(7, ASKS[ask], mount)
        if up:
            await it.answer()
        assert leftovers(mount) == (0, 0)
        if not up:
            await mount.reconnect()
            await settle()
            assert mount.remote.calls == []
        assert mount.remote.open_handles == []


async def test_one_of_two_who_ask_the_same_may_leave() -> None:
    async with prepared(held=False) as it:
        mount = it.mount
        mount.fs.tree.cache.clear()
        number = await mount.number(b"f")
        mount.fs.tree.cache.clear()
        mount.remote.drop_connection()
        first, second = (it.start(tid, mount.fs.getattr, number) for tid in (7, 8))
        await settle()
        first.scope.cancel()
        await settle()
        await mount.reconnect()
        await settle()
        assert second.result().attributes.size == 7
        assert mount.remote.count("lstat") == 2


# --- what a caller learns of itself -------------------------------------------------------------


async def test_a_caller_is_committed_once_what_it_changes_was_sent() -> None:
    async with prepared(held=False) as it:
        mount = it.mount
        number = await mount.number(b"f")
        fh = await mount.open(b"f", os.O_RDWR)

        async def committed(call: Callable[..., Awaitable[Any]], *arguments: Any) -> bool:
            asking = caller.Caller(7)
            caller.current.set(asking)
            await call(*arguments)
            return asking.committed

        mount.fs.tree.cache.clear()
        for asks in (
            (mount.fs.getattr, number),
            (mount.fs.lookup, ROOT_NUMBER, b"g"),
            (mount.fs.read, fh, 0, 10),
            (mount.fs.write, fh, 0, b"x"),
            (mount.fs.statfs,),
            (mount.names,),
        ):
            assert not await committed(*asks), asks
        for makes in (
            (mount.fs.flush, fh),
            (mount.fs.fsync, fh),
            (mount.fs.setattr, number, AttributeChange(mode=0o600)),
            (mount.fs.mkdir, ROOT_NUMBER, b"new", 0o755),
            (mount.fs.rename, ROOT_NUMBER, b"new", ROOT_NUMBER, b"newer", 0),
            (mount.fs.rmdir, ROOT_NUMBER, b"newer"),
            (mount.fs.unlink, ROOT_NUMBER, b"g"),
        ):
            assert await committed(*makes), makes
        await mount.close(fh)


async def test_a_caller_whose_call_waits_is_not_committed_yet() -> None:
    async with prepared(held=False) as it:
        mount = it.mount
        mount.remote.drop_connection()
        asking = caller.Caller(7)

        async def remove() -> None:
            caller.current.set(asking)
            await mount.fs.unlink(ROOT_NUMBER, b"f")

        task = start(it.nursery, remove)
        await settle()
        assert not asking.committed
        await mount.reconnect()
        assert asking.committed
        await settle()
        task.result()
