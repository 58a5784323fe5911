"""/dev/fd/N as a mountpoint: what it is taken for, and how its mount is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pysshfs.cli.control_client import outer_number
from pysshfs.errors import MountpointError
from pysshfs.fuse import inherited, mountinfo
from pysshfs.fuse.mountpoint import Place


@pytest.mark.parametrize(
    ("text", "number"),
    [("/dev/fd/0", 0), ("/dev/fd/42", 42), ("/mnt", None), ("dev/fd/4", None), ("/dev/fd", None)],
)
def test_descriptor(text: str, number: int | None) -> None:
    assert inherited.descriptor(text) == number


@pytest.mark.parametrize("rest", ["", "x", "4x", "-4", "+4", " 4", "4 ", "4/", "\u0664", "9" * 10])
def test_what_is_no_number(rest: str) -> None:
    with pytest.raises(MountpointError, match="not the number of a descriptor"):
        inherited.descriptor(f"/dev/fd/{rest}")


def test_what_is_not_fuse() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(MountpointError, match="not /dev/fuse"):
        inherited.check(fd)
    os.close(fd)
    with pytest.raises(MountpointError, match="no such descriptor"):
        inherited.check(fd)


_TABLE = b"""\
20 1 0:5 / /proc rw - proc proc rw
31 1 0:31 / /one rw,nosuid - fuse.pysshfs a:b rw,user_id=7,group_id=7
32 1 0:32 / /two rw - fuse.pysshfs a:b rw,user_id=8,group_id=8
33 1 0:33 / /three rw - fuse c:d rw,user_id=7,group_id=7
34 1 0:31 / /again rw,nosuid - fuse.pysshfs a:b rw,user_id=7,group_id=7
35 1 0:35 / /ctl rw - fusectl fusectl rw
"""


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[mountinfo.MountEntry]:
    entries = mountinfo.parse_mountinfo(_TABLE)
    monkeypatch.setattr(mountinfo, "mounts", lambda: entries)
    return entries


def test_a_mount_is_found_by_its_number(table: list[mountinfo.MountEntry]) -> None:
    assert mountinfo.mount_of(31) == table[1]
    assert mountinfo.mount_of(5) is None and mountinfo.mount_of(35) is None
    assert [mountinfo.owner(entry) for entry in table] == [0, 7, 8, 7, 7, 0]


@pytest.mark.parametrize(
    ("waiting", "found"),
    [
        ({31: 0, 33: 1}, b"/three"),
        ({31: 3, 33: None}, b"/three"),
        ({31: 1, 33: 1}, None),
        ({31: 0, 33: 0}, None),
    ],
)
def test_an_older_kernel_does_not_say_the_number(
    monkeypatch: pytest.MonkeyPatch,
    table: list[mountinfo.MountEntry],
    waiting: dict[int, int | None],
    found: bytes | None,
) -> None:
    monkeypatch.setattr(mountinfo, "waiting_requests", lambda entry: waiting.get(entry.minor, 0))
    entry = inherited.likely([table[0], *table[1:4], table[5]], 7)
    assert (None if entry is None else entry.mountpoint) == found


def test_what_is_handed_down_has_the_name_of_its_mount(
    monkeypatch: pytest.MonkeyPatch, table: list[mountinfo.MountEntry]
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: "pos:\t0\nfuse_connection:\t32\n")
    assert inherited.mount_of(9) == table[2]
    place = Place("/two", 9, table[2])
    assert place.argument == "/dev/fd/9" and place.obeys_set_id_bits
    assert not Place("/one", 9, table[1]).obeys_set_id_bits
    assert Place("/dev/fd/9", 9).obeys_set_id_bits  # not known: so it may
    ours = Place("/mnt")
    assert ours.argument == "/mnt" and not ours.obeys_set_id_bits


@pytest.mark.parametrize(
    ("uid", "uid_map", "outer"),
    [
        (0, "         0          0 4294967295\n", 0),
        (0, "         0       1000          1\n", 1000),
        (5, "0 1000 1\n1 100000 65536\n", 100004),
        (7, "0 1000 1\n", 7),
    ],
)
def test_the_number_outside_of_a_namespace(uid: int, uid_map: str, outer: int) -> None:
    assert outer_number(uid, uid_map) == outer
