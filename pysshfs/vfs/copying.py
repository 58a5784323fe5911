"""copy_file_range(2): the server copies from file to file by itself, nothing goes over the wire.

The request is `copy-data` (OpenSSH's PROTOCOL, section 4.10), on a session of its own (a lane),
since a server answers nothing else on it meanwhile. A lane has its own handles: each open file gets
a *twin* there when it first takes part in a copy, opened by its present path and accepted only if
it looks like the file that is open. It is closed with the file.

A call copies one chunk and says how much that was; programs go on from there. The chunk is sized
by what the last one took, so that each is answered in time and an interrupt has not long to wait.

What a reply of OK is worth. OpenSSH's server (up to 10.2 at least) copies in pieces of 64 KiB and
forgets an error of the last piece, and whether there was anything to read for it; asyncssh's takes
the end of the source for success. So the sizes of both files are asked for behind the copy, in the
same round trip. A copy that makes the target longer is proven by its new size. One inside of it
is asked to copy a byte more than is reported, which is in a last piece of its own.

Whatever cannot be done or proven is EOPNOTSUPP for the kernel, which then reads and writes the same
range; that is right in every case, and finds the true error if there is one. So a short range at
the end of a copy inside a file, and ranges within one file, which OpenSSH refuses, go that way.

An interrupted copy goes on at the server. Until it is answered, nothing that is written to the
target, and no truncation, is sent (`Writeback.not_copied_to`), since it would be overtaken there.

State: the lane, the size of a chunk, and whether the server refuses to copy. Suspends everywhere.
"""

from __future__ import annotations

import errno
import logging
import stat
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from pysshfs.errors import (
    FX_EOF,
    FX_OP_UNSUPPORTED,
    FX_PERMISSION_DENIED,
    ConnectionLostError,
    FilesystemError,
    PysshfsError,
    RemoteStatusError,
    StaleHandleError,
    UnsupportedError,
)
from pysshfs.reply import Reply
from pysshfs.vfs import diagnose
from pysshfs.vfs.repeat import open_own
from pysshfs.vfs.sanity import checked_attributes

if TYPE_CHECKING:
    from pysshfs.remotefs import Attributes, ExtraSession, RemoteFS, RemoteHandle
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.openfile import OpenFile
    from pysshfs.vfs.tree import Tree

log = logging.getLogger(__name__)

_PIECE: Final = 64 * 1024  # what OpenSSH's server copies at once (bytes)
# Less is read and written in fewer round trips than two files take to be opened for it.
_WORTHWHILE: Final = 1024 * 1024
_FIRST_CHUNK: Final = 16 * 1024 * 1024
_LARGEST_CHUNK: Final = 256 * 1024 * 1024
_SMALLEST_CHUNK: Final = 1024 * 1024
_AIM: Final = 0.25  # seconds: what a chunk is to take
_LANE_SECONDS: Final = 10.0  # for a server to give a second session
_MOST_LOSSES: Final = 3  # of the lane alone, until it is done without
_FENCE: Final = 0.25  # seconds, or four round trips: as `remote/connection.py` has it
_ATTEMPTS: Final = 10  # connections that are lost over one chunk


class Copying:
    """The copies of one mount."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._chunk = _FIRST_CHUNK
        self._refused = False
        self._first: RemoteFS | None = None  # the session that the lane is beside
        self._lane: ExtraSession | None = None
        self._losses = 0  # of the lane alone
        self._opening = trio.Lock()

    async def copy(
        self, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int
    ) -> int:
        """Copy at most `length` bytes; how many it were.

        Raises EINVAL for a range that overlaps itself, ENOSPC, and EOPNOTSUPP for what has to be
        read and written instead.
        """
        if source.inode is target.inode:
            if abs(offset - target_offset) < length:
                raise FilesystemError(errno.EINVAL)
            raise UnsupportedError("a copy within one file")
        if self._refused or not self._tree.server.capabilities.copy_data:
            raise UnsupportedError("the server does not copy")
        await self._tree.promises.all_settled()  # it opens both by their paths
        for _ in range(_ATTEMPTS):
            try:
                return await self._copy(source, offset, target, target_offset, length)
            except (StaleHandleError, ConnectionLostError):  # once more, on the next session
                self._tree.server.check()
                self._tree.server.close_twin(source.handle)
                self._tree.server.close_twin(target.handle)
                await self._lane_lost(self._lane)
                await self._measure(target)
        raise UnsupportedError("the connection was lost each time")

    async def _measure(self, target: OpenFile) -> None:
        """It may have grown by a copy whose reply was lost."""
        found = await self._tree.server.fstat(target.handle)
        writeback = target.inode.writeback
        if writeback is None or writeback.is_clean:
            target.inode.known_size = checked_attributes(found).size

    async def _copy(
        self, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int
    ) -> int:
        for file in (source, target):
            writeback = self._tree.writeback_of(file.inode)
            await writeback.not_copied_to()
            await writeback.drain()
        # As far as the source is believed to reach. Past that only the server knows.
        left = min(length, source.inode.known_size - offset)
        grows = target_offset + min(left, self._chunk) > target.inode.known_size
        least = 1 if grows else _PIECE + 1
        if left < (_WORTHWHILE if source.handle.twin is None else least):
            raise UnsupportedError(f"{left} bytes are too few")
        lane = await self._lane_for(target)
        reading = await self._twin(lane, source.handle)
        writing = await self._twin(lane, target.handle)
        chunk = _Chunk(self._tree, lane, reading, writing, target)
        count = min(left, self._chunk) if grows else _whole_pieces(min(left - 1, self._chunk))
        began = trio.current_time()
        try:
            await chunk.copy(offset, target_offset, count, extends=grows)
        except RemoteStatusError as error:
            raise await self._explained(target, error) from None
        if count >= self._chunk // 2:
            self._adapt(trio.current_time() - began)
        return count

    def _adapt(self, seconds: float) -> None:
        if seconds < _AIM / 2:
            self._chunk = min(2 * self._chunk, _LARGEST_CHUNK)
        elif seconds > 2 * _AIM:
            self._chunk = max(self._chunk // 2, _SMALLEST_CHUNK)

    async def _explained(self, target: OpenFile, error: RemoteStatusError) -> FilesystemError:
        if error.code in (FX_OP_UNSUPPORTED, FX_PERMISSION_DENIED):
            self._refused = True  # its administrator forbids it
        elif error.code != FX_EOF:
            try:
                path = target.inode.path()
            except FilesystemError:
                path = b""
            known = await diagnose.space(self._tree.server, path, error)
            if known.errno == errno.ENOSPC:
                return known
        log.info("the server does not copy to %r: %s", target.inode.name, error)
        return UnsupportedError(str(error))

    # --- the session and its handles ----------------------------------------------------------

    async def _lane_for(self, target: OpenFile) -> RemoteFS:
        """The session for copies, made when it is first needed, on each connection anew."""
        while (first := self._tree.server.session) is None:
            await self._tree.server.fstat(target.handle)  # waits for the connection
        async with self._opening:
            if self._first is not first:
                self._first, self._lane, self._losses = first, None, 0
            if self._lane is None:
                if self._losses > _MOST_LOSSES:
                    raise UnsupportedError("no second session")
                self._lane = await self._open_lane(first)
            return self._lane

    async def _open_lane(self, first: RemoteFS) -> ExtraSession:
        try:
            with trio.move_on_after(_LANE_SECONDS):
                return await first.open_extra()
        except ConnectionLostError:
            raise
        except PysshfsError as error:
            log.info("no second session: %s", error)
            self._losses = _MOST_LOSSES + 1
            raise UnsupportedError(str(error)) from None
        raise UnsupportedError("the server gives no second session in time")

    async def _lane_lost(self, lane: ExtraSession | None) -> None:
        """The lane is lost. Alone, it may go on with what it was asked for a moment."""
        if lane is not None and self._lane is lane:
            self._lane = None
            lane.end()
            self._losses += 1
        if self._first is not None and self._tree.server.session is self._first:
            await trio.sleep(max(_FENCE, 4 * self._first.round_trip))

    async def _twin(self, lane: RemoteFS, handle: OpenFileHandle) -> RemoteHandle:
        """The open file on the lane. EOPNOTSUPP when it cannot be had there, or is another."""
        if handle.twin is not None and handle.twin[0] is lane:
            return handle.twin[1]
        try:
            twin = await self._open(lane, handle)
        except ConnectionLostError:
            raise
        except FilesystemError as error:
            raise UnsupportedError(f"it cannot be opened once more: {error}") from None
        try:
            here, there = await self._tree.server.fstat(handle), await lane.fstat(twin)
            if not _are_the_same(here, there):
                raise UnsupportedError("another file has its name")
        except BaseException:
            lane.close(twin)
            raise
        if handle.closed or (handle.twin is not None and handle.twin[0] is lane):
            lane.close(twin)  # another copy was faster
        else:
            handle.twin = lane, twin
        return handle.twin[1] if handle.twin is not None else twin

    async def _open(self, lane: RemoteFS, handle: OpenFileHandle) -> RemoteHandle:
        path = handle.path()
        try:
            return await lane.open(path, handle.mode)
        except RemoteStatusError as error:
            if error.errno != errno.EACCES or not handle.is_own:
                raise
        here = await self._tree.server.fstat(handle)
        return await open_own(lane, path, handle.mode, stat.S_IMODE(here.mode or 0))


def _whole_pieces(count: int) -> int:
    return count - count % _PIECE


def _are_the_same(here: Attributes, there: Attributes) -> bool:
    """As far as SFTP tells. Reading moves the atime."""
    return here._replace(atime=0) == there._replace(atime=0)


class _Chunk:
    """One copy-data between two twins, and the bookkeeping for the inode that it changes."""

    def __init__(
        self,
        tree: Tree,
        lane: RemoteFS,
        reading: RemoteHandle,
        writing: RemoteHandle,
        target: OpenFile,
    ) -> None:
        self._tree = tree
        self._lane = lane
        self._reading = reading
        self._writing = writing
        self._target = target
        self._end = 0
        self._under_way = False

    async def copy(self, offset: int, target_offset: int, count: int, *, extends: bool) -> None:
        """Raises EOPNOTSUPP when it is not proven that all was copied."""
        asked = count if extends else count + 1
        self._end = target_offset + count
        words = (self._reading, offset, self._writing, target_offset, asked)
        lane, inode = self._lane, self._target.inode
        before = lane.fstat(self._writing)
        copying = self._tree.server.copy(
            partial(self._send, offset, asked, target_offset),
            self._target.handle,
            words,
            partial(self._tree.kernel.inode_changed, inode.number),
            self._answered,
        )
        source, after = lane.fstat(self._reading), lane.fstat(self._writing)
        await copying
        sizes = [checked_attributes(await each).size for each in (before, source, after)]
        is_proven = sizes[0] < self._end or not extends
        if not is_proven or sizes[1] < offset + asked or sizes[2] < self._end:
            self._tree.kernel.inode_changed(inode.number)
            raise UnsupportedError("not all may have been copied")

    def _send(self, offset: int, length: int, target_offset: int) -> Reply[None]:
        if not self._under_way:
            self._under_way = True
            self._tree.writeback_of(self._target.inode).copy_begins()
            self._tree.inodes.hold(self._target.inode)
        self._changed()
        inner = self._lane.copy_data(self._reading, offset, length, self._writing, target_offset)
        copied: Reply[None] = Reply(inner.abandon)
        inner.add_callback(partial(self._pass_on, copied))
        return copied

    def _pass_on(self, copied: Reply[None], inner: Reply[None]) -> None:
        """A lane that is lost alone makes the copy stale: with the connection up, nobody would send
        it again."""
        error = inner.error
        if isinstance(error, ConnectionLostError) and self._tree.server.is_up:
            error = StaleHandleError(str(error))
        if error is None:
            copied.set_result(None)
        else:
            copied.set_error(error)

    def _changed(self) -> None:
        inode = self._target.inode
        self._tree.changed(inode)
        for file in inode.open_files:
            file.reader.discard()

    def _answered(self, reply: Reply[None]) -> None:
        """However it ended, and whoever still waits for it."""
        if not self._under_way:
            return
        inode = self._target.inode
        self._changed()
        if reply.error is None:
            inode.known_size = max(inode.known_size, self._end)
        else:
            self._tree.kernel.inode_changed(inode.number)  # a part of it may have been copied
        self._tree.writeback_of(inode).copy_ended()
        self._tree.inodes.let_go(inode)
