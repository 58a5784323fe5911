"""The one place where the server's word is checked before anything else believes it.

The wire format is checked in `remote/` (lengths, types, ids); this is about meaning: a name that
the kernel would choke on, a size no file can have, a type that does not exist. Pure functions.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.errors import UnsafeReplyError

if TYPE_CHECKING:
    from pysshfs.remotefs import Attributes, FilesystemStatistics

NAME_MAX: Final = 255  # bytes; the kernel's NAME_MAX, and FUSE's
PATH_MAX: Final = 4096  # bytes; symlink targets and paths beyond are refused
MAX_SIZE: Final = (1 << 63) - 1  # loff_t; the kernel makes an inode with more a bad one

NOBODY: Final = 65534  # who owns what the server names no owner of; the kernel's overflow id
_KINDS: Final = frozenset(
    (
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
    )
)


class FileAttributes(NamedTuple):
    """Attributes that are known to be possible. Times are whole seconds, size is in bytes."""

    mode: int
    size: int
    uid: int
    gid: int
    atime: int
    mtime: int


def checked_attributes(attributes: Attributes) -> FileAttributes:
    """Attributes fit for the kernel.

    Repaired: a missing owner is nobody, a missing size is 0 except for a regular file, missing
    times are 0. Refused with `UnsafeReplyError` (EIO): no mode, an unknown type, a regular file
    without a size, a size past 2^63-1.
    """
    mode, size, uid, gid, atime, mtime = attributes
    if mode is None or stat.S_IFMT(mode) not in _KINDS:
        raise UnsafeReplyError("no file type" if mode is None else f"file type {mode:#o}")
    if size is None:
        if stat.S_ISREG(mode):
            raise UnsafeReplyError("a file without a size")
        size = 0
    if not 0 <= size <= MAX_SIZE:
        raise UnsafeReplyError(f"a size of {size} bytes")
    return FileAttributes(
        mode & 0o177777,
        size,
        NOBODY if uid is None else uid,
        NOBODY if gid is None else gid,
        atime or 0,
        mtime or 0,
    )


def checked_statistics(statistics: FilesystemStatistics) -> FilesystemStatistics:
    """Sizes that df can divide by, and names no longer than the kernel takes."""
    block = statistics.block_size or statistics.fragment_size or 4096
    return statistics._replace(
        block_size=block,
        fragment_size=statistics.fragment_size or block,
        name_max=min(statistics.name_max or NAME_MAX, NAME_MAX),
    )


def is_safe_name(name: bytes) -> bool:
    """Whether the kernel can be given this name. One that it cannot fails the whole listing."""
    return (
        0 < len(name) <= NAME_MAX
        and name not in (b".", b"..")
        and b"/" not in name
        and b"\0" not in name
    )


def checked_link_target(target: bytes) -> bytes:
    """A symlink's target, bounded and without NUL; `UnsafeReplyError` (EIO) otherwise."""
    if not 0 < len(target) < PATH_MAX or b"\0" in target:
        raise UnsafeReplyError(f"a link target of {len(target)} bytes")
    return target
