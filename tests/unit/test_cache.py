"""What is remembered of the server expires in time, and no late reply overrules a change."""

from __future__ import annotations

import errno
import os
import stat
import time

import pytest
import trio

from pysshfs.errors import FilesystemError
from pysshfs.remotefs import AttributeChange, Attributes
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.fake_mount import mounted, settle, start
from tests.support.memory_tree import START

CONFIG = VfsConfig(stat_timeout=10, link_timeout=30, directory_timeout=10, negative_timeout=2)


async def test_attributes_are_believed_for_stat_timeout() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"f", b"1")
        assert await mount.size(b"f") == 1
        mount.tree.append_file(b"f", b"2")
        await trio.sleep(9)
        assert await mount.size(b"f") == 1
        assert mount.remote.count("lstat") == 1
        await trio.sleep(1.5)
        assert await mount.size(b"f") == 2


async def test_the_kernel_is_told_what_is_left_of_the_time() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"f", b"1")
        assert (await mount.entry(b"f")).attribute_timeout == 10
        await trio.sleep(4)
        entry = await mount.entry(b"f")
        assert (entry.entry_timeout, entry.attribute_timeout) == (6, 6)


async def test_configured_kernel_timeouts_are_passed_on() -> None:
    config = CONFIG._replace(kernel_entry_timeout=3, kernel_attribute_timeout=5)
    async with mounted(config=config) as mount:
        mount.tree.write_file(b"f", b"1")
        entry = await mount.entry(b"f")
        assert (entry.entry_timeout, entry.attribute_timeout) == (3, 5)


async def test_open_sees_a_change_at_once() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"f", b"old")
        number = await mount.number(b"f")
        mount.tree.now += 100
        mount.tree.write_file(b"f", b"newer")
        opened = await mount.fs.open(number, os.O_RDONLY)
        assert opened.attributes_changed
        assert not opened.keep_cache
        assert await mount.fs.read(opened.fh, 0, 100) == b"newer"
        assert await mount.size(b"f") == 5
        await mount.close(opened.fh)


async def test_pages_are_kept_only_for_a_file_that_did_not_change() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"f", b"same")
        number = await mount.number(b"f")
        kept = []
        for change in (False, False, True, False):
            if change:
                mount.tree.now += 1
                mount.tree.write_file(b"f", b"more")
            opened = await mount.fs.open(number, os.O_RDONLY)
            kept.append(opened.keep_cache)
            await mount.close(opened.fh)
        assert kept == [False, True, False, True]


async def test_absence_is_believed_for_negative_timeout() -> None:
    async with mounted(config=CONFIG) as mount:
        assert await mount.find(b"f") is None
        mount.tree.write_file(b"f", b"")
        assert await mount.find(b"f") is None
        assert mount.remote.count("lstat") == 1
        await trio.sleep(2.5)
        assert await mount.find(b"f") is not None


@pytest.mark.parametrize("how", ["create", "mkdir", "mknod", "symlink", "link", "rename"])
async def test_what_we_make_ourselves_is_there_at_once(how: str) -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"other", b"")
        other = await mount.number(b"other")
        assert await mount.find(b"f") is None
        match how:
            case "create":
                await mount.close(await mount.create(b"f"))
            case "mkdir":
                await mount.mkdir(b"f")
            case "mknod":
                mount.counted(await mount.fs.mknod(ROOT_NUMBER, b"f", stat.S_IFREG | 0o644))
            case "symlink":
                mount.counted(await mount.fs.symlink(ROOT_NUMBER, b"f", b"target"))
            case "link":
                mount.counted(await mount.fs.link(other, ROOT_NUMBER, b"f"))
            case _:
                await mount.rename(b"other", b"f")
        assert await mount.find(b"f") is not None


async def test_what_we_remove_is_gone_at_once() -> None:
    async with mounted(config=CONFIG) as mount:
        await mount.mkdir(b"d")
        await mount.close(await mount.create(b"f"))
        await mount.unlink(b"f")
        await mount.fs.rmdir(ROOT_NUMBER, b"d")
        assert await mount.find(b"f") is None
        assert await mount.find(b"d") is None


async def test_a_name_found_missing_by_unlink_is_not_believed_any_longer() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"f", b"")
        await mount.number(b"f")
        mount.tree.remove(b"f")
        with pytest.raises(FilesystemError) as caught:
            await mount.unlink(b"f")
        assert caught.value.errno == errno.ENOENT
        assert await mount.find(b"f") is None


async def test_link_targets_are_believed_for_link_timeout() -> None:
    async with mounted(config=CONFIG) as mount:
        link = mount.tree.symlink(b"one", b"l")
        number = await mount.number(b"l")
        assert await mount.fs.readlink(number) == b"one"
        link.target = b"two"
        assert await mount.fs.readlink(number) == b"one"
        await trio.sleep(31)
        assert await mount.fs.readlink(number) == b"two"


async def test_a_link_made_anew_has_its_new_target() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.counted(await mount.fs.symlink(ROOT_NUMBER, b"l", b"one"))
        assert await mount.fs.readlink(await mount.number(b"l")) == b"one"
        await mount.unlink(b"l")
        mount.forget_all()
        mount.counted(await mount.fs.symlink(ROOT_NUMBER, b"l", b"two"))
        assert await mount.fs.readlink(await mount.number(b"l")) == b"two"


async def test_chmod_shows_at_once() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"f", b"")
        await mount.number(b"f")
        await mount.setattr(b"f", AttributeChange(mode=0o600))
        assert (await mount.entry(b"f")).attributes.mode == stat.S_IFREG | 0o600


async def test_the_same_question_is_asked_once() -> None:
    async with mounted(config=CONFIG) as mount, trio.open_nursery() as nursery:
        mount.tree.write_file(b"f", b"123")
        number = await mount.number(b"f")
        await trio.sleep(11)
        mount.remote.hold()
        tasks = [start(nursery, mount.fs.getattr, number) for _ in range(5)]
        await settle()
        assert mount.remote.in_flight == 1
        tasks[0].scope.cancel()  # the others still want it
        await settle()
        mount.remote.release()
        await settle()
        assert [task.result().attributes.size for task in tasks[1:]] == [3] * 4


# --- late replies -------------------------------------------------------------------------------


async def test_a_reply_older_than_a_chmod_is_not_remembered() -> None:
    async with mounted(config=CONFIG) as mount, trio.open_nursery() as nursery:
        mount.tree.write_file(b"f", b"")
        number = await mount.number(b"f")
        await trio.sleep(11)
        mount.remote.hold()
        late = start(nursery, mount.fs.getattr, number)
        await settle()
        changing = start(nursery, mount.fs.setattr, number, AttributeChange(mode=0o600))
        await settle()
        mount.remote.release()
        await settle()
        changing.result()
        assert late.result().attribute_timeout == 0
        assert (await mount.entry(b"f")).attributes.mode & 0o777 == 0o600


async def test_absence_older_than_a_create_is_not_remembered() -> None:
    async with mounted(config=CONFIG) as mount, trio.open_nursery() as nursery:
        mount.remote.hold()
        late = start(nursery, mount.find, b"f")
        await settle()
        creating = start(nursery, mount.create, b"f")
        await settle()
        mount.remote.release()
        await settle()
        assert late.result() is None
        assert await mount.find(b"f") is not None
        await mount.close(creating.result())


async def test_absence_of_a_known_name_older_than_a_create_is_not_remembered() -> None:
    async with mounted(config=CONFIG) as mount, trio.open_nursery() as nursery:
        mount.tree.write_file(b"f", b"")
        await mount.number(b"f")
        mount.tree.remove(b"f")
        await trio.sleep(11)
        mount.remote.hold()
        late = start(nursery, mount.find, b"f")
        await settle()
        making = start(nursery, mount.fs.mkdir, ROOT_NUMBER, b"f", 0o755)
        await settle()
        mount.remote.release()
        await settle()
        assert late.result() is None
        made = mount.counted(making.result())
        found = await mount.entry(b"f")
        assert found.number == made.number
        assert stat.S_ISDIR(found.attributes.mode)


async def test_presence_older_than_an_unlink_is_not_remembered() -> None:
    for _ in range(20):
        async with mounted(config=CONFIG) as mount, trio.open_nursery() as nursery:
            mount.tree.write_file(b"f", b"")
            mount.remote.hold()
            late = start(nursery, mount.find, b"f")
            await settle()
            removing = start(nursery, mount.fs.unlink, ROOT_NUMBER, b"f")
            await settle()
            mount.remote.release()
            await settle()
            removing.result()
            assert late.done
            assert await mount.find(b"f") is None
            await trio.sleep(3)  # when its absence is not remembered any more
            assert await mount.find(b"f") is None


async def test_attributes_asked_for_before_the_last_acknowledgement_are_not_remembered() -> None:
    """The reply to an open's look and the acknowledgement of a WRITE arrive together."""
    for _ in range(20):  # the order in which tasks run on is up to chance
        async with mounted(config=CONFIG) as mount, trio.open_nursery() as nursery:
            writer = await mount.create(b"f")
            number = await mount.number(b"f")
            mount.remote.hold()
            await mount.fs.write(writer, 0, b"abc")
            opening = start(nursery, mount.fs.open, number, os.O_RDONLY)
            await trio.sleep(1)  # the data is sent, behind the look
            mount.remote.release()
            await settle()
            assert await mount.size(b"f") == 3
            await mount.close(opening.result().fh)
            await mount.close(writer)


async def test_an_interrupted_unlink_leaves_no_belief_in_the_file() -> None:
    async with mounted(config=CONFIG) as mount, trio.open_nursery() as nursery:
        mount.tree.write_file(b"f", b"")
        await mount.number(b"f")
        mount.remote.hold()
        removing = start(nursery, mount.fs.unlink, ROOT_NUMBER, b"f")
        await settle()
        removing.scope.cancel()
        await settle()
        mount.remote.release()
        assert await mount.find(b"f") is None


async def test_an_interrupted_rename_leaves_no_belief_in_either_name() -> None:
    async with mounted(config=CONFIG) as mount, trio.open_nursery() as nursery:
        mount.tree.write_file(b"a", b"new")
        mount.tree.write_file(b"b", b"")
        await mount.number(b"a")
        await mount.number(b"b")
        mount.remote.hold()
        moving = start(nursery, mount.fs.rename, ROOT_NUMBER, b"a", ROOT_NUMBER, b"b", 0)
        await settle()
        moving.scope.cancel()
        await settle()
        mount.remote.release()
        assert await mount.find(b"a") is None
        assert await mount.size(b"b") == 3


# --- what the server makes of its files -----------------------------------------------------------


async def test_another_type_under_a_name_is_another_inode() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"x", b"")
        file = await mount.number(b"x")
        mount.tree.remove(b"x")
        mount.tree.mkdir(b"x")
        await trio.sleep(11)
        found = await mount.entry(b"x")
        assert found.number != file
        assert stat.S_ISDIR(found.attributes.mode)
        assert (await mount.entry(b"x")).number == found.number
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.getattr(file)
        assert caught.value.errno == errno.ESTALE


async def test_getattr_of_a_file_that_became_a_directory_is_stale() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"x", b"")
        file = await mount.number(b"x")
        mount.tree.remove(b"x")
        mount.tree.mkdir(b"x")
        await trio.sleep(11)
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.getattr(file)
        assert caught.value.errno == errno.ESTALE
        assert await mount.number(b"x") != file


@pytest.mark.parametrize("how", ["mkdir", "create"])
async def test_what_we_make_over_a_vanished_name_of_another_type_is_another_inode(
    how: str,
) -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.symlink(b"gone", b"x")
        link = await mount.number(b"x")
        mount.tree.remove(b"x")
        if how == "mkdir":
            made = (await mount.mkdir(b"x")).number
        else:
            await mount.close(await mount.create(b"x"))
            made = await mount.number(b"x")
        assert made != link


async def test_impossible_attributes_are_an_error_and_not_remembered() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"f", b"x")
        mount.remote.overridden[b"f"] = Attributes(0o100644, 1 << 63, 0, 0, 0, 0)
        with pytest.raises(FilesystemError) as caught:
            await mount.find(b"f")
        assert caught.value.errno == errno.EIO
        del mount.remote.overridden[b"f"]
        assert await mount.size(b"f") == 1


async def test_the_attribute_cache_is_bounded() -> None:
    async with mounted(config=CONFIG._replace(cache_entries=10)) as mount:
        for i in range(50):
            mount.tree.write_file(b"%d" % i, b"x" * i)
        for i in range(50):
            assert await mount.size(b"%d" % i) == i
        before = mount.remote.count("lstat")
        for i in range(50):
            assert await mount.size(b"%d" % i) == i
        assert mount.remote.count("lstat") >= before + 40


async def test_pages_of_a_file_that_could_change_unseen_are_not_kept_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two changes within one second look alike: pages read between them are old."""
    now = float(START)
    monkeypatch.setattr(time, "time", lambda: now)
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"f", b"1")
        number = await mount.number(b"f")
        kept = []
        for _ in range(3):
            opened = await mount.fs.open(number, os.O_RDONLY)
            await mount.close(opened.fh)
            kept.append(opened.keep_cache)
            now += 10
        assert kept == [False, False, True]


async def test_a_directory_made_anew_is_empty() -> None:
    async with mounted(config=CONFIG) as mount:
        mount.tree.mkdir(b"d")
        mount.tree.write_file(b"d/old", b"")
        assert await mount.names(b"d") == [b"old"]
        mount.tree.remove(b"d/old")
        mount.tree.rmdir(b"d")
        mount.forget_all()
        await mount.mkdir(b"d")
        assert await mount.names(b"d") == []
        assert await mount.find(b"d/old") is None


async def test_pages_of_a_file_opened_by_create_are_not_kept_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = float(START)
    monkeypatch.setattr(time, "time", lambda: now)
    async with mounted(config=CONFIG) as mount:
        mount.tree.write_file(b"f", b"1")
        await mount.close(await mount.create(b"f"))
        now += 10
        opened = await mount.fs.open(await mount.number(b"f"), os.O_RDONLY)
        await mount.close(opened.fh)
        assert not opened.keep_cache
