"""The protocol adapter: pyfuse3's handlers in terms of `vfs.Filesystem`. It decides nothing.

Every handler but `forget`, which waits for nothing and answers nothing, runs inside the guard of
`fuse/requests.py`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import struct
from typing import TYPE_CHECKING, Final

import trio

from pysshfs.fuse.binding import _session, pyfuse3
from pysshfs.remotefs import AttributeChange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysshfs.fuse.requests import Requests
    from pysshfs.vfs.directories import ListReply
    from pysshfs.vfs.filesystem import Entry, Filesystem
    from pysshfs.vfs.openfile import OpenReply

log = logging.getLogger(__name__)

_MOST_FORGETTING: Final = 8  # threads
_FORGOTTEN_AT_ONCE: Final = 256  # inodes or names, by one thread
_BLOCK: Final = 512  # bytes; the unit of st_blocks
_NANOSECONDS: Final = 1_000_000_000
_BARE: Final = (1 << 64) - 1  # BARE of _session.c
_COPY_SOURCE: Final = struct.Struct("=3Q")  # struct copy_source of _session.c

_GUARDED: Final = (
    "lookup", "getattr", "setattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink",
    "rename", "link", "open", "create", "read", "write", "flush", "release", "fsync", "opendir",
    "readdir", "releasedir", "fsyncdir", "statfs", "access",
)  # fmt: skip


def kernel_entry(entry: Entry) -> pyfuse3.EntryAttributes:
    """What the kernel is told of a file.

    st_nlink is 1, for directories, too: SFTP does not count links, and find(1) takes 1 for "not
    known". st_blocks is the size rounded up: with less, tar and du would see holes.
    """
    attributes = entry.attributes
    told = pyfuse3.EntryAttributes()
    told.st_ino = entry.number
    told.entry_timeout = entry.entry_timeout
    told.attr_timeout = entry.attribute_timeout
    told.st_mode = attributes.mode
    told.st_nlink = 1
    told.st_uid = attributes.uid
    told.st_gid = attributes.gid
    told.st_size = attributes.size
    told.st_blksize = 4096
    told.st_blocks = -(-attributes.size // _BLOCK)
    told.st_atime_ns = attributes.atime * _NANOSECONDS
    told.st_mtime_ns = told.st_ctime_ns = attributes.mtime * _NANOSECONDS
    return told


def absent_entry(timeout: float) -> pyfuse3.EntryAttributes:
    """Inode 0: the kernel may remember for `timeout` seconds that the name does not exist."""
    told = pyfuse3.EntryAttributes()
    told.st_ino = 0
    told.entry_timeout = timeout
    return told


def bare_entry(item: ListReply) -> pyfuse3.EntryAttributes:
    """A name for readdir only. With a node the kernel would take it for a lookup, except for `.`
    and `..`; see `_session.c` for how the number goes without."""
    told = pyfuse3.EntryAttributes()
    told.st_ino = item.number
    told.st_mode = item.kind
    told.generation = _BARE
    return told


def change_of(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> AttributeChange:
    """Times that are omitted (UTIME_OMIT) stay None; UTIME_NOW arrives as this machine's time."""
    return AttributeChange(
        mode=attr.st_mode & 0o7777 if fields.update_mode else None,
        size=attr.st_size if fields.update_size else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        atime=attr.st_atime_ns // _NANOSECONDS if fields.update_atime else None,
        mtime=attr.st_mtime_ns // _NANOSECONDS if fields.update_mtime else None,
    )


class _Outdated:
    """A name in the directory `number`, or without one the inode itself."""

    __slots__ = ("name", "number")

    def __init__(self, number: int, name: bytes | None) -> None:
        self.number = number
        self.name = name


class Operations(pyfuse3.Operations):
    """pyfuse3's view of one mount."""

    supports_dot_lookup = True
    enable_writeback_cache = False  # it loses appends, sizes and times of other clients
    enable_acl = False

    def __init__(self, filesystem: Filesystem, requests: Requests) -> None:
        super().__init__()
        self.begun = trio.Event()  # the kernel has sent INIT, and what it asks now is answered
        self._fs = filesystem
        self._outdated_send, self._outdated = trio.open_memory_channel[_Outdated](1024)
        filesystem.tree.kernel = self
        for name in _GUARDED:
            setattr(self, name, requests.guard(getattr(self, name)))

    def init(self) -> None:
        self.begun.set()

    # --- what the kernel must forget ------------------------------------------------------------

    def entry_changed(self, parent: int, name: bytes) -> None:
        self._tell(_Outdated(parent, name))

    def inode_changed(self, number: int) -> None:
        self._tell(_Outdated(number, None))

    def _tell(self, outdated: _Outdated) -> None:
        with contextlib.suppress(trio.WouldBlock):  # what it believes ends by itself, then
            self._outdated_send.send_nowait(outdated)

    async def run(self) -> None:
        """Have the kernel forget what is out of date. Ends by cancellation.

        In threads, since the kernel waits there for requests of ours: for a page, or for the call
        that holds the directory.
        """
        limiter = trio.CapacityLimiter(_MOST_FORGETTING)
        async with trio.open_nursery() as nursery:
            async for outdated in self._outdated:
                await limiter.acquire_on_behalf_of(outdated)
                nursery.start_soon(self._have_forgotten, outdated, limiter)

    async def forget_all(self, inodes: Sequence[int], names: Sequence[tuple[int, bytes]]) -> None:
        """Have the kernel forget attributes and pages of these inodes, and ask again for these
        names in their directories (where libfuse and the kernel know how: 3.13 and Linux 6.2).

        Waits, in threads, for programs that have a page or a directory locked; the rest does not
        wait for those.
        """

        def drop(number: int) -> None:
            with contextlib.suppress(OSError):  # it may be forgotten already
                pyfuse3.invalidate_inode(number)

        def expire(directory: int, name: bytes) -> None:
            _session.expire_entry(directory, name)

        jobs: list[Callable[[], None]] = []
        jobs += [functools.partial(drop, number) for number in inodes]
        jobs += [functools.partial(expire, *name) for name in sorted(names)]
        limiter = trio.CapacityLimiter(_MOST_FORGETTING)
        async with trio.open_nursery() as nursery:
            for start in range(0, len(jobs), _FORGOTTEN_AT_ONCE):
                some = jobs[start : start + _FORGOTTEN_AT_ONCE]
                nursery.start_soon(self._done_in_a_thread, some, limiter)

    @staticmethod
    async def _done_in_a_thread(
        jobs: Sequence[Callable[[], None]], limiter: trio.CapacityLimiter
    ) -> None:
        def do() -> None:
            for job in jobs:
                job()

        await trio.to_thread.run_sync(do, abandon_on_cancel=True, limiter=limiter)

    @staticmethod
    async def _have_forgotten(outdated: _Outdated, limiter: trio.CapacityLimiter) -> None:
        def forget() -> None:
            with contextlib.suppress(OSError):  # it may be forgotten already
                if outdated.name is None:
                    pyfuse3.invalidate_inode(outdated.number)
                else:
                    pyfuse3.invalidate_entry(outdated.number, outdated.name)

        try:
            await trio.to_thread.run_sync(forget, abandon_on_cancel=True)
        finally:
            limiter.release_on_behalf_of(outdated)

    # --- names and attributes -----------------------------------------------------------------

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        entry = await self._fs.lookup(parent_inode, name)
        if entry is None:
            return absent_entry(self._fs.tree.config.negative_timeout)
        return kernel_entry(entry)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self._fs.forget(list(inode_list))

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return kernel_entry(await self._fs.getattr(inode))

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        change = change_of(attr, fields)
        if change == AttributeChange():
            return kernel_entry(await self._fs.getattr(inode))
        return kernel_entry(await self._fs.setattr(inode, change, fh))

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return await self._fs.readlink(inode)

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return kernel_entry(await self._fs.mknod(parent_inode, name, mode))

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return kernel_entry(await self._fs.mkdir(parent_inode, name, mode))

    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._fs.unlink(parent_inode, name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._fs.rmdir(parent_inode, name)

    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return kernel_entry(await self._fs.symlink(parent_inode, name, target))

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        await self._fs.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return kernel_entry(await self._fs.link(inode, new_parent_inode, new_name))

    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        return await self._fs.access(inode, mode)

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        known = await self._fs.statfs()
        told = pyfuse3.StatvfsData()
        told.f_bsize = known.block_size
        told.f_frsize = known.fragment_size
        told.f_blocks = known.blocks
        told.f_bfree = known.blocks_free
        told.f_bavail = known.blocks_available
        told.f_files = known.files
        told.f_ffree = known.files_free
        told.f_favail = known.files_available
        told.f_namemax = known.name_max
        return told

    # --- files ------------------------------------------------------------------------------

    def _file_info(self, opened: OpenReply, stored: bool = False) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(
            fh=opened.fh, direct_io=opened.direct_io, keep_cache=opened.keep_cache or stored
        )

    def tell_of_content(self, inode: int, opened: OpenReply) -> bool:
        """Before the reply: what the kernel believes of the file is out of date, or all of it is to
        go into its cache (and whether it did). None of it takes a lock that a request of ours
        holds: attributes take none, and nobody else has the file open."""
        if opened.attributes_changed:
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_inode(inode, attr_only=True)
        if not opened.content:
            return False
        try:
            pyfuse3.notify_store(inode, 0, opened.content)
        except OSError:
            return False  # it will ask, then
        return True

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        opened = await self._fs.open(inode, flags)
        return self._file_info(opened, self.tell_of_content(inode, opened))

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        opened, entry = await self._fs.create(parent_inode, name, mode, flags)
        return self._file_info(opened), kernel_entry(entry)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self._fs.read(fh, off, size)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        # Still this request's: nothing has suspended between the guard's first statement and here.
        _, operation, inode, from_page_cache, _, _ = _session.current()
        if operation == "copy_file_range":
            source, offset, length = _COPY_SOURCE.unpack(buf)
            return await self._fs.copy_file_range(source, offset, fh, off, length)
        written, offset_moved = await self._fs.write(fh, off, buf, bool(from_page_cache))
        if offset_moved:  # its pages hold the data in the wrong place
            self.inode_changed(inode)
        return written

    async def flush(self, fh: int) -> None:
        await self._fs.flush(fh)

    async def release(self, fh: int) -> None:
        await self._fs.release(fh)

    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._fs.fsync(fh)

    # --- directories ------------------------------------------------------------------------

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return await self._fs.opendir(inode)

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        taken = []
        async with contextlib.aclosing(self._fs.readdir(fh, start_id)) as names:
            async for item in names:
                told = kernel_entry(item.entry) if item.entry else bare_entry(item)
                if not pyfuse3.readdir_reply(token, item.name, told, item.next_offset):
                    break
                taken.append(item)
        # Only now: when the listing fails, or is interrupted, the kernel gets none of them, and
        # would never forget what it was not told.
        for item in taken:
            self._fs.delivered(fh, item)

    async def releasedir(self, fh: int) -> None:
        await self._fs.releasedir(fh)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._fs.fsyncdir(fh)
