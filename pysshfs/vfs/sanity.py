"""The one place where the server's word is checked before anything else believes it.

The wire format is checked in `remote/` (lengths, types, ids); this is about meaning: a name that
the kernel would choke on, a size no file can have, a type that does not exist, a listing without
end. Pure functions, but for `ListingCheck`, which counts: one belongs to each listing.
"""

from __future__ import annotations

import stat
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.errors import UnsafeReplyError
from pysshfs.remotefs import PATH_MAX as PATH_MAX

if TYPE_CHECKING:
    from pysshfs.remotefs import Attributes, FilesystemStatistics
    from pysshfs.vfs.config import VfsConfig

NAME_MAX: Final = 255  # bytes; the kernel's NAME_MAX, and FUSE's
MAX_SIZE: Final = (1 << 63) - 1  # loff_t; the kernel makes an inode with more a bad one
MAX_TIME: Final = (1 << 32) - 1  # seconds; what protocol 3 has room for: 2106

_LARGEST_BLOCK: Final = 1 << 30  # bytes
NOBODY: Final = 65534  # who owns what the server names no owner of; the kernel's overflow id
_TYPE: Final = 0o170000  # of a mode
_SPECIAL: Final = frozenset((stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK))
_KINDS: Final = frozenset((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)) | _SPECIAL
# Replies of one listing that may bring no new name; the first one may have the two dots only.
_MOST_BARREN: Final = 1000


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
    times are 0, times out of range are the nearest within, bits of the mode above the type are
    dropped. Refused with `UnsafeReplyError` (EIO): no mode, an unknown type, a regular file
    without a size, a size that is negative or past 2^63-1.
    """
    mode, size, uid, gid, atime, mtime = attributes
    if mode is None or mode & _TYPE not in _KINDS:
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
        atime if atime is not None and 0 <= atime <= MAX_TIME else _in_range(atime),
        mtime if mtime is not None and 0 <= mtime <= MAX_TIME else _in_range(mtime),
    )


def _in_range(seconds: int | None) -> int:
    return min(max(seconds or 0, 0), MAX_TIME)


def is_directory(mode: int) -> bool:
    return mode & _TYPE == stat.S_IFDIR


def is_special(mode: int) -> bool:
    """Whether it is a device node, a FIFO or a socket."""
    return mode & _TYPE in _SPECIAL


def is_too_deep(path: bytes, most: int) -> bool:
    """Whether a path, relative to the served directory, has more than `most` components."""
    return path.count(b"/") >= most


def _block_size(size: int) -> int:
    """0 for what none can be: the kernel has 32 bits for it."""
    return size if size <= _LARGEST_BLOCK else 0


def checked_statistics(statistics: FilesystemStatistics) -> FilesystemStatistics:
    """Sizes that df can divide by and multiply, and names no longer than the kernel takes."""
    block = _block_size(statistics.block_size) or _block_size(statistics.fragment_size) or 4096
    fragment = _block_size(statistics.fragment_size) or block
    blocks = min(statistics.blocks, MAX_SIZE // fragment)
    free = min(statistics.blocks_free, blocks)
    return statistics._replace(
        block_size=block,
        fragment_size=fragment,
        blocks=blocks,
        blocks_free=free,
        blocks_available=min(statistics.blocks_available, free),
        name_max=min(statistics.name_max or NAME_MAX, NAME_MAX),
    )


def checked_link_target(target: bytes) -> bytes:
    """A symlink's target, bounded and without NUL; `UnsafeReplyError` (EIO) otherwise."""
    if not 0 < len(target) < PATH_MAX or b"\0" in target:
        raise UnsafeReplyError(f"a link target of {len(target)} bytes")
    return target


class ListingCheck:
    """One listing, name by name: which names the kernel can be given, and whether it is too long.

    One name that the kernel cannot take fails the whole listing, so those that are empty, too long,
    or have a '/' or a NUL are left out; so are duplicates, and the dots, which are our own.
    """

    __slots__ = (
        "_barren", "_config", "_dots", "_left_out", "_odd", "_repeats", "_seconds", "_seen",
        "name_bytes",
    )  # fmt: skip

    def __init__(self, config: VfsConfig) -> None:
        self.name_bytes = 0
        self._config = config
        self._seen = {b"", b".", b".."}
        self._dots = {b".", b".."}  # each comes once
        self._left_out = 0
        self._odd: Counter[str] = Counter()
        self._seconds = 0.0
        self._barren = 0
        self._repeats = 0  # names that may come once more

    @property
    def names(self) -> int:
        """How many there are, but for those that were left out."""
        return len(self._seen) - 3

    def admits(self, name: bytes) -> bool:
        """Whether the kernel can be given this name; asked once for each."""
        if name in self._seen or len(name) > NAME_MAX or b"/" in name or b"\0" in name:
            self._leave_out(name)
            return False
        self._seen.add(name)
        self.name_bytes += len(name)
        return True

    def _leave_out(self, name: bytes) -> None:
        if name in self._dots:
            self._dots.discard(name)
        elif name in self._seen and name and self._repeats:
            self._repeats -= 1
        else:
            self._left_out += 1
            self._odd[_fault_of(name)] += 1

    def impossible(self) -> None:
        """Attributes were refused; the name is told all the same."""
        self._odd["with impossible attributes"] += 1

    def begin_again(self) -> None:
        """The connection was lost, and the directory is read anew: what was had comes again."""
        self._dots = {b".", b".."}
        self._repeats = self.names

    def over(self, news: int, seconds: float) -> str | None:
        """After each reply, for which a program has waited `seconds` and which had `news` names
        that were new: which bound the listing is past, in words for the log; None: none."""
        config = self._config
        self._seconds += seconds
        if not news and not self._repeats:
            self._barren += 1
        if self.names > config.max_dir_entries:
            return f"{self.names} names, more than max_dir_entries={config.max_dir_entries}"
        if self.name_bytes > config.max_dir_bytes:
            return (
                f"{self.names} names of {self.name_bytes} bytes in all,"
                f" more than max_dir_bytes={config.max_dir_bytes}"
            )
        if self._barren > _MOST_BARREN:
            return f"{self._barren} replies without a new name after {self.names} names"
        if self._left_out > config.max_dir_entries:
            return (
                f"{self._left_out} names that cannot be,"
                f" more than max_dir_entries={config.max_dir_entries}"
            )
        if 0 < config.max_dir_time < self._seconds:
            return (
                f"{self.names} names, and no end after {self._seconds:.1f} s of waiting,"
                f" more than max_dir_time={config.max_dir_time:g}"
            )
        return None

    def oddities(self) -> str:
        """What was left out, and what was told without attributes, in words for the log."""
        return ", ".join(f"{count} {what}" for what, count in self._odd.items())


def _fault_of(name: bytes) -> str:
    if not name:
        return "empty"
    if b"/" in name:
        return "with '/'"
    if b"\0" in name:
        return "with NUL"
    return f"over {NAME_MAX} bytes" if len(name) > NAME_MAX else "duplicate"
