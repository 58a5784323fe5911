"""Truncating opens, removals and renames whose reply was lost."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio

from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.filesystem import ROOT_NUMBER
from pysshfs.vfs.renames import RENAME_NOREPLACE
from tests.support.cuts import Cuts, both, failing, lose, new_tree
from tests.support.fake_mount import mounted, settle, start
from tests.support.fake_remote import OPENSSH

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.memory_tree import MemoryTree

PLAIN = OPENSSH._replace(posix_rename=False)
OVERWRITE = os.O_WRONLY | os.O_TRUNC


def with_files() -> MemoryTree:
    tree = new_tree()
    tree.write_file(b"f", b"the file")
    tree.write_file(b"g", b"another one")
    tree.find(b"f").mtime -= 100
    tree.find(b"g").mtime -= 50
    return tree


# --- OPEN with TRUNC ----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("known", [True, False])
async def test_an_open_that_truncates_does(carried_out: bool, known: bool) -> None:
    tree = with_files()
    async with mounted(tree) as mount:
        number = await mount.number(b"f")
        if not known:
            mount.fs.tree.changed(mount.fs.tree.inodes.get(number))
        reply = await lose(mount, carried_out, mount.fs.open, number, OVERWRITE)
        assert tree.read_file(b"f") == b""
        await mount.fs.write(reply.fh, 0, b"new")
        await mount.close(reply.fh)
        assert tree.read_file(b"f") == b"new"
        opens = [call[2] for call in mount.remote.calls if call[0] == "open"]
        if carried_out:
            assert ["TRUNCATE" in flags for flags in opens] == [True, False]


async def test_new_data_is_not_truncated() -> None:
    tree = with_files()
    async with mounted(tree) as mount:
        number = await mount.number(b"f")

        def write() -> None:
            tree.write_file(b"f", b"of another client")

        reply = await lose(mount, True, mount.fs.open, number, OVERWRITE, meanwhile=write)
        assert tree.read_file(b"f") == b"of another client"
        await mount.close(reply.fh)


async def test_what_was_changed_before_is_truncated_all_the_same() -> None:
    """What is known of the file is out of date: that it differs does not mean that it was cut."""
    tree = with_files()
    async with mounted(tree) as mount:
        await mount.mkdir(b"known")  # so the server's clock is
        number = await mount.number(b"f")
        tree.write_file(b"f", b"changed some time ago").mtime -= 20
        reply = await lose(mount, False, mount.fs.open, number, OVERWRITE)
        assert tree.read_file(b"f") == b""
        await mount.close(reply.fh)


async def test_data_written_through_another_handle_meanwhile_survives() -> None:
    tree = with_files()
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        number = await mount.number(b"f")
        writer = await mount.open(b"f", os.O_WRONLY)
        mount.remote.hold()
        opening = start(nursery, mount.fs.open, number, OVERWRITE)
        await settle()
        await mount.fs.write(writer, 0, b"new")
        flush = start(nursery, mount.fs.flush, writer)
        await settle()
        mount.remote.drop_connection()
        await mount.reconnect()
        await settle()
        flush.result()
        assert tree.read_file(b"f") == b"new"
        await mount.close(writer)
        await mount.close(opening.result().fh)


# --- removing -----------------------------------------------------------------------------------


@both
async def test_a_file_is_removed_once(carried_out: bool) -> None:
    tree = with_files()
    async with mounted(tree) as mount:
        await mount.number(b"f")
        await lose(mount, carried_out, mount.fs.unlink, ROOT_NUMBER, b"f")
        assert sorted(tree.root.children) == [b"g"]
        assert await mount.find(b"f") is None
        assert mount.fs.server.waiting == 0


@both
async def test_a_directory_is_removed_once(carried_out: bool) -> None:
    tree = new_tree()
    tree.mkdir(b"d")
    async with mounted(tree) as mount:
        await mount.number(b"d")
        await lose(mount, carried_out, mount.fs.rmdir, ROOT_NUMBER, b"d")
        assert not tree.root.children
        assert await mount.find(b"d") is None


@pytest.mark.parametrize("method", ["unlink", "rmdir"])
async def test_what_was_missing_from_the_first_is_missing(method: str) -> None:
    tree = with_files()
    async with mounted(tree) as mount:
        await mount.number(b"f")
        tree.remove(b"f")
        remove = getattr(mount.fs, method)
        assert await failing(remove(ROOT_NUMBER, b"f")) == errno.ENOENT
        # And when the call waited for the session on which it is made first.
        async with trio.open_nursery() as nursery:
            mount.remote.drop_connection()
            task = start(nursery, remove, ROOT_NUMBER, b"f")
            await settle()
            await mount.reconnect()
            await settle()
        assert task.error is not None
        assert await failing(remove(ROOT_NUMBER, b"f")) == errno.ENOENT


# --- renaming -----------------------------------------------------------------------------------

HOW = {
    "replacing": (OPENSSH, 0),
    "not replacing": (OPENSSH, RENAME_NOREPLACE),
    "without the extension": (PLAIN, 0),
}
renames = pytest.mark.parametrize("how", HOW)


@both
@renames
async def test_a_file_is_moved_once_and_its_handles_follow(how: str, carried_out: bool) -> None:
    tree = with_files()
    capabilities, flags = HOW[how]
    async with mounted(tree, capabilities=capabilities) as mount:
        fh = await mount.open(b"f", os.O_RDWR)
        number = await mount.number(b"f")
        assert await mount.find(b"h") is None
        rename = mount.fs.rename
        await lose(mount, carried_out, rename, ROOT_NUMBER, b"f", ROOT_NUMBER, b"h", flags)
        assert sorted(tree.root.children) == [b"g", b"h"]
        assert await mount.number(b"h") == number
        assert await mount.find(b"f") is None
        assert await mount.fs.read(fh, 0, 10) == b"the file"
        await mount.fs.write(fh, 0, b"THE")
        await mount.close(fh)
        assert tree.read_file(b"h") == b"THE file"
        assert mount.fs.server.waiting == 0


@both
@pytest.mark.parametrize("known", [True, False])
async def test_a_file_is_moved_over_another(carried_out: bool, known: bool) -> None:
    tree = with_files()
    async with mounted(tree) as mount:
        fh, replaced = await mount.open(b"f"), await mount.open(b"g", os.O_WRONLY)
        if not known:
            for name in (b"f", b"g"):
                mount.fs.tree.name_changed(mount.fs.tree.inodes.root, name)
        await lose(mount, carried_out, mount.rename, b"f", b"g")
        assert sorted(tree.root.children) == [b"g"]
        assert await mount.fs.read(fh, 0, 10) == b"the file"
        if carried_out:  # there is no way to the replaced file any more
            await mount.fs.write(replaced, 0, b"lost")
            assert await failing(mount.fs.flush(replaced)) == errno.ESTALE
        assert tree.read_file(b"g") == b"the file"
        await mount.fs.release(replaced)
        await mount.close(fh)


@both
async def test_a_directory_is_moved_with_what_is_open_in_it(carried_out: bool) -> None:
    tree = new_tree()
    tree.mkdir(b"d")
    tree.write_file(b"d/f", b"content")
    tree.mkdir(b"empty")
    async with mounted(tree) as mount:
        fh = await mount.open(b"d/f")
        await lose(mount, carried_out, mount.rename, b"d", b"empty")
        assert sorted(tree.root.children) == [b"empty"]
        assert await mount.fs.read(fh, 0, 10) == b"content"
        assert await mount.find(b"d") is None
        await mount.close(fh)


def _begin_anew(tree: MemoryTree) -> None:
    tree.remove(b"g")
    tree.write_file(b"f", b"?")


OTHERS: dict[str, Callable[[MemoryTree], object]] = {
    "both names are taken, the old one by another file": lambda tree: tree.write_file(b"f", b"?"),
    "the new name is another file": lambda tree: tree.write_file(b"g", b"of another client"),
    "the new name is free, the old one another file": lambda tree: _begin_anew(tree),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("flags", [0, RENAME_NOREPLACE])
async def test_what_cannot_be_decided_is_an_error(
    change: Callable[[MemoryTree], object], flags: int
) -> None:
    tree = with_files()
    tree.remove(b"g")
    async with mounted(tree) as mount:
        await mount.number(b"f")
        assert await mount.find(b"g") is None
        losing = lose(mount, True, mount.rename, b"f", b"g", flags, meanwhile=lambda: change(tree))
        assert await failing(losing) == errno.EIO


@pytest.mark.parametrize("known", ["to be absent", "as another file"])
async def test_what_came_under_the_new_name_meanwhile_is_not_replaced(known: str) -> None:
    tree = with_files()
    if known == "to be absent":
        tree.remove(b"g")
    async with mounted(tree) as mount:
        await mount.number(b"f")
        await mount.find(b"g")
        losing = lose(
            mount, False, mount.rename, b"f", b"g", meanwhile=lambda: tree.write_file(b"g", b"!")
        )
        assert await failing(losing) == errno.EIO
        assert tree.read_file(b"g") == b"!"


async def test_a_rename_of_what_both_names_have_lost_says_so() -> None:
    tree = with_files()
    async with mounted(tree) as mount:
        await mount.number(b"f")
        losing = lose(mount, True, mount.rename, b"f", b"h", meanwhile=lambda: tree.remove(b"h"))
        assert await failing(losing) == errno.ENOENT


@both
@pytest.mark.parametrize("request_number", range(1, 9))
async def test_each_step_of_a_rename_without_the_extension(
    request_number: int, carried_out: bool
) -> None:
    tree = with_files()
    async with mounted(tree, capabilities=PLAIN) as mount, trio.open_nursery() as nursery:
        number, fh = await mount.number(b"f"), await mount.open(b"f")
        await mount.number(b"g")
        cuts = Cuts(mount)
        nursery.start_soon(cuts.run)
        cuts.arm(request_number, carried_out)
        await mount.rename(b"f", b"g")
        await trio.sleep(1)
        assert sorted(tree.root.children) == [b"g"]  # nothing lies about
        assert tree.read_file(b"g") == b"the file"
        assert await mount.fs.read(fh, 0, 10) == b"the file"
        assert await mount.number(b"g") == number
        await mount.close(fh)
        nursery.cancel_scope.cancel()


# --- calls that wait for the next session -------------------------------------------------------


async def test_calls_made_meanwhile_come_after_what_is_repeated_in_their_order() -> None:
    tree = with_files()
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        f, _ = await mount.number(b"f"), await mount.number(b"g")
        mount.remote.go_deaf()
        first = start(nursery, mount.fs.setattr, f, AttributeChange(mode=0o600))
        await settle()
        mount.remote.drop_connection()
        mount.remote.calls.clear()
        tasks = [first]
        for call, arguments in (
            (mount.fs.unlink, (ROOT_NUMBER, b"g")),
            (mount.fs.rename, (ROOT_NUMBER, b"f", ROOT_NUMBER, b"g", 0)),
            (mount.fs.mkdir, (ROOT_NUMBER, b"f", 0o755)),
            (mount.fs.symlink, (ROOT_NUMBER, b"y", b"x")),
        ):
            tasks.append(start(nursery, call, *arguments))
            await settle()
        await mount.reconnect()
        await settle()
        for task in tasks:
            task.result()
        methods = [call[0] for call in mount.remote.calls if call[0] != "lstat"]
        assert methods == ["setstat", "remove", "posix_rename", "mkdir", "symlink"]
        assert sorted(tree.root.children) == [b"f", b"g", b"y"]
