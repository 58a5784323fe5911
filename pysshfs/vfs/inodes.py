"""The inodes that the kernel refers to, their names, and numbers that stay the same.

SFTP has no inode numbers: a file is its path. Here an inode is what the kernel has looked up and
not forgotten; it knows its parent and its name, so its path is computed when needed and a renamed
directory moves everything below it at no cost.

Numbers. They must not change while the mount lives, not even when the kernel forgets an inode and
looks it up again, and a table of every name ever seen would grow without end. So the number of a
name is a keyed hash of (number of the parent, name); only what a hash cannot give is remembered in
`_assigned`: an inode that was renamed keeps its number under the new name, and a name whose number
is taken by another inode (the file that was renamed away, or deleted and still open) gets a fresh
one.

Owned by the `Tree`; plain synchronous code, safe between awaits.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pysshfs.errors import FilesystemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pysshfs.vfs.expected import Expected
    from pysshfs.vfs.openfile import OpenFile
    from pysshfs.vfs.sanity import FileAttributes
    from pysshfs.vfs.writeback import Writeback

ROOT_NUMBER: Final = 1
_NUMBER_MASK: Final = (1 << 63) - 1


class Inode:
    """A file, directory or symlink that the kernel knows.

    `lookups` is the kernel's lookup count, `holds` counts reasons of our own to keep the inode.
    `parent` is None for the root and for an inode that has no name any more (unlinked, replaced).
    `mutated_at` is the tree's mutation counter at the last change made through this mount: a reply
    to a request sent before that is out of date. `child_mutated_at` is the same for the attributes
    of whatever is in a directory, so that it outlives an inode which the kernel forgets:
    `changed_before` is what it was when this inode was made. `believed_depth` is of a directory
    that was renamed otherwise than the kernel was told: how deep that may believe it to be.
    """

    __slots__ = (
        "believed_depth",
        "changed_before",
        "child_mutated_at",
        "children",
        "data_version",
        "expected",
        "holds",
        "kind",
        "known_size",
        "lookups",
        "mutated_at",
        "name",
        "number",
        "open_files",
        "parent",
        "read_version",
        "resizing",
        "seen",
        "told",
        "writeback",
    )

    def __init__(self, number: int, parent: Inode | None, name: bytes) -> None:
        self.number = number
        self.parent = parent
        self.name = name
        self.lookups = 0
        self.holds = 0
        self.children = 0
        self.mutated_at = 0
        self.believed_depth: int | None = None
        self.changed_before: int = 0 if parent is None else parent.child_mutated_at
        self.child_mutated_at: int = self.changed_before
        self.kind: int | None = None  # the type bits of its mode, once known
        self.known_size = 0
        self.data_version: tuple[int, int] | None = None  # (mtime, size) that cached pages have
        self.told: FileAttributes | None = None  # what the kernel was last told
        # What the server said last; None when it was changed through this mount since.
        self.seen: FileAttributes | None = None
        self.expected: Expected | None = None  # of a file that was made here and is open
        self.read_version: tuple[int, int] | None = None  # (mtime, size) of what was read ahead
        self.resizing = 0  # how many truncations have no answer yet
        self.open_files: list[OpenFile] = []
        self.writeback: Writeback | None = None

    @property
    def told_version(self) -> tuple[int, int] | None:
        """(mtime, size) that the kernel believes in."""
        return None if self.told is None else (self.told.mtime, self.told.size)

    @property
    def last_change(self) -> int:
        """The latest change that was made through this mount to what has its name, as far as is
        known: it may have been another file's in the directory."""
        return max(self.mutated_at, self.changed_before)

    @property
    def is_linked(self) -> bool:
        return self.parent is not None or self.number == ROOT_NUMBER

    def found(self, attributes: FileAttributes) -> None:
        """The server has this version of the file now. What was read ahead of another one must not
        be given to a program any more: the kernel drops its pages, too, when it sees the mtime."""
        self.seen = attributes
        self.known_size = attributes.size
        version = attributes.mtime, attributes.size
        if self.read_version not in (None, version):
            self.drop_read_ahead()
        self.read_version = version

    def drop_read_ahead(self) -> None:
        """What was read ahead of the file may not be what it holds now."""
        for file in self.open_files:
            file.reader.discard()

    def ancestors(self) -> Iterator[Inode]:
        """The inode itself, its parent, and so on to the root."""
        inode: Inode | None = self
        while inode is not None:
            yield inode
            inode = inode.parent

    def path(self) -> bytes:
        """Relative to the served directory; b"" is the directory itself.

        Raises ESTALE for an inode without a name, or below one.
        """
        names = []
        inode = self
        while inode.parent is not None:
            names.append(inode.name)
            inode = inode.parent
        if inode.number != ROOT_NUMBER:
            raise FilesystemError(errno.ESTALE, f"inode {self.number} has no name any more")
        names.reverse()
        return b"/".join(names)

    def depth(self) -> int:
        """How many names the kernel has on the way here from the mount's root, or fewer, where it
        may not have heard of a rename yet. 0 for what has no name any more."""
        levels = 0
        least: int | None = None
        inode = self
        while inode.parent is not None:
            if inode.believed_depth is not None:
                believed = inode.believed_depth + levels
                least = believed if least is None else min(least, believed)
            levels += 1
            inode = inode.parent
        if inode.number != ROOT_NUMBER:
            return 0
        return levels if least is None else min(levels, least)

    def may_be_believed_at(self, depth: int) -> None:
        """The kernel may have this directory so deep, until it looks it up again."""
        known = self.believed_depth
        self.believed_depth = depth if known is None else min(known, depth)

    def __repr__(self) -> str:
        return f"<Inode {self.number} {self.name!r} lookups={self.lookups}>"


class InodeTable:
    """All inodes with a lookup count, a hold, an open file or a child in the table."""

    def __init__(self, number_of: Callable[[tuple[int, bytes]], int] = hash) -> None:
        self._hash = number_of
        self.root = Inode(ROOT_NUMBER, None, b"")
        self.root.holds = 1  # the mount's own; never given back
        self._by_number: dict[int, Inode] = {ROOT_NUMBER: self.root}
        self._by_name: dict[tuple[int, bytes], Inode] = {}
        self._assigned: dict[tuple[int, bytes], int] = {}
        self._assigned_numbers: set[int] = set()

    def __len__(self) -> int:
        return len(self._by_number)

    def get(self, number: int) -> Inode:
        """Raises ESTALE for a number that the kernel should not know."""
        inode = self._by_number.get(number)
        if inode is None:
            raise FilesystemError(errno.ESTALE, f"no inode {number}")
        return inode

    def known_to_the_kernel(self) -> list[Inode]:
        return [inode for inode in self._by_number.values() if inode.lookups or inode is self.root]

    def child(self, parent: Inode, name: bytes) -> Inode | None:
        return self._by_name.get((parent.number, name))

    # --- numbers ----------------------------------------------------------------------------

    def number_for(self, parent: Inode, name: bytes) -> int:
        """The number that this name has or would have, without making an inode."""
        key = (parent.number, name)
        inode = self._by_name.get(key)
        if inode is not None:
            return inode.number
        assigned = self._assigned.get(key)
        if assigned is not None:
            return assigned
        number = self._derive(key)
        if self._is_free(number):
            return number
        while not self._is_free(number):
            number = self._derive((number, name))
        self._assign(key, number)
        return number

    def _derive(self, key: tuple[int, bytes]) -> int:
        return max(self._hash(key) & _NUMBER_MASK, ROOT_NUMBER + 1)

    def _is_free(self, number: int) -> bool:
        return number not in self._by_number and number not in self._assigned_numbers

    def _assign(self, key: tuple[int, bytes], number: int) -> None:
        self._unassign(key)
        self._assigned[key] = number
        self._assigned_numbers.add(number)

    def _unassign(self, key: tuple[int, bytes]) -> None:
        number = self._assigned.pop(key, None)
        if number is not None:
            self._assigned_numbers.discard(number)

    def forget_name(self, parent: Inode, name: bytes) -> None:
        """The name is gone, and no inode had it: it needs no number of its own any more."""
        self._unassign((parent.number, name))

    # --- names ------------------------------------------------------------------------------

    def intern(self, parent: Inode, name: bytes) -> Inode:
        """The inode of a name, made if need be. Without a lookup count it lives until
        `drop_unused`."""
        key = (parent.number, name)
        inode = self._by_name.get(key)
        if inode is None:
            inode = Inode(self.number_for(parent, name), parent, name)
            self._by_name[key] = self._by_number[inode.number] = inode
            parent.children += 1
        return inode

    def detach(self, inode: Inode) -> None:
        """The inode lost its name: it was unlinked, replaced, or vanished on the server."""
        parent = inode.parent
        if parent is None:
            return
        key = (parent.number, inode.name)
        self._by_name.pop(key, None)
        self._unassign(key)
        inode.parent = None
        parent.children -= 1
        self.drop_unused(inode)
        self.drop_unused(parent)

    def rename(self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes) -> None:
        """Move whatever is known under the old name; what was under the new one loses it."""
        old_key, new_key = (parent.number, name), (new_parent.number, new_name)
        if old_key == new_key:
            return
        replaced = self._by_name.get(new_key)
        if replaced is not None:
            self.detach(replaced)
        inode = self._by_name.pop(old_key, None)
        number = inode.number if inode is not None else self.number_for(parent, name)
        self._unassign(old_key)
        self._unassign(new_key)
        if self._derive(new_key) != number:
            self._assign(new_key, number)
        if inode is not None:
            inode.parent, inode.name = new_parent, new_name
            self._by_name[new_key] = inode
            parent.children -= 1
            new_parent.children += 1
            self.drop_unused(parent)

    # --- lifetime ---------------------------------------------------------------------------

    def forget(self, number: int, count: int) -> None:
        """The kernel gives back `count` lookups."""
        inode = self._by_number.get(number)
        if inode is not None:
            inode.lookups = max(inode.lookups - count, 0)
            self.drop_unused(inode)

    def hold(self, inode: Inode) -> None:
        """Keep an inode, whatever the kernel does, until `let_go`."""
        inode.holds += 1

    def let_go(self, inode: Inode) -> None:
        inode.holds -= 1
        self.drop_unused(inode)

    @contextmanager
    def kept(self, inode: Inode) -> Iterator[None]:
        """Keep an inode that the kernel does not know yet while something is awaited. Whoever
        gets it afterwards counts the lookup; an exception gives it up."""
        self.hold(inode)
        try:
            yield
        except BaseException:
            self.let_go(inode)
            raise
        inode.holds -= 1

    def drop_unused(self, inode: Inode) -> None:
        """Leave out what nothing refers to, and its ancestors that were kept for it only."""
        while not (inode.lookups or inode.holds or inode.children or inode.open_files):
            if self._by_number.get(inode.number) is not inode:
                return
            del self._by_number[inode.number]
            parent = inode.parent
            if parent is None:
                return
            self._by_name.pop((parent.number, inode.name), None)
            inode.parent = None
            parent.children -= 1
            parent.child_mutated_at = max(parent.child_mutated_at, inode.child_mutated_at)
            inode = parent
