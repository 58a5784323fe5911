"""Bulk data on sessions of its own: order across them, their loss, and when there are none."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Final

import pytest
import trio

from pysshfs.errors import FilesystemError, RemoteStatusError
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs import lanes
from pysshfs.vfs.config import VfsConfig
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.fake_remote import OPENSSH
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from tests.support.fake_remote import FakeRemote

_KIB: Final = 1024
_FAR: Final = 0.05  # seconds: a round trip in which several lanes are worth while
# A file with lanes in little: WRITEs of 1 KiB, of which a session takes four.
_SMALL: Final = OPENSSH._replace(max_write=_KIB, max_read=_KIB)
_SHORT: Final = VfsConfig(readahead=8 * _KIB)  # a reader that takes its time


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_READ_MUCH", 4 * _KIB)
    monkeypatch.setattr(lanes, "_READ_REST", 4 * _KIB)
    monkeypatch.setattr(lanes, "_WRITE_MUCH", 4 * _KIB)
    monkeypatch.setattr(lanes, "_WINDOW", 4 * _KIB)


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def sent(remote: FakeRemote, method: str) -> int:
    """Requests of this method on all sessions."""
    return sum(session.count(method) for session in (remote, *remote.extras))


async def spread_out(mount: Mount, path: bytes, size: int = 32 * _KIB) -> int:
    """A file of so many random bytes (seed 1), acknowledged, that is open on lanes for writing."""
    fh = await mount.create(path)
    await mount.fs.write(fh, 0, content(size, 1))
    await mount.fs.flush(fh)
    assert mount.remote.extras, "it is on no lane"
    return fh


# --- when ---------------------------------------------------------------------------------------


async def test_a_large_file_is_written_over_several_sessions_and_is_right() -> None:
    data = content(24 << 20)
    async with mounted(latency=_FAR) as mount:
        fh = await mount.create(b"large")
        for at in range(0, len(data), 1 << 20):
            await mount.fs.write(fh, at, data[at : at + (1 << 20)])
        await mount.close(fh)
        assert mount.tree.read_file(b"large") == data
        carrying = [extra for extra in mount.remote.extras if extra.count("write")]
        assert len(carrying) == 7
        assert mount.remote.count("write") < sent(mount.remote, "write") / 2
        assert all(extra.count("open") == 1 for extra in mount.remote.extras)


async def test_a_server_that_answers_at_once_gets_one_session_for_writing() -> None:
    async with mounted(latency=0.001) as mount:
        fh = await mount.create(b"large")
        await mount.fs.write(fh, 0, content(12 << 20))
        await mount.close(fh)
        assert mount.tree.read_file(b"large") == content(12 << 20)
        assert len(mount.remote.extras) == 1


async def test_no_session_has_much_more_than_its_window_on_its_way() -> None:
    async with mounted(latency=_FAR) as mount:
        fh = await mount.create(b"large")
        mount.remote.hold()
        await mount.fs.write(fh, 0, content(12 << 20))
        await settle()
        assert mount.remote.count("write") * OPENSSH.max_write <= lanes._WINDOW
        mount.remote.release()
        await mount.close(fh)
        assert mount.tree.read_file(b"large") == content(12 << 20)


async def test_small_files_open_nothing() -> None:
    async with mounted(latency=_FAR) as mount:
        for number in range(20):
            name = b"%d" % number
            fh = await mount.create(name)
            await mount.fs.write(fh, 0, content(1 << 20, number))
            await mount.close(fh)
            fh = await mount.open(name)
            assert await mount.fs.read(fh, 0, 1 << 20) == content(1 << 20, number)
            await mount.close(fh)
        assert mount.remote.extras == []


async def test_a_long_file_is_read_on_a_lane(small: None) -> None:
    data = content(256 * _KIB)
    tree = MemoryTree()
    tree.write_file(b"long", data)
    async with mounted(tree, capabilities=_SMALL, latency=_FAR, config=_SHORT) as mount:
        fh = await mount.open(b"long")
        for at in range(0, len(data), _KIB):
            assert await mount.fs.read(fh, at, _KIB) == data[at : at + _KIB]
        await mount.close(fh)
        (lane,) = mount.remote.extras
        assert lane.count("read") > mount.remote.count("read")


async def test_what_is_read_at_random_stays_where_it_is() -> None:
    tree = MemoryTree()
    tree.write_file(b"long", content(16 << 20))
    async with mounted(tree, latency=_FAR) as mount:
        fh = await mount.open(b"long")
        for at in random.Random(1).sample(range(0, 16 << 20, 4096), 50):
            await mount.fs.read(fh, at, 4096)
        await mount.close(fh)
        assert mount.remote.extras == []


async def test_a_lane_that_nobody_uses_is_closed_after_a_while(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        await mount.close(await spread_out(mount, b"one"))
        await trio.sleep(lanes._IDLE / 2)
        before = len(mount.remote.extras)
        await mount.close(await spread_out(mount, b"two"))
        assert len(mount.remote.extras) == before
        await trio.sleep(lanes._IDLE / 2 + 1)
        assert all(extra.is_up for extra in mount.remote.extras)
        await trio.sleep(lanes._IDLE)
        assert not any(extra.is_up for extra in mount.remote.extras)
        assert mount.fs.server.lanes.open_lanes == 0
        await mount.close(await spread_out(mount, b"three"))
        assert len(mount.remote.extras) > before


async def test_a_link_that_is_slow_is_not_flooded() -> None:
    """A link that carries 1 MB a second: a request in between waits for what is on its way."""
    async with mounted(latency=_FAR) as mount:
        fh = await mount.create(b"large")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry_slowly, mount, 1_000_000)
            await settle()
            writing = start(nursery, mount.fs.write, fh, 0, content(40 << 20))
            await trio.sleep(20)
            assert not writing.done or mount.fs.server.lanes._flow.in_flight
            assert mount.fs.server.lanes._flow.in_flight <= 1 << 20
            nursery.cancel_scope.cancel()
        for session in (mount.remote, *mount.remote.extras):
            session.go_on()
        await mount.close(fh)


async def _carry_slowly(mount: Mount, rate: int) -> None:
    while True:
        sessions = (mount.remote, *mount.remote.extras)
        for session in sessions:
            session.stall()
        await trio.sleep(OPENSSH.max_write / rate)
        max(sessions, key=lambda session: len(session._stalled)).go_on(1)


# --- when not -----------------------------------------------------------------------------------


async def test_a_server_that_gives_no_further_session_is_not_asked_again() -> None:
    async with mounted(latency=_FAR) as mount:
        mount.remote.most_extras = 0
        for name in (b"one", b"two"):
            fh = await mount.create(name)
            await mount.fs.write(fh, 0, content(8 << 20))
            await mount.close(fh)
            assert mount.tree.read_file(name) == content(8 << 20)
        assert mount.remote.count("open_extra") <= lanes._MOST_WRITING
        assert mount.remote.extras == []


async def test_those_that_it_gave_are_used() -> None:
    async with mounted(latency=_FAR) as mount:
        mount.remote.most_extras = 2
        fh = await mount.create(b"large")
        await mount.fs.write(fh, 0, content(12 << 20))
        await mount.close(fh)
        assert mount.tree.read_file(b"large") == content(12 << 20)
        assert len(mount.remote.extras) == 2


async def test_the_servers_limit_of_handles_is_kept_clear_of(small: None) -> None:
    async with mounted(capabilities=_SMALL._replace(max_handles=1), latency=_FAR) as mount:
        fh = await mount.create(b"file")
        await mount.fs.write(fh, 0, content(32 * _KIB))
        await mount.close(fh)
        assert sum(extra.count("open") for extra in mount.remote.extras) == 0
    async with mounted(capabilities=_SMALL._replace(max_handles=4), latency=_FAR) as mount:
        handles = [await mount.create(b"%d" % number) for number in range(5)]
        for fh in handles:
            await mount.fs.write(fh, 0, content(32 * _KIB, fh))
        for number, fh in enumerate(handles):
            await mount.close(fh)
            assert mount.tree.read_file(b"%d" % number) == content(32 * _KIB, fh)
        most = max(extra.most_handles for extra in mount.remote.extras)
        assert most == 2


async def test_another_file_of_the_same_name_is_not_written_to(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await mount.create(b"file")
        mount.tree.write_file(b"other", b"not ours")

        def replace() -> None:
            if mount.remote.extras and mount.tree.exists(b"other"):
                mount.tree.rename(b"other", b"file")

        node = mount.tree.find(b"file")
        mount.remote.on_request = replace
        await mount.fs.write(fh, 0, content(64 * _KIB))
        await mount.close(fh)
        assert mount.remote.extras and not mount.tree.exists(b"other")
        assert bytes(node.data) == content(64 * _KIB)
        assert mount.tree.read_file(b"file") == b"not ours"
        assert not any(extra.count("write") for extra in mount.remote.extras)


async def test_a_file_that_was_renamed_there_meanwhile_is_not_written_to(small: None) -> None:
    """By us, but unanswered when the lane opens the file, and of a size and age that fit."""
    tree = MemoryTree()
    ours = tree.write_file(b"ours", content(_KIB))
    other = tree.write_file(b"other", content(8 * _KIB))
    async with mounted(tree, capabilities=_SMALL, latency=_FAR) as mount:
        fh = await mount.open(b"ours", os.O_WRONLY)
        parent, _ = await mount.parent(b"ours")
        await mount.number(b"other")
        async with trio.open_nursery() as nursery:
            await mount.fs.write(fh, 0, content(32 * _KIB, 1))
            await trio.sleep(_FAR / 2)
            start(nursery, mount.fs.rename, parent, b"ours", parent, b"away", 0)
            await settle()
            start(nursery, mount.fs.rename, parent, b"other", parent, b"ours", 0)
        await mount.close(fh)
        assert any(extra.count("open") for extra in mount.remote.extras)
        assert bytes(other.data) == content(8 * _KIB)
        assert bytes(ours.data) == content(32 * _KIB, 1)


async def test_a_file_without_a_name_is_opened_nowhere_else(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await mount.create(b"file")
        node = mount.tree.find(b"file")
        await mount.unlink(b"file")
        await mount.fs.write(fh, 0, content(64 * _KIB))
        await mount.fs.flush(fh)
        assert bytes(node.data) == content(64 * _KIB)
        assert not any(extra.calls for extra in mount.remote.extras)
        await mount.fs.release(fh)


async def test_a_file_that_may_not_be_opened_again_stays_on_the_first(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        denied = RemoteStatusError(3)
        mount.remote.failures_of_extras["open"].extend([denied] * 100)
        fh = await mount.create(b"file")
        await mount.fs.write(fh, 0, content(64 * _KIB))
        await mount.close(fh)
        assert mount.tree.read_file(b"file") == content(64 * _KIB)
        assert not any(extra.count("write") for extra in mount.remote.extras)


# --- order --------------------------------------------------------------------------------------


async def test_what_overlaps_waits_for_what_is_on_its_way_elsewhere(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        for extra in mount.remote.extras:
            extra.stall()
        async with trio.open_nursery() as nursery:
            new = content(8 * _KIB, 2)
            await mount.fs.write(fh, 0, new)
            await mount.fs.write(fh, _KIB // 2, b"o" * 3 * _KIB)  # over several of them
            syncing = start(nursery, mount.fs.fsync, fh)
            await trio.sleep(1)
            assert not syncing.done
            # The later lanes first: the order in which they go on must not matter.
            for extra in reversed(mount.remote.extras):
                extra.go_on()
                await trio.sleep(1)
        assert mount.tree.read_file(b"file")[: 8 * _KIB] == (
            new[: _KIB // 2] + b"o" * 3 * _KIB + new[_KIB // 2 + 3 * _KIB :]
        )
        await mount.close(fh)


async def test_a_handle_without_lanes_waits_for_those_of_another(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        other = await mount.open(b"file", os.O_WRONLY)
        for extra in mount.remote.extras:
            extra.stall()
        await mount.fs.write(fh, 0, b"a" * 2 * _KIB)
        await mount.fs.write(other, 0, b"b" * 2 * _KIB)
        async with trio.open_nursery() as nursery:
            syncing = start(nursery, mount.fs.fsync, other)
            await trio.sleep(1)
            assert not syncing.done
            assert mount.tree.read_file(b"file") == content(32 * _KIB, 1)
            for extra in mount.remote.extras:
                extra.go_on()
        assert mount.tree.read_file(b"file")[: 2 * _KIB] == b"b" * 2 * _KIB
        await mount.close(fh)
        await mount.close(other)


async def test_reading_sees_what_was_written_on_any_lane(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        reader = await mount.open(b"file")
        for step in range(8):
            data = content(2 * _KIB, step)
            await mount.fs.write(fh, step * 1000, data)
            assert await mount.fs.read(reader, step * 1000, 2 * _KIB) == data
        await mount.close(fh)
        await mount.close(reader)


async def test_what_was_read_while_a_write_was_on_its_way_is_not_kept(small: None) -> None:
    tree = MemoryTree()
    async with mounted(tree, capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        reader = await mount.open(b"file")
        await mount.fs.write(fh, 0, b"1" * _KIB)
        async with trio.open_nursery() as nursery:
            reading = start(nursery, mount.fs.read, reader, 0, _KIB)
            await settle()
            for extra in mount.remote.extras:
                extra.stall()
            # After the reader has begun to wait for the data before, so not waited for by it.
            await mount.fs.write(fh, 4 * _KIB, b"2" * 4 * _KIB)
        assert reading.result() == b"1" * _KIB
        for extra in mount.remote.extras:
            extra.go_on()
        assert await mount.fs.read(reader, 4 * _KIB, 4 * _KIB) == b"2" * 4 * _KIB
        await mount.close(fh)
        await mount.close(reader)


async def test_an_append_goes_behind_what_was_acknowledged_while_the_size_was_asked_for(
    small: None,
) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        end = 32 * _KIB
        appending = await mount.open(b"file", os.O_WRONLY | os.O_APPEND)
        for extra in mount.remote.extras:
            extra.stall()
        await mount.fs.write(fh, end, b"w" * 2 * _KIB)
        async with trio.open_nursery() as nursery:
            start(nursery, mount.fs.write, appending, 0, b"appended")
            await settle()  # the server has answered, but the answer is still on its way
            for extra in mount.remote.extras:
                extra.latency = 0.0
                extra.go_on()
        await mount.close(appending)
        await mount.close(fh)
        assert mount.tree.read_file(b"file")[end:] == b"w" * 2 * _KIB + b"appended"


async def test_an_fsync_comes_behind_what_is_on_its_way_elsewhere(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"f")
        for extra in mount.remote.extras:
            extra.hold()
        await mount.fs.write(fh, 0, content(32 * _KIB, 2))
        async with trio.open_nursery() as nursery:
            syncing = start(nursery, mount.fs.fsync, fh)
            await trio.sleep(1)
            assert not syncing.done and not mount.remote.count("fsync")
            for extra in mount.remote.extras:
                extra.release()
        assert mount.remote.count("fsync") == 1
        await mount.close(fh)


async def test_a_truncation_comes_behind_what_was_written_before_it(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        number = await mount.number(b"file")
        async with trio.open_nursery() as nursery:
            for extra in mount.remote.extras:
                extra.stall()
            await mount.fs.write(fh, 0, b"a" * 8 * _KIB)
            cutting = start(nursery, mount.fs.setattr, number, AttributeChange(size=3))
            await trio.sleep(1)
            # Written meanwhile: on the first session, hence before or behind the truncation.
            before = sum(extra.count("write") for extra in mount.remote.extras)
            await mount.fs.write(fh, 64 * _KIB, b"z" * 2 * _KIB)
            await settle()
            assert sum(extra.count("write") for extra in mount.remote.extras) == before
            assert not cutting.done
            for extra in mount.remote.extras:
                extra.go_on()
        await mount.close(fh)
        held = mount.tree.read_file(b"file")
        assert held[:3] == b"aaa" and not held[3 : 64 * _KIB].strip(b"\0")
        assert (await mount.entry(b"file")).attributes.size == len(held)


async def test_nor_does_what_is_written_after_it_overtake_it(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        number = await mount.number(b"file")
        async with trio.open_nursery() as nursery:
            mount.remote.stall()
            start(nursery, mount.fs.setattr, number, AttributeChange(size=3))
            await settle()
            await mount.fs.write(fh, 8, b"z" * 2 * _KIB)
            await trio.sleep(1)
            mount.remote.go_on()
        await mount.close(fh)
        first = content(32 * _KIB, 1)[:3]
        assert mount.tree.read_file(b"file") == first + bytes(5) + b"z" * 2 * _KIB


async def test_what_was_read_before_a_truncation_is_not_kept(small: None) -> None:
    data = content(512 * _KIB)
    tree = MemoryTree()
    tree.write_file(b"file", data)
    async with mounted(tree, capabilities=_SMALL, latency=_FAR, config=_SHORT) as mount:
        number = await mount.number(b"file")
        fh = await mount.open(b"file")
        for at in range(0, 256 * _KIB, _KIB):
            await mount.fs.read(fh, at, _KIB)
        (lane,) = mount.remote.extras
        assert lane.count("read")
        async with trio.open_nursery() as nursery:
            mount.remote.stall()
            start(nursery, mount.fs.setattr, number, AttributeChange(size=257 * _KIB + 100))
            await settle()
            assert await mount.fs.read(fh, 256 * _KIB, _KIB) == data[256 * _KIB :][:_KIB]
            await trio.sleep(1)
            mount.remote.go_on()
        assert await mount.fs.read(fh, 257 * _KIB, _KIB) == data[257 * _KIB :][:100]
        await mount.close(fh)


async def test_a_size_counts_what_was_acknowledged_while_it_was_asked_for(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        number = await mount.number(b"file")
        await mount.fs.write(fh, 32 * _KIB, b"1" * _KIB)
        async with trio.open_nursery() as nursery:
            looking = start(nursery, mount.fs.getattr, number)
            await settle()  # it waits for what was written until now
            for extra in mount.remote.extras:
                extra.stall()
            await mount.fs.write(fh, 33 * _KIB, b"2" * _KIB)
            await trio.sleep(_FAR * 1.5)  # it asks
            for extra in mount.remote.extras:
                extra.latency = 0.0
                extra.go_on()
        assert looking.result().attributes.size == 34 * _KIB
        await mount.close(fh)


# --- losing lanes -------------------------------------------------------------------------------


async def test_what_a_lane_had_goes_on_on_the_first_after_the_fence(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        for extra in mount.remote.extras:
            extra.stall()
        await mount.fs.write(fh, 0, content(12 * _KIB, 2))
        await settle()
        lost = mount.remote.extras[0]
        waiting = lost.count("write")
        before = mount.remote.count("write")
        lost.go_on(1)  # whatever it has done already does not matter
        lost.drop_connection()
        await trio.sleep(0.2)
        assert mount.remote.count("write") == before
        async with trio.open_nursery() as nursery:
            syncing = start(nursery, mount.fs.fsync, fh)
            await trio.sleep(1)
            assert mount.remote.count("write") > before and waiting
            for extra in mount.remote.extras[1:]:
                extra.go_on()
        syncing.result()
        assert (
            mount.tree.read_file(b"file")
            == content(12 * _KIB, 2) + content(32 * _KIB, 1)[12 * _KIB :]
        )
        await mount.close(fh)


async def test_what_overlaps_data_of_a_lost_lane_waits_for_the_fence(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        for extra in mount.remote.extras:
            extra.stall()
        await mount.fs.write(fh, 0, b"a" * 8 * _KIB)
        await settle()
        late = [carry_out for extra in mount.remote.extras for carry_out, _ in extra._stalled]
        for extra in mount.remote.extras:
            extra.drop_connection()
        await mount.fs.write(fh, 0, b"b" * 8 * _KIB)
        await trio.sleep(0.1)
        for carry_out in late:  # the old lanes come to their end only now
            carry_out()
        await mount.close(fh)
        assert mount.tree.read_file(b"file")[: 8 * _KIB] == b"b" * 8 * _KIB


async def test_reading_goes_on_when_its_lane_is_lost(small: None) -> None:
    data = content(512 * _KIB)
    tree = MemoryTree()
    tree.write_file(b"long", data)
    async with mounted(tree, capabilities=_SMALL, latency=_FAR, config=_SHORT) as mount:
        fh = await mount.open(b"long")
        read = b""
        while len(read) < len(data):
            if len(read) in (128 * _KIB, 256 * _KIB):
                assert mount.remote.extras[-1].count("read")
                mount.remote.extras[-1].drop_connection()
            read += await mount.fs.read(fh, len(read), 2 * _KIB)
        assert read == data
        await mount.close(fh)
        assert len(mount.remote.extras) == 3


async def test_lanes_that_are_lost_again_and_again_are_given_up(small: None) -> None:
    data = content(512 * _KIB)
    tree = MemoryTree()
    tree.write_file(b"long", data)
    async with mounted(tree, capabilities=_SMALL, latency=_FAR, config=_SHORT) as mount:
        fh = await mount.open(b"long")
        read = b""
        while len(read) < len(data):
            for extra in mount.remote.extras:
                if extra.count("read"):
                    extra.end()
            read += await mount.fs.read(fh, len(read), 2 * _KIB)
        assert read == data
        await mount.close(fh)
        assert len(mount.remote.extras) == lanes._MOST_LOSSES


async def test_an_interrupted_read_is_forgotten_on_its_lane(small: None) -> None:
    tree = MemoryTree()
    tree.write_file(b"long", content(64 * _KIB))
    async with mounted(tree, capabilities=_SMALL, latency=_FAR) as mount:
        fh = await mount.open(b"long")
        for at in range(0, 24 * _KIB, _KIB):
            await mount.fs.read(fh, at, _KIB)
        (lane,) = mount.remote.extras
        lane.hold()
        async with trio.open_nursery() as nursery:
            reading = start(nursery, mount.fs.read, fh, 48 * _KIB, _KIB)
            await settle()
            reading.scope.cancel()
        lane.release()
        assert (
            await mount.fs.read(fh, 48 * _KIB, _KIB) == tree.read_file(b"long")[48 * _KIB :][:_KIB]
        )
        await mount.close(fh)


async def test_lanes_go_with_the_connection_and_come_back_when_they_pay(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        old = list(mount.remote.extras)
        for extra in old:
            extra.stall()
        await mount.fs.write(fh, 0, content(16 * _KIB, 2))
        await settle()
        old[1].go_on()  # some of it, and not what was first
        mount.remote.drop_connection()
        await mount.fs.write(fh, 16 * _KIB, content(32 * _KIB, 3))
        await mount.reconnect()
        await mount.close(fh)
        assert mount.tree.read_file(b"file") == content(16 * _KIB, 2) + content(32 * _KIB, 3)
        assert len(mount.remote.extras) > len(old)


async def test_any_part_of_what_was_striped_explains_the_size(small: None) -> None:
    for number in range(3):
        async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
            fh = await spread_out(mount, b"file")
            for extra in mount.remote.extras:
                extra.stall()
            await mount.fs.write(fh, 32 * _KIB, content(12 * _KIB, 2))
            await settle()
            mount.remote.extras[number].go_on()  # holes before it
            size = len(mount.tree.read_file(b"file"))
            mount.remote.drop_connection()
            await mount.reconnect()
            await mount.close(fh)
            assert size > 32 * _KIB
            assert mount.tree.read_file(b"file")[32 * _KIB :] == content(12 * _KIB, 2)


async def test_a_refused_write_is_reported_once_from_whatever_lane(small: None) -> None:
    async with mounted(capabilities=_SMALL, latency=_FAR) as mount:
        fh = await spread_out(mount, b"file")
        mount.remote.failures_of_extras["write"].append(RemoteStatusError(4, "disk full"))
        await mount.fs.write(fh, 0, content(8 * _KIB, 2))
        with pytest.raises(FilesystemError):
            await mount.fs.flush(fh)
        await mount.fs.flush(fh)
        await mount.fs.release(fh)


# --- all of it at once --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
async def test_at_random(small: None, seed: int) -> None:
    """A program writes, cuts, appends and reads one file while lanes stall, go on and are lost,
    each by itself or all with the connection. What it reads, and what is left, is right."""
    chance = random.Random(seed)
    model = bytearray()
    async with mounted(capabilities=_SMALL, latency=0.02) as mount:
        handles = [await mount.create(b"file"), await mount.open(b"file", os.O_RDWR)]
        appender = await mount.open(b"file", os.O_WRONLY | os.O_APPEND)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_disturb, mount, chance)
            for step in range(120):
                at = chance.randrange(48 * _KIB)
                data = content(chance.choice([100, _KIB, 6 * _KIB, 20 * _KIB]), step)
                match chance.choice("wwwwwrrta"):
                    case "w":
                        await mount.fs.write(chance.choice(handles), at, data)
                        model.extend(bytes(max(at - len(model), 0)))
                        model[at : at + len(data)] = data
                    case "r":
                        got = await mount.fs.read(chance.choice(handles), at, 4 * _KIB)
                        assert got == model[at : at + 4 * _KIB]
                    case "t":
                        at = chance.randrange(len(model) + 1)
                        await mount.setattr(b"file", AttributeChange(size=at))
                        del model[at:]
                    case "a":
                        await mount.fs.write(appender, 0, data)
                        model += data
            nursery.cancel_scope.cancel()
        for session in (mount.remote, *mount.remote.extras):
            session.go_on()
        for fh in (*handles, appender):
            await mount.close(fh)
        assert mount.tree.read_file(b"file") == model
        assert mount.remote.extras


async def _disturb(mount: Mount, chance: random.Random) -> None:
    while True:
        await trio.sleep(chance.random() / 10)
        up = [extra for extra in mount.remote.extras if extra.is_up]
        if not up:
            continue
        extra = chance.choice(up)
        match chance.choice("ssssgggggglc"):
            case "s":
                extra.stall()
                await trio.sleep(chance.random())
                extra.go_on(chance.randrange(3))
                extra.go_on()
            case "g":
                extra.latency = chance.choice([0.0, 0.02, 0.1])
            case "l":
                extra.drop_connection()
            case "c":
                mount.remote.drop_connection()
                await mount.reconnect()
