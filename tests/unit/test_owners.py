"""Whose things are: `idmap=user`, `file` and `name`, uid and gid overrides, and masks."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pysshfs.errors import (
    FX_FAILURE,
    ConnectionLostError,
    FilesystemError,
    RemoteStatusError,
)
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs import ownernames
from pysshfs.vfs.config import LocalNames, VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from pysshfs.vfs.idmap import IdTable, Unmapped
from pysshfs.vfs.sanity import NOBODY
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.fake_remote import OPENSSH
from tests.support.memory_tree import MemoryTree
from tests.unit.test_promises import ready

if TYPE_CHECKING:
    from pysshfs.vfs.sanity import FileAttributes

#: Here; the server's numbers are below. What is 1000 here is nobody's business there.
LOCAL: Final = LocalNames({b"root": 0, b"ann": 500, b"bob": 501}, {b"staff": 50, b"root": 0})
THERE: Final = {0: b"root", 1000: b"ann", 1001: b"bob", 1002: b"carl", 1003: b""}
BY_NAME: Final = VfsConfig(local_names=LOCAL)


def user(unmapped: Unmapped = Unmapped.KEEP, **more: Any) -> VfsConfig:
    return VfsConfig(
        users=IdTable("user", unmapped, {1000: 500}),
        groups=IdTable("group", unmapped, {1000: 50}),
        **more,
    )


def files(*owners: tuple[int, int]) -> MemoryTree:
    """Files `f0`, `f1`, ... of these users and groups."""
    tree = MemoryTree()
    for number, (uid, gid) in enumerate(owners):
        node = tree.write_file(b"f%d" % number, b"")
        node.uid, node.gid = uid, gid
    return tree


def named(mount: Mount) -> None:
    mount.remote.users = dict(THERE)
    mount.remote.groups = {0: b"root", 1000: b"staff"}


def owners(seen: FileAttributes) -> tuple[int, int]:
    return seen.uid, seen.gid


async def refusal(call: Any) -> str:
    with pytest.raises(FilesystemError) as caught:
        await call
    return errno.errorcode[caught.value.errno]


async def listed(mount: Mount) -> dict[bytes, tuple[int, int] | None]:
    """The owners in a listing of the root; None for a name that comes without attributes."""
    fh = await mount.fs.opendir(ROOT_NUMBER)
    found = {}
    async for item in mount.fs.readdir(fh, 0):
        if item.name not in (b".", b".."):
            found[item.name] = None if item.entry is None else owners(item.entry.attributes)
    await mount.fs.releasedir(fh)
    return found


# --- tables -------------------------------------------------------------------------------------

NUMBERS = st.integers(0, 5)


@given(st.dictionaries(NUMBERS, NUMBERS), NUMBERS, NUMBERS, st.sampled_from(Unmapped))
def test_what_is_certain_of_an_owner_is_true(
    pairs: dict[int, int], shown: int, remote: int, unmapped: Unmapped
) -> None:
    """A change that would change nothing is left out by this."""
    table = IdTable("user", unmapped)
    for theirs, ours in pairs.items():
        table.learn(theirs, None if ours == 5 else ours)

    def looks(number: int) -> int | None:
        return None if unmapped is Unmapped.REFUSE and number not in table else table.local(number)

    if table.is_only(shown, remote):
        assert [number for number in range(6) if looks(number) == shown] == [remote]


def test_a_number_is_sent_back_as_it_came() -> None:
    table = IdTable("user", Unmapped.REFUSE, {1: 7, 2: 8})
    assert [table.remote(table.local(number)) for number in (1, 2)] == [1, 2]
    table.learn(3, 7)  # a second one of the same name
    assert (table.local(3), table.remote(7)) == (7, 1)


# --- idmap=user ---------------------------------------------------------------------------------


async def test_the_login_is_the_user_both_ways() -> None:
    async with mounted(files((1000, 1000), (1, 2)), config=user()) as mount:
        assert owners((await mount.entry(b"f0")).attributes) == (500, 50)
        assert owners((await mount.entry(b"f1")).attributes) == (1, 2)
        assert await listed(mount) == {b"f0": (500, 50), b"f1": (1, 2)}
        changed = await mount.setattr(b"f1", AttributeChange(uid=500, gid=50))
        assert owners(changed.attributes) == (500, 50)
        node = mount.tree.find(b"f1")
        assert (node.uid, node.gid) == (1000, 1000)
        await mount.setattr(b"f1", AttributeChange(uid=3))
        assert (node.uid, node.gid) == (3, 1000)
        fh = await mount.create(b"new")
        await mount.close(fh)
        assert owners((await mount.entry(b"new")).attributes) == (500, 50)


async def test_another_of_the_users_number_is_not_taken_for_the_user() -> None:
    """500 on the server is shown as 500, too: a chown that says so is not left out."""
    async with mounted(files((500, 50)), config=user()) as mount:
        assert owners((await mount.entry(b"f0")).attributes) == (500, 50)
        await mount.setattr(b"f0", AttributeChange(uid=500, gid=50))
        node = mount.tree.find(b"f0")
        assert (node.uid, node.gid) == (1000, 1000)


# --- idmap=file ---------------------------------------------------------------------------------


async def test_an_unmapped_owner_harms_nobody_else() -> None:
    async with mounted(files((1000, 1000), (7, 1000)), config=user(Unmapped.REFUSE)) as mount:
        assert await listed(mount) == {b"f0": (500, 50), b"f1": None}
        assert await mount.find(b"f0") is not None
        assert await refusal(mount.find(b"f1")) == "EPERM"
        assert mount.fs.tree.inodes.child(mount.fs.tree.inodes.root, b"f1") is None
        assert await refusal(mount.setattr(b"f0", AttributeChange(uid=7))) == "EPERM"
        assert await refusal(mount.setattr(b"f0", AttributeChange(gid=7))) == "EPERM"
        assert mount.remote.count("setstat") == 0
        mount.tree.find(b"f1").uid = 1000
        assert await mount.find(b"f1") is not None


async def test_what_is_not_mapped_may_stay_as_it_is() -> None:
    async with mounted(files((7, 1000)), config=user(Unmapped.KEEP)) as mount:
        assert owners((await mount.entry(b"f0")).attributes) == (7, 50)
        await mount.setattr(b"f0", AttributeChange(uid=8))
        assert mount.tree.find(b"f0").uid == 8


# --- idmap=name ---------------------------------------------------------------------------------


async def test_who_has_the_same_name_is_the_same() -> None:
    tree = files((1000, 1000), (1001, 0), (1002, 7), (1003, 0))
    async with mounted(tree, config=BY_NAME) as mount:
        named(mount)
        everything = {
            b"f0": (500, 50), b"f1": (501, 0), b"f2": (NOBODY, NOBODY), b"f3": (NOBODY, 0),
        }  # fmt: skip
        for name, expected in everything.items():
            assert owners((await mount.entry(name)).attributes) == expected
        assert await listed(mount) == everything


async def test_a_number_never_shows_as_the_one_who_has_it_here() -> None:
    """Nor while nobody has said whose it is, nor when nobody can."""
    tree = files((500, 50), (501, 0))
    async with mounted(tree, config=BY_NAME, latency=1.0) as mount:
        mount.remote.fail_next("owner_names", RemoteStatusError(FX_FAILURE))
        assert owners((await mount.entry(b"f0")).attributes) == (NOBODY, NOBODY)
        mount.remote.users = {501: b"\xff" * 1_000_000}
        assert owners((await mount.entry(b"f1")).attributes) == (NOBODY, NOBODY)


async def test_a_server_without_names_any_more_shows_nobody() -> None:
    without = OPENSSH._replace(owner_names=False)
    async with mounted(files((1000, 1000)), config=BY_NAME, capabilities=without) as mount:
        assert owners((await mount.entry(b"f0")).attributes) == (NOBODY, NOBODY)


async def test_names_are_asked_for_once_and_together() -> None:
    """One question for each reply with owners that are new, and one round trip for it."""
    tree = MemoryTree()
    for number in range(250):
        node = tree.write_file(b"f%03d" % number, b"")
        node.uid, node.gid = 1000 + number % 3, 1000
    async with mounted(tree, config=BY_NAME, latency=1.0) as mount:
        named(mount)
        mount.remote.calls.clear()
        begun = trio.current_time()
        assert len(await mount.names()) == 250
        assert mount.remote.count("owner_names") == 1
        without = VfsConfig()
        took = trio.current_time() - begun
        await mount.names()
        await mount.entry(b"f249")
        assert mount.remote.count("owner_names") == 1
    async with mounted(tree, config=without, latency=1.0) as mount:
        begun = trio.current_time()
        await mount.names()
        assert took <= trio.current_time() - begun + 1.0


async def test_owners_that_are_asked_for_already_are_waited_for() -> None:
    async with (
        mounted(files((1000, 1000), (1000, 1000)), config=BY_NAME, latency=1.0) as mount,
        trio.open_nursery() as nursery,
    ):
        named(mount)
        tasks = [start(nursery, mount.entry, name) for name in (b"f0", b"f1")]
        await trio.sleep(2.5)
        assert [owners(task.result().attributes) for task in tasks] == [(500, 50)] * 2
        assert mount.remote.count("owner_names") == 1


async def test_names_survive_a_lost_connection() -> None:
    async with (
        mounted(files((1000, 1000)), config=BY_NAME, latency=1.0) as mount,
        trio.open_nursery() as nursery,
    ):
        named(mount)
        looking = start(nursery, mount.entry, b"f0")
        await trio.sleep(1.5)  # the question is out
        mount.remote.drop_connection()
        await settle()
        assert not looking.done
        await mount.reconnect()
        await trio.sleep(1.5)
        assert owners(looking.result().attributes) == (500, 50)


async def test_names_that_could_not_be_asked_for_are_asked_for_again() -> None:
    async with (
        mounted(files((1000, 1000)), config=BY_NAME, latency=1.0) as mount,
        trio.open_nursery() as nursery,
    ):
        named(mount)
        looking = start(nursery, mount.entry, b"f0")
        await trio.sleep(1.5)
        mount.remote.drop_connection()
        mount.fs.server.given_up(ConnectionLostError("no hope"))
        await settle()
        with pytest.raises(ConnectionLostError):
            looking.result()
        await mount.reconnect()
        assert owners((await mount.entry(b"f0")).attributes) == (500, 50)


async def test_who_is_interrupted_while_names_are_asked_for_takes_nothing_along() -> None:
    async with (
        mounted(files((1000, 1000)), config=BY_NAME, latency=1.0) as mount,
        trio.open_nursery() as nursery,
    ):
        named(mount)
        looking = start(nursery, mount.entry, b"f0")
        await trio.sleep(1.5)
        looking.scope.cancel()
        await looking.ended.wait()
        await trio.sleep(2)
        assert owners((await mount.entry(b"f0")).attributes) == (500, 50)
        assert mount.remote.count("owner_names") == 1


async def test_owners_without_end_are_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownernames, "MOST", 300)
    tree = files(*((1000 + number, 1000) for number in range(1000)))
    async with mounted(tree, config=BY_NAME) as mount:
        mount.remote.users = {1000 + number: b"ann" for number in range(1000)}
        mount.remote.groups = {1000: b"staff"}
        found = await listed(mount)
        assert len(found) == 1000
        assert set(found.values()) == {(500, 50), (NOBODY, 50)}
        table = mount.fs.tree.owners.users
        assert table is not None and 200 <= len(table) <= 300
        # Nor are they asked for over and over.
        before = mount.remote.count("owner_names")
        await mount.entry(b"f999")
        assert mount.remote.count("owner_names") == before


async def test_a_change_of_owner_goes_by_name() -> None:
    async with mounted(files((1000, 1000), (1001, 1000)), config=BY_NAME) as mount:
        named(mount)
        await listed(mount)
        node = mount.tree.find(b"f0")
        changed = await mount.setattr(b"f0", AttributeChange(uid=501))
        assert (node.uid, node.gid) == (1001, 1000)
        assert owners(changed.attributes) == (501, 50)
        assert await refusal(mount.setattr(b"f0", AttributeChange(uid=4711))) == "EPERM"
        assert await refusal(mount.setattr(b"f0", AttributeChange(uid=NOBODY))) == "EPERM"
        assert (node.uid, node.gid) == (1001, 1000)


async def test_a_user_who_was_not_seen_may_have_the_same_number() -> None:
    """Names cannot be asked for, only numbers: who is 0 here is asked for as 0."""
    async with mounted(files((1000, 1000)), config=BY_NAME) as mount:
        named(mount)
        mount.remote.users = {1000: b"ann", 501: b"dora"}
        await mount.setattr(b"f0", AttributeChange(gid=0))
        assert mount.tree.find(b"f0").gid == 0
        assert await refusal(mount.setattr(b"f0", AttributeChange(uid=501))) == "EPERM"
        assert mount.tree.find(b"f0").uid == 1000


async def test_what_is_so_already_is_not_sent() -> None:
    async with mounted(files((1000, 1000)), config=BY_NAME) as mount:
        named(mount)
        await mount.entry(b"f0")
        await mount.setattr(b"f0", AttributeChange(uid=500, gid=50))
        assert mount.remote.count("setstat") == 0


# --- what is promised ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"users": IdTable("user", Unmapped.KEEP, {1000: 500})}, (500, 1000)),
        ({"local_names": LOCAL}, (500, 50)),
        ({"uid": 3, "gid": 4}, (3, 4)),
    ],
)
async def test_what_is_promised_is_what_is_shown(
    config: dict[str, Any], expected: tuple[int, int]
) -> None:
    async with ready() as it:
        assert owners((await it.fs.getattr(it.d)).attributes) == (1000, 1000)
    with pytest.MonkeyPatch.context() as patch:
        tree = MemoryTree()
        patch.setattr("time.time", lambda: float(tree.now))
        settings = VfsConfig(async_ops=True, **config)
        async with mounted(tree, latency=1.0, config=settings) as mount:
            named(mount)
            await mount.fs.getattr(ROOT_NUMBER)
            made = mount.counted(await mount.fs.mkdir(ROOT_NUMBER, b"d", 0o755))
            begun = trio.current_time()
            opened, entry = await mount.fs.create(
                made.number, b"new", 0o644, os.O_WRONLY | os.O_EXCL
            )
            assert trio.current_time() == begun, "it was not promised"
            mount.counted(entry)
            assert owners(entry.attributes) == expected
            await mount.close(opened.fh)
            await mount.fs.flush_all()
            await trio.sleep(30)
            assert owners((await mount.fs.getattr(entry.number)).attributes) == expected


async def test_nothing_is_promised_of_an_owner_that_is_not_known() -> None:
    async with ready(local_names=LOCAL) as it:  # a server that calls nobody anything
        it.fs.tree.marks.uid = 4711  # as after a loss of the connection
        begun = trio.current_time()
        opened, entry = await it.fs.create(it.d, b"new", 0o644, os.O_WRONLY | os.O_EXCL)
        assert trio.current_time() > begun
        it.mount.counted(entry)
        await it.mount.close(opened.fh)


# --- overrides and masks ------------------------------------------------------------------------


async def test_an_override_is_not_sent() -> None:
    """Who copies what is shown, copies no owner; another owner is the server's business."""
    async with mounted(files((1000, 1000)), config=VfsConfig(uid=5)) as mount:
        node = mount.tree.find(b"f0")
        assert owners((await mount.entry(b"f0")).attributes) == (5, 1000)
        told = await mount.setattr(b"f0", AttributeChange(uid=5))
        assert owners(told.attributes) == (5, 1000)
        assert mount.remote.count("setstat") == 0
        await mount.setattr(b"f0", AttributeChange(uid=5, gid=42))
        assert (node.uid, node.gid) == (1000, 42)
        told = await mount.setattr(b"f0", AttributeChange(uid=6))
        assert (node.uid, node.gid) == (6, 42)
        assert owners(told.attributes) == (5, 42)


async def test_an_override_goes_before_the_map_in_what_is_shown_only() -> None:
    async with mounted(files((1000, 1000)), config=user(uid=5)) as mount:
        assert owners((await mount.entry(b"f0")).attributes) == (5, 50)
        mount.tree.find(b"f0").uid = 1
        await mount.setattr(b"f0", AttributeChange(uid=500))
        assert mount.tree.find(b"f0").uid == 1000


async def test_a_mask_hides_and_is_not_sent() -> None:
    config = VfsConfig(file_mask=0o022, directory_mask=0o007)
    tree = files((1000, 1000))
    tree.find(b"f0").mode = stat.S_IFREG | 0o4777
    tree.mkdir(b"d", 0o777)
    async with mounted(tree, config=config) as mount:
        assert stat.S_IMODE((await mount.entry(b"f0")).attributes.mode) == 0o4755
        assert stat.S_IMODE((await mount.entry(b"d")).attributes.mode) == 0o770
        # Reading a mode and setting it again changes nothing.
        told = await mount.setattr(b"f0", AttributeChange(mode=0o4755))
        assert stat.S_IMODE(told.attributes.mode) == 0o4755
        assert stat.S_IMODE(tree.find(b"f0").mode) == 0o4777
        await mount.setattr(b"f0", AttributeChange(mode=0o600))
        assert stat.S_IMODE(tree.find(b"f0").mode) == 0o622
        await mount.setattr(b"d", AttributeChange(mode=0o500))
        assert stat.S_IMODE(tree.find(b"d").mode) == 0o507


async def test_a_mask_and_a_file_that_was_made_here() -> None:
    """It has the mode that was asked for, and a chmod goes by that."""
    async with mounted(MemoryTree(umask=0o027), config=VfsConfig(file_mask=0o022)) as mount:
        fh = await mount.create(b"new", 0o666)
        await mount.fs.setattr(await mount.number(b"new"), AttributeChange(mode=0o444), fh)
        await mount.close(fh)
        await mount.fs.flush_all()
        assert stat.S_IMODE((await mount.entry(b"new")).attributes.mode) == 0o444
        assert stat.S_IMODE(mount.tree.find(b"new").mode) == 0o466


async def test_what_is_opened_ahead_has_its_owner_too() -> None:
    """Also when that has changed since the listing, to one who was not seen yet."""
    tree = MemoryTree()
    for number in range(30):
        tree.write_file(b"f%02d" % number, b"content")
    async with mounted(tree, config=BY_NAME, latency=1.0) as mount:
        named(mount)
        names = await mount.names()
        for number in range(20, 30):
            tree.find(b"f%02d" % number).uid = 1001
        for name in names:
            fh = await mount.open(name)
            assert await mount.fs.read(fh, 0, 100) == b"content"
            expected = 501 if int(name[1:]) >= 20 else 500
            entry = await mount.fs.getattr(await mount.number(name))
            assert owners(entry.attributes) == (expected, 50), name
            await mount.close(fh)
        assert mount.fs.tree.files_ahead.used > 10
