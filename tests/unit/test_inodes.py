"""Inode numbers stay the same while the mount lives; what is forgotten leaves nothing behind."""

from __future__ import annotations

import errno
import os

import pytest

from pysshfs.errors import FilesystemError
from pysshfs.vfs.inodes import ROOT_NUMBER, InodeTable
from tests.support.fake_mount import Mount, mounted


async def closed(mount: Mount, path: bytes) -> None:
    await mount.close(await mount.create(path))


async def test_a_number_survives_forget_and_lookup() -> None:
    async with mounted() as mount:
        mount.tree.mkdir(b"d")
        mount.tree.write_file(b"d/f", b"x")
        before = [await mount.number(b"d"), await mount.number(b"d/f")]
        mount.forget_all()
        assert [await mount.number(b"d"), await mount.number(b"d/f")] == before
        assert len(set(before)) == 2


async def test_a_number_survives_rename_and_forget() -> None:
    async with mounted() as mount:
        mount.tree.write_file(b"a", b"x")
        number = await mount.number(b"a")
        await mount.rename(b"a", b"b")
        assert await mount.number(b"b") == number
        mount.forget_all()
        assert await mount.number(b"b") == number
        await mount.rename(b"b", b"a")
        assert await mount.number(b"a") == number


async def test_the_old_name_of_a_renamed_file_gets_another_number() -> None:
    async with mounted() as mount:
        mount.tree.write_file(b"a", b"x")
        number = await mount.number(b"a")
        await mount.rename(b"a", b"b")
        await closed(mount, b"a")
        other = await mount.number(b"a")
        assert other != number
        mount.forget_all()
        assert (await mount.number(b"a"), await mount.number(b"b")) == (other, number)


async def test_create_while_the_unlinked_file_is_open_gets_another_number() -> None:
    async with mounted() as mount:
        fh = await mount.create(b"f")
        number = await mount.number(b"f")
        await mount.unlink(b"f")
        await closed(mount, b"f")
        assert await mount.number(b"f") != number
        await mount.close(fh)


async def test_renaming_a_directory_keeps_the_numbers_below_it() -> None:
    async with mounted() as mount:
        mount.tree.mkdir(b"d")
        mount.tree.mkdir(b"d/e")
        mount.tree.write_file(b"d/e/f", b"x")
        numbers = [await mount.number(path) for path in (b"d", b"d/e", b"d/e/f")]
        await mount.rename(b"d", b"n")
        assert [await mount.number(path) for path in (b"n", b"n/e", b"n/e/f")] == numbers
        mount.forget_all()
        assert [await mount.number(path) for path in (b"n", b"n/e", b"n/e/f")] == numbers


async def test_listing_and_lookup_agree_on_numbers() -> None:
    async with mounted() as mount:
        for name in (b"a", b"b", b"c"):
            mount.tree.write_file(name, b"")
        fh = await mount.fs.opendir(ROOT_NUMBER)
        listed = {item.name: item.number async for item in mount.fs.readdir(fh, 0)}
        await mount.fs.releasedir(fh)
        for name in (b"a", b"b", b"c"):
            assert await mount.number(name) == listed[name]


async def test_nothing_is_left_after_forget() -> None:
    async with mounted() as mount:
        directories = [b"d%d" % i for i in range(200)]
        for directory in directories:
            mount.tree.mkdir(directory)
            mount.tree.write_file(directory + b"/f", b"x")
        for directory in directories:
            await mount.number(directory + b"/f")
            await mount.names(directory)
        assert len(mount.fs.tree.inodes) == 401
        mount.forget_all()
        assert mount.fs.statistics()["inodes"] == 1


async def test_names_that_a_server_describes_wrongly_leave_no_inode() -> None:
    async with mounted() as mount:
        mount.tree.write_file(b"f", b"x").mode = 0o644  # no type
        for _ in range(10):
            with pytest.raises(FilesystemError) as caught:
                await mount.find(b"f")
            assert caught.value.errno == errno.EIO
        assert mount.fs.statistics()["inodes"] == 1


async def test_saving_by_rename_over_and_over_does_not_grow_the_tables() -> None:
    async with mounted() as mount:
        await closed(mount, b"final")
        for i in range(100):
            name = b"tmp%d" % i
            await closed(mount, name)
            await mount.rename(name, b"final")
            mount.forget_all()
        await mount.unlink(b"final")
        mount.forget_all()
        inodes = mount.fs.tree.inodes
        assert len(inodes) == 1
        assert not inodes._assigned
        assert not inodes._assigned_numbers


async def test_a_renamed_file_that_others_remove_gives_its_number_back() -> None:
    async with mounted() as mount:
        for i in range(20):
            name = b"f%d" % i
            mount.tree.write_file(name, b"")
            await mount.rename(name, b"moved")
            mount.forget_all()
            mount.tree.remove(b"moved")
            assert await mount.find(b"moved") is None
        assert not mount.fs.tree.inodes._assigned


async def test_an_inode_lives_while_a_child_or_an_open_file_needs_it() -> None:
    async with mounted() as mount:
        mount.tree.mkdir(b"d")
        mount.tree.write_file(b"d/f", b"data")
        directory = await mount.number(b"d")
        fh = await mount.open(b"d/f")
        number = await mount.number(b"d/f")
        mount.forget(directory)
        mount.forget(number)
        assert await mount.fs.read(fh, 0, 10) == b"data"
        assert (await mount.fs.getattr(number)).attributes.size == 4
        await mount.close(fh)
        assert mount.fs.statistics()["inodes"] == 1


async def test_an_unknown_number_is_stale() -> None:
    async with mounted() as mount:
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.getattr(12345)
        assert caught.value.errno == errno.ESTALE


async def test_below_a_removed_directory_is_stale() -> None:
    async with mounted() as mount:
        await mount.mkdir(b"d")
        number = await mount.number(b"d")
        await mount.fs.rmdir(ROOT_NUMBER, b"d")
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.create(number, b"f", 0o644, os.O_RDWR)
        assert caught.value.errno == errno.ESTALE


def test_colliding_hashes_still_give_each_name_its_own_number() -> None:
    table = InodeTable(lambda key: 7 if isinstance(key[1], bytes) and key[0] == 1 else key[0] + 1)
    numbers = [table.intern(table.root, name).number for name in (b"a", b"b", b"c")]
    assert len(set(numbers)) == 3
    assert ROOT_NUMBER not in numbers
    assert [table.number_for(table.root, name) for name in (b"a", b"b", b"c")] == numbers


def test_a_rename_of_what_is_not_known_keeps_the_number_that_was_listed() -> None:
    table = InodeTable()
    listed = table.number_for(table.root, b"a")
    table.rename(table.root, b"a", table.root, b"b")
    assert table.intern(table.root, b"b").number == listed
    assert table.intern(table.root, b"a").number != listed
