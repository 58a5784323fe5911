"""Written data: gathered, sent in time, bounded, never lost silently, and seen by everybody."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest
import trio

from pysshfs.errors import FX_FAILURE, ConnectionLostError, FilesystemError, RemoteStatusError
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.fake_remote import OPENSSH, ROOMY

if TYPE_CHECKING:
    from tests.support.fake_remote import FakeRemote

CAPABILITIES = OPENSSH._replace(max_write=1000)
BROKEN = RemoteStatusError(FX_FAILURE)


def writes(remote: FakeRemote) -> list[tuple[int, int]]:
    """Offset and length of every WRITE so far."""
    return [(int(call[2]), int(call[3])) for call in remote.calls if call[0] == "write"]


# --- gathering ----------------------------------------------------------------------------------


async def test_small_writes_are_sent_as_full_pieces() -> None:
    async with mounted(capabilities=CAPABILITIES) as mount:
        fh = await mount.create(b"f")
        data = os.urandom(3500)
        for at in range(0, len(data), 70):
            await mount.fs.write(fh, at, data[at : at + 70])
        assert writes(mount.remote) == [(0, 1000), (1000, 1000), (2000, 1000)]
        await mount.close(fh)
        assert writes(mount.remote)[3:] == [(3000, 500)]
        assert mount.tree.read_file(b"f") == data


async def test_a_write_larger_than_a_piece_is_cut() -> None:
    async with mounted(capabilities=CAPABILITIES) as mount:
        fh = await mount.create(b"f")
        data = os.urandom(2500)
        await mount.fs.write(fh, 0, b"x" * 10)
        await mount.fs.write(fh, 10, data)
        await mount.close(fh)
        assert [length for _, length in writes(mount.remote)] == [1000, 1000, 510]
        assert mount.tree.read_file(b"f") == b"x" * 10 + data


async def test_writes_that_do_not_continue_one_another_are_kept_in_order() -> None:
    async with mounted(capabilities=CAPABILITIES) as mount:
        fh = await mount.create(b"f")
        for offset, data in ((0, b"aaaa"), (2, b"bb"), (1, b"c"), (10, b"d"), (11, b"e")):
            await mount.fs.write(fh, offset, data)
        await mount.close(fh)
        assert mount.tree.read_file(b"f") == b"acbb" + bytes(6) + b"de"
        assert writes(mount.remote)[-1] == (10, 2)


async def test_a_writer_does_not_wait_for_acknowledgements() -> None:
    async with mounted(capabilities=CAPABILITIES) as mount:
        fh = await mount.create(b"f")
        mount.remote.hold()
        await mount.fs.write(fh, 0, bytes(8000))
        assert mount.remote.in_flight == 8
        mount.remote.release()
        await mount.close(fh)


async def test_what_is_gathered_is_sent_after_write_delay() -> None:
    async with mounted(config=VfsConfig(write_delay=0.5)) as mount:
        first, second = await mount.create(b"a"), await mount.create(b"b")
        await mount.fs.write(first, 0, b"one")
        await trio.sleep(0.3)
        await mount.fs.write(second, 0, b"two")
        await trio.sleep(0.15)
        assert mount.remote.count("write") == 0
        await trio.sleep(0.1)
        assert mount.tree.read_file(b"a") == b"one"
        assert mount.remote.count("write") == 1
        await trio.sleep(0.3)
        assert mount.tree.read_file(b"b") == b"two"
        await mount.close(first)
        await mount.close(second)


async def test_synchronous_writes_are_on_the_server_when_they_return() -> None:
    async with mounted(config=VfsConfig(synchronous_writes=True), latency=1) as mount:
        fh = await mount.create(b"f")
        begun = trio.current_time()
        await mount.fs.write(fh, 0, b"now")
        assert trio.current_time() - begun == pytest.approx(1)
        mount.remote.fail_next("write", BROKEN)
        with pytest.raises(FilesystemError):
            await mount.fs.write(fh, 3, b"never")
        await mount.close(fh)


# --- the budget ---------------------------------------------------------------------------------


async def test_unacknowledged_bytes_never_exceed_the_budget() -> None:
    config = VfsConfig(write_buffer=5000)
    async with (
        mounted(capabilities=CAPABILITIES, config=config, latency=0.1) as mount,
        trio.open_nursery() as nursery,
    ):
        files = [await mount.create(b"%d" % i) for i in range(4)]
        most = 0

        async def fill(fh: int) -> None:
            nonlocal most
            for at in range(0, 14_000, 700):
                await mount.fs.write(fh, at, b"%d" % (fh % 10) * 700)
                most = max(most, mount.fs.statistics()["unacknowledged_bytes"])

        tasks = [start(nursery, fill, fh) for fh in files]
        await trio.sleep(60)
        for task, fh in zip(tasks, files, strict=True):
            task.result()
            await mount.close(fh)
        assert 4000 < most <= 5000
        assert mount.fs.statistics()["unacknowledged_bytes"] == 0
        assert [len(mount.tree.read_file(b"%d" % i)) for i in range(4)] == [14_000] * 4


async def test_a_write_larger_than_the_budget_passes_alone() -> None:
    async with mounted(config=VfsConfig(write_buffer=100)) as mount:
        fh = await mount.create(b"f")
        await mount.fs.write(fh, 0, bytes(500))
        await mount.fs.write(fh, 500, bytes(500))
        await mount.close(fh)
        assert len(mount.tree.read_file(b"f")) == 1000


async def test_a_full_budget_is_not_held_up_by_data_that_is_still_gathered() -> None:
    """Those who wait for room are let in one after the other without waiting for write_delay."""
    config = VfsConfig(write_buffer=1000, write_delay=1000)
    async with mounted(config=config) as mount, trio.open_nursery() as nursery:
        files = [await mount.create(b"%d" % i) for i in range(10)]
        tasks = [start(nursery, mount.fs.write, fh, 0, bytes(600)) for fh in files]
        await settle()
        assert all(task.done for task in tasks)
        for fh in files:
            await mount.close(fh)


async def test_an_interrupted_writer_leaves_nothing_of_its_data() -> None:
    config = VfsConfig(write_buffer=1000)
    async with mounted(config=config) as mount, trio.open_nursery() as nursery:
        fh = await mount.create(b"f")
        mount.remote.hold()
        await mount.fs.write(fh, 0, b"a" * 900)
        waiting = start(nursery, mount.fs.write, fh, 900, b"b" * 900)
        await settle()
        behind = start(nursery, mount.fs.write, fh, 900, b"c" * 100)
        await settle()
        assert not waiting.done
        assert not behind.done  # first come, first served
        waiting.scope.cancel()
        await settle()
        assert behind.result().written == 100
        assert mount.fs.statistics()["unacknowledged_bytes"] == 1000
        mount.remote.release()
        await mount.close(fh)
        assert mount.tree.read_file(b"f") == b"a" * 900 + b"c" * 100
        assert mount.fs.statistics()["unacknowledged_bytes"] == 0


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["write", "flush", "fsync"])
async def test_an_error_is_reported_once_at_the_next_call(at: str) -> None:
    async with mounted() as mount:
        fh = await mount.create(b"f")
        mount.remote.fail_next("write", BROKEN)
        await mount.fs.write(fh, 0, b"lost")
        await trio.sleep(1)
        with pytest.raises(FilesystemError) as caught:
            if at == "write":
                await mount.fs.write(fh, 4, b"more")
            elif at == "flush":
                await mount.fs.flush(fh)
            else:
                await mount.fs.fsync(fh)
        assert caught.value.errno == errno.EIO
        await mount.fs.write(fh, 0, b"again")
        await mount.fs.fsync(fh)
        await mount.close(fh)
        assert mount.tree.read_file(b"f") == b"again"


async def test_each_open_file_hears_of_an_error_and_later_ones_do_not() -> None:
    async with mounted() as mount:
        first = await mount.create(b"f")
        second = await mount.open(b"f", os.O_WRONLY)
        mount.remote.fail_next("write", BROKEN)
        await mount.fs.write(first, 0, b"lost")
        await trio.sleep(1)
        third = await mount.open(b"f", os.O_WRONLY)
        for fh in (first, second):
            with pytest.raises(FilesystemError):
                await mount.fs.flush(fh)
            await mount.fs.flush(fh)
        await mount.fs.flush(third)
        for fh in (first, second, third):
            await mount.close(fh)


async def test_an_error_while_closing_is_reported_by_close() -> None:
    async with mounted() as mount:
        fh = await mount.create(b"f")
        await mount.fs.write(fh, 0, b"lost")
        mount.remote.fail_next("write", BROKEN)
        with pytest.raises(FilesystemError):
            await mount.close(fh)
        await settle()
        assert mount.remote.open_handles == []
        assert mount.fs.statistics()["unacknowledged_bytes"] == 0


async def test_writers_wait_for_the_next_connection() -> None:
    config = VfsConfig(write_buffer=1000)
    async with mounted(config=config) as mount, trio.open_nursery() as nursery:
        fh, other = await mount.create(b"f"), await mount.create(b"g")
        mount.remote.hold()
        await mount.fs.write(fh, 0, b"x" * 900)
        waiting = start(nursery, mount.fs.write, other, 0, bytes(900))
        flushing = start(nursery, mount.fs.flush, fh)
        await settle()
        mount.remote.drop_connection()
        await settle()
        assert not waiting.done and not flushing.done
        await mount.reconnect()
        await settle()
        waiting.result()
        flushing.result()
        assert mount.tree.find(b"f").data == b"x" * 900
        await mount.close(fh)
        await mount.close(other)


async def test_the_end_of_hope_fails_writers_and_frees_the_budget() -> None:
    config = VfsConfig(write_buffer=1000)
    async with mounted(config=config) as mount, trio.open_nursery() as nursery:
        fh, other = await mount.create(b"f"), await mount.create(b"g")
        mount.remote.hold()
        await mount.fs.write(fh, 0, bytes(900))
        waiting = start(nursery, mount.fs.write, other, 0, bytes(900))
        flushing = start(nursery, mount.fs.flush, fh)
        await settle()
        mount.remote.drop_connection()
        mount.fs.end("the end")
        await settle()
        for task in (waiting, flushing):
            with pytest.raises(ConnectionLostError):
                task.result()
        await mount.fs.release(fh)
        await mount.fs.release(other)
        assert mount.fs.statistics()["unacknowledged_bytes"] == 0


# --- everybody sees it --------------------------------------------------------------------------


async def test_a_reader_sees_what_another_handle_wrote() -> None:
    async with mounted() as mount:
        mount.tree.write_file(b"f", b"0123456789")
        reader = await mount.open(b"f")
        assert await mount.fs.read(reader, 0, 100) == b"0123456789"
        writer = await mount.open(b"f", os.O_WRONLY)
        await mount.fs.write(writer, 3, b"xyz")
        assert await mount.fs.read(reader, 0, 100) == b"012xyz6789"
        await mount.fs.write(writer, 10, b"end")
        assert await mount.fs.read(reader, 0, 100) == b"012xyz6789end"
        await mount.close(reader)
        await mount.close(writer)


async def test_attributes_of_a_dirty_file_are_those_after_close() -> None:
    async with mounted() as mount:
        fh = await mount.create(b"f")
        number = await mount.number(b"f")
        mount.tree.now += 50
        await mount.fs.write(fh, 0, b"x" * 300)
        dirty = (await mount.fs.getattr(number)).attributes
        assert (dirty.size, dirty.mtime) == (300, mount.tree.now)
        mount.tree.now += 50
        await mount.close(fh)
        assert (await mount.fs.getattr(number)).attributes == dirty


async def test_a_listing_tells_the_size_of_a_dirty_file() -> None:
    async with mounted() as mount:
        fh = await mount.create(b"f")
        await mount.fs.write(fh, 0, b"x" * 300)
        listing = await mount.fs.opendir(ROOT_NUMBER)
        sizes = [
            item.entry.attributes.size
            async for item in mount.fs.readdir(listing, 0)
            if item.entry is not None
        ]
        await mount.fs.releasedir(listing)
        assert sizes == [300]
        await mount.close(fh)


async def test_times_set_after_writing_stay() -> None:
    async with mounted() as mount:
        fh = await mount.create(b"f")
        await mount.fs.write(fh, 0, b"x")
        await mount.setattr(b"f", AttributeChange(atime=11, mtime=22))
        mount.tree.now += 50
        await mount.close(fh)
        assert (await mount.entry(b"f")).attributes.mtime == 22


async def test_truncation_comes_after_older_and_before_newer_data() -> None:
    async with mounted() as mount:
        fh = await mount.create(b"f")
        await mount.fs.write(fh, 0, b"x" * 100)
        await mount.setattr(b"f", AttributeChange(size=10))
        await mount.fs.write(fh, 10, b"y")
        other = await mount.open(b"f", os.O_WRONLY | os.O_TRUNC)
        await mount.fs.write(fh, 2, b"z")
        await mount.close(other)
        await mount.close(fh)
        assert mount.tree.read_file(b"f") == b"\0\0z"


@pytest.mark.parametrize("what", ["getattr", "read", "flush"])
async def test_a_writer_without_a_pause_holds_nobody_up(what: str) -> None:
    async with (
        mounted(capabilities=CAPABILITIES, latency=0.1) as mount,
        trio.open_nursery() as nursery,
    ):
        writer = await mount.create(b"f")
        reader = await mount.open(b"f")
        number = await mount.number(b"f")

        async def write_on() -> None:
            at = 0
            while True:
                await mount.fs.write(writer, at, b"w" * 300)
                at += 300
                await trio.sleep(0.01)

        task = start(nursery, write_on)
        await trio.sleep(1)
        with trio.fail_after(1):
            if what == "getattr":
                assert (await mount.fs.getattr(number)).attributes.size >= 30_000
            elif what == "read":
                assert await mount.fs.read(reader, 29_000, 300) == b"w" * 300
            else:
                await mount.fs.flush(reader)
        task.scope.cancel()
        await settle()
        await mount.close(reader)
        await mount.close(writer)


async def test_read_ahead_beside_a_writer_never_holds_what_is_out_of_date() -> None:
    async with mounted(latency=0.05) as mount, trio.open_nursery() as nursery:
        mount.tree.write_file(b"f", b"o" * 100_000)
        reader = await mount.open(b"f")
        writer = await mount.open(b"f", os.O_WRONLY)
        await mount.fs.write(writer, 0, b"1" * 100)
        reading = start(nursery, mount.fs.read, reader, 0, 1000)
        await trio.sleep(0.02)  # the reader waits for the first write while the next comes
        await mount.fs.write(writer, 500, b"2" * 100)
        await trio.sleep(0.2)
        reading.result()
        await trio.sleep(1)
        wanted = b"1" * 100 + b"o" * 400 + b"2" * 100 + b"o" * 400
        assert await mount.fs.read(reader, 0, 1000) == wanted
        await mount.close(reader)
        await mount.close(writer)


# --- appending ----------------------------------------------------------------------------------


async def test_an_append_goes_to_the_end_that_the_server_knows() -> None:
    async with mounted() as mount:
        mount.tree.write_file(b"f", b"12345")
        fh = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
        mount.tree.append_file(b"f", b"678")  # another client
        reply = await mount.fs.write(fh, 5, b"end")
        assert reply.offset_moved
        await mount.close(fh)
        assert mount.tree.read_file(b"f") == b"12345678end"


async def test_a_burst_of_appends_asks_once() -> None:
    async with mounted(capabilities=CAPABILITIES) as mount:
        mount.tree.write_file(b"f", b"12345")
        fh = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
        for at in range(5, 2505, 100):
            assert not (await mount.fs.write(fh, at, b"x" * 100)).offset_moved
        assert mount.remote.count("fstat") == 1
        await mount.close(fh)
        assert mount.tree.read_file(b"f") == b"12345" + b"x" * 2500


async def test_appends_of_two_handles_do_not_overwrite_one_another() -> None:
    config = VfsConfig(write_buffer=100)
    async with mounted(config=config) as mount, trio.open_nursery() as nursery:
        mount.tree.write_file(b"f", b"")
        files = [await mount.open(b"f", os.O_WRONLY | os.O_APPEND) for _ in range(5)]
        tasks = [
            start(nursery, mount.fs.write, fh, 0, b"%d" % index * 70)
            for index, fh in enumerate(files)
        ]
        await trio.sleep(10)
        for task in tasks:
            task.result()
        for fh in files:
            await mount.close(fh)
        data = mount.tree.read_file(b"f")
        assert sorted(data) == sorted(b"".join(b"%d" % index * 70 for index in range(5)))


async def test_an_append_behind_data_on_its_way_elsewhere_goes_to_the_end() -> None:
    async with mounted() as mount:
        mount.tree.write_file(b"f", b"0123456789")
        writer = await mount.open(b"f", os.O_WRONLY)
        appender = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
        await mount.fs.write(writer, 2, b"xy")
        await mount.fs.write(appender, 10, b"end")
        await mount.fs.write(writer, 0, b"z")
        await mount.fs.write(appender, 13, b"!")
        await mount.close(writer)
        await mount.close(appender)
        assert mount.tree.read_file(b"f") == b"z1xy456789end!"


async def test_an_append_waits_for_no_acknowledgement_of_what_lies_before_it() -> None:
    """The question for the end goes out behind all data, so that its answer counts it."""
    for _ in range(20):
        async with mounted() as mount, trio.open_nursery() as nursery:
            mount.tree.write_file(b"f", b"")
            writer = await mount.open(b"f", os.O_WRONLY)
            appender = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
            await mount.fs.write(writer, 0, b"first")
            mount.remote.hold()
            appending = start(nursery, mount.fs.write, appender, 5, b"second")
            await trio.sleep(1)
            mount.remote.release()
            await settle()
            appending.result()
            await mount.close(writer)
            await mount.close(appender)
            assert mount.tree.read_file(b"f") == b"firstsecond"


async def test_appended_pages_keep_the_place_the_kernel_gave_them() -> None:
    async with mounted() as mount:
        mount.tree.write_file(b"f", b"12345")
        fh = await mount.open(b"f", os.O_RDWR | os.O_APPEND)
        await mount.fs.write(fh, 1, b"x", True)
        await mount.close(fh)
        assert mount.tree.read_file(b"f") == b"1x345"


# --- ending -------------------------------------------------------------------------------------


async def test_release_delivers_what_a_mapping_left() -> None:
    async with mounted() as mount:
        fh = await mount.create(b"f")
        await mount.fs.write(fh, 0, b"mapped", True)
        await mount.fs.release(fh)
        await settle()
        assert mount.tree.read_file(b"f") == b"mapped"
        assert mount.remote.open_handles == []


async def test_flush_all_delivers_everything() -> None:
    async with mounted() as mount:
        files = [await mount.create(b"%d" % i) for i in range(5)]
        for fh in files:
            await mount.fs.write(fh, 0, b"data")
        await mount.fs.flush_all()
        assert [mount.tree.read_file(b"%d" % i) for i in range(5)] == [b"data"] * 5
        for fh in files:
            await mount.close(fh)


async def test_an_unlinked_file_takes_its_data_to_the_end() -> None:
    async with mounted() as mount:
        fh = await mount.create(b"f")
        number = await mount.number(b"f")
        await mount.fs.write(fh, 0, b"before")
        await mount.unlink(b"f")
        await mount.fs.write(fh, 6, b"after")
        entry = await mount.fs.getattr(number)
        assert entry.attributes.size == 11
        assert stat.S_ISREG(entry.attributes.mode)
        assert await mount.fs.read(fh, 0, 100) == b"beforeafter"
        await mount.close(fh)


async def many(mount: Mount, count: int) -> list[int]:
    return [await mount.create(b"%d" % i) for i in range(count)]


async def test_closing_many_files_leaves_no_handle_and_no_budget() -> None:
    async with mounted(latency=0.01) as mount:
        for fh in await many(mount, 30):
            await mount.fs.write(fh, 0, bytes(100))
            await mount.close(fh)
        await trio.sleep(1)
        assert mount.remote.open_handles == []
        mount.forget_all()
        statistics = mount.fs.statistics()
        assert statistics["inodes"] == 1
        assert statistics["open_files"] == statistics["unacknowledged_bytes"] == 0


@pytest.mark.parametrize("how", ["setattr", "open", "create"])
async def test_a_log_truncated_under_its_writer_goes_on_at_its_new_end(how: str) -> None:
    async with mounted(latency=0.1) as mount, trio.open_nursery() as nursery:
        log = await mount.create(b"log", flags=os.O_WRONLY | os.O_APPEND)
        number = await mount.number(b"log")

        async def append_on() -> None:
            while True:
                await mount.fs.write(log, 0, b"x" * 100)
                mount.fs.tree.writebacks.push_all()  # something of it is always on its way
                await trio.sleep(0.03)

        task = start(nursery, append_on)
        await trio.sleep(1)
        if how == "setattr":
            await mount.fs.setattr(number, AttributeChange(size=0))
        elif how == "open":
            await mount.fs.release(await mount.open(b"log", os.O_WRONLY | os.O_TRUNC))
        else:
            await mount.fs.release(await mount.create(b"log", flags=os.O_WRONLY | os.O_TRUNC))
        await trio.sleep(1)
        task.scope.cancel()
        await mount.close(log)
        data = mount.tree.read_file(b"log")
        assert data
        assert b"\0" not in data


async def test_create_over_a_file_with_data_on_its_way_tells_its_size() -> None:
    async with mounted() as mount:
        fh = await mount.create(b"f")
        await mount.fs.write(fh, 0, b"x" * 1000)
        again, entry = await mount.fs.create(ROOT_NUMBER, b"f", 0o644, os.O_RDWR)
        mount.counted(entry)
        assert entry.attributes.size == 1000
        await mount.close(again.fh)
        await mount.close(fh)


@pytest.mark.parametrize("unlinked", [False, True])
async def test_a_full_disk_is_told_from_other_failures(unlinked: bool) -> None:
    async with mounted() as mount:
        await mount.mkdir(b"d")
        fh = await mount.create(b"d/f")
        if unlinked:
            await mount.unlink(b"d/f")
        mount.remote.statistics = ROOMY._replace(blocks_available=0)
        mount.remote.fail_next("write", RemoteStatusError(FX_FAILURE))
        await mount.fs.write(fh, 0, b"x")
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.flush(fh)
        assert caught.value.errno == errno.ENOSPC
        await mount.close(fh)  # reported once


async def test_a_listing_tells_the_size_of_what_was_written_during_a_truncation() -> None:
    async with mounted(latency=0.1) as mount:
        mount.tree.write_file(b"f", b"x")
        number = await mount.number(b"f")
        writer = await mount.open(b"f", os.O_WRONLY)
        async with trio.open_nursery() as nursery:
            truncating = start(nursery, mount.open, b"f", os.O_WRONLY | os.O_TRUNC)
            await trio.sleep(0.05)
            await mount.fs.write(writer, 0, b"y" * 500)
        fh = await mount.fs.opendir(ROOT_NUMBER)
        told = {item.number: item.entry async for item in mount.fs.readdir(fh, 0)}
        await mount.fs.releasedir(fh)
        entry = told[number]
        assert entry is not None
        assert entry.attributes.size == 500
        await mount.close(truncating.result())
        await mount.close(writer)


async def test_an_append_goes_behind_what_others_wrote_since_the_last_one() -> None:
    """Also when that is acknowledged already, and only older places are still on their way."""
    async with mounted(latency=1) as mount:
        appender = await mount.create(b"f", flags=os.O_WRONLY | os.O_APPEND)
        writer = await mount.open(b"f", os.O_WRONLY)
        await mount.fs.write(appender, 0, b"first")
        for offset, data in ((5, b"longer"), (0, b"F")):
            await mount.fs.write(writer, offset, data)
            mount.fs.tree.writebacks.push_all()
            await trio.sleep(0.6)
        assert mount.fs.tree.writebacks.unacknowledged == 1
        await mount.fs.write(appender, 0, b"last")
        await mount.close(appender)
        await mount.close(writer)
        assert mount.tree.read_file(b"f") == b"Firstlongerlast"


# --- fsync --------------------------------------------------------------------------------------


async def test_data_and_its_fsync_take_one_round_trip() -> None:
    async with mounted(latency=1.0) as mount:
        fh = await mount.create(b"f")
        await mount.fs.write(fh, 0, b"data")
        begun = trio.current_time()
        await mount.fs.fsync(fh)
        assert trio.current_time() == begun + 1
        assert mount.remote.count("fsync") == 1
        await mount.close(fh)


async def test_an_fsync_whose_session_was_lost_comes_after_the_data_on_the_next() -> None:
    async with mounted() as mount, trio.open_nursery() as nursery:
        fh = await mount.create(b"f")
        mount.remote.go_deaf()
        await mount.fs.write(fh, 0, b"data")
        syncing = start(nursery, mount.fs.fsync, fh)
        await settle()
        assert mount.remote.count("fsync") == 1
        mount.remote.drop_connection()
        await mount.reconnect()
        await settle()
        assert syncing.done
        # Sent again in order, and once more, as lanes could have changed it.
        assert mount.remote.count("fsync") == 3
        assert mount.tree.read_file(b"f") == b"data"
        await mount.close(fh)


async def test_what_is_not_acknowledged_is_not_synced() -> None:
    async with mounted() as mount:
        fh = await mount.create(b"f")
        await mount.fs.write(fh, 0, b"lost")
        mount.remote.fail_next("write", BROKEN)
        with pytest.raises(FilesystemError):
            await mount.fs.fsync(fh)
        await mount.close(fh)
