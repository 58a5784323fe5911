"""Which paths of this machine lead to its own programs, for `symlinks=contain+system`.

A path does if it ends, once resolved, in a file or directory under /usr (not /usr/local), /bin,
/sbin or /lib*, and if every directory and link on the way belongs to root and nobody else may
write it. What it leads to is then the same for whoever follows it, and stays so.

The daemon must not touch its own mount, which may lie anywhere, nor another file system that a
program serves. So the path is resolved here and not by the kernel, name by name: each is opened
with O_PATH and O_NOFOLLOW, which asks a file system's root nothing, and before anything else is
done with it, its mount is looked up by number (`mnt_id` in /proc/self/fdinfo) in mountinfo. Only
mounts of file systems that this machine's kernel keeps by itself are entered; FUSE is not among
them, nor is anything that another machine serves, or proc, where the same path is another file for
each program. (fstat or statfs would have told the file system, too, but by asking it.)

Plain functions without state. They block, as local files do.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from typing import TYPE_CHECKING, Final

from pysshfs.fuse import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator

# fmt: off
_LOCAL: Final = frozenset({
    "bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs", "nilfs2",
    "overlay", "ramfs", "reiserfs", "rootfs", "squashfs", "tmpfs", "ubifs", "xfs", "zfs",
})
# fmt: on
_MOST_STEPS: Final = 200  # names, those in links included; each is a descriptor until the end
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_HOW: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def is_system_file(path: bytes) -> bool:
    """Whether this absolute path leads to a file of the system's, as far as can be told."""
    try:
        found = _resolved(path)
    except (OSError, ValueError):
        return False
    return found is not None and _is_system_place(found)


def _is_system_place(names: list[bytes]) -> bool:
    top = names[0] if names else b""
    if top == b"usr":
        return len(names) > 1 and names[1] != b"local"
    return top in (b"bin", b"sbin") or top.startswith(b"lib")


def _resolved(path: bytes) -> list[bytes] | None:
    """The names on the way, without links; None when somebody else has a hand in one of them."""
    if not path.startswith(b"/"):
        return None
    left = deque(path.split(b"/"))
    steps = 0
    with contextlib.ExitStack() as stack:
        way = _Way(stack)
        if not way.is_safe:
            return None
        while left:
            name = left.popleft()
            if name in (b"", b"."):
                continue
            if name == b"..":
                way.back()
                continue
            target = way.step(name)
            steps += 1
            if not way.is_safe or steps > _MOST_STEPS:
                return None
            if target is not None:
                if target.startswith(b"/"):
                    way.restart()
                left.extendleft(reversed(target.split(b"/")))
        return list(way.names)


class _Way:
    """Where the resolution is: a descriptor for each directory from the root on."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._local = _LocalMounts()
        self.names: list[bytes] = []
        self.is_safe = True
        self._directories = [self._opened(b"/", None)]

    def step(self, name: bytes) -> bytes | None:
        """Go to this name, or stay and return the text when it is a link."""
        there = self._opened(name, self._directories[-1])
        if not self.is_safe:
            return None
        if stat.S_ISLNK(os.fstat(there).st_mode):
            return os.readlink(b"", dir_fd=there)
        self._directories.append(there)
        self.names.append(name)
        return None

    def back(self) -> None:
        """`..`: the way was made without links, so the directory above is the one before."""
        if self.names:
            self.names.pop()
            self._directories.pop()

    def restart(self) -> None:
        self.names.clear()
        del self._directories[1:]

    def _opened(self, name: bytes, directory: int | None) -> int:
        there = os.open(name, _HOW, dir_fd=directory)
        self._stack.callback(os.close, there)
        self.is_safe = self.is_safe and self._local.has(there) and _is_roots(os.fstat(there))
        return there


def _is_roots(status: os.stat_result) -> bool:
    # A link's mode says nothing: it cannot be changed, only replaced.
    is_writable = not stat.S_ISLNK(status.st_mode) and status.st_mode & _OTHERS_WRITE
    return status.st_uid == 0 and not is_writable


class _LocalMounts:
    """The mounts that may be entered, by number; read again when an unknown one comes."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def has(self, descriptor: int) -> bool:
        number = mountinfo.mount_id_of(f"/proc/self/fdinfo/{descriptor}")
        if number is None:
            return False
        if number not in self._known:
            self._known = dict(self._read())
        return self._known.get(number, False)

    @staticmethod
    def _read() -> Iterator[tuple[int, bool]]:
        for entry in mountinfo.mounts():
            yield entry.mount_id, entry.fstype in _LOCAL
