"""What can be answered at once: without asking the server, and without waiting for anybody here.

Most requests can. Each function does what the operation of its name does (`vfs/filesystem.py`), or
nothing at all and returns None: then the operation itself is asked, which waits, or fails, as it
must. So errors are raised there only; what is raised here is a mistake, but for `FilesystemError`.

No state but the tables that it shares with `Filesystem`. Nothing suspends.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

from pysshfs.vfs.directories import DirectoryStream
from pysshfs.vfs.kernelcache import Entry
from pysshfs.vfs.sanity import NAME_MAX, FileAttributes

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.remotefs import AttributeChange
    from pysshfs.vfs.creating import Creating
    from pysshfs.vfs.directories import ListReply
    from pysshfs.vfs.files import Files
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.namespace import Namespace
    from pysshfs.vfs.openfile import Opened, OpenFile, OpenReply
    from pysshfs.vfs.setattr import SetAttr
    from pysshfs.vfs.tree import Tree

#: No attributes: there is no such name, and the kernel may believe that for a while.
_NOBODY = FileAttributes(0, 0, 0, 0, 0, 0)


class AtHand:
    """The operations of one mounted tree, as far as they need no waiting."""

    def __init__(
        self,
        tree: Tree,
        files: Files,
        creating: Creating,
        namespace: Namespace,
        setattr: SetAttr,
        open_files: dict[int, OpenFile],
        directories: dict[int, DirectoryStream],
        opened: Callable[[Opened], OpenReply],
        created: Callable[[Inode, OpenFile, FileAttributes], tuple[OpenReply, Entry]],
        registered: Callable[[DirectoryStream], int],
    ) -> None:
        self._tree = tree
        self._files = files
        self._creating = creating
        self._namespace = namespace
        self._setattr = setattr
        self._open_files = open_files
        self._directories = directories
        self._opened = opened
        self._created = created
        self._registered = registered

    def lookup(self, parent: int, name: bytes) -> Entry | None:
        """The entry of a name that is there, with one more lookup to forget; number 0 for one that
        is not."""
        directory = self._tree.inodes.get(parent)
        if name in (b".", b"..") or len(name) > NAME_MAX or self._namespace.is_undecided():
            return None
        if self._tree.cache.is_absent(parent, name):
            self._tree.search.asked_for(parent, name)
            return self._absent()
        found = self._namespace.lookup_at_hand(directory, name)
        if found is not None:
            return self._tree.looked_up(*found)
        return self._absent() if self._namespace.is_absent_at_hand(directory, name) else None

    def _absent(self) -> Entry:
        return Entry(0, _NOBODY, self._tree.config.negative_timeout, 0.0)

    def getattr(self, number: int) -> Entry | None:
        inode = self._tree.inodes.get(number)
        attributes = self._tree.attributes_at_hand(inode)
        return None if attributes is None else self._tree.entry(inode, attributes)

    def setattr(self, number: int, change: AttributeChange, fh: int | None) -> Entry | None:
        inode = self._tree.inodes.get(number)
        file = None if fh is None else self._open_files.get(fh)
        told = self._setattr.at_hand(inode, change, file)
        return None if told is None else self._tree.entry_of_change(inode, *told)

    def create(
        self, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[OpenReply, Entry] | None:
        """With `async_ops`."""
        directory = self._tree.inodes.get(parent)
        made = self._creating.create_at_hand(directory, name, mode, flags)
        return None if made is None else self._created(*made)

    def unlink(self, parent: int, name: bytes) -> Literal[True] | None:
        """With `async_ops`."""
        directory = self._tree.inodes.get(parent)
        return True if self._namespace.unlink_at_hand(directory, name) else None

    def open(self, number: int, flags: int) -> OpenReply | None:
        opened = self._files.open_at_hand(self._tree.inodes.get(number), flags)
        return None if opened is None else self._opened(opened)

    def read(self, fh: int, offset: int, length: int) -> bytes | None:
        file = self._open_files.get(fh)
        return None if file is None else self._files.read_at_hand(file, offset, length)

    def write(self, fh: int, offset: int, data: bytes) -> int | None:
        file = self._open_files.get(fh)
        return None if file is None else self._files.write_at_hand(file, offset, data)

    def flush(self, fh: int) -> Literal[True] | None:
        file = self._open_files.get(fh)
        return True if file is not None and self._files.flush_at_hand(file) else None

    def release(self, fh: int) -> Literal[True] | None:
        file = self._open_files.pop(fh, None)
        if file is None:
            return None
        self._files.release(file)
        return True

    def opendir(self, number: int) -> int | None:
        stream = DirectoryStream(self._tree, self._tree.inodes.get(number))
        return self._registered(stream) if stream.open_at_hand() else None

    def readdir(
        self, fh: int, offset: int, room: Callable[[bytes], bool]
    ) -> list[ListReply] | None:
        """The names from `offset` on, delivered, as long as there is `room` for one more."""
        stream = self._directories.get(fh)
        replies = None if stream is None else stream.entries_at_hand(offset)
        if stream is None or replies is None:
            return None
        told = list(itertools.takewhile(lambda reply: room(reply.name), replies))
        for reply in told:
            stream.delivered(reply)
        return told

    def releasedir(self, fh: int) -> Literal[True]:
        stream = self._directories.pop(fh, None)
        if stream is not None:
            stream.release()
        return True
