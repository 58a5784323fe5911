"""copy_file_range on the fake server: what is copied there, what is left to the kernel, and what
interrupts and lost connections do to it."""

from __future__ import annotations

import errno
import os
import random
from typing import Final, NamedTuple

import pytest
import trio

from pysshfs.errors import (
    FX_FAILURE,
    FX_PERMISSION_DENIED,
    ConnectionLostError,
    RemoteStatusError,
)
from pysshfs.vfs import copying
from tests.support.cuts import Kernel, both, failing, new_tree
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.fake_remote import COPIED_AT_ONCE, OPENSSH, ROOMY, FakeRemote

MIB: Final = 1 << 20
DATA: Final = random.Random(4).randbytes(3 * MIB + 5)
FORBIDDEN: Final = RemoteStatusError(FX_PERMISSION_DENIED)
FAILURE: Final = RemoteStatusError(FX_FAILURE)
OLD: Final = random.Random(5).randbytes(4 * MIB)


class Pair(NamedTuple):
    """Two open files."""

    source: int
    target: int


def lane(mount: Mount) -> FakeRemote:
    """The session for copies."""
    return mount.remote.extras[-1]


def copies(mount: Mount) -> int:
    """How often the server was asked to copy."""
    return sum(extra.count("copy_data") for extra in mount.remote.extras)


async def opened(mount: Mount, target: int = os.O_RDWR) -> Pair:
    """`a` has DATA, `b` is new unless it is there."""
    source = await mount.open(b"a")
    if mount.tree.exists(b"b"):
        return Pair(source, await mount.open(b"b", target))
    return Pair(source, await mount.create(b"b"))


async def close(mount: Mount, pair: Pair) -> None:
    await mount.close(pair.source)
    await mount.close(pair.target)


async def copy(
    mount: Mount, pair: Pair, offset: int = 0, target_offset: int = 0, length: int = len(DATA)
) -> int:
    return await mount.fs.copy_file_range(pair.source, offset, pair.target, target_offset, length)


async def test_a_file_is_copied_by_the_server() -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        pair = await opened(mount)
        assert await copy(mount, pair) == len(DATA)
        assert tree.read_file(b"b") == DATA
        assert mount.remote.count("read") == mount.remote.count("write") == 0
        assert await mount.size(b"b") == len(DATA)
        # What was opened for it serves the next copy, too, and is closed with the files.
        opens = lane(mount).count("open")
        assert await copy(mount, pair, 0, len(DATA), 1000) == 1000
        assert lane(mount).count("open") == opens == 2
        assert await mount.fs.read(pair.target, len(DATA), 2000) == DATA[:1000]
        await close(mount, pair)
        await settle()
        assert mount.remote.open_handles == []


async def test_a_copy_goes_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as long as the server took little time for the one before."""
    monkeypatch.setattr(copying, "_FIRST_CHUNK", MIB)
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        pair = await opened(mount)
        copied: list[int] = []
        while sum(copied) < len(DATA):
            copied.append(
                await copy(mount, pair, sum(copied), sum(copied), len(DATA) - sum(copied))
            )
            lane(mount).latency = 2.0
        assert copied == [MIB, 2 * MIB, 5]
        assert mount.fs._copying._chunk == MIB
        assert tree.read_file(b"b") == DATA
        lane(mount).latency = 0
        await close(mount, pair)


async def test_what_is_not_worth_it_is_left_to_the_kernel() -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        pair = await opened(mount)
        before = len(mount.remote.calls)
        assert await failing(copy(mount, pair, length=MIB - 1)) == errno.EOPNOTSUPP
        assert await failing(copy(mount, pair, offset=len(DATA))) == errno.EOPNOTSUPP
        assert len(mount.remote.calls) == before
        await close(mount, pair)


async def test_one_file_is_not_copied_to_itself() -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        fh = await mount.open(b"a", os.O_RDWR)
        pair = Pair(fh, fh)
        assert await failing(copy(mount, pair, 0, 0, 1)) == errno.EINVAL
        assert await failing(copy(mount, pair, 0, MIB, MIB + 1)) == errno.EINVAL
        assert await failing(copy(mount, pair, MIB, 0, MIB + 1)) == errno.EINVAL
        assert await failing(copy(mount, pair, 0, MIB, MIB)) == errno.EOPNOTSUPP
        await mount.close(fh)


async def test_a_server_without_it_is_not_asked() -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree, capabilities=OPENSSH._replace(copy_data=False)) as mount:
        pair = await opened(mount)
        assert await failing(copy(mount, pair)) == errno.EOPNOTSUPP
        assert mount.remote.count("open_extra") == 0
        await close(mount, pair)


async def test_a_server_that_gives_no_second_session_is_done_without() -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        pair = await opened(mount)
        mount.remote.latency = 60.0
        began = trio.current_time()
        assert await failing(copy(mount, pair)) == errno.EOPNOTSUPP
        assert trio.current_time() - began == 10
        mount.remote.latency, mount.remote.most_extras = 0, 0
        for _ in range(3):
            assert await failing(copy(mount, pair)) == errno.EOPNOTSUPP
        assert mount.remote.count("open_extra") == 2
        await close(mount, pair)


async def test_a_server_that_forbids_it_is_asked_once() -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        pair = await opened(mount)
        mount.remote.failures_of_extras["copy_data"].append(FORBIDDEN)
        for _ in range(3):
            assert await failing(copy(mount, pair)) == errno.EOPNOTSUPP
        assert copies(mount) == 1
        await close(mount, pair)


async def test_what_is_on_its_way_comes_first() -> None:
    """Of both files; and what was read ahead of the target is dropped."""
    tree = new_tree()
    tree.write_file(b"a", DATA)
    tree.write_file(b"b", OLD)
    async with mounted(tree) as mount:
        source = await mount.open(b"a", os.O_RDWR)
        pair = Pair(source, await mount.open(b"b", os.O_RDWR))
        assert await mount.fs.read(pair.target, 0, 4096) == OLD[:4096]
        await mount.fs.write(pair.source, 0, b"new in the source")
        await mount.fs.write(pair.target, len(OLD), b"new in the target")
        assert await copy(mount, pair, 0, 0, 2 * MIB) > MIB
        assert await mount.fs.read(pair.target, 0, 17) == b"new in the source"
        assert tree.read_file(b"b").endswith(b"new in the target")
        await close(mount, pair)


# --- what OK is worth -----------------------------------------------------------------------------


async def test_inside_a_file_the_last_piece_is_left_to_the_kernel() -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    tree.write_file(b"b", OLD)
    async with mounted(tree) as mount:
        pair = await opened(mount)
        count = await copy(mount, pair, 1, 3, 2 * MIB)
        assert count == 2 * MIB - COPIED_AT_ONCE
        assert tree.read_file(b"b")[: 3 + count] == OLD[:3] + DATA[1 : 1 + count]
        # A byte more, which was asked for as well, is copied to make sure of the others.
        assert tree.read_file(b"b")[4 + count :] == OLD[4 + count :]
        rest = 2 * MIB - count
        assert await failing(copy(mount, pair, 1 + count, 3 + count, rest)) == errno.EOPNOTSUPP
        await close(mount, pair)


@pytest.mark.parametrize("room", [MIB, len(DATA) - 1], ids=["middle", "last piece"])
async def test_a_disk_that_is_full(room: int) -> None:
    """In the last piece the server does not even say so: then the kernel writes, and finds it."""
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        kernel = Kernel(mount)
        pair = await opened(mount)
        mount.remote.room = room
        mount.remote.statistics = ROOMY._replace(blocks_available=0)
        expected = errno.ENOSPC if room == MIB else errno.EOPNOTSUPP
        assert await failing(copy(mount, pair)) == expected
        assert kernel.inodes == [await mount.number(b"b")]  # a part may have been copied
        await close(mount, pair)


async def test_a_failure_of_another_kind_is_left_to_the_kernel() -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        pair = await opened(mount)
        mount.remote.failures_of_extras["copy_data"].append(FAILURE)
        assert await failing(copy(mount, pair)) == errno.EOPNOTSUPP
        assert await copy(mount, pair) == len(DATA)
        await close(mount, pair)


@pytest.mark.parametrize("size", [2 * MIB, len(DATA) - 3])
async def test_a_source_that_was_cut_on_the_server(size: int) -> None:
    tree = new_tree()
    node = tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        pair = await opened(mount)
        tree.truncate(node, size)
        assert await failing(copy(mount, pair)) == errno.EOPNOTSUPP
        await close(mount, pair)


async def test_a_target_that_grew_on_the_server_proves_nothing() -> None:
    """The server does not report a full disk in the last piece, and the size does not show it."""
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        pair = await opened(mount)
        tree.append_file(b"b", OLD)
        assert await failing(copy(mount, pair)) == errno.EOPNOTSUPP
        await close(mount, pair)


# --- the same file? -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"a", b"b"])
async def test_another_file_of_the_same_name_is_not_touched(name: bytes) -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        pair = await opened(mount)
        tree.write_file(b"new", b"another")
        tree.rename(b"new", name)
        assert await failing(copy(mount, pair)) == errno.EOPNOTSUPP
        assert tree.read_file(name) == b"another"
        await close(mount, pair)


@pytest.mark.parametrize("name", [b"a", b"b"])
async def test_a_file_without_a_name_is_left_to_the_kernel(name: bytes) -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        pair = await opened(mount)
        await mount.unlink(name)
        assert await failing(copy(mount, pair)) == errno.EOPNOTSUPP
        await close(mount, pair)


async def test_a_new_file_that_may_only_be_read_is_opened_all_the_same() -> None:
    """cp makes the copy of a read-only file read-only from the beginning."""
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount:
        pair = Pair(await mount.open(b"a"), await mount.create(b"b", 0o444, os.O_WRONLY))
        mount.remote.refuse_unwritable = True
        assert await copy(mount, pair) == len(DATA)
        assert tree.find(b"b").mode & 0o777 == 0o444
        mount.remote.refuse_unwritable = False
        await close(mount, pair)


# --- interrupts -----------------------------------------------------------------------------------


async def test_nothing_overtakes_a_copy_that_was_interrupted() -> None:
    """It goes on at the server; what is written to the target, or cut off it, comes after."""
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        kernel = Kernel(mount)
        pair = await opened(mount)
        number = await mount.number(b"b")
        assert await copy(mount, pair, 0, 0, MIB) == MIB
        lane(mount).hold()
        task = start(nursery, copy, mount, pair, MIB, MIB, MIB)
        await settle()
        assert copies(mount) == 2
        task.scope.cancel()
        await task.ended.wait()
        writing = start(nursery, mount.fs.write, pair.target, 0, b"written")
        truncating = start(nursery, mount.fs.open, number, os.O_WRONLY | os.O_TRUNC)
        again = start(nursery, copy, mount, pair, 0, 0, MIB)
        await settle()
        assert not (writing.done or truncating.done or again.done)
        assert mount.remote.count("write") == 0 and kernel.inodes == []
        lane(mount).release()
        await settle()
        assert kernel.inodes[0] == number  # its pages, which it believes to be as before
        assert writing.result() and truncating.done and again.done
        await mount.fs.release(truncating.result().fh)
        await close(mount, pair)


async def test_an_interrupted_copy_outlives_the_last_close() -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        pair = await opened(mount)
        number = await mount.number(b"b")
        assert await copy(mount, pair, 0, 0, MIB) == MIB
        lane(mount).hold()
        task = start(nursery, copy, mount, pair, MIB, MIB, MIB)
        await settle()
        task.scope.cancel()
        await task.ended.wait()
        await close(mount, pair)
        truncating = start(nursery, mount.fs.open, number, os.O_WRONLY | os.O_TRUNC)
        await settle()
        assert not truncating.done
        lane(mount).release()
        await settle()
        await mount.fs.release(truncating.result().fh)
        assert tree.read_file(b"b") == b""


@pytest.mark.parametrize("requests", range(6))
async def test_an_interrupt_at_any_moment_leaves_nothing_open(requests: int) -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree, latency=1.0) as mount, trio.open_nursery() as nursery:
        pair = await opened(mount)
        task = start(nursery, copy, mount, pair)
        await trio.sleep(requests + 0.5)
        task.scope.cancel()
        await task.ended.wait()
        await trio.sleep(10)
        await close(mount, pair)
        await trio.sleep(10)
        assert mount.remote.open_handles == []


def as_reported(size: int, *, is_there: bool) -> int:
    """How much of the target is certain after a copy: what was there before, by a copy whose reply
    was lost, is copied over but for the last piece."""
    return size - size % COPIED_AT_ONCE if is_there else size


def begin_loss(session: FakeRemote, carried_out: bool) -> None:
    """From now on nothing is answered; what is sent is carried out, or not."""
    if carried_out:
        session.hold()
    else:
        session.go_deaf()


# --- lost connections -----------------------------------------------------------------------------


@both
async def test_a_copy_is_repeated_when_its_reply_was_lost(carried_out: bool) -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        pair = await opened(mount)
        assert await copy(mount, pair, 0, 0, MIB) == MIB
        begin_loss(lane(mount), carried_out)
        task = start(nursery, copy, mount, pair, MIB, MIB, len(DATA) - MIB)
        await settle()
        assert not task.done
        mount.remote.drop_connection()
        await settle()
        assert mount.fs.server.in_doubt  # the old session may still copy
        await mount.reconnect()
        await task.ended.wait()
        assert MIB + task.result() == as_reported(len(DATA), is_there=carried_out)
        assert tree.read_file(b"b") == DATA
        assert copies(mount) == 4  # one of them on the lane that is gone
        assert mount.fs.server.waiting == 0
        await close(mount, pair)


@both
async def test_a_lane_that_is_lost_alone_is_made_anew(carried_out: bool) -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        pair = await opened(mount)
        assert await copy(mount, pair, 0, 0, MIB) == MIB
        begin_loss(lane(mount), carried_out)
        task = start(nursery, copy, mount, pair, MIB, MIB, len(DATA) - MIB)
        await settle()
        began = trio.current_time()
        lane(mount).drop_connection()
        await task.ended.wait()
        assert trio.current_time() - began == 0.25  # what it still does comes to its end
        assert MIB + task.result() == as_reported(len(DATA), is_there=carried_out)
        assert tree.read_file(b"b") == DATA
        assert mount.fs.server.is_up and len(mount.remote.extras) == 2
        await close(mount, pair)


async def test_a_lane_that_is_lost_each_time_is_done_without() -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        pair = await opened(mount)
        task = start(nursery, copy, mount, pair)
        for _ in range(4):
            await settle()
            assert await copy(mount, pair, 0, 0, MIB) >= 0
            lane(mount).drop_connection()
        await task.ended.wait()
        assert await failing(copy(mount, pair)) == errno.EOPNOTSUPP
        await close(mount, pair)


@both
@pytest.mark.parametrize("requests", range(8))
async def test_a_connection_that_is_lost_at_any_moment(carried_out: bool, requests: int) -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree, latency=1.0) as mount, trio.open_nursery() as nursery:
        pair = await opened(mount)
        task = start(nursery, copy, mount, pair)
        await trio.sleep(requests + 0.5)
        if not carried_out:
            for session in (mount.remote, *mount.remote.extras):
                session.go_deaf()
            await trio.sleep(1)
        mount.remote.drop_connection()
        await settle()
        await mount.reconnect()
        await task.ended.wait()
        assert task.result() in [as_reported(len(DATA), is_there=there) for there in (True, False)]
        assert tree.read_file(b"b") == DATA
        await close(mount, pair)
        await trio.sleep(10)
        assert mount.remote.open_handles == []


async def test_without_hope_of_a_connection_a_copy_fails() -> None:
    tree = new_tree()
    tree.write_file(b"a", DATA)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        pair = await opened(mount)
        mount.remote.hold()
        task = start(nursery, copy, mount, pair)
        await settle()
        mount.remote.drop_connection()
        mount.fs.server.given_up(ConnectionLostError("nobody is let in"))
        await task.ended.wait()
        assert isinstance(task.error, ConnectionLostError)
        await mount.reconnect()
        await close(mount, pair)
