"""Calls whose caller was interrupted: taken back, or joined by the same thread's next try."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from pysshfs.errors import ConnectionLostError
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.cuts import both, failing
from tests.support.fake_mount import Task, settle, start
from tests.support.interrupts import CHANGES, EXCLUSIVE, changes, leftovers, prepared

# --- joined -------------------------------------------------------------------------------------


@changes
async def test_the_same_thread_making_the_same_call_is_joined_with_it(change: str) -> None:
    call, method = CHANGES[change]
    async with prepared() as it:
        await it.interrupt(7, call, it.mount)
        task = it.start(7, call, it.mount)
        await it.answer()
        task.result()
        assert it.mount.remote.count(method) == 1
        assert it.kernel.entries == []
        assert leftovers(it.mount) == (0, 0)


@changes
async def test_a_call_may_be_interrupted_and_joined_many_times(change: str) -> None:
    call, method = CHANGES[change]
    async with prepared() as it:
        for _ in range(4):
            await it.interrupt(7, call, it.mount)
        task = it.start(7, call, it.mount)
        await it.answer()
        task.result()
        assert it.mount.remote.count(method) == 1
        assert leftovers(it.mount) == (0, 0)


@changes
@pytest.mark.parametrize("known", [True, False])
async def test_another_thread_is_not_joined(change: str, known: bool) -> None:
    """Nor a call that nobody is known to have made."""
    call, method = CHANGES[change]
    async with prepared() as it:
        await it.interrupt(7, call, it.mount)
        second = it.start(8, call, it.mount) if known else start(it.nursery, call, it.mount)
        await it.answer()
        assert it.mount.remote.count(method) == 2
        assert second.error is not None
        assert leftovers(it.mount) == (0, 0)


async def test_who_has_no_number_is_nobody() -> None:
    """The kernel says 0 for whom it cannot name here, as the threads of a container are."""
    async with prepared() as it:
        await it.interrupt(0, it.mount.fs.mkdir, ROOT_NUMBER, b"new", 0o755)
        task = it.start(0, it.mount.fs.mkdir, ROOT_NUMBER, b"new", 0o755)
        await it.answer()
        assert await failing(_ended(task)) == errno.EEXIST


@both
@changes
async def test_a_joined_call_outlives_the_connection(change: str, carried_out: bool) -> None:
    call, _ = CHANGES[change]
    async with prepared(held=carried_out) as it:
        if not carried_out:
            it.mount.remote.go_deaf()
        await it.interrupt(7, call, it.mount)
        it.mount.remote.drop_connection()
        task = it.start(7, call, it.mount)
        await settle()
        assert not task.done
        await it.mount.reconnect()
        await settle()
        task.result()
        assert leftovers(it.mount) == (0, 0)


async def test_a_joined_rename_moves_the_file_once() -> None:
    async with prepared(held=False) as it:
        mount = it.mount
        fh, number = await mount.open(b"f", os.O_RDWR), await mount.number(b"f")
        mount.remote.hold()
        rename = (mount.fs.rename, ROOT_NUMBER, b"f", ROOT_NUMBER, b"new", 0)
        await it.interrupt(7, *rename)
        task = it.start(7, *rename)
        await it.answer()
        task.result()
        assert await mount.number(b"new") == number
        assert mount.fs.tree.inodes.get(number).is_linked
        mount.remote.drop_connection()
        await mount.reconnect()  # it is opened again under its new name
        assert await mount.fs.read(fh, 0, 10) == b"content"
        await mount.close(fh)


async def test_a_call_repeated_right_after_the_answer_is_joined_all_the_same() -> None:
    """The thread was told, by its lookup, that it has not happened; then it happened."""
    async with prepared() as it:
        mount = it.mount
        number = mount.fs.tree.inodes.number_for(mount.fs.tree.inodes.root, b"f")
        rename = (mount.fs.rename, ROOT_NUMBER, b"f", ROOT_NUMBER, b"new", 0)
        await it.interrupt(7, *rename)
        looked = it.start(7, mount.find, b"f")
        await settle()
        assert looked.result().number == number
        await it.answer()
        task = it.start(7, *rename)
        await settle()
        task.result()
        assert mount.remote.count("posix_rename") == 1
        assert await mount.number(b"new") == number
        assert leftovers(mount) == (0, 0)


async def test_a_removal_repeated_after_the_answer_leaves_a_new_file_alone() -> None:
    async with prepared() as it:
        mount = it.mount
        unlink = (mount.fs.unlink, ROOT_NUMBER, b"f")
        await it.interrupt(7, *unlink)
        looked = it.start(7, mount.find, b"f")
        await settle()
        assert looked.result() is not None
        await it.answer()
        fh = await mount.create(b"f")
        number = await mount.number(b"f")
        task = it.start(7, *unlink)
        await settle()
        task.result()
        assert mount.fs.tree.inodes.get(number).is_linked
        await mount.close(fh)


async def test_an_exclusive_create_that_succeeded_late_is_opened_once_more() -> None:
    async with prepared() as it:
        mount = it.mount
        arguments = (ROOT_NUMBER, b"new", 0o644, EXCLUSIVE)
        await it.interrupt(7, mount.fs.create, *arguments)
        looked = it.start(7, mount.find, b"new")
        await settle()
        assert looked.result() is None
        await it.answer()
        assert mount.remote.open_handles == []
        task = it.start(7, mount.fs.create, *arguments)
        await settle()
        reply, entry = task.result()
        mount.counted(entry)
        await mount.fs.write(reply.fh, 0, b"data")
        await mount.close(reply.fh)
        assert mount.tree.read_file(b"new") == b"data"


async def test_what_a_thread_was_told_is_not_remembered_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("pysshfs.vfs.calls.time.monotonic", lambda: now)
    async with prepared() as it:
        mount = it.mount
        await it.interrupt(7, mount.fs.unlink, ROOT_NUMBER, b"f")
        it.start(7, mount.find, b"f")
        await it.answer()
        now += 60
        for tid in (8, 7):
            task = it.start(tid, mount.fs.unlink, ROOT_NUMBER, b"f")
            await settle()
            assert await failing(_ended(task)) == errno.ENOENT
            assert leftovers(mount) == (0, 0)


async def _ended(task: Task) -> Any:
    return task.result()


# --- not joined ---------------------------------------------------------------------------------


@changes
async def test_the_kernel_is_told_of_a_late_success(change: str) -> None:
    call, method = CHANGES[change]
    async with prepared() as it:
        await it.interrupt(7, call, it.mount)
        assert it.kernel.entries == []
        await it.answer()
        names = {"remove": [b"f"], "rmdir": [b"d"]}.get(method, [b"new"])
        assert it.kernel.entries == ([b"f", b"new"] if "rename" in change else names)
        assert it.mount.remote.open_handles == []
        assert leftovers(it.mount) == (0, 0)


@both
@changes
async def test_what_nobody_waits_for_is_not_done_on_the_next_session(
    change: str, carried_out: bool
) -> None:
    call, method = CHANGES[change]
    async with prepared(held=carried_out) as it:
        mount = it.mount
        if not carried_out:
            mount.remote.go_deaf()
        await it.interrupt(7, call, mount)
        before = sorted(mount.tree.root.children)
        mount.remote.drop_connection()
        count = mount.remote.count(method)
        await mount.reconnect()
        await settle()
        assert sorted(mount.tree.root.children) == before
        again = [call for call in mount.remote.calls if call[0] == method][count:]
        assert [call for call in again if "EXCLUSIVE" in call[-1] or method != "open"] == []
        assert bool(it.kernel.entries) == carried_out
        assert mount.remote.open_handles == []
        assert leftovers(mount) == (0, 0)


@both
async def test_the_kernel_is_told_of_what_may_have_happened(carried_out: bool) -> None:
    """A change that does no harm the second time is neither repeated nor looked at for nobody."""
    async with prepared(held=False) as it:
        mount = it.mount
        number = await mount.number(b"f")
        if carried_out:
            mount.remote.hold()
        else:
            mount.remote.go_deaf()
        await it.interrupt(7, mount.fs.setattr, number, AttributeChange(mode=0o600))
        mount.remote.drop_connection()
        assert it.kernel.inodes == [number]
        await mount.reconnect()
        await settle()
        assert mount.remote.count("setstat") == 1


async def test_the_kernel_is_told_of_what_cannot_be_decided() -> None:
    async with prepared() as it:
        mount = it.mount
        await it.interrupt(7, mount.fs.rename, ROOT_NUMBER, b"f", ROOT_NUMBER, b"new", 0)
        mount.remote.drop_connection()
        mount.tree.write_file(b"f", b"another")
        await mount.reconnect()
        assert it.kernel.entries == [b"f", b"new"]
        assert leftovers(mount) == (0, 0)


@changes
async def test_a_thread_that_was_interrupted_sees_the_state_before(change: str) -> None:
    call, method = CHANGES[change]
    names = {"remove": b"f", "rmdir": b"d"}.get(method, b"new")
    async with prepared() as it:
        await it.interrupt(7, call, it.mount)
        for name in {names, b"f"} if "rename" in change else {names}:
            task = it.start(7, it.mount.find, name)
            other = it.start(8, it.mount.find, name)
            await settle()
            assert (task.result() is None) is (name == b"new")
            # It asks the server, unless what it wants to know was known until this very call.
            assert other.done is (name == b"new" and "rename" in change)
            other.scope.cancel()


async def test_orphans_end_with_the_mount() -> None:
    async with prepared() as it:
        mount = it.mount
        await it.interrupt(7, mount.fs.unlink, ROOT_NUMBER, b"f")
        mount.remote.drop_connection()
        mount.fs.server.given_up(ConnectionLostError())
        assert leftovers(mount) == (0, 0)
        await mount.reconnect()
