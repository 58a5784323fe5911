"""Files opened ahead: save round trips, are trusted late, bounded, and never out of date."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import trio

from pysshfs.errors import FX_PERMISSION_DENIED, RemoteStatusError
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs import prefetch
from pysshfs.vfs.config import VfsConfig
from tests.support.cuts import failing
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.fake_remote import OPENSSH
from tests.support.memory_tree import MemoryTree

ROUND_TRIP = 0.05


def content(name: bytes) -> bytes:
    return name * 100


def files(count: int, directory: bytes = b"") -> MemoryTree:
    tree = MemoryTree()
    if directory:
        tree.mkdir(directory)
    for i in range(count):
        name = b"f%03d" % i
        tree.write_file(directory + b"/" + name if directory else name, content(name))
    return tree


async def read(mount: Mount, path: bytes) -> bytes:
    number = await mount.number(path)
    fh = (await mount.fs.open(number, os.O_RDONLY)).fh
    size = mount.fs.tree.inodes.get(number).known_size  # the kernel reads no further
    try:
        return await mount.fs.read(fh, 0, size)
    finally:
        await mount.close(fh)


async def read_all(mount: Mount, directory: bytes = b"") -> list[bytes]:
    """As grep -r does with a directory."""
    names = await mount.names(directory)
    for name in names:
        if name.startswith(b"f"):
            path = directory + b"/" + name if directory else name
            assert await read(mount, path) == content(name)
    return names


async def begin_in_order(mount: Mount) -> None:
    """Three files, which is a pattern; what is fetched ahead then is here afterwards."""
    await mount.names()
    for name in (b"f000", b"f001", b"f002"):
        await read(mount, name)
    await settle()


def ahead(mount: Mount) -> tuple[int, int]:
    figures = mount.fs.statistics()
    return figures["opened_ahead"], figures["opened_in_vain"]


async def test_files_read_one_after_the_other_cost_a_few_round_trips() -> None:
    async with mounted(files(100), latency=ROUND_TRIP) as mount:
        began = trio.current_time()
        await read_all(mount)
        assert trio.current_time() - began < 25 * ROUND_TRIP  # 200 one by one
        assert mount.remote.count("open") == 100
        assert mount.remote.count("read") == 100
        assert ahead(mount) == (97, 0)


@pytest.mark.parametrize(
    ("stated", "most"),
    [(0, prefetch._MOST_FILES), (1_000_000, prefetch._MOST_FILES_STATED), (40, 10), (1, 1)],
)
async def test_no_more_files_are_held_than_the_server_has_handles_for(
    stated: int, most: int
) -> None:
    tree = files(1000)
    capabilities = OPENSSH._replace(max_handles=stated)
    async with mounted(tree, latency=ROUND_TRIP, capabilities=capabilities) as mount:
        held = 0
        for name in await mount.names():
            await read(mount, name)
            held = max(held, len(mount.remote.open_handles))
        assert most <= held <= 2 * most + 1  # and the directory


async def test_in_the_order_of_inode_numbers_as_cp_sorts() -> None:
    async with mounted(files(100), latency=ROUND_TRIP) as mount:
        numbers = {name: await mount.number(name) for name in await mount.names()}
        began = trio.current_time()
        for name in sorted(numbers, key=numbers.__getitem__):
            assert await read(mount, name) == content(name)
        assert trio.current_time() - began < 25 * ROUND_TRIP
        assert mount.remote.count("open") == 100


async def test_in_the_order_of_names_as_shells_and_git_do() -> None:
    tree = MemoryTree()
    for i in range(100):  # the listing has them in this order
        name = b"f%03d" % (i * 37 % 100)
        tree.write_file(name, content(name))
    async with mounted(tree, latency=ROUND_TRIP) as mount:
        names = await mount.names()
        assert names != sorted(names)
        began = trio.current_time()
        for name in sorted(names):
            assert await read(mount, name) == content(name)
        assert trio.current_time() - began < 25 * ROUND_TRIP
        assert mount.remote.count("open") == 100
        assert ahead(mount) == (97, 0)


async def test_an_order_that_looked_like_another_at_first_is_kept_to_all_the_same() -> None:
    """The first directory is read in an order that is nearly that of its listing; by the others it
    shows that it goes by names."""
    tree = MemoryTree()
    for i in range(20):
        tree.mkdir(b"d%02d" % (i * 7 % 20))
    for i in range(20):
        names = [b"f%d" % j for j in range(6)]
        for name in names if i == 0 else names[::-1]:
            tree.write_file(b"d%02d/" % i + name, content(name))
    async with mounted(tree, latency=ROUND_TRIP) as mount:
        began = trio.current_time()
        for directory in sorted(await mount.names()):
            for name in sorted(await mount.names(directory)):
                assert await read(mount, directory + b"/" + name) == content(name)
        assert trio.current_time() - began < 70 * ROUND_TRIP  # 280 one by one
        assert mount.remote.count("open") < 150  # 120 files, and what was fetched in vain at first


async def test_several_are_asked_for_at_once() -> None:
    """A program that is fed file by file costs both ends a wake-up for each."""
    async with mounted(files(400)) as mount:
        names = await mount.names()
        asked_with: list[int] = []
        for name in names:
            before = mount.remote.count("open")
            await read(mount, name)
            await settle()
            if mount.remote.count("open") > before:
                asked_with.append(mount.remote.count("open") - before)
        assert sum(asked_with) == 400
        assert len(asked_with) < 60
        assert max(asked_with) >= 2 * prefetch._MOST_FILES // prefetch._SHARE_AT_ONCE - 1


async def test_a_walk_goes_on_into_the_next_directories() -> None:
    tree = MemoryTree()
    for i in range(30):
        tree.mkdir(b"d%02d" % i)
        for j in range(5):
            tree.write_file(b"d%02d/f%d" % (i, j), content(b"f%d" % j))
    async with mounted(tree, latency=ROUND_TRIP) as mount:
        began = trio.current_time()
        for name in await mount.names():
            await read_all(mount, name)
        took = trio.current_time() - began
        assert took < 60 * ROUND_TRIP  # 360 one by one
        assert mount.remote.count("open") == 150
        assert ahead(mount)[1] == 0


def mixed() -> tuple[MemoryTree, list[bytes]]:
    """Directories in which files come before, between and behind subdirectories; and the files, as
    tar, find and grep come to them."""
    tree, way = MemoryTree(), []

    def fill(directory: bytes, depth: int) -> None:
        for i in range(8):
            name = directory + b"/e%d" % i
            if i in (3, 5) and depth < 3:
                tree.mkdir(name)
                fill(name, depth + 1)
            else:
                tree.write_file(name, content(name))
                way.append(name)

    tree.mkdir(b"top")
    fill(b"top", 0)
    return tree, way


async def walk(mount: Mount, path: bytes, seen: list[bytes]) -> None:
    """Depth first, into each subdirectory where it stands; all files are read."""
    for name in await mount.names(path):
        below = path + b"/" + name
        if stat.S_ISDIR((await mount.entry(below)).attributes.mode):
            await walk(mount, below, seen)
        else:
            assert await read(mount, below) == content(below)
            seen.append(below)


async def test_files_behind_a_subdirectory_are_foreseen() -> None:
    tree, way = mixed()
    async with mounted(tree, latency=ROUND_TRIP) as mount:
        began = trio.current_time()
        seen: list[bytes] = []
        await walk(mount, b"top", seen)
        assert seen == way
        assert mount.remote.count("open") == len(way) == 106
        assert ahead(mount)[1] == 0
        assert trio.current_time() - began < 35 * ROUND_TRIP  # 210 for the files alone


async def test_a_directory_that_is_not_listed_is_left_out() -> None:
    """Whoever reads the files of one directory only is not kept waiting for what lies below."""
    tree, way = mixed()
    async with mounted(tree, latency=ROUND_TRIP) as mount:
        top = [name for name in way if name.count(b"/") == 1]
        await mount.names(b"top")
        for name in top[:3]:
            await read(mount, name)
        await settle()
        assert mount.remote.count("open") == len(top)
        assert mount.remote.count("opendir") <= 1 + 1  # that of a file that might be a directory
        # And then into one of them after all.
        seen: list[bytes] = []
        await walk(mount, b"top/e3", seen)
        assert seen == [name for name in way if name.startswith(b"top/e3")]


async def test_two_files_of_a_walk_are_enough() -> None:
    """The first two of a directory, that is; others are no pattern."""
    tree = MemoryTree()
    for i in range(4):
        tree.mkdir(b"d%d" % i)
        for j in range(6):
            tree.write_file(b"d%d/f%d" % (i, j), content(b"f%d" % j))
    async with mounted(tree, latency=ROUND_TRIP) as mount:
        await mount.names()
        for i in (0, 1):
            assert len(await mount.names(b"d%d" % i)) == 6
        await read(mount, b"d1/f2")
        await read(mount, b"d1/f3")
        await settle()
        assert ahead(mount) == (0, 0)
        await mount.names(b"d2")
        await read(mount, b"d2/f0")
        await read(mount, b"d2/f1")
        await settle()
        assert ahead(mount)[0] == prefetch._FIRST_FILES  # of the next directory, too


async def test_two_files_in_order_are_no_pattern() -> None:
    async with mounted(files(20)) as mount:
        await mount.names()
        for name in (b"f000", b"f001"):
            await read(mount, name)
        await settle()
        assert ahead(mount) == (0, 0)


async def test_files_in_no_order_are_no_pattern() -> None:
    async with mounted(files(100)) as mount:
        names = await mount.names()
        numbers = {name: await mount.number(name) for name in names}
        by_number = sorted(numbers, key=numbers.__getitem__)
        name = names[0]
        for _ in range(30):  # far ahead in both orders each time, or back
            place, rank = names.index(name), by_number.index(name)
            name = next(
                other
                for other in names[place + 40 :] + names[: max(place - 40, 0)]
                if not rank < by_number.index(other) < rank + 20
            )
            await read(mount, name)
        await settle()
        assert ahead(mount)[0] == 0


async def test_what_was_changed_on_the_server_is_seen_after_the_ttl() -> None:
    async with mounted(files(20), config=VfsConfig(prefetch_ttl=1)) as mount:
        await begin_in_order(mount)
        assert mount.remote.count("open") > 3
        mount.tree.write_file(b"f003", b"new content")
        await trio.sleep(1.01)
        number = await mount.number(b"f003")
        fh = (await mount.fs.open(number, os.O_RDONLY)).fh
        assert await mount.fs.read(fh, 0, 100) == b"new content"
        await mount.close(fh)


async def test_what_was_changed_through_the_mount_is_seen_at_once() -> None:
    async with mounted(files(20)) as mount:
        await begin_in_order(mount)
        fh = await mount.open(b"f003", os.O_WRONLY)
        await mount.fs.write(fh, 0, b"NEW")
        await mount.close(fh)
        assert await read(mount, b"f003") == b"NEW3" + content(b"f003")[4:]
        await mount.setattr(b"f004", AttributeChange(size=2))
        assert await read(mount, b"f004") == b"f0"
        await mount.unlink(b"f005")
        assert await mount.find(b"f005") is None
        await mount.rename(b"f006", b"moved")
        assert await read(mount, b"moved") == content(b"f006")


async def test_what_differs_from_its_listing_is_not_used() -> None:
    async with mounted(files(20)) as mount:
        await mount.names()
        mount.tree.write_file(b"f004", b"short")
        for name in (b"f000", b"f001", b"f002", b"f003"):
            await read(mount, name)
        await settle()
        assert ahead(mount)[1] == 1
        assert await mount.size(b"f004") == 5


async def test_what_nobody_opens_is_given_up_and_counted() -> None:
    async with mounted(files(100), config=VfsConfig(prefetch_ttl=1)) as mount:
        await begin_in_order(mount)
        opened, _ = ahead(mount)
        assert 1 <= opened <= 2 * prefetch._FIRST_FILES
        await trio.sleep(3)
        assert ahead(mount) == (opened, opened)
        assert mount.remote.open_handles == []
        assert mount.fs.tree.read_budget.has_room(VfsConfig().total_readahead)
        # And the pattern is not trusted any more: the next open fetches nothing.
        await read(mount, b"f020")
        await settle()
        assert ahead(mount) == (opened, opened)


async def test_what_is_held_is_bounded() -> None:
    size = 100_000
    tree = MemoryTree()
    for i in range(200):
        tree.write_file(b"f%03d" % i, b"x" * size)
    config = VfsConfig(total_readahead=8 << 20)
    async with mounted(tree, config=config) as mount:
        names = await mount.names()
        for name in names[:150]:
            assert len(await read(mount, name)) == size
            await settle()
            held = mount.remote.open_handles
            assert len(held) <= 2 * prefetch._MOST_FILES
            assert len(held) * size <= (2 << 20)
        assert len(held) > 10


async def test_a_file_that_may_not_be_read_is_asked_for_by_who_opens_it() -> None:
    async with mounted(files(20)) as mount:
        await mount.names()
        for name in (b"f000", b"f001"):
            await read(mount, name)
        mount.remote.fail_next("open", RemoteStatusError(FX_PERMISSION_DENIED), times=100)
        assert await failing(read(mount, b"f002")) == errno.EACCES
        await settle()
        mount.remote._failures.clear()
        assert await read(mount, b"f003") == content(b"f003")


async def test_an_open_waits_for_what_is_under_way() -> None:
    async with mounted(files(20)) as mount, trio.open_nursery() as nursery:
        await mount.names()
        for name in (b"f000", b"f001"):
            await read(mount, name)
        await mount.entry(b"f003")
        number = await mount.number(b"f002")
        mount.remote.hold()
        opening = start(nursery, mount.fs.open, number, os.O_RDONLY)
        await settle()
        reading = start(nursery, read, mount, b"f003")
        await settle()
        assert not reading.done
        assert len([call for call in mount.remote.calls if call[:2] == ("open", "f003")]) == 1
        mount.remote.release()
        await reading.ended.wait()
        assert reading.result() == content(b"f003")
        await mount.close(opening.result().fh)


async def test_an_interrupted_open_leaves_nothing() -> None:
    async with mounted(files(20)) as mount, trio.open_nursery() as nursery:
        await mount.names()
        for name in (b"f000", b"f001"):
            await read(mount, name)
        mount.remote.hold()
        reading = start(nursery, read, mount, b"f002")
        await settle()
        again = start(nursery, read, mount, b"f003")
        await settle()
        reading.scope.cancel()
        again.scope.cancel()
        await settle()
        mount.remote.release()


async def test_a_lost_connection_gives_up_what_is_held() -> None:
    async with mounted(files(30)) as mount:
        await begin_in_order(mount)
        assert mount.remote.open_handles
        mount.remote.drop_connection()
        await mount.reconnect()
        assert mount.remote.open_handles == []
        assert await read(mount, b"f003") == content(b"f003")


async def test_what_was_taken_over_survives_a_lost_connection() -> None:
    async with mounted(files(30)) as mount:
        await begin_in_order(mount)
        fh = await mount.open(b"f003")
        mount.remote.drop_connection()
        await mount.reconnect()
        assert mount.remote.open_handles == ["f003"]
        assert await mount.fs.read(fh, 0, 1000) == content(b"f003")
        await mount.close(fh)


async def test_what_is_opened_ahead_and_removed_can_be_read() -> None:
    async with mounted(files(30)) as mount:
        await begin_in_order(mount)
        fh = await mount.open(b"f003")
        await mount.unlink(b"f003")
        assert await mount.fs.read(fh, 0, 1000) == content(b"f003")
        await mount.close(fh)


@pytest.mark.parametrize(
    "config",
    [VfsConfig(prefetch_ttl=0), VfsConfig(readahead=0), VfsConfig(directory_timeout=0)],
    ids=["prefetch_ttl", "readahead", "directory_timeout"],
)
async def test_it_can_be_switched_off(config: VfsConfig) -> None:
    async with mounted(files(30), config=config) as mount:
        await read_all(mount)
        assert ahead(mount) == (0, 0)


async def test_what_the_kernel_has_in_its_cache_is_not_read_again() -> None:
    """A second pass opens ahead, and reads nothing that the kernel would not ask for."""
    async with mounted(files(30)) as mount:
        for name in await mount.names():
            await read(mount, name)
        await settle()
        reads = mount.remote.count("read")
        names = await mount.names()
        for name in names:
            opened = await mount.fs.open(await mount.number(name), os.O_RDONLY)
            assert opened.keep_cache
            await mount.close(opened.fh)
        assert mount.remote.count("read") == reads


async def test_the_kernel_is_given_what_is_here_whole() -> None:
    """But for somebody else's open file, whose pages may be waited for."""
    async with mounted(files(30)) as mount:
        await begin_in_order(mount)
        third, fourth = await mount.number(b"f003"), await mount.number(b"f004")
        opened = await mount.fs.open(third, os.O_RDONLY)
        assert opened.content == content(b"f003")
        again = await mount.fs.open(third, os.O_RDONLY)
        assert again.content == b""
        for fh in (opened.fh, again.fh):
            await mount.close(fh)
        writer = await mount.fs.open(fourth, os.O_WRONLY)
        assert writer.content == b""
        reader = await mount.fs.open(fourth, os.O_RDONLY)
        assert reader.content == b""
        for fh in (writer.fh, reader.fh):
            await mount.close(fh)


async def test_the_kernel_is_given_nothing_of_what_is_not_here_whole() -> None:
    tree = files(3)
    tree.write_file(b"f003", b"x" * (prefetch._PER_FILE + 1))
    tree.write_file(b"f004", b"")
    async with mounted(tree) as mount:
        await begin_in_order(mount)
        for name in (b"f003", b"f004"):
            opened = await mount.fs.open(await mount.number(name), os.O_RDONLY)
            assert opened.content == b""
            await mount.close(opened.fh)


async def test_the_kernel_is_given_nothing_that_it_is_not_to_keep() -> None:
    async with mounted(files(10), config=VfsConfig(direct_io=True)) as mount:
        await begin_in_order(mount)
        opened = await mount.fs.open(await mount.number(b"f003"), os.O_RDONLY)
        assert opened.content == b""
        await mount.close(opened.fh)
