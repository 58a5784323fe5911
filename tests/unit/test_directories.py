"""Listings: quick, complete, closed again, and never older than what is known of a file."""

from __future__ import annotations

import os
import stat
from contextlib import aclosing

import pytest
import trio

from pysshfs.errors import FX_FAILURE, FilesystemError, RemoteStatusError
from pysshfs.remotefs import AttributeChange, Attributes, DirectoryEntry
from pysshfs.vfs import directories
from pysshfs.vfs.budget import NAME_BYTES
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER, ListReply
from pysshfs.vfs.listing import Listing
from pysshfs.vfs.sanity import MAX_SIZE, FileAttributes
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.memory_tree import MemoryTree

CONFIG = VfsConfig(stat_timeout=10, directory_timeout=10, negative_timeout=2)
FILE = Attributes(stat.S_IFREG | 0o644, 1, 0, 0, 0, 0)


def tree_with(count: int) -> tuple[MemoryTree, list[bytes]]:
    tree = MemoryTree()
    names = [b"%06d" % i for i in range(count)]
    for name in names:
        tree.write_file(name, name)
    return tree, names


async def sizes(mount: Mount, path: bytes = b"") -> dict[bytes, int]:
    """What one listing tells of the sizes, as the kernel takes it."""
    fh = await mount.fs.opendir(await mount.number(path))
    found = {}
    async for item in mount.fs.readdir(fh, 0):
        mount.fs.delivered(fh, item)
        if item.entry is not None:
            mount.lookups[item.number] += 1
            found[item.name] = item.entry.attributes.size
    await mount.fs.releasedir(fh)
    return found


async def test_a_huge_directory_takes_few_round_trips() -> None:
    tree, names = tree_with(100_000)
    async with mounted(tree, latency=1) as mount:
        begun = trio.current_time()
        assert await mount.names() == names
        assert trio.current_time() - begun < 100  # one by one: 1,002
        assert 8 <= mount.remote.most_in_flight <= 16
        await trio.sleep(10)
        assert mount.remote.open_handles == []


async def test_the_first_names_do_not_wait_for_the_last() -> None:
    tree, names = tree_with(5000)
    async with mounted(tree, latency=1) as mount:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        begun = trio.current_time()
        assert await mount.read_names(fh, most=50) == names[:50]
        assert trio.current_time() - begun == pytest.approx(1)
        await mount.fs.releasedir(fh)
        await trio.sleep(2)
        assert mount.remote.open_handles == []


async def test_a_listing_goes_on_at_any_offset() -> None:
    tree, names = tree_with(1000)
    async with mounted(tree) as mount:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        offsets = {item.name: item.next_offset async for item in mount.fs.readdir(fh, 0)}
        for index in (0, 1, 500, 998):
            assert await mount.read_names(fh, offsets[names[index]]) == names[index + 1 :]
        assert await mount.read_names(fh, offsets[names[-1]]) == []
        await mount.fs.releasedir(fh)


async def test_dots_come_first_with_their_numbers() -> None:
    async with mounted() as mount:
        mount.tree.mkdir(b"d")
        number = await mount.number(b"d")
        fh = await mount.fs.opendir(number)
        found = [(item.name, item.number) async for item in mount.fs.readdir(fh, 0)]
        assert found == [(b".", number), (b"..", ROOT_NUMBER)]
        await mount.fs.releasedir(fh)


async def test_rewinding_shows_what_is_new() -> None:
    async with mounted() as mount:
        mount.tree.write_file(b"a", b"")
        fh = await mount.fs.opendir(ROOT_NUMBER)
        assert await mount.read_names(fh) == [b"a"]
        await mount.close(await mount.create(b"b"))
        assert await mount.read_names(fh) == [b"a", b"b"]
        await mount.fs.releasedir(fh)
        await settle()
        assert mount.remote.open_handles == []


async def test_a_rewind_that_fails_can_be_gone_on_from() -> None:
    tree, names = tree_with(300)
    async with mounted(tree, config=CONFIG._replace(cache_entries=10)) as mount:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        assert await mount.read_names(fh, most=5) == names[:5]
        mount.remote.fail_next("opendir", RemoteStatusError(FX_FAILURE))
        with pytest.raises(FilesystemError):
            await mount.read_names(fh)
        assert await mount.read_names(fh, 7) == names[5:]
        assert await mount.read_names(fh) == names
        await mount.fs.releasedir(fh)
        await settle()
        assert mount.remote.open_handles == []


async def test_what_is_removed_meanwhile_is_left_out_and_nothing_else_is() -> None:
    tree, names = tree_with(1000)
    async with mounted(tree) as mount:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        found: list[bytes] = []
        offset = 2
        while batch := [item async for item in mount.fs.readdir(fh, offset)][:20]:
            offset = batch[-1].next_offset
            for item in batch:  # as `rm -r` does, which removes what it was told of
                await mount.unlink(item.name)
                found.append(item.name)
            if len(found) in (100, 500):  # and somebody removes what is still to come
                ahead = names.pop(len(found) + 30)
                await mount.unlink(ahead)
        assert found == names
        assert await mount.names() == []
        await mount.fs.releasedir(fh)


async def test_a_renamed_name_is_left_out_of_a_listing_under_way() -> None:
    tree, names = tree_with(5)
    async with mounted(tree) as mount:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        assert await mount.read_names(fh, most=1) == names[:1]
        await mount.rename(names[3], b"elsewhere")
        assert names[3] not in await mount.read_names(fh, 3)
        await mount.fs.releasedir(fh)


async def test_names_that_cannot_be_and_duplicates_are_dropped() -> None:
    async with mounted() as mount:
        mount.tree.write_file(b"good", b"")
        bad = [b"", b"a/b", b"/etc/passwd", b"nul\0", b"x" * 256, b"..", b".", b"good", b"good"]
        mount.remote.strange_entries = [DirectoryEntry(name, FILE) for name in bad]
        assert await mount.names() == [b"good"]


async def test_a_name_with_impossible_attributes_is_listed_without_them() -> None:
    async with mounted() as mount:
        mount.remote.strange_entries = [
            DirectoryEntry(b"no-mode", FILE._replace(mode=None)),
            DirectoryEntry(b"no-type", FILE._replace(mode=0o644)),
            DirectoryEntry(b"too-big", FILE._replace(size=1 << 63)),
        ]
        fh = await mount.fs.opendir(ROOT_NUMBER)
        found = {item.name: item.entry async for item in mount.fs.readdir(fh, 2)}
        assert found == {b"no-mode": None, b"no-type": None, b"too-big": None}
        await mount.fs.releasedir(fh)


async def test_an_error_in_the_middle_is_reported_and_the_handle_closed() -> None:
    tree, _ = tree_with(1000)
    async with mounted(tree) as mount:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        await mount.read_names(fh, most=10)
        mount.remote.fail_next("readdir", RemoteStatusError(FX_FAILURE), times=100)
        with pytest.raises(FilesystemError):
            await mount.read_names(fh, 12)
        await mount.fs.releasedir(fh)
        await settle()
        assert mount.remote.open_handles == []


async def test_an_interrupted_opendir_leaves_no_handle() -> None:
    async with mounted() as mount, trio.open_nursery() as nursery:
        mount.remote.hold()
        opening = start(nursery, mount.fs.opendir, ROOT_NUMBER)
        await settle()
        opening.scope.cancel()
        await settle()
        mount.remote.release()
        await settle()
        assert mount.remote.open_handles == []


async def test_an_interrupted_reader_can_go_on() -> None:
    tree, names = tree_with(500)
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        await mount.read_names(fh, most=5)
        await settle()
        mount.remote.hold()
        reading = start(nursery, mount.read_names, fh, 7)
        await settle()
        reading.scope.cancel()
        await settle()
        mount.remote.release()
        assert await mount.read_names(fh, 7) == names[5:]
        await mount.fs.releasedir(fh)


# --- the cached listing -------------------------------------------------------------------------


async def test_a_listing_serves_the_next_one_and_the_lookups() -> None:
    tree, names = tree_with(50)
    async with mounted(tree, config=CONFIG) as mount:
        assert await mount.names() == names
        asked = len(mount.remote.calls)
        await settle()
        asked = len(mount.remote.calls)
        assert await mount.names() == names
        for name in names:
            await mount.number(name)
        assert len(mount.remote.calls) == asked
        await trio.sleep(11)
        assert await mount.names() == names
        assert mount.remote.count("opendir") == 2


@pytest.mark.parametrize("change", ["create", "mkdir", "symlink", "unlink", "rename", "into"])
async def test_a_change_of_ours_is_in_the_next_listing(change: str) -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"a", b"")
        mount.tree.mkdir(b"d")
        mount.tree.write_file(b"d/x", b"")
        assert await mount.names() == [b"a", b"d"]
        assert await mount.names(b"d") == [b"x"]
        match change:
            case "create":
                await mount.close(await mount.create(b"n"))
            case "mkdir":
                await mount.mkdir(b"n")
            case "symlink":
                mount.counted(await mount.fs.symlink(ROOT_NUMBER, b"n", b"t"))
            case "unlink":
                await mount.unlink(b"a")
            case "rename":
                await mount.rename(b"a", b"n")
            case _:
                await mount.rename(b"a", b"d/n")
        for path in (b"", b"d"):
            assert await mount.names(path) == list(mount.tree.find(path).children)


async def test_a_listing_disturbed_by_a_change_is_not_cached() -> None:
    tree, names = tree_with(500)
    async with mounted(tree, config=CONFIG) as mount:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        await mount.read_names(fh, most=5)
        await mount.close(await mount.create(b"new"))
        await mount.read_names(fh, 7)
        await mount.fs.releasedir(fh)
        assert sorted(await mount.names()) == sorted([*names, b"new"])


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("change", ["write", "chmod"])
async def test_a_cached_listing_does_not_bring_old_attributes_back(
    change: str, forgotten: bool
) -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"f", b"1")
        mount.tree.write_file(b"other", b"1")
        assert await sizes(mount) == {b"f": 1, b"other": 1}
        if change == "write":
            fh = await mount.open(b"f", os.O_WRONLY)
            await mount.fs.write(fh, 0, b"12345")
            await mount.close(fh)
        else:
            await mount.setattr(b"f", AttributeChange(mode=0o600))
        if forgotten:
            mount.forget_all()
        await mount.names()
        told = (await mount.entry(b"f")).attributes
        true = mount.tree.find(b"f")
        assert (told.size, told.mode) == (true.size, true.mode)


@pytest.mark.parametrize("under_way", [False, True])
async def test_a_listing_does_not_overrule_what_was_asked_for_since(under_way: bool) -> None:
    """An open looks at the file; a listing from before must not make it shorter again."""
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"f", b"1")
        listing = await mount.fs.opendir(ROOT_NUMBER)
        if not under_way:
            await mount.read_names(listing)
            await mount.fs.releasedir(listing)
        await trio.sleep(3)
        mount.tree.write_file(b"f", b"x" * 1000)
        fh = await mount.open(b"f")
        if under_way:
            await mount.read_names(listing)
            await mount.fs.releasedir(listing)
        else:
            assert await sizes(mount) == {b"f": 1000}
        assert await mount.size(b"f") == 1000
        assert await mount.fs.read(fh, 0, 4096) == b"x" * 1000
        await mount.close(fh)


async def test_a_listing_from_before_the_last_acknowledgement_gives_no_old_mtime() -> None:
    async with mounted(config=CONFIG) as mount:
        fh = await mount.create(b"f")
        mount.tree.now += 100
        await mount.fs.write(fh, 0, b"data")
        await mount.names()  # the data is still here
        await trio.sleep(1)  # and now on the server
        await mount.close(fh)
        assert (await mount.entry(b"f")).attributes.mtime == mount.tree.now


async def test_a_name_of_another_type_than_is_known_needs_a_lookup() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"x", b"")
        number = await mount.number(b"x")
        mount.tree.remove(b"x")
        mount.tree.mkdir(b"x")
        fh = await mount.fs.opendir(ROOT_NUMBER)
        found = [item.entry async for item in mount.fs.readdir(fh, 2)]
        assert found == [None]
        await mount.fs.releasedir(fh)
        await trio.sleep(11)
        assert await mount.number(b"x") != number


async def test_a_huge_listing_does_not_push_everything_else_out() -> None:
    tree, _ = tree_with(300)
    async with mounted(tree, config=CONFIG._replace(cache_entries=100)) as mount:
        mount.tree.mkdir(b"d")
        mount.tree.write_file(b"d/f", b"")
        await mount.number(b"d/f")
        asked = mount.remote.count("lstat")
        await mount.names()
        await mount.number(b"d/f")
        assert mount.remote.count("lstat") == asked


# --- long listings --------------------------------------------------------------------------------


async def taken(mount: Mount, fh: int, offset: int, count: int) -> list[ListReply]:
    """As many names from `offset` on, as the kernel takes them."""
    found = []
    async with aclosing(mount.fs.readdir(fh, offset)) as items:
        async for item in items:
            if item.name not in (b".", b".."):
                mount.fs.delivered(fh, item)
                mount.lookups[item.number] += item.entry is not None
                found.append(item)
            if len(found) == count:
                break
    return found


async def test_most_names_of_a_long_listing_are_told_without_attributes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are no lookups, so that neither the kernel nor we remember an inode for each."""
    monkeypatch.setattr(directories, "PLAIN_FROM", 200)
    tree, names = tree_with(1000)
    tree.mkdir(b"zz")
    async with mounted(tree, config=CONFIG) as mount:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        found = await taken(mount, fh, 0, 5000)
        assert [item.name for item in found] == [*names, b"zz"]
        assert [item.entry is not None for item in found] == [True] * 200 + [False] * 801
        assert {item.kind for item in found[:-1]} == {stat.S_IFREG}
        assert found[-1].kind == stat.S_IFDIR
        assert mount.fs.statistics()["inodes"] == 201
        assert found[500].number == await mount.number(names[500])
        await mount.fs.releasedir(fh)


async def test_who_looks_names_up_gets_attributes_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(directories, "PLAIN_FROM", 200)
    tree, names = tree_with(1000)
    async with mounted(tree, config=CONFIG._replace(cache_entries=500)) as mount:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        found = await taken(mount, fh, 0, 400)
        requests = mount.remote.count("lstat")
        for item in found:
            assert await mount.number(item.name) == item.number
        assert mount.remote.count("lstat") == requests  # the listing has them
        later = await taken(mount, fh, 402, 600)
        assert [item.name for item in later] == names[400:]
        assert all(item.entry is not None for item in later)
        mount.fs.tree.changed(mount.fs.tree.inodes.get(found[300].number))
        mount.forget(found[300].number)
        await mount.number(names[300])
        assert mount.remote.count("lstat") == requests + 1  # that was changed since
        # A new beginning is one, and so is another open directory.
        again = await taken(mount, fh, 0, 400)
        assert again[-1].entry is None
        await mount.fs.releasedir(fh)
        assert mount.fs.tree.cache.long_streams == {}


async def test_names_are_found_after_the_directory_was_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many programs list the whole of a directory, and look at the files afterwards."""
    monkeypatch.setattr(directories, "PLAIN_FROM", 200)
    tree, names = tree_with(1000)
    async with mounted(tree, config=CONFIG._replace(cache_entries=500)) as mount:
        assert await mount.names() == names
        assert mount.fs.statistics()["inodes"] == 201
        requests = mount.remote.count("lstat")
        for name in reversed(names):
            assert await mount.size(name) == len(name)
        assert mount.remote.count("lstat") == requests


async def test_names_told_long_ago_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a name is, is remembered for a bounded number of them."""
    monkeypatch.setattr(directories, "PLAIN_FROM", 200)
    tree, names = tree_with(1000)
    async with mounted(tree, config=CONFIG._replace(cache_size=504_000)) as mount:
        assert mount.fs.tree.budget.listings.most // NAME_BYTES == 300
        fh = await mount.fs.opendir(ROOT_NUMBER)
        await taken(mount, fh, 0, 800)
        requests = mount.remote.count("lstat")
        await mount.number(names[600])
        assert mount.remote.count("lstat") == requests
        await mount.number(names[450])
        assert mount.remote.count("lstat") == requests + 1
        await mount.fs.releasedir(fh)


def test_a_listing_gives_what_was_put_in() -> None:
    listing = Listing()
    large = FileAttributes(stat.S_IFREG | 0o7777, MAX_SIZE, 2**32 - 1, 0, 2**32 - 1, 1)
    listing.append(b"a", large)
    listing.append(b"\xff" * 255, None)
    assert list(listing) == [(b"a", large), (b"\xff" * 255, None)]
    assert (len(listing), listing[0], listing.names[1]) == (2, (b"a", large), b"\xff" * 255)
    assert 256 < listing.size < 500


async def test_attributes_are_as_old_as_the_reply_that_brought_them() -> None:
    """The last names of a long listing come when the first ones are long out of date."""
    tree, names = tree_with(5000)
    async with mounted(tree, latency=4, config=CONFIG) as mount:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        found = await taken(mount, fh, 0, 5000)
        timeouts = [item.entry.attribute_timeout for item in found if item.entry is not None]
        assert len(timeouts) == 5000 and trio.current_time() > 20
        assert min(timeouts) > 0
        again = await taken(mount, fh, 102, 1)
        assert [item.name for item in again] == names[100:101]
        assert again[0].entry is not None and again[0].entry.attribute_timeout == 0
        await mount.fs.releasedir(fh)


async def test_a_listing_that_is_remembered_tells_attributes_for_as_long_as_they_hold() -> None:
    tree, _ = tree_with(50)
    async with mounted(tree, config=CONFIG) as mount:
        await mount.names()
        mount.forget_all()
        await trio.sleep(4)
        fh = await mount.fs.opendir(ROOT_NUMBER)
        found = await taken(mount, fh, 0, 50)
        timeouts = {item.entry.attribute_timeout for item in found if item.entry is not None}
        assert timeouts == {6}
        await mount.fs.releasedir(fh)


@pytest.mark.parametrize("names", [0, 10, directories._FEW - 3])
async def test_a_short_directory_is_asked_for_no_more_than_it_has(names: int) -> None:
    """One reply with its names (and the two dots), and one that says that there are no more."""
    made = MemoryTree()
    for i in range(names):
        made.write_file(b"%d" % i, b"")
    async with mounted(made) as mount:
        assert len(await mount.names()) == names
        assert mount.remote.count("readdir") == 2
