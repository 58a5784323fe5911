"""What the protocol adapter itself must get right: how names of a listing are told."""

from __future__ import annotations

import ctypes
import errno
import itertools
from typing import TYPE_CHECKING, Any, cast

import pytest

from pysshfs.errors import FX_FAILURE, RemoteStatusError
from pysshfs.fuse import operations, requests
from pysshfs.fuse.binding import _session, pyfuse3
from tests.support.fake_mount import Mount, mounted
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = 150  # two READDIRs, and one that says that there are no more
TOKEN = cast("pyfuse3.ReaddirToken", None)


class FakeSession:
    """In place of the extension: says which request is being started."""

    def __init__(self) -> None:
        self._serials: Iterator[int] = itertools.count(1)

    def current(self) -> tuple[int, str, int, int, int, int]:
        return (next(self._serials), "readdirplus", 1, 0, 1234, 1000)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names that were put into replies, which have room for all of them."""
    names: list[bytes] = []

    def readdir_reply(_token: object, name: bytes, _entry: object, _next: int) -> bool:
        names.append(name)
        return True

    monkeypatch.setattr(requests, "_session", FakeSession())
    monkeypatch.setattr(pyfuse3, "readdir_reply", readdir_reply)
    return names


def adapter(mount: Mount) -> Any:
    return operations.Operations(mount.fs, requests.Requests(requests.Policy()))


def tree() -> MemoryTree:
    made = MemoryTree()
    for i in range(NAMES):
        made.write_file(b"%d" % i, b"")
    return made


async def test_what_a_listing_delivers_is_looked_up(taken: list[bytes]) -> None:
    async with mounted(tree()) as mount:
        fh = await mount.fs.opendir(1)
        await adapter(mount).readdir(fh, 0, TOKEN)
        await mount.fs.releasedir(fh)
        assert len(taken) == 2 + NAMES
        assert mount.fs.statistics()["inodes"] == 1 + NAMES


async def test_what_a_failed_listing_did_not_deliver_is_not_looked_up(
    taken: list[bytes],
) -> None:
    """The kernel gets the error alone; it would never forget names that it was not told."""
    async with mounted(tree()) as mount:
        fh = await mount.fs.opendir(1)
        # Two READDIRs are out already; the names of both arrive before this one's error.
        mount.remote.fail_next("readdir", RemoteStatusError(FX_FAILURE), times=9)
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await adapter(mount).readdir(fh, 0, TOKEN)
        await mount.fs.releasedir(fh)
        assert caught.value.errno == errno.EIO
        assert len(taken) > 2
        assert mount.fs.statistics()["inodes"] == 1


@pytest.mark.parametrize("is_bare", [True, False])
def test_a_bare_name_has_its_number_and_no_node(is_bare: bool) -> None:
    """Older C libraries leave names with the number 0 out of a listing."""
    nodeid, shown = 0, 128  # where struct fuse_direntplus has them
    param = ctypes.create_string_buffer(256)  # struct fuse_entry_param: ino, generation, attr
    ctypes.c_uint64.from_buffer(param, 0).value = 42
    ctypes.c_uint64.from_buffer(param, 8).value = operations._BARE if is_bare else 0
    ctypes.c_uint64.from_buffer(param, 16 + 8).value = 42  # attr.st_ino
    told = ctypes.create_string_buffer(512)
    add = ctypes.CDLL(_session.__file__).fuse_add_direntry_plus
    add.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p,
        ctypes.c_long,
    ]  # fmt: skip
    add(None, told, len(told), b"name", param, 1)
    assert ctypes.c_uint64.from_buffer(told, nodeid).value == (0 if is_bare else 42)
    assert ctypes.c_uint64.from_buffer(told, shown).value == 42
