"""The table of mounts, as the kernel writes it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pysshfs.fuse import mountinfo
from pysshfs.fuse.mountinfo import MountEntry, parse_mountinfo

if TYPE_CHECKING:
    from pathlib import Path

LINE = (
    b"43 27 0:40 / /mnt rw,nosuid,nodev,relatime - fuse.pysshfs u@h:/dir rw,user_id=0,group_id=0\n"
)


def entry_of(line: bytes) -> MountEntry:
    (entry,) = parse_mountinfo(line)
    return entry


def test_a_line() -> None:
    assert entry_of(LINE) == MountEntry(
        43, 0, 40, b"/mnt", "rw,nosuid,nodev,relatime", "fuse.pysshfs", b"u@h:/dir",
        "rw,user_id=0,group_id=0",
    )  # fmt: skip
    assert mountinfo.is_pysshfs(entry_of(LINE))


@pytest.mark.parametrize("optional", [b"", b"shared:1 ", b"shared:1 master:2 ", b"unbindable "])
def test_optional_fields(optional: bytes) -> None:
    line = b"1 2 0:3 / /mnt rw " + optional + b"- ext4 /dev/sda rw"
    entry = entry_of(line)
    assert (entry.fstype, entry.source, entry.super_options) == ("ext4", b"/dev/sda", "rw")
    assert not mountinfo.is_pysshfs(entry)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (rb"/a\040b", b"/a b"),
        (rb"/a\011b\012c", b"/a\tb\nc"),
        (rb"/a\134b", rb"/a\b"),
        (rb"/a\134040b", rb"/a\040b"),
        (rb"/a\043b", b"/a#b"),
        (b"/caf\xc3\xa9", "/caf\u00e9".encode()),
        (b"/\xff\xfe", b"/\xff\xfe"),
        (b"/a\rb\x0bc\x85d", b"/a\rb\x0bc\x85d"),
        (rb"/a-b", b"/a-b"),
    ],
)
def test_names(written: bytes, meant: bytes) -> None:
    line = b"43 27 0:40 / " + written + b" rw - fuse.pysshfs " + written[1:] + b" rw\n"
    entries = parse_mountinfo(LINE + line + LINE)
    assert [entry.mountpoint for entry in entries] == [b"/mnt", meant, b"/mnt"]
    assert entries[1].source == meant[1:]


def test_a_dash_of_its_own_in_a_name_is_no_separator() -> None:
    assert entry_of(rb"1 2 0:3 / /a\040-\040b rw - fuse x rw").mountpoint == b"/a - b"


def test_a_source_may_be_empty() -> None:
    entry = entry_of(b"1 2 0:3 / /mnt rw - tmpfs  rw")
    assert (entry.source, entry.super_options) == (b"", "rw")


def test_options_of_others_may_be_any_bytes() -> None:
    entries = parse_mountinfo(b"1 2 0:3 / /o rw - overlay overlay rw,lowerdir=/\xff\n" + LINE)
    assert os.fsencode(entries[0].super_options) == b"rw,lowerdir=/\xff"
    assert len(entries) == 2


@pytest.mark.parametrize("line", [b"", b"\n", b"nonsense\n", b"1 2 0:3 / /mnt rw\n", b" - \n"])
def test_what_is_no_line_is_passed_over(line: bytes) -> None:
    assert parse_mountinfo(LINE + line) == [entry_of(LINE)]


def test_the_real_table_names_the_root() -> None:
    root = mountinfo.mount_at(b"/")
    assert root is not None and root.mountpoint == b"/"
    assert mountinfo.mount_at(b"/nonexistent/place") is None


def test_the_later_of_two_mounts_is_the_visible_one(monkeypatch: pytest.MonkeyPatch) -> None:
    upper = LINE.replace(b"0:40", b"0:41")
    monkeypatch.setattr(mountinfo, "mounts", lambda: parse_mountinfo(LINE + upper))
    visible = mountinfo.mount_at(b"/mnt")
    assert visible is not None and visible.minor == 41
    assert [entry.minor for entry in mountinfo.mounts() if mountinfo.is_pysshfs(entry)] == [40, 41]


def test_the_control_filesystem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mountinfo, "CONNECTIONS", str(tmp_path))
    entry = entry_of(LINE)
    assert mountinfo.waiting_requests(entry) is None
    with pytest.raises(OSError, match="abort"):
        mountinfo.abort(entry)
    (tmp_path / "40").mkdir()
    (tmp_path / "40" / "waiting").write_text("7\n")
    (tmp_path / "40" / "abort").touch()
    assert mountinfo.waiting_requests(entry) == 7
    mountinfo.abort(entry)
    assert (tmp_path / "40" / "abort").read_text() == "1"
