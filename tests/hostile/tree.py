"""A small tree in memory, and an SFTP server that answers properly from it.

Owned by the server's loop; each case has a directory of its own there.
"""

from __future__ import annotations

import posixpath
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.hostile import sftp

if TYPE_CHECKING:
    from collections.abc import Iterable

_AT_ONCE: Final = 100  # names in one reply, as OpenSSH has it
EXTENSIONS: Final = (
    b"posix-rename@openssh.com", b"1",
    b"statvfs@openssh.com", b"2",
    b"fsync@openssh.com", b"1",
    b"limits@openssh.com", b"1",
)  # fmt: skip


@dataclass
class Node:
    mode: int
    data: bytearray = field(default_factory=bytearray)  # a symlink's target, too
    mtime: int = 1_600_000_000

    def attributes(self) -> bytes:
        return sftp.attributes(self.mode, len(self.data), self.mtime)


def file(data: bytes, mode: int = 0o644) -> Node:
    return Node(stat.S_IFREG | mode, bytearray(data))


def directory() -> Node:
    return Node(stat.S_IFDIR | 0o755)


def link(target: bytes) -> Node:
    return Node(stat.S_IFLNK | 0o777, bytearray(target))


class Tree:
    """Nodes by absolute path."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, Node] = {b"/": directory()}

    def plant(self, root: bytes, nodes: dict[bytes, Node]) -> None:
        """Nodes by their path below `root`, which is made."""
        self.nodes[root] = directory()
        for path, node in nodes.items():
            self.nodes[root + b"/" + path] = Node(node.mode, bytearray(node.data), node.mtime)

    def children(self, path: bytes) -> Iterable[tuple[bytes, Node]]:
        prefix = path.rstrip(b"/") + b"/"
        for name, node in self.nodes.items():
            if name.startswith(prefix) and name != b"/" and b"/" not in name[len(prefix) :]:
                yield name[len(prefix) :], node


@dataclass
class Opened:
    """What a handle stands for."""

    path: bytes
    listing: list[bytes] | None = None  # entries that are still to come, of a directory


class ProperServer:
    """One session's state: the handles. `answer` gives the whole reply to a request."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.handles: dict[bytes, Opened] = {}
        self._made = 0

    def path_of(self, kind: int, body: bytes) -> bytes:
        """The path that a request is about, by way of its handle if need be."""
        fields = sftp.Fields(body)
        if kind == sftp.EXTENDED:
            fields.string()
            return fields.string()
        first = fields.string()
        if kind in (sftp.CLOSE, sftp.READ, sftp.WRITE, sftp.FSTAT, sftp.FSETSTAT, sftp.READDIR):
            opened = self.handles.get(first)
            return opened.path if opened is not None else b""
        return first

    def answer(self, kind: int, number: int, body: bytes) -> bytes:
        method = _METHODS.get(kind)
        if method is None:
            return sftp.status(number, sftp.OP_UNSUPPORTED)
        try:
            return method(self, number, sftp.Fields(body))
        except KeyError:
            return sftp.status(number, sftp.NO_SUCH_FILE, b"no such file")

    # --- requests ---------------------------------------------------------------------------

    def _token(self, opened: Opened) -> bytes:
        self._made += 1
        token = b"h%d" % self._made
        self.handles[token] = opened
        return token

    def _realpath(self, number: int, fields: sftp.Fields) -> bytes:
        path = posixpath.normpath(posixpath.join(b"/", fields.string()))
        return sftp.names(number, [sftp.entry(path, sftp.u32(0))])

    def _lstat(self, number: int, fields: sftp.Fields) -> bytes:
        return sftp.reply(sftp.ATTRS, number, self.tree.nodes[fields.string()].attributes())

    def _fstat(self, number: int, fields: sftp.Fields) -> bytes:
        node = self.tree.nodes[self.handles[fields.string()].path]
        return sftp.reply(sftp.ATTRS, number, node.attributes())

    def _open(self, number: int, fields: sftp.Fields) -> bytes:
        path, flags = fields.string(), fields.u32()
        if flags & 0x08 and path not in self.tree.nodes:
            mode = fields.change().get("mode", 0o644) & 0o777
            self.tree.nodes[path] = Node(stat.S_IFREG | mode, mtime=int(time.time()))
        node = self.tree.nodes[path]
        if flags & 0x10:
            del node.data[:]
        return sftp.handle(number, self._token(Opened(path)))

    def _close(self, number: int, fields: sftp.Fields) -> bytes:
        del self.handles[fields.string()]
        return sftp.status(number, sftp.OK)

    def _read(self, number: int, fields: sftp.Fields) -> bytes:
        node = self.tree.nodes[self.handles[fields.string()].path]
        offset, length = fields.u64(), fields.u32()
        content = bytes(node.data[offset : offset + length])
        return sftp.data(number, content) if content else sftp.status(number, sftp.EOF, b"end")

    def _write(self, number: int, fields: sftp.Fields) -> bytes:
        node = self.tree.nodes[self.handles[fields.string()].path]
        offset, content = fields.u64(), fields.string()
        node.data.extend(bytes(max(offset - len(node.data), 0)))
        node.data[offset : offset + len(content)] = content
        return sftp.status(number, sftp.OK)

    def _change(self, node: Node, change: dict[str, int]) -> None:
        if "size" in change:
            del node.data[change["size"] :]
        if "mode" in change:
            node.mode = stat.S_IFMT(node.mode) | (change["mode"] & 0o7777)
        node.mtime = change.get("mtime", node.mtime)

    def _setstat(self, number: int, fields: sftp.Fields) -> bytes:
        self._change(self.tree.nodes[fields.string()], fields.change())
        return sftp.status(number, sftp.OK)

    def _fsetstat(self, number: int, fields: sftp.Fields) -> bytes:
        node = self.tree.nodes[self.handles[fields.string()].path]
        self._change(node, fields.change())
        return sftp.status(number, sftp.OK)

    def _opendir(self, number: int, fields: sftp.Fields) -> bytes:
        path = fields.string()
        node = self.tree.nodes[path]
        entries = [sftp.entry(name, node.attributes()) for name in (b".", b"..")]
        entries += [sftp.entry(name, each.attributes()) for name, each in self.tree.children(path)]
        return sftp.handle(number, self._token(Opened(path, entries)))

    def _readdir(self, number: int, fields: sftp.Fields) -> bytes:
        entries = self.handles[fields.string()].listing or []
        if not entries:
            return sftp.status(number, sftp.EOF, b"end")
        now = entries[:_AT_ONCE]
        del entries[:_AT_ONCE]
        return sftp.names(number, now)

    def _remove(self, number: int, fields: sftp.Fields) -> bytes:
        del self.tree.nodes[fields.string()]
        return sftp.status(number, sftp.OK)

    def _mkdir(self, number: int, fields: sftp.Fields) -> bytes:
        path = fields.string()
        if path in self.tree.nodes:
            return sftp.status(number, sftp.FAILURE)
        self.tree.nodes[path] = Node(stat.S_IFDIR | 0o755, mtime=int(time.time()))
        return sftp.status(number, sftp.OK)

    def _rename(self, number: int, fields: sftp.Fields) -> bytes:
        self.tree.nodes[fields.string()] = self.tree.nodes.pop(fields.string())
        return sftp.status(number, sftp.OK)

    def _readlink(self, number: int, fields: sftp.Fields) -> bytes:
        target = bytes(self.tree.nodes[fields.string()].data)
        return sftp.names(number, [sftp.entry(target, sftp.u32(0))])

    def _symlink(self, number: int, fields: sftp.Fields) -> bytes:
        target, path = fields.string(), fields.string()
        self.tree.nodes[path] = link(target)
        return sftp.status(number, sftp.OK)

    def _extended(self, number: int, fields: sftp.Fields) -> bytes:
        name = fields.string()
        if name == b"limits@openssh.com":
            body = b"".join(map(sftp.u64, (256 * 1024, 255 * 1024, 255 * 1024, 1000)))
            return sftp.reply(sftp.EXTENDED_REPLY, number, body)
        if name == b"statvfs@openssh.com":
            numbers = (4096, 4096, 1000, 600, 500, 100, 50, 50, 7, 0, 255)
            return sftp.reply(sftp.EXTENDED_REPLY, number, b"".join(map(sftp.u64, numbers)))
        if name == b"fsync@openssh.com":
            return sftp.status(number, sftp.OK)
        if name == b"posix-rename@openssh.com":
            old, new = fields.string(), fields.string()
            self.tree.nodes[new] = self.tree.nodes.pop(old)
            return sftp.status(number, sftp.OK)
        return sftp.status(number, sftp.OP_UNSUPPORTED)


_METHODS = {
    sftp.REALPATH: ProperServer._realpath,
    sftp.LSTAT: ProperServer._lstat,
    sftp.STAT: ProperServer._lstat,
    sftp.FSTAT: ProperServer._fstat,
    sftp.OPEN: ProperServer._open,
    sftp.CLOSE: ProperServer._close,
    sftp.READ: ProperServer._read,
    sftp.WRITE: ProperServer._write,
    sftp.SETSTAT: ProperServer._setstat,
    sftp.FSETSTAT: ProperServer._fsetstat,
    sftp.OPENDIR: ProperServer._opendir,
    sftp.READDIR: ProperServer._readdir,
    sftp.REMOVE: ProperServer._remove,
    sftp.RMDIR: ProperServer._remove,
    sftp.MKDIR: ProperServer._mkdir,
    sftp.RENAME: ProperServer._rename,
    sftp.READLINK: ProperServer._readlink,
    sftp.SYMLINK: ProperServer._symlink,
    sftp.EXTENDED: ProperServer._extended,
}
