"""What must hold of whatever the filesystem passes upward, whatever the server said."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pysshfs.remotefs import FilesystemStatistics
    from pysshfs.vfs.filesystem import Entry
    from pysshfs.vfs.sanity import FileAttributes

_KINDS: Final = {
    stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO,
    stat.S_IFSOCK,
}  # fmt: skip


class Finding(AssertionError):
    """Something that must not be."""


def check_entry(entry: Entry) -> None:
    if entry.number <= 0:
        raise Finding(f"an inode number of {entry.number}")
    check_attributes(entry.attributes)


def check_attributes(told: FileAttributes) -> None:
    checks = (
        stat.S_IFMT(told.mode) in _KINDS and told.mode < 1 << 16,
        0 <= told.size < 1 << 63,
        0 <= told.uid < 1 << 32 and 0 <= told.gid < 1 << 32,
        0 <= told.atime < 1 << 32 and 0 <= told.mtime < 1 << 32,
    )
    if not all(checks):
        raise Finding(f"attributes that cannot be: {told}")


def check_names(names: list[bytes]) -> None:
    if names[:2] != [b".", b".."]:
        raise Finding("a listing without its dots")
    for name in names[2:]:
        check_name(name)
    if len(set(names)) != len(names):
        raise Finding("a name that is there twice")


def check_name(name: bytes) -> None:
    if not 0 < len(name) < 256 or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise Finding(f"a name that the kernel cannot take: {name!r:.80}")


def check_link(text: bytes, path: bytes) -> None:
    """The text stays inside, whatever the names in it are."""
    if not 0 < len(text) < 4096 or b"\0" in text or text.startswith(b"/"):
        raise Finding(f"{path!r} leads to {text!r:.80}")
    parts = [part for part in text.split(b"/") if part not in (b"", b".")]
    climbs = 0
    while climbs < len(parts) and parts[climbs] == b"..":
        climbs += 1
    if b".." in parts[climbs:] or climbs > path.count(b"/"):
        raise Finding(f"{path!r} leads out: {text!r:.80}")


def check_statfs(told: FilesystemStatistics) -> None:
    numbers = told[2:8]
    if not (
        0 < told.block_size < 1 << 32
        and 0 < told.fragment_size < 1 << 32
        and 0 < told.name_max <= 255
        and told.blocks * told.fragment_size < 1 << 63
        and told.blocks_available <= told.blocks_free <= told.blocks
        and all(0 <= number < 1 << 64 for number in numbers)
    ):
        raise Finding(f"statistics that cannot be: {told}")
