"""`Filesystem`: every operation a kernel can ask for, in terms of numbers, bytes and plain tuples.

The facade that `fuse/operations.py` calls and the unit tests run on the fake remote. It owns the
tables of open files and directories (`fh` to object) and the background task; the work is done in
`Namespace`, `Files` and `DirectoryStream`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import trio

from pysshfs.errors import ConnectionLostError, FilesystemError, UnsupportedError
from pysshfs.remotefs import FilesystemStatistics
from pysshfs.vfs import reopen
from pysshfs.vfs.athand import AtHand
from pysshfs.vfs.cache import boot_time
from pysshfs.vfs.copying import Copying
from pysshfs.vfs.creating import Creating
from pysshfs.vfs.directories import DirectoryStream, ListReply
from pysshfs.vfs.files import Files
from pysshfs.vfs.inodes import ROOT_NUMBER
from pysshfs.vfs.kernelcache import Entry
from pysshfs.vfs.namespace import Namespace
from pysshfs.vfs.openfile import Opened, OpenReply
from pysshfs.vfs.renames import Renames
from pysshfs.vfs.salvage import Salvage
from pysshfs.vfs.sanity import checked_statistics
from pysshfs.vfs.server import Server
from pysshfs.vfs.setattr import SetAttr
from pysshfs.vfs.tree import Tree

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from pysshfs.remotefs import AttributeChange, RemoteFS
    from pysshfs.vfs.config import VfsConfig
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.openfile import OpenFile
    from pysshfs.vfs.sanity import FileAttributes
    from pysshfs.vfs.undelivered import UndeliveredStore

T = TypeVar("T")

# How long the root's attributes and the statistics are waited for when they were known before.
_ROOT_PATIENCE: Final = 1.0  # seconds
# For a server that does not tell: 8 TiB in blocks of 4 KiB, all free.
_ROOMY: Final = FilesystemStatistics(
    4096, 4096, 1 << 31, 1 << 31, 1 << 31, 1 << 30, 1 << 30, 1 << 30, 255
)


class WriteReply(NamedTuple):
    """`offset_moved`: an append landed elsewhere than the kernel's pages have it."""

    written: int
    offset_moved: bool


class Forgotten(NamedTuple):
    """What the kernel was told and is to forget: inodes, and names in a directory."""

    inodes: list[int]
    names: list[tuple[int, bytes]]


class Filesystem:
    """One mounted tree."""

    def __init__(
        self,
        remote: RemoteFS,
        config: VfsConfig,
        clock: Callable[[], float] = boot_time,
        store: UndeliveredStore | None = None,
        is_system_file: Callable[[bytes], bool] | None = None,
    ) -> None:
        """`is_system_file`: see `ReadLink`."""
        self.server = Server(remote, follows=config.follows)
        self.tree = Tree(self.server, config, clock)
        self.server.on_reopened = functools.partial(reopen.reopened, self.tree)
        self.server.on_lost = self.tree.files_ahead.clear
        self.server.on_given_up = self._given_up
        self._salvage = Salvage(store)
        self.tree.writebacks.on_undelivered = self._salvage.add
        self._statistics = _ROOMY  # as last told by the server
        self._files = Files(self.tree)
        self._creating = Creating(self.tree, self._files)
        self._copying = Copying(self.tree)
        self._namespace = Namespace(
            self.tree, lambda: list(self._directories.values()), is_system_file
        )
        self._setattr = SetAttr(self.tree)
        self._renames = Renames(self.tree, lambda: list(self._directories.values()))
        self._open_files: dict[int, OpenFile] = {}
        self._directories: dict[int, DirectoryStream] = {}
        self._next_fh = 1
        self.at_hand = AtHand(
            self.tree,
            self._files,
            self._creating,
            self._namespace,
            self._setattr,
            self._open_files,
            self._directories,
            self._opened,
            self._created,
            lambda stream: self._new_fh(self._directories, stream),
        )

    async def run(self) -> None:
        """The background tasks: buffered data is sent in time, walks are listed ahead of. Ends by
        cancellation."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.tree.writebacks.run)
            nursery.start_soon(self.tree.walk.run)
            nursery.start_soon(self.tree.files_ahead.run)
            nursery.start_soon(self.tree.directories_ahead.run)
            nursery.start_soon(self._salvage.run)
            nursery.start_soon(self.server.lanes.run)

    def _given_up(self, error: ConnectionLostError) -> None:
        self.tree.writebacks.given_up(error)
        self.tree.promises.wake_all()

    async def flush_all(self) -> None:
        """Deliver everything that was written, as far as the server takes it."""
        await self.tree.promises.all_settled()
        await self.tree.writebacks.drain_all()
        await self.tree.promises.all_settled()  # modes that were corrected meanwhile

    def raise_broken_promise(self) -> None:
        """With `async_ops`: raise an error that no program has been told of, once."""
        self.tree.promises.raise_any_broken()

    def end(self, reason: str) -> None:
        """The mount ends: what is not delivered by now is saved, and nothing waits any more."""
        self.tree.writebacks.push_all()
        self.server.end(ConnectionLostError(reason))
        self._salvage.finish()

    # --- what is known ----------------------------------------------------------------------

    def path_of(self, number: int) -> bytes | None:
        """Relative to the mount, b"" for its root; None for what the kernel should not know, or
        has no name any more."""
        try:
            return self.tree.inodes.get(number).path()
        except FilesystemError:
            return None

    def drop_caches(self) -> Forgotten:
        """Forget what may be asked again: metadata, listings, what was opened or read ahead. What
        programs wrote stays, and so does what they have open. Returns what the kernel was told."""
        tree = self.tree
        known = tree.inodes.known_to_the_kernel()
        names = [(each.parent.number, each.name) for each in known if each.parent is not None]
        names += tree.cache.absent_names()
        tree.files_ahead.clear()
        for inode in known:
            inode.drop_read_ahead()
            inode.expected = None
        tree.forget_replies()
        return Forgotten([inode.number for inode in known], names)

    # --- handles ----------------------------------------------------------------------------

    def _new_fh(self, table: dict[int, T], value: T) -> int:
        fh = self._next_fh
        self._next_fh += 1
        table[fh] = value
        return fh

    def _file(self, fh: int) -> OpenFile:
        file = self._open_files.get(fh)
        if file is None:
            raise FilesystemError(errno.EBADF)
        return file

    def _directory(self, fh: int) -> DirectoryStream:
        directory = self._directories.get(fh)
        if directory is None:
            raise FilesystemError(errno.EBADF)
        return directory

    # --- names ------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Entry | None:
        """None when there is no such name; `negative_timeout` says how long that may be kept."""
        directory = self.tree.inodes.get(parent)
        if name == b".":
            return self.tree.looked_up(directory, await self.tree.attributes(directory))
        if name == b"..":
            above = directory.parent or directory
            return self.tree.looked_up(above, await self.tree.attributes(above))
        found = await self._namespace.lookup(directory, name)
        return self.tree.looked_up(*found) if found is not None else None

    def forget(self, lookups: list[tuple[int, int]]) -> None:
        for number, count in lookups:
            self.tree.inodes.forget(number, count)

    async def getattr(self, number: int) -> Entry:
        inode = self.tree.inodes.get(number)
        if number == ROOT_NUMBER and inode.told is not None:
            return await self._root_entry(inode, inode.told)
        return self.tree.entry(inode, await self.tree.attributes(inode))

    async def _root_entry(self, root: Inode, last: FileAttributes) -> Entry:
        """Desktops, shells and df look at the root of every mount: one that does not answer must
        not hang them."""
        with trio.move_on_after(_ROOT_PATIENCE):
            return self.tree.entry(root, await self.tree.attributes(root))
        return self.tree.timeouts(ROOT_NUMBER, last, 0.0)

    async def setattr(self, number: int, change: AttributeChange, fh: int | None = None) -> Entry:
        """`fh`: the caller changes a file that it has open (ftruncate, fchmod, futimens)."""
        inode = self.tree.inodes.get(number)
        file = self._open_files.get(fh) if fh is not None else None
        told = await self._setattr.setattr(inode, change, file)
        return self.tree.entry_of_change(inode, *told)

    async def readlink(self, number: int) -> bytes:
        return await self._namespace.readlink(self.tree.inodes.get(number))

    async def mkdir(self, parent: int, name: bytes, mode: int) -> Entry:
        return self.tree.looked_up(
            *await self._namespace.mkdir(self.tree.inodes.get(parent), name, mode)
        )

    async def mknod(self, parent: int, name: bytes, mode: int) -> Entry:
        return self.tree.looked_up(
            *await self._namespace.mknod(self.tree.inodes.get(parent), name, mode)
        )

    async def symlink(self, parent: int, name: bytes, target: bytes) -> Entry:
        return self.tree.looked_up(
            *await self._namespace.symlink(self.tree.inodes.get(parent), name, target)
        )

    async def link(self, number: int, parent: int, name: bytes) -> Entry:
        inodes = self.tree.inodes
        return self.tree.looked_up(
            *await self._namespace.link(inodes.get(number), inodes.get(parent), name)
        )

    async def unlink(self, parent: int, name: bytes) -> None:
        await self._namespace.unlink(self.tree.inodes.get(parent), name)

    async def rmdir(self, parent: int, name: bytes) -> None:
        await self._namespace.rmdir(self.tree.inodes.get(parent), name)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        inodes = self.tree.inodes
        await self._renames.rename(
            inodes.get(parent), name, inodes.get(new_parent), new_name, flags
        )

    async def access(self, number: int, mask: int) -> bool:
        """Without default_permissions the server decides when it is asked to act; only what it
        never sees is decided here: whether a program may be run."""
        attributes = (await self.getattr(number)).attributes
        runs = mask & 0o1 and attributes.mode & 0o170000 == 0o100000
        return not runs or bool(attributes.mode & 0o111)

    async def statfs(self) -> FilesystemStatistics:
        """The server's numbers, or the last known when it does not answer; where there are none,
        ones that stop no program."""
        with contextlib.suppress(UnsupportedError), trio.move_on_after(_ROOT_PATIENCE):
            self._statistics = checked_statistics(await self.server.statvfs(b""))
        return self._statistics

    # --- files ------------------------------------------------------------------------------

    async def open(self, number: int, flags: int) -> OpenReply:
        return self._opened(await self._files.open(self.tree.inodes.get(number), flags))

    def _opened(self, opened: Opened) -> OpenReply:
        fh = self._new_fh(self._open_files, opened.file)
        return OpenReply(
            fh,
            self.tree.config.direct_io,
            opened.keep_cache,
            opened.attributes_changed,
            opened.content,
        )

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[OpenReply, Entry]:
        made = await self._creating.create(self.tree.inodes.get(parent), name, mode, flags)
        return self._created(*made)

    def _created(
        self, inode: Inode, file: OpenFile, attributes: FileAttributes
    ) -> tuple[OpenReply, Entry]:
        reply = self._opened(Opened(file, keep_cache=False, attributes_changed=False))
        return reply, self.tree.looked_up(inode, attributes)

    async def read(self, fh: int, offset: int, length: int) -> bytes:
        return await self._files.read(self._file(fh), offset, length)

    async def write(
        self, fh: int, offset: int, data: bytes, from_page_cache: bool = False
    ) -> WriteReply:
        file = self._file(fh)
        count = await self._files.write(file, offset, data, from_page_cache)
        moved, file.kernel_offset_differs = file.kernel_offset_differs, False
        return WriteReply(count, moved)

    async def copy_file_range(
        self, source: int, offset: int, target: int, target_offset: int, length: int
    ) -> int:
        """How many bytes the server copied by itself, perhaps fewer than asked for. EOPNOTSUPP
        when they have to be read and written: the kernel does that."""
        return await self._copying.copy(
            self._file(source), offset, self._file(target), target_offset, length
        )

    async def flush(self, fh: int) -> None:
        await self._files.flush(self._file(fh))

    async def fsync(self, fh: int) -> None:
        await self._files.fsync(self._file(fh))

    async def release(self, fh: int) -> None:
        """Never waits: see `Files.release`."""
        if not self.at_hand.release(fh):
            raise FilesystemError(errno.EBADF)

    # --- directories ------------------------------------------------------------------------

    async def opendir(self, number: int) -> int:
        stream = DirectoryStream(self.tree, self.tree.inodes.get(number))
        # df opens the root, too; whoever reads it waits there. Not for a server that is merely
        # slow: some programs take an error while reading for the end.
        is_hopeless = number == ROOT_NUMBER and not self.server.is_up
        patience = _ROOT_PATIENCE if is_hopeless else math.inf
        with trio.move_on_after(patience):
            await stream.open()
        return self._new_fh(self._directories, stream)

    async def readdir(self, fh: int, offset: int) -> AsyncGenerator[ListReply, None]:
        """The names from `offset` on. Whoever delivers one with an entry calls `delivered`."""
        stream = self._directory(fh)
        if offset == 0 and stream.was_read:
            await stream.rewind()
        stream.was_read = True
        for dot in stream.dots(offset):
            yield dot
        index = max(offset - 2, 0)
        while (entry := await stream.entry_at(index)) is not None:
            index += 1
            if entry.name not in stream.removed:
                yield stream.describe(entry, index + 2)

    def delivered(self, fh: int, reply: ListReply) -> None:
        self._directory(fh).delivered(reply)

    async def releasedir(self, fh: int) -> None:
        self.at_hand.releasedir(fh)

    async def fsyncdir(self, fh: int) -> None:
        """What was promised of the names in this directory is done, or its error is raised."""
        inode = self._directory(fh).inode
        await self.tree.promises.settled_in(inode)
        self.tree.promises.raise_broken(inode)

    # --- figures ----------------------------------------------------------------------------

    def statistics(self) -> dict[str, int]:
        """Counts for `pysshfsctl status` and for tests that look for leaks."""
        self.tree.cache.measure()
        budget = self.tree.budget
        return {
            "cache_bytes": budget.held,
            "cache_size": self.tree.config.cache_size,
            **{f"{name}_bytes": share.held for name, share in budget.shares.items()},
            "inodes": len(self.tree.inodes),
            "open_files": self.server.open_files,
            "open_directories": len(self._directories),
            "unacknowledged_bytes": self.tree.writebacks.unacknowledged,
            "unanswered_operations": len(self.tree.promises),
            "unreported_failures": self.tree.promises.unreported,
            "cache_hits": self.tree.cache.hits,
            "cache_misses": self.tree.cache.misses,
            "read_hits": budget.read_ahead.hits,
            "read_misses": budget.read_ahead.misses,
            "listed_ahead": self.tree.walk.fetched,
            "listed_in_vain": self.tree.walk.wasted,
            "directories_opened_ahead": self.tree.directories_ahead.fetched,
            "directories_opened_in_vain": self.tree.directories_ahead.wasted,
            "names_asked_ahead": self.tree.search.fetched,
            "names_asked_in_vain": self.tree.search.wasted,
            "opened_ahead": self.tree.files_ahead.fetched,
            "opened_in_vain": self.tree.files_ahead.wasted,
        }


__all__ = ["ROOT_NUMBER", "Entry", "Filesystem", "ListReply", "OpenReply", "WriteReply"]
