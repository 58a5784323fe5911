"""Which paths of this machine count as its own programs; on the machine's real /usr and /etc."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from pysshfs.fuse import mountinfo, systemfiles
from pysshfs.fuse.systemfiles import is_system_file

if TYPE_CHECKING:
    from pathlib import Path

ENV = b"/usr/bin/env"


@pytest.mark.parametrize(
    "path",
    [
        ENV, b"/bin/sh", b"//usr/./bin//env", b"/usr/bin/../bin/env", b"/etc/../usr/bin/env",
        b"/usr/bin", b"/usr/share/", b"/../usr/bin/env",
    ],
)  # fmt: skip
def test_programs_of_the_system(path: bytes) -> None:
    assert is_system_file(path)


@pytest.mark.parametrize(
    "path",
    [
        b"/etc/passwd", b"/", b"/usr", b"/usr/local", b"/usr/local/bin", b"/usr/bin/nowhere",
        b"usr/bin/env", b"", b"/usr/bin/../../etc/passwd", b"/usr/bin/../local/bin",
        b"/proc/self/root/usr/bin/env", b"/proc/1/root/usr/bin/env", b"/dev/fd/0", b"/tmp",
        b"/usr/bin/env\0", b"/usr/" + b"x" * 300, b"/usr" + b"/bin/.." * 300 + b"/bin/env",
    ],
)  # fmt: skip
def test_what_is_not(path: bytes) -> None:
    assert not is_system_file(path)


def test_the_way_there_must_be_roots(tmp_path: Path) -> None:
    """A link that a user made leads to the same file today."""
    (tmp_path / "env").symlink_to(os.fsdecode(ENV))
    (tmp_path / "loop").symlink_to("loop")
    for name in ("env", "loop", "../../usr/bin/env"):
        assert not is_system_file(os.fsencode(tmp_path / name))


@pytest.mark.parametrize(
    ("mode", "uid", "expected"),
    [
        (stat.S_IFREG | 0o755, 0, True), (stat.S_IFREG | 0o755, 1, False),
        (stat.S_IFREG | 0o775, 0, False), (stat.S_IFREG | 0o757, 0, False),
        (stat.S_IFDIR | 0o1777, 0, False), (stat.S_IFLNK | 0o777, 0, True),
        (stat.S_IFLNK | 0o777, 1, False),
    ],
)  # fmt: skip
def test_nobody_else_may_write_it(mode: int, uid: int, expected: bool) -> None:
    status = os.stat_result((mode, 1, 1, 1, uid, 0, 0, 0, 0, 0))
    assert systemfiles._is_roots(status) is expected


@pytest.mark.parametrize("fstype", ["fuse", "fuse.sshfs", "fuseblk", "autofs", "nfs4", "proc"])
def test_file_systems_that_others_serve_are_not_entered(
    fstype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nothing is asked of one, tests/mount/test_symlinks.py shows on a daemon that stands."""
    entries = mountinfo.mounts()
    assert is_system_file(ENV)
    monkeypatch.setattr(
        mountinfo, "mounts", lambda: [entry._replace(fstype=fstype) for entry in entries]
    )
    assert not is_system_file(ENV)


def test_no_descriptor_is_left_open() -> None:
    before = os.listdir("/proc/self/fd")
    for path in (ENV, b"/etc/passwd", b"/usr/bin/nowhere", b"/usr/bin/../../etc"):
        is_system_file(path)
    assert os.listdir("/proc/self/fd") == before
