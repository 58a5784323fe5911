"""A server's listings: what cannot be is left out, what does not end fails, and the log says so."""

from __future__ import annotations

import errno
import itertools
import logging
import stat
from typing import TYPE_CHECKING

import pytest
import trio

from pysshfs.errors import ConnectionLostError, FilesystemError
from pysshfs.remotefs import Attributes, DirectoryEntry
from pysshfs.vfs import directories, sanity
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = Attributes(stat.S_IFREG | 0o644, 1, 0, 0, 0, 0)
CONFIG = VfsConfig(max_dir_entries=1000, max_dir_bytes=20_000, max_dir_time=30)

Reply = list[DirectoryEntry] | None


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def entries(*names: bytes) -> list[DirectoryEntry]:
    return [DirectoryEntry(name, FILE) for name in names]


def endless(_path: bytes, reply: int) -> Reply:
    return entries(*(b"%d-%d" % (reply, number) for number in range(100)))


def endless_and_empty(_path: bytes, _reply: int) -> Reply:
    return []


def endless_and_the_same(_path: bytes, _reply: int) -> Reply:
    return entries(b"a")


def endless_and_impossible(_path: bytes, reply: int) -> Reply:
    return entries(b"%d" % reply, *[b"x/y"] * 1000)


def endless_and_long(_path: bytes, reply: int) -> Reply:
    return entries(b"%0250d" % reply)


ENDLESS = [
    (endless, "max_dir_entries=1000"),
    (endless_and_empty, "replies without a new name"),
    (endless_and_the_same, "replies without a new name"),
    (endless_and_impossible, "names that cannot be, more than max_dir_entries=1000"),
    (endless_and_long, "max_dir_bytes=20000"),
]


async def refusal(mount: Mount, path: bytes = b"") -> int:
    """The errno with which a listing ends."""
    with pytest.raises(FilesystemError) as caught:
        await mount.names(path)
    return caught.value.errno


@pytest.mark.parametrize(("invented", "said"), ENDLESS)
async def test_a_listing_without_end_fails(
    invented: Callable[[bytes, int], Reply], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.mkdir(b"d")
        mount.remote.invented = invented
        for _ in range(3):
            assert await refusal(mount, b"d") == errno.EOVERFLOW
        mount.remote.invented = None
        await settle()
        assert mount.remote.open_handles == []
        assert await mount.names(b"d") == []  # and it is looked at again, not remembered
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1
    assert "EOVERFLOW" in warnings[0]
    assert said in warnings[0]
    assert "directory b'd'" in warnings[0]


async def test_a_listing_that_fails_gives_its_memory_and_its_handle_back() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.remote.invented = endless
        fh = await mount.fs.opendir(ROOT_NUMBER)
        with pytest.raises(FilesystemError):
            await mount.read_names(fh)
        stream = mount.fs._directories[fh]
        assert len(stream._entries) == 0
        assert stream._check.names == 0
        assert stream._in_flight == stream._sent_at == type(stream._sent_at)()
        await settle()
        assert mount.remote.open_handles == []
        asked = len(mount.remote.calls)
        for offset in (0, 1, 500, 100_000):  # whoever goes on is told again, at no cost
            with pytest.raises(FilesystemError) as caught:
                await mount.read_names(fh, offset or 2)
            # Another error: for EOVERFLOW ls would ask again and again, and the end it is not.
            assert caught.value.errno == errno.EIO
        assert len(mount.remote.calls) == asked
        mount.remote.invented = None
        assert await mount.read_names(fh) == []  # but a rewind begins anew
        await mount.fs.releasedir(fh)


@pytest.mark.parametrize("count", [999, 1000, 1001])
async def test_the_bounds_are_exact(count: int) -> None:
    """The two dots do not count, nor does the reply that they come in."""
    tree = MemoryTree()
    names = [b"%04d" % number for number in range(count)]
    for name in names:
        tree.write_file(name, b"")
    for config in (CONFIG, CONFIG._replace(max_dir_entries=5000, max_dir_bytes=4000)):
        async with mounted(tree, config=config) as mount:
            if count > 1000:
                assert await refusal(mount) == errno.EOVERFLOW
            else:
                assert await mount.names() == names


async def test_time_that_is_waited_is_bounded_and_other_time_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tree = MemoryTree()
    for number in range(2000):
        tree.write_file(b"%04d" % number, b"")
    config = CONFIG._replace(max_dir_entries=5000)
    async with mounted(tree, latency=1, config=config) as mount:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        found = await mount.read_names(fh, most=10)
        await trio.sleep(3000)  # a program that takes its time
        found += await mount.read_names(fh, 12)
        assert len(found) == 2000
        await mount.fs.releasedir(fh)
        mount.remote.batch, mount.remote.latency = 1, 20
        mount.remote.invented = lambda _path, reply: entries(b"%d" % reply)
        await trio.sleep(100)
        assert await refusal(mount) == errno.EOVERFLOW
        assert "max_dir_time=30" in caplog.text


async def test_no_bound_on_time() -> None:
    async with mounted(latency=100, config=CONFIG._replace(max_dir_time=0)) as mount:
        for number in range(700):
            mount.tree.write_file(b"%d" % number, b"")
        assert len(await mount.names()) == 700


async def test_many_names_at_once_are_not_asked_for_many_times_in_advance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a server has sent and nobody has read is held."""
    monkeypatch.setattr(directories, "_MOST_AHEAD", 1000)
    async with mounted() as mount:
        sizes = itertools.chain([50] * 20, itertools.repeat(600))
        names = (b"%d" % number for number in itertools.count())

        def invented(_path: bytes, _reply: int) -> Reply:
            return entries(*itertools.islice(names, next(sizes)))

        mount.remote.invented = invented
        fh = await mount.fs.opendir(ROOT_NUMBER)
        await mount.read_names(fh, most=500)
        await settle()
        assert len(mount.fs._directories[fh]._in_flight) > 8
        await mount.read_names(fh, 500, most=15_000)
        assert len(mount.fs._directories[fh]._in_flight) == 1
        await mount.fs.releasedir(fh)


# --- names that cannot be -------------------------------------------------------------------------


async def test_what_is_left_out_is_counted_and_logged_once_for_each_directory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = [b"", b"", b"a/b", b"/", b"nul\0", b"x" * 256, b"..", b".", b"good", b"good", b".."]
    async with mounted(config=VfsConfig(directory_timeout=0)) as mount:
        for name in (b"one", b"two"):
            mount.tree.mkdir(name)
        mount.remote.strange_entries = [
            *entries(*bad, b"other\xff"),
            DirectoryEntry(b"odd", FILE._replace(mode=0o644)),
            DirectoryEntry(b"bare", Attributes(None, None, None, None, None, None)),
        ]
        for _ in range(3):
            for name in (b"one", b"two"):
                assert await mount.names(name) == [b"good", b"other\xff", b"odd", b"bare"]
    lines = [r.message for r in caplog.records if "cannot be" in r.message]
    assert len(lines) == 2
    for name, line in zip((b"one", b"two"), lines, strict=True):
        assert repr(name) in line
        for kind in (
            "2 empty", "2 with '/'", "1 with NUL", "1 over 255 bytes", "4 duplicate",
            "1 with impossible attributes",
        ):  # fmt: skip
            assert kind in line


async def test_an_ordinary_directory_is_nothing_to_log(caplog: pytest.LogCaptureFixture) -> None:
    async with mounted() as mount:
        mount.tree.write_file(b"f", b"")
        await mount.names()
    assert caplog.records == []


async def test_names_that_come_again_after_a_loss_are_no_oddity(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tree = MemoryTree()
    names = [b"%04d" % number for number in range(900)]
    for name in names:
        tree.write_file(name, b"")
    config = CONFIG._replace(max_dir_entries=900)
    async with mounted(tree, config=config) as mount, trio.open_nursery() as nursery:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        found = await mount.read_names(fh, most=800)
        for _ in range(3):
            mount.remote.drop_connection()
            reading = start(nursery, mount.read_names, fh, 802)
            await settle()
            await mount.reconnect()
        await reading.ended.wait()
        assert found + reading.result() == names
        await mount.fs.releasedir(fh)
    assert "cannot be" not in caplog.text


async def test_many_replies_that_come_again_after_a_loss_are_no_listing_without_end() -> None:
    tree = MemoryTree()
    names = [b"%04d" % number for number in range(sanity._MOST_BARREN + 200)]
    for name in names:
        tree.write_file(name, b"")
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        mount.remote.batch = 1
        fh = await mount.fs.opendir(ROOT_NUMBER)
        found = await mount.read_names(fh, most=len(names) - 50)
        mount.remote.drop_connection()
        reading = start(nursery, mount.read_names, fh, len(found) + 2)
        await settle()
        await mount.reconnect()
        await reading.ended.wait()
        assert found + reading.result() == names
        await mount.fs.releasedir(fh)


# --- who else reads directories -------------------------------------------------------------------


async def test_listing_ahead_stops_at_the_bounds_too() -> None:
    tree = MemoryTree()
    for number in range(5):
        tree.mkdir(b"d%d" % number)
    async with mounted(tree, config=VfsConfig(max_dir_entries=300)) as mount:
        await mount.names()
        mount.remote.invented = endless
        assert await refusal(mount, b"d0") == errno.EOVERFLOW
        await settle()
        opened = mount.remote.count("opendir")
        assert opened > 2  # it is seen as a walk
        assert mount.fs.statistics()["listed_in_vain"] == opened - 2
        assert await refusal(mount, b"d1") == errno.EOVERFLOW
        await settle()
        assert mount.remote.open_handles == []


async def test_a_directory_that_is_too_long_is_not_listed_again_for_who_asks_for_names() -> None:
    async with mounted(config=VfsConfig(max_dir_entries=300)) as mount:
        mount.tree.mkdir(b"d")
        await mount.number(b"d")
        mount.remote.invented = endless
        for _ in range(2):
            for name in (b"d/a", b"d/b", b"d/c"):
                assert await mount.find(name) is None
            await settle()
            assert mount.remote.count("opendir") == 2  # this one, and the one above
            await trio.sleep(1.5)


async def test_promises_of_names_do_without_a_listing_that_is_too_long() -> None:
    config = VfsConfig(async_ops=True, max_dir_entries=300)
    async with mounted(config=config) as mount:
        mount.tree.mkdir(b"d")
        mount.remote.invented = endless
        for name in (b"d/a", b"d/b", b"d/c"):
            await mount.mkdir(name)
        await mount.fs.flush_all()
        assert mount.tree.exists(b"d/c")


# --- an entry whose attributes cannot be ----------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        FILE._replace(size=1 << 63),
        FILE._replace(size=-1),
        FILE._replace(size=None),
        FILE._replace(mode=0o150644),
        FILE._replace(mode=None),
    ],
)
async def test_an_entry_with_impossible_attributes_harms_nobody_else(bad: Attributes) -> None:
    async with mounted() as mount:
        for name in (b"a", b"bad", b"c"):
            mount.tree.write_file(name, b"1")
        mount.remote.strange_entries = [DirectoryEntry(b"bad", bad)]
        mount.remote.overridden[b"bad"] = bad
        assert sorted(await mount.names()) == [b"a", b"bad", b"c"]
        for name in (b"a", b"c"):
            assert await mount.size(name) == 1
        with pytest.raises(FilesystemError) as caught:
            await mount.entry(b"bad")
        assert caught.value.errno == errno.EIO
        del mount.remote.overridden[b"bad"]
        assert await mount.size(b"bad") == 1


# --- hide_special ---------------------------------------------------------------------------------

SPECIAL = [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK]


def tree_of_all_kinds() -> MemoryTree:
    tree = MemoryTree()
    tree.write_file(b"file", b"")
    tree.mkdir(b"directory")
    tree.symlink(b"file", b"link")
    for number, kind in enumerate(SPECIAL):
        tree.write_file(b"special%d" % number, b"").mode = kind | 0o666
    return tree


@pytest.mark.parametrize("listed_first", [False, True])
async def test_special_files_can_be_hidden(listed_first: bool) -> None:
    async with mounted(tree_of_all_kinds(), config=VfsConfig(hide_special=True)) as mount:
        if listed_first:
            assert await mount.names() == [b"file", b"directory", b"link"]
        for number in range(len(SPECIAL)):
            assert await mount.find(b"special%d" % number) is None
        for name in (b"file", b"directory", b"link"):
            assert await mount.find(name) is not None
        assert await mount.names() == [b"file", b"directory", b"link"]


async def test_the_names_of_hidden_files_stay_taken() -> None:
    tree = MemoryTree()
    tree.mkdir(b"d")
    tree.write_file(b"d/fifo", b"").mode = stat.S_IFIFO | 0o666
    async with mounted(tree, config=VfsConfig(hide_special=True)) as mount:
        assert await mount.names(b"d") == []
        for call in (mount.create(b"d/fifo"), mount.mkdir(b"d/fifo")):
            with pytest.raises(FilesystemError) as caught:
                await call
            assert caught.value.errno == errno.EEXIST
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.rmdir(*await mount.parent(b"d"))
        assert caught.value.errno == errno.ENOTEMPTY


async def test_a_fifo_that_others_make_is_not_opened_on_the_server() -> None:
    """The server would wait for its other end. The kernel looks it up anew, and opens it itself."""
    async with mounted() as mount:
        assert await mount.find(b"f") is None
        mount.tree.write_file(b"f", b"").mode = stat.S_IFIFO | 0o666
        with pytest.raises(FilesystemError) as caught:
            await mount.create(b"f")
        assert caught.value.errno == errno.ESTALE
        assert mount.remote.count("open") == 1  # to make a file, exclusively


async def test_special_files_are_shown_as_they_are() -> None:
    async with mounted(tree_of_all_kinds()) as mount:
        assert len(await mount.names()) == 7
        for number, kind in enumerate(SPECIAL):
            assert (await mount.entry(b"special%d" % number)).attributes.mode == kind | 0o666


async def test_a_file_that_becomes_special_is_not_there_any_more() -> None:
    config = VfsConfig(hide_special=True, stat_timeout=5)
    async with mounted(config=config) as mount:
        node = mount.tree.write_file(b"f", b"")
        await mount.number(b"f")
        node.mode = stat.S_IFIFO | 0o666
        await trio.sleep(6)
        assert await mount.find(b"f") is None


def test_the_barren_bound_is_within_what_a_server_may_do() -> None:
    assert sanity._MOST_BARREN >= 2  # the first reply may have the two dots only


async def test_a_lost_connection_in_a_listing_is_no_failure_of_it() -> None:
    async with mounted() as mount, trio.open_nursery() as nursery:
        mount.tree.write_file(b"f", b"")
        fh = await mount.fs.opendir(ROOT_NUMBER)
        mount.remote.drop_connection(ConnectionLostError("gone"))
        reading = start(nursery, mount.read_names, fh)
        await settle()
        await mount.reconnect()
        await reading.ended.wait()
        assert reading.result() == [b"f"]
        await mount.fs.releasedir(fh)
