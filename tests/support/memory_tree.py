"""A file tree in memory with the semantics of POSIX: what the fake server serves.

Every method raises `OSError` with the errno that Linux gives. It is also how "another client"
changes the server in a test: a call here is not a request, takes no time and is logged nowhere.
Times are whole seconds from `now`, which only the test moves. There are no permissions: who wants
a refusal has the fake server fail the request.
"""

from __future__ import annotations

import errno
import stat
from typing import Final, NamedTuple

_MOST_LINKS: Final = 40  # symlinks in one path, as Linux has it
_NAME_MAX: Final = 255
START: Final = 1_000_000_000  # the server's clock at the beginning: long past, whatever today is


def fail(number: int) -> OSError:
    return OSError(number, errno.errorcode[number])


class Node:
    """A file, directory or symlink; it lives as long as a name or a handle refers to it."""

    def __init__(self, mode: int, now: int) -> None:
        self.mode = mode
        self.uid = 1000
        self.gid = 1000
        self.atime = now
        self.mtime = now
        self.data = bytearray()
        self.target = b""
        self.children: dict[bytes, Node] = {}
        self.device = 0

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def size(self) -> int:
        if self.is_directory:
            return 4096
        return len(self.target) if self.is_symlink else len(self.data)


class Place(NamedTuple):
    """Where a path leads: the directory, the last name in it, and what has that name."""

    parent: Node
    name: bytes
    node: Node | None


class MemoryTree:
    """The tree. Paths are relative to its root; b"" is the root itself."""

    def __init__(self, umask: int = 0) -> None:
        self.now = START
        self.umask = umask
        self.root = Node(stat.S_IFDIR | 0o755, self.now)

    # --- paths ------------------------------------------------------------------------------

    def find(self, path: bytes, follow: bool = False) -> Node:
        """The node at `path`; ENOENT when there is none."""
        if not path:
            return self.root
        node = self.place(path, follow).node
        if node is None:
            raise fail(errno.ENOENT)
        return node

    def place(self, path: bytes, follow: bool = False, depth: int = 0) -> Place:
        """The last component's place; `follow` resolves a symlink there, too."""
        if depth > _MOST_LINKS:
            raise fail(errno.ELOOP)
        directory = self.root
        names = [name for name in path.split(b"/") if name]
        if not names:
            return Place(self.root, b"", self.root)
        for index, name in enumerate(names):
            if not directory.is_directory:
                raise fail(errno.ENOTDIR)
            if len(name) > _NAME_MAX:
                raise fail(errno.ENAMETOOLONG)
            node = directory.children.get(name)
            last = index == len(names) - 1
            if node is not None and node.is_symlink and (follow or not last):
                before = b"" if node.target.startswith(b"/") else b"/".join(names[:index])
                rest = b"/".join((before, node.target, *names[index + 1 :]))
                return self.place(rest, follow, depth + 1)
            if last:
                return Place(directory, name, node)
            if node is None:
                raise fail(errno.ENOENT)
            directory = node
        raise AssertionError("a path has a last component")

    def exists(self, path: bytes) -> bool:
        try:
            self.find(path)
        except OSError:
            return False
        return True

    def _free(self, path: bytes) -> Place:
        place = self.place(path)
        if place.node is not None:
            raise fail(errno.EEXIST)
        return place

    # --- making -----------------------------------------------------------------------------

    def _insert(self, place: Place, node: Node) -> Node:
        node.device = place.parent.device
        place.parent.children[place.name] = node
        place.parent.mtime = self.now
        return node

    def _new(self, kind: int, permissions: int, place: Place) -> Node:
        return self._insert(place, Node(kind | (permissions & ~self.umask & 0o7777), self.now))

    def create(self, path: bytes, permissions: int = 0o666, exclusive: bool = False) -> Node:
        """open(2) with O_CREAT: the file that is there, or a new one."""
        place = self.place(path, follow=not exclusive)
        if place.node is not None and exclusive:
            raise fail(errno.EEXIST)
        return place.node or self._new(stat.S_IFREG, permissions, place)

    def mkdir(self, path: bytes, permissions: int = 0o777) -> Node:
        place = self._free(path)
        made = self._new(stat.S_IFDIR, permissions, place)
        if place.parent.mode & stat.S_ISGID:
            made.mode |= stat.S_ISGID
        return made

    def symlink(self, target: bytes, path: bytes) -> Node:
        node = Node(stat.S_IFLNK | 0o777, self.now)
        node.target = target
        return self._insert(self._free(path), node)

    def link(self, existing: bytes, path: bytes) -> None:
        node, place = self.find(existing), self._free(path)
        if node.is_directory:
            raise fail(errno.EPERM)
        if node.device != place.parent.device:
            raise fail(errno.EXDEV)
        place.parent.children[place.name] = node
        place.parent.mtime = self.now

    def write_file(self, path: bytes, data: bytes) -> Node:
        """Create or overwrite a whole file."""
        node = self.create(path)
        node.data[:] = data
        node.mtime = self.now
        return node

    def append_file(self, path: bytes, data: bytes) -> None:
        node = self.find(path, follow=True)
        node.data += data
        node.mtime = self.now

    def read_file(self, path: bytes) -> bytes:
        return bytes(self.find(path, follow=True).data)

    # --- removing and moving ------------------------------------------------------------------

    def remove(self, path: bytes) -> None:
        """unlink(2)"""
        place = self.place(path)
        if place.node is None:
            raise fail(errno.ENOENT)
        if place.node.is_directory:
            raise fail(errno.EISDIR)
        del place.parent.children[place.name]
        place.parent.mtime = self.now

    def rmdir(self, path: bytes) -> None:
        place = self.place(path)
        if place.node is None:
            raise fail(errno.ENOENT)
        if not place.node.is_directory:
            raise fail(errno.ENOTDIR)
        if place.node.children:
            raise fail(errno.ENOTEMPTY)
        del place.parent.children[place.name]
        place.parent.mtime = self.now

    def rename(self, old: bytes, new: bytes) -> None:
        """rename(2)"""
        source, target = self.place(old), self.place(new)
        node = source.node
        if node is None:
            raise fail(errno.ENOENT)
        if node.device != target.parent.device:
            raise fail(errno.EXDEV)
        if node is target.node:
            return
        if node.is_directory and self._is_below(target.parent, node):
            raise fail(errno.EINVAL)
        if target.node is not None:
            self._check_replaceable(node, target.node)
        del source.parent.children[source.name]
        target.parent.children[target.name] = node
        source.parent.mtime = target.parent.mtime = self.now

    @staticmethod
    def _check_replaceable(node: Node, replaced: Node) -> None:
        if replaced.is_directory and not node.is_directory:
            raise fail(errno.EISDIR)
        if node.is_directory and not replaced.is_directory:
            raise fail(errno.ENOTDIR)
        if replaced.children:
            raise fail(errno.ENOTEMPTY)

    def _is_below(self, node: Node, top: Node) -> bool:
        return node is top or any(
            self._is_below(node, child) for child in top.children.values() if child.is_directory
        )

    # --- changing ---------------------------------------------------------------------------

    def write(self, node: Node, offset: int, data: bytes) -> None:
        """pwrite(2): a gap before `offset` reads as zeros."""
        if len(node.data) < offset:
            node.data.extend(bytes(offset - len(node.data)))
        node.data[offset : offset + len(data)] = data
        node.mtime = self.now

    def truncate(self, node: Node, size: int) -> None:
        if node.is_directory:
            raise fail(errno.EISDIR)
        if size < len(node.data):
            del node.data[size:]
        else:
            node.data.extend(bytes(size - len(node.data)))
        node.mtime = self.now
