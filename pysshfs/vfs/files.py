"""Open files: opening, reading, writing, syncing, closing; `vfs/creating.py` makes new ones.

Each open file of the kernel is one handle on the server. What was written and not acknowledged
belongs to the inode (`vfs/writeback.py`), what was read ahead to the open file
(`vfs/readahead.py`); this module keeps the two true to each other: nobody reads past unacknowledged
data, and a write drops what was read ahead by anyone.

Appending. A handle is never opened for appending on the server: it would ignore offsets, and a
repeated WRITE would append twice. The offset is the size that the server is asked for, unless data
of the same burst is still unacknowledged here, which it then continues. Appends by other clients
between that question and the WRITE are overwritten: a documented limit.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from typing import TYPE_CHECKING, Final

import trio

from pysshfs.errors import FX_FAILURE, FilesystemError, RemoteStatusError
from pysshfs.remotefs import OpenMode
from pysshfs.reply import unless_interrupted
from pysshfs.vfs import diagnose
from pysshfs.vfs.openfile import Opened, OpenFile, open_mode
from pysshfs.vfs.repeat import Truncating, Version, is_missing
from pysshfs.vfs.sanity import MAX_SIZE, checked_attributes

if TYPE_CHECKING:
    from pysshfs.remotefs import Attributes
    from pysshfs.reply import Reply
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.prefetch import FileAhead
    from pysshfs.vfs.readahead import FileReader
    from pysshfs.vfs.sanity import FileAttributes
    from pysshfs.vfs.tree import Tree
    from pysshfs.vfs.writeback import Writeback

log = logging.getLogger(__name__)

# Cached pages are kept across opens only when the mtime, in whole seconds, is this much past: a
# second change within the same second would not show.
_SETTLED_SECONDS: Final = 2


class Files:
    """The operations on open files. Stateless but for the tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    # --- opening ----------------------------------------------------------------------------

    async def open(self, inode: Inode, flags: int) -> Opened:
        """Open on the server and look at the file again, in one round trip."""
        tree = self._tree
        if flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY:
            ahead = tree.files_ahead.take(inode)
            if ahead is not None and (opened := await self._take_over(ahead, flags)) is not None:
                return opened
        if flags & os.O_TRUNC and inode.writeback is not None:
            await inode.writeback.before_truncation()
        path, before = inode.path(), tree.last_version(inode)
        if flags & os.O_TRUNC:
            tree.changed(inode)
            inode.drop_read_ahead()
        opening = self.ask_to_open(inode, path, open_mode(flags), before)
        sent_at = tree.mutations
        looking = tree.server.lstat(path)
        try:
            with unless_interrupted(looking):
                handle = await opening
        except RemoteStatusError as error:
            await self._explain_open(inode, path, looking, error)
            raise
        file = self.register(inode, handle, flags)
        try:
            attributes = await self._look(inode, looking, sent_at)
        except BaseException:
            self._unregister(file)
            raise
        return self._opened(file, attributes)

    def open_at_hand(self, inode: Inode, flags: int) -> Opened | None:
        """The same, of a file that is open already; None when the server has to be asked."""
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            return None
        if not self._tree.files_ahead.is_at_hand(inode):
            return None
        ahead = self._tree.files_ahead.take(inode)
        if ahead is None:
            return None
        try:
            return self._taken(ahead, ahead.attributes, flags)
        finally:
            ahead.drop()

    async def _take_over(self, ahead: FileAhead, flags: int) -> Opened | None:
        """Open what was opened ahead; None when it is out of date."""
        try:
            return self._taken(ahead, await ahead.wait(), flags)
        finally:
            ahead.drop()

    def _taken(
        self, ahead: FileAhead, attributes: FileAttributes | None, flags: int
    ) -> Opened | None:
        if attributes is None or ahead.handle is None:
            return None
        file = self.register(ahead.inode, ahead.handle, flags, ahead.reader)
        ahead.taken = True
        opened = self._opened(file, attributes)
        content = self._content(file, attributes.size)
        return opened._replace(content=content) if content else opened

    def _content(self, file: OpenFile, size: int) -> bytes:
        """What the kernel may take into its cache now, which saves it from asking: for the data,
        and, as reading would make it doubt the time of access, for the attributes after it.

        Only while nobody else has the file open: a page that somebody is reading is locked until
        the answer, and storing into it waits for the lock, which would be for ourselves.
        """
        if len(file.inode.open_files) > 1 or self._tree.config.direct_io:
            return b""
        return file.reader.whole(size)

    def ask_to_open(
        self, inode: Inode | None, path: bytes, mode: OpenMode, before: Version | None
    ) -> Reply[OpenFileHandle]:
        tree = self._tree
        if OpenMode.TRUNCATE not in mode:
            return tree.server.open(path, mode)
        doubt = Truncating(tree.marks, path, mode, before)
        if inode is None:
            return tree.server.open_truncating(path, mode, doubt)

        def late() -> None:
            tree.kernel.inode_changed(inode.number)

        opening = tree.server.open_truncating(path, mode, doubt, late)
        tree.resizing(inode, 0, opening)
        return opening

    async def _explain_open(
        self, inode: Inode, path: bytes, looking: Reply[Attributes], error: RemoteStatusError
    ) -> None:
        parent = inode.parent
        if is_missing(error):
            if parent is not None and not await self._tree.moves.has_moved(inode, path):
                self._tree.vanish(parent, inode.name)
            # Not ENOENT: for ESTALE the kernel gives up the name it has remembered and looks it up
            # anew. Whoever wants to create the file then does so.
            raise FilesystemError(errno.ESTALE) from None
        if error.code == FX_FAILURE:
            found = await looking
            if found.mode is not None and stat.S_ISDIR(found.mode):
                raise FilesystemError(errno.EISDIR) from None

    async def _look(
        self, inode: Inode, looking: Reply[Attributes], sent_at: int
    ) -> FileAttributes | None:
        """What the file is now; with data of ours on the way it cannot be told yet."""
        attributes = await looking
        if inode.writeback is not None and not inode.writeback.is_clean:
            return None
        return self._tree.remember(inode, attributes, sent_at)

    def _opened(self, file: OpenFile, attributes: FileAttributes | None) -> Opened:
        inode, config = file.inode, self._tree.config
        if attributes is None:
            return Opened(file, keep_cache=True, attributes_changed=False)
        version = (attributes.mtime, attributes.size)
        settled = time.time() - attributes.mtime >= _SETTLED_SECONDS
        keep = config.kernel_cache or (inode.data_version == version and settled)
        # Nor are pages that are read from now on, if the file can still change unseen.
        inode.data_version = version if settled else None
        return Opened(file, keep, attributes_changed=inode.told_version not in (None, version))

    def register(
        self,
        inode: Inode,
        handle: OpenFileHandle,
        flags: int,
        reader: FileReader | None = None,
    ) -> OpenFile:
        file = OpenFile(self._tree, inode, handle, flags, reader)
        inode.open_files.append(file)
        return file

    # --- reading ----------------------------------------------------------------------------

    async def read(self, file: OpenFile, offset: int, length: int) -> bytes:
        """At most `length` bytes; fewer only at the end of the file."""
        writeback = file.inode.writeback
        if writeback is not None and not writeback.is_clean:
            await writeback.drain()
        return await file.reader.read(offset, length)

    def read_at_hand(self, file: OpenFile, offset: int, length: int) -> bytes | None:
        """The same, if all of it is here."""
        writeback = file.inode.writeback
        if writeback is not None and not writeback.is_clean:
            return None
        return file.reader.read_at_hand(offset, length)

    # --- writing ----------------------------------------------------------------------------

    def write_at_hand(self, file: OpenFile, offset: int, data: bytes) -> int | None:
        """`write` where there is nothing to wait for, to ask, or to report."""
        tree = self._tree
        if (
            file.appending
            or tree.config.synchronous_writes
            or offset + len(data) > MAX_SIZE
            or not tree.server.is_up
        ):
            return None
        writeback = tree.writeback_of(file.inode)
        if writeback.error_sequence > file.error_seen or not writeback.write_at_hand(
            file.handle, offset, data
        ):
            return None
        self._written(file.inode, offset + len(data))
        return len(data)

    async def write(self, file: OpenFile, offset: int, data: bytes, from_page_cache: bool) -> int:
        """Take `data`; it is on its way within a second. Raises an earlier write's error."""
        inode, tree = file.inode, self._tree
        writeback = tree.writeback_of(inode)
        tree.server.check()
        await self._report_error(file, writeback)
        if file.appending and not from_page_cache:
            async with writeback.appending:
                offset = await self._append_offset(file, writeback, offset)
                await self._take(file, writeback, offset, data)
                writeback.appended_to = offset + len(data)
        else:
            await self._take(file, writeback, offset, data)
        if tree.config.synchronous_writes:
            await self._deliver_now(file, writeback)
        return len(data)

    async def _deliver_now(self, file: OpenFile, writeback: Writeback) -> None:
        """For -o sshfs_sync. Whoever is interrupted here has written all the same: were it told
        otherwise, it would append a second time."""
        self._tree.server.committing()
        try:
            await writeback.drain()
        except trio.Cancelled:
            return
        await self._report_error(file, writeback)

    async def _take(self, file: OpenFile, writeback: Writeback, offset: int, data: bytes) -> None:
        if offset + len(data) > MAX_SIZE:
            raise FilesystemError(errno.EFBIG)
        await writeback.write(file.handle, offset, data)
        self._written(file.inode, offset + len(data))

    def _written(self, inode: Inode, end: int) -> None:
        """The data is taken, and everybody must see it from the same moment on."""
        expected = inode.expected
        self._tree.changed_to(inode, None if expected is None else expected.written())
        inode.known_size = max(inode.known_size, end)
        inode.drop_read_ahead()

    async def _report_error(self, file: OpenFile, writeback: Writeback) -> None:
        """Raise the last error of writing unless this open file has reported it."""
        sequence = writeback.error_sequence
        try:
            writeback.raise_error(file.error_seen)
        except FilesystemError as error:
            try:
                path = file.inode.path()
            except FilesystemError:
                path = b""  # unlinked: most likely it lies where the rest does
            known = await diagnose.space(self._tree.server, path, error)
            file.error_seen = sequence  # only now: who was interrupted has not heard of it
            raise known from None

    async def _append_offset(self, file: OpenFile, writeback: Writeback, offset: int) -> int:
        end = max(writeback.end, writeback.appended_to)
        if not writeback.appended_to:
            writeback.push()
            with writeback.watched() as reached:
                attributes = await self._tree.server.fstat(file.handle)
            size = max(checked_attributes(attributes).size, reached.end)
            if writeback.is_clean:
                file.inode.known_size = size
            end = max(size, writeback.end)  # others may have written meanwhile
        if end != offset:
            file.kernel_offset_differs = True  # its pages hold the data in the wrong place
        return end

    @property
    def _is_closed_ahead(self) -> bool:
        return self._tree.promises.enabled and not self._tree.config.fsync_on_close

    async def flush(self, file: OpenFile) -> None:
        """close(2): everything written is acknowledged, or its error is raised here. With
        `async_ops`, it is on its way, and what failed until now is raised."""
        writeback = file.inode.writeback
        if self._is_closed_ahead:
            if writeback is not None:
                writeback.push()
                await self._report_error(file, writeback)
            return
        await self._deliver(file)
        writeback = file.inode.writeback
        if self._tree.config.fsync_on_close and writeback is not None and writeback.unsynced:
            await self._sync(file)

    def flush_at_hand(self, file: OpenFile) -> bool:
        """The same, where there is nothing to wait for or to report. Whether it was so."""
        writeback = file.inode.writeback
        if writeback is None:
            return True
        if writeback.error_sequence > file.error_seen:
            return False
        if self._is_closed_ahead:
            writeback.push()
            return True
        return writeback.is_clean and not (self._tree.config.fsync_on_close and writeback.unsynced)

    async def fsync(self, file: OpenFile) -> None:
        """Everything written is acknowledged, and the server has synced the file, if it can be
        asked to."""
        if not await self._synced_behind(file):
            await self._deliver(file)
            await self._sync(file)

    async def _synced_behind(self, file: OpenFile) -> bool:
        """Both at once, as far as the session carries out in order what is sent: the fsync right
        behind the data. False: it has to be sent when the data is acknowledged."""
        server, writeback = self._tree.server, file.inode.writeback
        if writeback is None or writeback.is_clean or not server.capabilities.fsync:
            return False
        writeback.push()
        losses = server.losses
        if not server.is_up or not server.lanes.is_in_order(file.inode):
            return False
        syncing = server.fsync(file.handle)
        with unless_interrupted(syncing):
            await self._deliver(file)
            await syncing
        if server.losses != losses:  # on the next one the order may have been another
            return False
        if writeback.is_clean:
            writeback.unsynced = False
        return True

    async def _deliver(self, file: OpenFile) -> None:
        writeback = file.inode.writeback
        if writeback is None:
            return
        if not writeback.is_clean:
            self._tree.server.committing()
            await writeback.drain()
            if not writeback.is_clean:  # somebody went on writing
                self._tree.changed_to(file.inode, file.inode.expected)
        await self._report_error(file, writeback)

    async def _sync(self, file: OpenFile) -> None:
        writeback = file.inode.writeback
        if self._tree.server.capabilities.fsync:
            await self._tree.server.fsync(file.handle)
            if writeback is not None and writeback.is_clean:
                writeback.unsynced = False

    # --- closing ----------------------------------------------------------------------------

    def release(self, file: OpenFile) -> None:
        """The last reference is gone: the handle is closed, once nothing is left to deliver."""
        writeback = file.inode.writeback
        if writeback is None or writeback.is_clean:
            self._unregister(file)
        else:
            writeback.push()
            writeback.when_clean(lambda: self._delivered(file, writeback))

    def _delivered(self, file: OpenFile, writeback: Writeback) -> None:
        self._unregister(file)
        if writeback.error_sequence > file.error_seen:
            log.error("data written to %r was not delivered after its close", file.inode)
            self._tree.promises.broken_by_data(file.inode)

    def _unregister(self, file: OpenFile) -> None:
        inode = file.inode
        file.reader.discard()
        inode.open_files.remove(file)
        if not inode.open_files:
            inode.expected = None
        if not inode.open_files and inode.writeback is not None and inode.writeback.is_idle:
            inode.writeback = None
        self._tree.inodes.drop_unused(inode)
        self._tree.close(file.handle)
