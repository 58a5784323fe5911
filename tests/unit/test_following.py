"""`-o symlinks=follow` on the fake server: links are seen as what they lead to."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from pysshfs.errors import FX_PERMISSION_DENIED, FilesystemError, RemoteStatusError
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.fake_mount import mounted
from tests.support.memory_tree import MemoryTree

FOLLOW = VfsConfig(symlinks="follow")


def new_tree() -> MemoryTree:
    tree = MemoryTree()
    tree.mkdir(b"dir")
    tree.mkdir(b"empty")
    tree.write_file(b"dir/file", b"content")
    tree.symlink(b"dir/file", b"to-file")
    tree.symlink(b"dir", b"to-dir")
    tree.symlink(b"empty", b"to-empty")
    tree.symlink(b"nowhere", b"dangling")
    tree.symlink(b"loop", b"loop")
    return tree


async def test_links_are_what_they_lead_to() -> None:
    async with mounted(new_tree(), config=FOLLOW) as mount:
        entry = await mount.entry(b"to-file")
        assert stat.S_ISREG(entry.attributes.mode) and entry.attributes.size == 7
        assert stat.S_ISREG((await mount.fs.getattr(entry.number)).attributes.mode)
        assert stat.S_ISDIR((await mount.entry(b"to-dir")).attributes.mode)
        fh = await mount.open(b"to-dir/file")
        assert await mount.fs.read(fh, 0, 100) == b"content"
        await mount.close(fh)
        fh = await mount.open(b"to-file", os.O_RDWR)
        await mount.fs.write(fh, 0, b"C")
        await mount.close(fh)
        assert mount.tree.read_file(b"dir/file") == b"Content"
        assert mount.tree.find(b"to-file").is_symlink


@pytest.mark.parametrize("name", [b"dangling", b"loop"])
async def test_links_that_lead_nowhere_are_links(name: bytes) -> None:
    async with mounted(new_tree(), config=FOLLOW) as mount:
        entry = await mount.entry(name)
        assert stat.S_ISLNK(entry.attributes.mode)
        assert await mount.fs.readlink(entry.number) == mount.tree.find(name).target
        await mount.unlink(name)
        assert not mount.tree.exists(name)
        assert await mount.find(b"absent") is None


async def test_a_refusal_is_no_dangling_link() -> None:
    async with mounted(new_tree(), config=FOLLOW) as mount:
        for name in (b"dir", b"absent"):
            mount.remote.fail_next("stat", RemoteStatusError(FX_PERMISSION_DENIED))
            if name == b"dir":
                with pytest.raises(FilesystemError) as caught:
                    await mount.find(name)
                assert caught.value.errno == errno.EACCES
            else:
                assert await mount.find(name) is None


async def test_a_listing_says_nothing_of_links_that_a_lookup_would_deny() -> None:
    async with mounted(new_tree(), config=FOLLOW) as mount:
        names = await mount.names()
        assert sorted(names) == sorted(mount.tree.root.children)
        fh = await mount.fs.opendir(ROOT_NUMBER)
        kinds = {item.name: (item.kind, item.entry) async for item in mount.fs.readdir(fh, 0)}
        await mount.fs.releasedir(fh)
        for name in (b"to-file", b"to-dir", b"dangling", b"loop"):
            assert kinds[name] == (0, None)
        assert kinds[b"dir"][0] == stat.S_IFDIR
        assert stat.S_ISREG((await mount.entry(b"to-file")).attributes.mode)


async def test_removing_and_renaming_act_on_the_link() -> None:
    async with mounted(new_tree(), config=FOLLOW) as mount:
        await mount.rename(b"to-file", b"moved")
        assert mount.tree.find(b"moved").target == b"dir/file"
        await mount.unlink(b"moved")
        assert mount.tree.read_file(b"dir/file") == b"content"
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.rmdir(ROOT_NUMBER, b"to-dir")
        assert caught.value.errno == errno.ENOTEMPTY
        await mount.fs.rmdir(ROOT_NUMBER, b"to-empty")
        assert not mount.tree.exists(b"to-empty") and mount.tree.exists(b"empty")
        assert await mount.find(b"to-empty") is None
        await mount.fs.rmdir(ROOT_NUMBER, b"empty")
        assert not mount.tree.exists(b"empty")


@pytest.mark.parametrize("async_ops", [False, True])
async def test_a_new_link_is_told_as_one_and_seen_as_its_target(async_ops: bool) -> None:
    """The kernel takes nothing but a link from symlink(2)."""
    config = FOLLOW._replace(async_ops=async_ops)
    async with mounted(new_tree(), config=config) as mount:
        sub = (await mount.mkdir(b"sub")).number  # its names are known
        made = mount.counted(await mount.fs.symlink(sub, b"new", b"/dir/file"))
        assert stat.S_ISLNK(made.attributes.mode) and made.attributes.size == 9
        assert (made.entry_timeout, made.attribute_timeout) == (0, 0)
        assert mount.tree.find(b"sub/new").target == b"/dir/file"
        entry = await mount.entry(b"sub/new")
        assert stat.S_ISREG(entry.attributes.mode)
        lost = mount.counted(await mount.fs.symlink(sub, b"lost", b"gone"))
        assert stat.S_ISLNK(lost.attributes.mode)


async def test_attributes_are_set_on_what_the_link_leads_to() -> None:
    async with mounted(new_tree(), config=FOLLOW) as mount:
        entry = await mount.setattr(b"to-file", AttributeChange(mode=0o600))
        assert entry.attributes.mode == stat.S_IFREG | 0o600
        assert mount.tree.find(b"dir/file").mode & 0o777 == 0o600
        entry = await mount.setattr(b"to-file", AttributeChange(size=3))
        assert entry.attributes.size == 3
        assert mount.tree.read_file(b"dir/file") == b"con"


async def test_promises_are_kept_where_links_are_directories() -> None:
    """rmdir of an empty directory is promised otherwise: of a link the server would refuse it."""
    config = FOLLOW._replace(async_ops=True)
    async with mounted(new_tree(), config=config) as mount:
        await mount.names()
        assert await mount.names(b"to-empty") == []
        await mount.fs.rmdir(ROOT_NUMBER, b"to-empty")
        await mount.fs.flush_all()
        mount.fs.raise_broken_promise()
        assert not mount.tree.exists(b"to-empty") and mount.tree.exists(b"empty")
        await mount.unlink(b"to-file")
        fh = await mount.create(b"to-file")
        await mount.fs.write(fh, 0, b"new")
        await mount.close(fh)
        await mount.fs.flush_all()
        mount.fs.raise_broken_promise()
        assert mount.tree.read_file(b"to-file") == b"new"
        assert mount.tree.read_file(b"dir/file") == b"content"


async def test_open_files_survive_a_lost_connection() -> None:
    async with mounted(new_tree(), config=FOLLOW) as mount:
        fh = await mount.open(b"to-file", os.O_RDWR)
        mount.remote.drop_connection()
        await mount.reconnect()
        await mount.fs.write(fh, 7, b"!")
        assert await mount.fs.read(fh, 0, 100) == b"content!"
        await mount.close(fh)
        assert stat.S_ISDIR((await mount.entry(b"to-dir")).attributes.mode)


async def test_files_are_read_ahead_beside_links() -> None:
    tree = new_tree()
    for number in range(20):
        tree.write_file(b"dir/f%02d" % number, b"x%02d" % number)
        tree.symlink(b"f%02d" % number, b"dir/g%02d" % number)
    async with mounted(tree, config=FOLLOW, latency=0.01) as mount:
        for path in (b"dir", b"to-dir"):
            for name in sorted(await mount.names(path)):
                fh = await mount.open(path + b"/" + name)
                expected = mount.tree.read_file(b"dir/" + name)
                assert await mount.fs.read(fh, 0, 100) == expected
                await mount.close(fh)
        assert mount.fs.statistics()["opened_ahead"]


async def test_what_nobody_waits_for_any_more_is_not_asked_for() -> None:
    async with mounted(new_tree(), config=FOLLOW) as mount:
        mount.remote.hold()
        looking = mount.fs.server.lstat(b"dangling")
        looking.abandon()
        mount.remote.release()
        assert (await mount.entry(b"dangling")).number
