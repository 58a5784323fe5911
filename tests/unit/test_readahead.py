"""Reading: ahead of a sequential reader, exactly for a random one, and always the true bytes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pysshfs.errors import FX_FAILURE, FilesystemError, RemoteStatusError
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.readahead import block_size_for
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.fake_remote import OPENSSH
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from tests.support.fake_remote import FakeRemote

KIB = 1024
BLOCK = 128 * KIB


def reads(remote: FakeRemote) -> list[tuple[int, int]]:
    """Offset and length of every READ so far."""
    return [(int(call[2]), int(call[3])) for call in remote.calls if call[0] == "read"]


def tree_of(size: int) -> tuple[MemoryTree, bytes]:
    tree = MemoryTree()
    data = os.urandom(1021) * (size // 1021 + 1)
    data = data[:size]
    tree.write_file(b"f", data)
    return tree, data


async def whole(mount: Mount, fh: int, step: int = BLOCK) -> bytes:
    parts = []
    at = 0
    while part := await mount.fs.read(fh, at, step):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


@pytest.mark.parametrize("step", [4096, 5000, BLOCK, 3 * BLOCK])
@pytest.mark.parametrize("short", [None, 1000, 100_000])
async def test_a_file_is_read_whole_and_true(step: int, short: int | None) -> None:
    tree, data = tree_of(1_000_000)
    async with mounted(tree) as mount:
        mount.remote.short_reads = short
        fh = await mount.open(b"f")
        assert await whole(mount, fh, step) == data
        await mount.close(fh)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 700_000),
    ranges=st.lists(st.tuples(st.integers(0, 800_000), st.integers(1, 300_000)), max_size=8),
    short=st.sampled_from([None, 700, 50_000]),
)
def test_any_range_is_true(size: int, ranges: list[tuple[int, int]], short: int | None) -> None:
    tree, data = tree_of(size)

    async def read_all() -> None:
        async with mounted(tree) as mount:
            mount.remote.short_reads = short
            fh = await mount.open(b"f")
            for offset, length in ranges:
                assert await mount.fs.read(fh, offset, length) == data[offset : offset + length]
            await mount.close(fh)

    trio.run(read_all, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_sequential_reader_soon_waits_no_more() -> None:
    tree, data = tree_of(8 * 1024 * KIB)
    async with mounted(tree, latency=1) as mount:
        fh = await mount.open(b"f")
        begun = trio.current_time()
        assert await whole(mount, fh) == data
        assert trio.current_time() - begun < 12  # 64 blocks and the end, one by one: 65
        await mount.close(fh)


async def windows(mount: Mount, pause: float = 0) -> list[int]:
    """How far a reader, which takes `pause` for each block, is read ahead of."""
    fh = await mount.open(b"f")
    ahead = []
    for i in range(100):
        await mount.fs.read(fh, i * BLOCK, BLOCK)
        await trio.sleep(pause)
        ahead.append(max(offset + length for offset, length in reads(mount.remote)))
        ahead[-1] -= (i + 1) * BLOCK
    assert len(reads(mount.remote)) == len(set(reads(mount.remote)))
    await mount.close(fh)
    return ahead


async def test_the_window_grows_to_its_bound_on_a_long_way() -> None:
    tree, _ = tree_of(32 * 1024 * KIB)
    config = VfsConfig(readahead=2 * 1024 * KIB)
    async with mounted(tree, latency=1, config=config) as mount:
        ahead = await windows(mount)
        assert ahead[0] == 256 * KIB
        assert max(ahead) == 2048 * KIB
        assert ahead.index(2048 * KIB) < 15


async def test_the_window_is_no_larger_than_the_reader_needs() -> None:
    tree, _ = tree_of(32 * 1024 * KIB)
    async with mounted(tree, latency=1) as mount:
        ahead = await windows(mount, pause=0.2)  # five blocks in a round trip
        assert 5 * BLOCK <= max(ahead) <= 4 * 2 * 5 * BLOCK  # by four, while two are too few


async def test_a_server_that_gives_no_more_is_not_asked_for_more() -> None:
    """One block after the other comes, however many are asked for: that is no round trip."""
    tree, _ = tree_of(32 * 1024 * KIB)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        mount.remote.round_trip = 0.01

        async def give() -> None:
            while True:
                mount.remote.hold()
                await trio.sleep(1)
                mount.remote.deliver_one()

        await mount.number(b"f")
        nursery.start_soon(give)
        assert max(await windows(mount)) <= 1024 * KIB
        nursery.cancel_scope.cancel()
        mount.remote.release()


async def test_nothing_is_asked_for_past_the_believed_end() -> None:
    tree, data = tree_of(3 * BLOCK + 777)
    async with mounted(tree) as mount:
        fh = await mount.open(b"f")
        for at in range(0, len(data), 4096):
            await mount.fs.read(fh, at, min(4096, len(data) - at))
        assert sorted(reads(mount.remote)) == [
            (0, BLOCK), (BLOCK, BLOCK), (2 * BLOCK, BLOCK), (3 * BLOCK, 777),
        ]  # fmt: skip
        await mount.close(fh)


async def test_a_short_file_is_one_read() -> None:
    tree, data = tree_of(300)
    async with mounted(tree) as mount:
        fh = await mount.open(b"f")
        assert await mount.fs.read(fh, 0, 4096) == data
        assert reads(mount.remote) == [(0, 300)]
        await mount.close(fh)


async def test_random_reads_ask_for_exactly_what_is_wanted() -> None:
    tree, data = tree_of(4 * 1024 * KIB)
    wanted = [(3_000_000, 4096), (1_000_001, 7), (2_000_000, 100), (500, 9)]
    async with mounted(tree) as mount:
        fh = await mount.open(b"f")
        for offset, length in wanted:
            assert await mount.fs.read(fh, offset, length) == data[offset : offset + length]
        assert reads(mount.remote) == wanted
        await mount.close(fh)


async def test_a_jump_gives_the_blocks_ahead_back() -> None:
    tree, _ = tree_of(4 * 1024 * KIB)
    config = VfsConfig(total_readahead=64 * BLOCK)
    async with mounted(tree, config=config) as mount:
        fh = await mount.open(b"f")
        await mount.fs.read(fh, 0, BLOCK)
        assert not mount.fs.tree.read_budget.has_room(64 * BLOCK)
        await mount.fs.read(fh, 3 * 1024 * KIB, 10)
        assert mount.fs.tree.read_budget.has_room(64 * BLOCK)
        await mount.close(fh)


async def test_a_random_read_larger_than_a_read_goes_out_at_once() -> None:
    tree, data = tree_of(2_000_000)
    capabilities = OPENSSH._replace(max_read=40_000)
    async with mounted(tree, capabilities=capabilities, latency=1) as mount:
        fh = await mount.open(b"f")
        begun = trio.current_time()
        assert await mount.fs.read(fh, 1_000_000, 200_000) == data[1_000_000:1_200_000]
        assert trio.current_time() - begun == pytest.approx(1)
        await mount.close(fh)


async def test_without_read_ahead_only_what_is_wanted_is_asked_for() -> None:
    tree, data = tree_of(1_000_000)
    async with mounted(tree, config=VfsConfig(readahead=0)) as mount:
        fh = await mount.open(b"f")
        assert await mount.fs.read(fh, 0, 10_000) == data[:10_000]
        assert await mount.fs.read(fh, 10_000, 10_000) == data[10_000:20_000]
        assert reads(mount.remote) == [(0, 10_000), (10_000, 10_000)]
        await mount.close(fh)


async def test_a_file_that_grew_is_read_to_its_new_end() -> None:
    async with mounted(config=VfsConfig(stat_timeout=5)) as mount:
        mount.tree.write_file(b"f", b"a" * 100)
        fh = await mount.open(b"f")
        assert await mount.fs.read(fh, 0, 4096) == b"a" * 100
        mount.tree.append_file(b"f", b"b" * 100)
        # Past the end that is believed the server is asked, whatever the caches hold,
        assert await mount.fs.read(fh, 100, 4096) == b"b" * 100
        await trio.sleep(6)
        # and once the size is known anew nothing of the old end is left.
        assert await mount.size(b"f") == 200
        assert await mount.fs.read(fh, 0, 4096) == b"a" * 100 + b"b" * 100
        await mount.close(fh)


async def test_a_file_without_a_size_is_read_all_the_same() -> None:
    """As those in /proc: 0 bytes long, and something in them."""
    async with mounted() as mount:
        mount.tree.write_file(b"f", b"")
        fh = await mount.open(b"f")
        mount.tree.append_file(b"f", b"x" * 200_000)
        assert await whole(mount, fh) == b"x" * 200_000
        await mount.close(fh)


async def test_a_file_that_shrank_ends_where_it_ends() -> None:
    tree, data = tree_of(500_000)
    async with mounted(tree) as mount:
        fh = await mount.open(b"f")
        mount.tree.truncate(mount.tree.find(b"f"), 200_000)
        assert await whole(mount, fh) == data[:200_000]
        await mount.close(fh)


async def test_a_write_discards_what_was_read_ahead() -> None:
    tree, data = tree_of(1_000_000)
    async with mounted(tree) as mount:
        fh = await mount.open(b"f", os.O_RDWR)
        await mount.fs.read(fh, 0, BLOCK)
        await settle()  # the blocks behind are here by now
        await mount.fs.write(fh, BLOCK + 10, b"changed")
        expected = data[BLOCK : BLOCK + 10] + b"changed" + data[BLOCK + 17 : 2 * BLOCK]
        assert await mount.fs.read(fh, BLOCK, BLOCK) == expected
        await mount.close(fh)


async def test_a_truncation_discards_what_was_read_ahead() -> None:
    tree, data = tree_of(1_000_000)
    async with mounted(tree) as mount:
        fh = await mount.open(b"f", os.O_RDWR)
        await mount.fs.read(fh, 0, BLOCK)
        await settle()
        await mount.setattr(b"f", AttributeChange(size=BLOCK + 5))
        assert await mount.fs.read(fh, BLOCK, BLOCK) == data[BLOCK : BLOCK + 5]
        await mount.setattr(b"f", AttributeChange(size=BLOCK + 10))
        assert await mount.fs.read(fh, BLOCK, BLOCK) == data[BLOCK : BLOCK + 5] + bytes(5)
        await mount.close(fh)


async def test_all_files_together_stay_within_the_budget() -> None:
    tree = MemoryTree()
    for i in range(8):
        tree.write_file(b"%d" % i, b"z" * 4 * 1024 * KIB)
    config = VfsConfig(total_readahead=16 * BLOCK)
    async with mounted(tree, config=config) as mount:
        files = [await mount.open(b"%d" % i) for i in range(8)]
        for turn in range(4):
            for fh in files:
                assert len(await mount.fs.read(fh, turn * BLOCK, BLOCK)) == BLOCK
            # Each reader has consumed so many blocks; one more may be kept behind it.
            ahead = len(reads(mount.remote)) - (turn + 1) * 8
            assert ahead <= 16
            assert turn or ahead >= 8
        for fh in files:
            await mount.close(fh)
        assert mount.fs.tree.read_budget.has_room(16 * BLOCK)


async def test_the_budget_comes_back_whatever_ends_a_reader() -> None:
    tree, _ = tree_of(4 * 1024 * KIB)
    config = VfsConfig(total_readahead=64 * BLOCK)
    async with mounted(tree, config=config) as mount, trio.open_nursery() as nursery:
        fh = await mount.open(b"f")
        await mount.fs.read(fh, 0, BLOCK)
        mount.remote.hold()
        interrupted = start(nursery, mount.fs.read, fh, 3 * BLOCK, BLOCK)
        await settle()
        interrupted.scope.cancel()
        await settle()
        mount.remote.release()
        mount.remote.fail_next("read", RemoteStatusError(FX_FAILURE), times=100)
        with pytest.raises(FilesystemError):
            await whole(mount, fh)
        await mount.close(fh)
        assert mount.fs.tree.read_budget.has_room(64 * BLOCK)


async def test_an_interrupted_reader_leaves_the_block_to_the_others() -> None:
    tree, data = tree_of(BLOCK)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        fh = await mount.open(b"f")
        mount.remote.hold()
        tasks = [start(nursery, mount.fs.read, fh, 0, BLOCK) for _ in range(2)]
        await settle()
        tasks[0].scope.cancel()
        await settle()
        mount.remote.release()
        await settle()
        assert tasks[1].result() == data
        await mount.close(fh)


async def test_a_failed_read_is_reported_and_asked_again() -> None:
    tree, data = tree_of(3 * BLOCK)
    async with mounted(tree) as mount:
        fh = await mount.open(b"f")
        mount.remote.fail_next("read", RemoteStatusError(FX_FAILURE), times=3)
        with pytest.raises(FilesystemError):
            await mount.fs.read(fh, 0, BLOCK)
        await settle()
        assert await whole(mount, fh) == data  # what failed ahead was nobody's error yet
        await mount.close(fh)


@pytest.mark.parametrize(
    ("max_read", "block"),
    [(512, 512), (1000, 512), (32_768, 32_768), (34_000, 32_768), (261_120, BLOCK)],
)
def test_block_sizes_fit_one_read(max_read: int, block: int) -> None:
    assert block_size_for(max_read) == block


async def test_an_open_file_that_changed_on_the_server_is_read_anew() -> None:
    """Once its new mtime was seen, the kernel drops its pages and asks again."""
    async with mounted() as mount:
        mount.tree.write_file(b"f", b"old" * KIB)
        fh = await mount.open(b"f")
        number = await mount.number(b"f")
        assert await mount.fs.read(fh, 0, 3) == b"old"
        await trio.sleep(60)
        mount.tree.now += 60
        mount.tree.write_file(b"f", b"new" * KIB)
        await mount.fs.getattr(number)
        assert await mount.fs.read(fh, 0, 3) == b"new"
        await mount.close(fh)


async def test_an_end_of_the_file_is_not_the_end_for_ever() -> None:
    """Truncated and written anew within one second: no version shows it."""
    async with mounted() as mount:
        node = mount.tree.write_file(b"f", b"x" * KIB)
        fh = await mount.open(b"f")
        mount.tree.truncate(node, 0)
        assert await mount.fs.read(fh, 0, KIB) == b""
        mount.tree.append_file(b"f", b"x" * KIB)
        assert await mount.fs.read(fh, 0, KIB) == b"x" * KIB
        await mount.close(fh)
