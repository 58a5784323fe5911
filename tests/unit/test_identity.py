"""Who the login is: by the server's process where it tells, by the login directory elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from pysshfs.errors import ConnectionLostError
from pysshfs.remote.identity import Identity, identity, parsed
from tests.support.fake_remote import FakeRemote
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from pysshfs.remote.client import SftpRemote

STATUS = b"Name:\tsftp-server\nUmask:\t0022\nUid:\t5\t6\t7\t1234\nGid:\t1\t2\t3\t99\nGroups:\t9 \n"


def test_a_process_says_who_it_is() -> None:
    assert parsed(STATUS) == (1234, 99)
    own = Path("/proc/self")
    assert parsed((own / "status").read_bytes()) == (own.stat().st_uid, own.stat().st_gid)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"Uid:\t1\t2\t3\t4\n",
        STATUS.replace(b"1234", b"12345678901"),
        STATUS.replace(b"\t1234", b""),
        b"# " + STATUS.replace(b"\n", b" "),
    ],
)
def test_anything_else_says_nothing(text: bytes) -> None:
    assert parsed(text) is None


def home_of(uid: int) -> MemoryTree:
    tree = MemoryTree()
    tree.root.uid, tree.root.gid = uid, 20
    return tree


async def found(tree: MemoryTree, login: str) -> Identity | None:
    async with FakeRemote.serve(tree) as remote:
        served = cast("SftpRemote", remote)
        try:
            return await identity(served, served, login)
        finally:
            assert remote.open_handles == []


async def test_the_process_goes_before_the_directory() -> None:
    tree = home_of(1000)
    tree.mkdir(b"proc")
    tree.mkdir(b"proc/self")
    tree.write_file(b"proc/self/status", STATUS)
    assert await found(tree, "ann") == (1234, 99)
    tree.write_file(b"proc/self/status", b"")
    assert await found(tree, "ann") == (1000, 20)


async def test_without_proc_it_is_the_owner_of_the_login_directory() -> None:
    assert await found(home_of(1000), "ann") == (1000, 20)


async def test_roots_directory_says_nothing_of_anybody_else() -> None:
    """Where logins are shut up in a directory, that must be root's."""
    assert await found(home_of(0), "ann") is None
    assert await found(home_of(0), "root") == (0, 20)


async def test_a_lost_connection_is_no_answer() -> None:
    async with FakeRemote.serve(home_of(1000)) as remote:
        remote.fail_next("open", ConnectionLostError())
        with pytest.raises(ConnectionLostError):
            await identity(cast("SftpRemote", remote), cast("SftpRemote", remote), "ann")
