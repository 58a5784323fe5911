"""An open file: what the kernel has one of for each open(2), and what opening tells it.

Made and changed by `vfs/files.py`; the inode has a list of its open files.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from pysshfs.remotefs import OpenMode

if TYPE_CHECKING:
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.readahead import FileReader
    from pysshfs.vfs.tree import Tree


class OpenFile:
    """One open(2) of the kernel."""

    __slots__ = (
        "appending",
        "error_seen",
        "handle",
        "inode",
        "kernel_offset_differs",
        "reader",
        "writable",
    )

    def __init__(
        self,
        tree: Tree,
        inode: Inode,
        handle: OpenFileHandle,
        flags: int,
        reader: FileReader | None = None,
    ) -> None:
        self.inode = inode
        self.handle = handle
        handle.inode = inode
        self.writable = flags & os.O_ACCMODE != os.O_RDONLY
        self.appending = bool(flags & os.O_APPEND)
        self.kernel_offset_differs = False
        self.error_seen = inode.writeback.error_sequence if inode.writeback else 0
        self.reader = tree.reader_for(inode, handle) if reader is None else reader


class Opened(NamedTuple):
    """What opening tells the kernel."""

    file: OpenFile
    keep_cache: bool  # its cached pages are still those of the file
    attributes_changed: bool  # what it believes of size and times is out of date
    content: bytes = b""  # all of the file, for its cache; nothing when that must not be given


class OpenReply(NamedTuple):
    """The same, with the number that the kernel is to call the file by."""

    fh: int
    direct_io: bool
    keep_cache: bool
    attributes_changed: bool
    content: bytes = b""


def open_mode(flags: int) -> OpenMode:
    """open(2)'s flags as SFTP has them; the kernel handles those it does not."""
    access = flags & os.O_ACCMODE
    mode = OpenMode.READ if access == os.O_RDONLY else OpenMode.WRITE
    if access == os.O_RDWR:
        mode |= OpenMode.READ
    if flags & os.O_TRUNC:
        mode |= OpenMode.TRUNCATE
    return mode
