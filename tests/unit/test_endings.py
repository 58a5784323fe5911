"""Where a file ends before it should: a shorter file, another one, or a server's mistake."""

from __future__ import annotations

import errno
import logging
import os

import pytest
import trio

from pysshfs.errors import FilesystemError
from pysshfs.remotefs import Attributes
from pysshfs.vfs.config import VfsConfig
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.fake_remote import OPENSSH, ROOMY
from tests.support.memory_tree import MemoryTree

BLOCK = 128 * 1024
CUTS = [0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK]
SIZE = 4 * BLOCK + 777


def tree_of(size: int = SIZE) -> tuple[MemoryTree, bytes]:
    tree = MemoryTree()
    data = (os.urandom(1021) * (size // 1021 + 1))[:size]
    tree.write_file(b"f", data)
    return tree, data


async def read_until(mount: Mount, fh: int, step: int = BLOCK) -> tuple[bytes, int | None]:
    """What a program gets, and the errno that ends it, if one does."""
    parts = b""
    while True:
        try:
            part = await mount.fs.read(fh, len(parts), step)
        except FilesystemError as error:
            return parts, error.errno
        if not part:
            return parts, None
        parts += part


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("step", [4096, BLOCK, 3 * BLOCK, 1 << 20])
@pytest.mark.parametrize("readahead", [0, 32 << 20])
async def test_an_end_that_is_none_is_an_error(cut: int, step: int, readahead: int) -> None:
    """Whatever was read before it is true; nothing is filled in, and nothing left out unsaid."""
    tree, data = tree_of()
    async with mounted(tree, config=VfsConfig(readahead=readahead)) as mount:
        mount.remote.ends[b"f"] = cut
        fh = await mount.open(b"f")
        got, error = await read_until(mount, fh, step)
        assert error == errno.EIO
        assert data.startswith(got)
        assert len(got) <= cut
        del mount.remote.ends[b"f"]
        assert (await read_until(mount, fh, step)) == (data, None)  # and it is asked again
        await mount.close(fh)


async def test_it_is_logged_once_for_an_open_file(caplog: pytest.LogCaptureFixture) -> None:
    tree, _ = tree_of()
    caplog.set_level(logging.INFO)
    async with mounted(tree) as mount:
        mount.remote.ends[b"f"] = 100
        fh = await mount.open(b"f")
        for _ in range(3):
            assert (await read_until(mount, fh))[1] == errno.EIO
        await mount.close(fh)
    lines = [record.message for record in caplog.records]
    assert len(lines) == 1
    assert "b'f'" in lines[0]
    assert f"{SIZE} bytes" in lines[0]


@pytest.mark.parametrize("cut", CUTS)
async def test_a_file_that_another_client_cut_is_shorter(cut: int) -> None:
    tree, data = tree_of()
    async with mounted(tree) as mount:
        fh = await mount.open(b"f")
        tree.truncate(tree.find(b"f"), cut)
        assert await read_until(mount, fh) == (data[:cut], None)
        assert await mount.size(b"f") == cut
        await mount.close(fh)


async def test_a_file_that_is_cut_and_written_between_two_looks_is_read_on() -> None:
    tree, data = tree_of()
    async with mounted(tree) as mount:
        fh = await mount.open(b"f")
        mount.remote.ends[b"f"] = 100

        def written_again() -> None:
            if mount.remote.calls[-1][0] == "fstat":
                mount.remote.ends.clear()

        mount.remote.on_request = written_again
        assert await read_until(mount, fh) == (data, None)
        await mount.close(fh)


@pytest.mark.parametrize("cut", [0, 5, 4095])
async def test_sizes_mean_nothing_where_there_are_no_blocks(cut: int) -> None:
    """As in sysfs, whose files are all a page long to look at."""
    tree, data = tree_of(4096)
    async with mounted(tree) as mount:
        mount.remote.statistics = ROOMY._replace(blocks=0, blocks_free=0, blocks_available=0)
        mount.remote.ends[b"f"] = cut
        fh = await mount.open(b"f")
        assert await read_until(mount, fh, 65536) == (data[:cut], None)
        await mount.close(fh)


async def test_without_statvfs_sizes_are_believed() -> None:
    tree, _ = tree_of(4096)
    async with mounted(tree, capabilities=OPENSSH._replace(statvfs=False)) as mount:
        mount.remote.ends[b"f"] = 5
        fh = await mount.open(b"f")
        assert (await read_until(mount, fh))[1] == errno.EIO
        await mount.close(fh)


async def test_what_is_written_meanwhile_is_not_taken_for_missing() -> None:
    tree, data = tree_of(100)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        fh = await mount.open(b"f", os.O_RDWR)
        mount.remote.hold()
        reading = start(nursery, mount.fs.read, fh, 0, 4096)
        await settle()
        await mount.fs.write(fh, 100, b"more")
        mount.remote.release()
        await reading.ended.wait()
        assert reading.result() == data
        assert mount.remote.count("fstat") == 1  # it was looked at, and
        assert (await mount.fs.read(fh, 0, 4096)) == data + b"more"
        assert await mount.size(b"f") == 104
        await mount.close(fh)


async def test_a_whole_file_is_not_looked_at_again() -> None:
    tree, data = tree_of()
    async with mounted(tree) as mount:
        fh = await mount.open(b"f")
        assert await read_until(mount, fh) == (data, None)
        assert mount.remote.count("fstat") == mount.remote.count("statvfs") == 0
        await mount.close(fh)


async def test_a_file_opened_ahead_that_ends_too_early_is_an_error() -> None:
    tree = MemoryTree()
    for number in range(20):
        tree.write_file(b"%02d" % number, b"x" * 1000)
    async with mounted(tree) as mount:
        mount.remote.ends[b"10"] = 500
        await mount.names()
        for number in range(20):
            reply = await mount.fs.open(await mount.number(b"%02d" % number), os.O_RDONLY)
            got, error = await read_until(mount, reply.fh)
            await mount.close(reply.fh)
            await settle()
            assert (reply.content, got, error) in (
                (b"", b"x" * 1000, None),
                (b"x" * 1000, b"x" * 1000, None),
            ) or (number == 10 and (reply.content, got, error) == (b"", b"", errno.EIO))
        assert mount.fs.statistics()["opened_ahead"] > 10


async def test_a_file_that_grows_without_end_costs_its_reader_alone() -> None:
    """Each read ends, with true bytes, and what is held for it stays bounded."""
    tree, _ = tree_of(1000)
    node = tree.find(b"f")
    async with mounted(tree, config=VfsConfig(readahead=1 << 20)) as mount:
        mount.remote.on_request = lambda: node.data.extend(b"z" * 10_000)
        fh = await mount.open(b"f")
        at = 0
        for _ in range(300):
            part = await mount.fs.read(fh, at, 65536)
            assert part == bytes(node.data[at : at + len(part)])
            at += len(part)
            assert mount.fs.tree.budget.read_ahead.held <= (1 << 20) + 3 * BLOCK
        assert at > 1000
        await mount.close(fh)


@pytest.mark.parametrize("size", [None, 1 << 63])
async def test_nothing_is_appended_to_a_file_of_impossible_size(
    size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At offset 0 it would overwrite the beginning."""
    async with mounted() as mount:
        node = mount.tree.write_file(b"f", b"data")
        fh = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
        bad = Attributes(node.mode, size, 0, 0, 0, 0)
        monkeypatch.setattr("tests.support.fake_remote.attributes_of", lambda _node: bad)
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.write(fh, 0, b"more")
        assert caught.value.errno == errno.EIO
        monkeypatch.undo()
        await trio.sleep(1)
        assert mount.tree.read_file(b"f") == b"data"
        await mount.close(fh)
