"""Listings that are cut in the middle: no name twice, and none missing."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
import trio

from pysshfs.errors import FilesystemError, ProtocolError
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.cuts import Cuts, drop_and_reconnect, new_tree
from tests.support.fake_mount import mounted, settle, start

if TYPE_CHECKING:
    from tests.support.memory_tree import MemoryTree

NAMES = [b"%02d" % at for at in range(40)]


def with_names() -> MemoryTree:
    tree = new_tree()
    tree.mkdir(b"d")
    for name in NAMES:
        tree.write_file(b"d/" + name, name)
    return tree


@pytest.mark.parametrize("cut_at", range(1, 20))
@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_listing_that_is_cut_goes_on(cut_at: int, carried_out: bool) -> None:
    async with mounted(with_names()) as mount, trio.open_nursery() as nursery:
        mount.remote.batch = 5
        number = await mount.number(b"d")
        cuts = Cuts(mount)
        nursery.start_soon(cuts.run)
        cuts.arm(cut_at, carried_out)
        fh = await mount.fs.opendir(number)
        assert sorted(await mount.read_names(fh)) == NAMES
        await mount.fs.releasedir(fh)
        await trio.sleep(1)
        assert cuts.count == 1
        assert mount.fs.server.waiting == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("batch", [1, 3, 7])
async def test_a_listing_survives_one_loss_after_the_other(batch: int) -> None:
    """Others add and remove names meanwhile; what was there all the time comes exactly once."""
    tree = with_names()
    async with mounted(tree) as mount:
        mount.remote.batch = batch
        fh = await mount.fs.opendir(await mount.number(b"d"))
        names: list[bytes] = []
        step = 0
        while True:
            more = await mount.read_names(fh, len(names) + 2 if names else 0, 4)
            if not more:
                break
            names += more
            step += 1
            if step < 8:
                tree.write_file(b"d/new%d" % step, b"")
                if step == 3:
                    tree.remove(b"d/" + names[0])
                    tree.remove(b"d/39")
                await drop_and_reconnect(mount)
        assert len(names) == len(set(names))
        there_all_the_time = set(NAMES) - {names[0], b"39"}
        assert there_all_the_time <= set(names)
        assert set(names) <= {*NAMES, *(b"new%d" % at for at in range(1, 8))}
        await mount.fs.releasedir(fh)


async def test_a_name_removed_through_the_mount_during_a_loss_does_not_come() -> None:
    tree = with_names()
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        mount.remote.batch = 5
        number = await mount.number(b"d")
        fh = await mount.fs.opendir(number)
        names = await mount.read_names(fh, 0, 5)
        mount.remote.drop_connection()
        task = start(nursery, mount.fs.unlink, number, b"39")
        await settle()
        await mount.reconnect()
        await settle()
        task.result()
        names += await mount.read_names(fh, len(names) + 2)
        assert sorted(names) == NAMES[:-1]
        await mount.fs.releasedir(fh)


async def test_what_was_read_before_a_loss_is_not_remembered_after_it() -> None:
    """It may have been long, and the names be long gone."""
    tree = with_names()
    async with mounted(tree) as mount:
        mount.remote.batch = 5
        fh = await mount.fs.opendir(await mount.number(b"d"))
        names = await mount.read_names(fh, 0, 5)
        mount.remote.drop_connection()
        await trio.sleep(1000)
        tree.remove(b"d/" + names[0])
        await mount.reconnect()
        await mount.read_names(fh, 7)
        await mount.fs.releasedir(fh)
        assert sorted(await mount.names(b"d")) == sorted({*NAMES} - {names[0]})


async def test_a_directory_is_rewound_while_there_is_no_connection() -> None:
    tree = with_names()
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        mount.remote.batch = 5
        fh = await mount.fs.opendir(await mount.number(b"d"))
        assert len(await mount.read_names(fh, 0, 7)) == 7
        mount.remote.drop_connection()
        again = start(nursery, mount.read_names, fh)
        await settle()
        assert not again.done
        tree.remove(b"d/00")
        await mount.reconnect()
        await settle()
        assert sorted(again.result()) == NAMES[1:]
        await mount.fs.releasedir(fh)


async def test_a_rewind_that_is_interrupted_is_made_up_for() -> None:
    async with mounted(with_names()) as mount, trio.open_nursery() as nursery:
        mount.remote.batch = 5
        fh = await mount.fs.opendir(await mount.number(b"d"))
        await mount.read_names(fh, 0, 7)
        mount.remote.drop_connection()
        for _ in range(2):
            again = start(nursery, mount.read_names, fh)
            await settle()
            again.scope.cancel()
            await settle()
        assert mount.fs.server.waiting == 0
        await mount.reconnect()
        assert sorted(await mount.read_names(fh)) == NAMES
        await mount.fs.releasedir(fh)


async def test_a_directory_is_closed_while_there_is_no_connection() -> None:
    async with mounted(with_names()) as mount:
        mount.remote.batch = 5
        fh = await mount.fs.opendir(await mount.number(b"d"))
        await mount.read_names(fh, 0, 7)
        mount.remote.drop_connection()
        await mount.fs.releasedir(fh)
        mount.remote.calls.clear()
        await mount.reconnect()
        await settle()
        assert mount.remote.calls == []
        assert mount.fs.statistics()["open_directories"] == 0


async def test_a_directory_that_is_gone_ends_its_listing() -> None:
    tree = with_names()
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        mount.remote.batch = 5
        fh = await mount.fs.opendir(await mount.number(b"d"))
        names = await mount.read_names(fh, 0, 5)
        mount.remote.drop_connection()
        for name in NAMES:
            tree.remove(b"d/" + name)
        tree.rmdir(b"d")
        await mount.reconnect()
        rest = start(nursery, mount.read_names, fh, len(names) + 2)
        await settle()
        assert rest.error is not None
        assert mount.fs.server.waiting == 0
        await mount.fs.releasedir(fh)


async def test_opening_a_directory_is_repeated() -> None:
    async with mounted(with_names()) as mount, trio.open_nursery() as nursery:
        for deaf in (True, False):
            mount.fs.tree.cache.clear()
            if deaf:
                mount.remote.go_deaf()
            else:
                mount.remote.hold()
            opening = start(nursery, mount.fs.opendir, ROOT_NUMBER)
            await settle()
            mount.remote.drop_connection()
            await mount.reconnect()
            await settle()
            assert await mount.read_names(opening.result()) == [b"d"]
            await mount.fs.releasedir(opening.result())


async def test_a_listing_that_breaks_the_protocol_is_not_asked_for_on_each_session() -> None:
    """It would end them all."""
    async with mounted(with_names()) as mount, trio.open_nursery() as nursery:
        fh = await mount.fs.opendir(ROOT_NUMBER)
        mount.remote.hold()
        reading = start(nursery, mount.read_names, fh)
        await settle()
        mount.remote.drop_connection(ProtocolError("nonsense"))
        await settle()
        with pytest.raises(FilesystemError) as caught:
            reading.result()
        assert caught.value.errno == errno.EIO
        await mount.fs.releasedir(fh)
        await mount.reconnect()
        assert await mount.names() == [b"d"]
