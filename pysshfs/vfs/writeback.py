"""Data that programs wrote and the server has not acknowledged yet: the one log of it.

A `Writeback` belongs to an inode, not to a handle, so every reader of the file sees what any
writer wrote. Small writes that continue one another gather in a tail until the server's largest
WRITE is full, the file is flushed, or `write_delay` has passed (`vfs/writebackpool.py` sees to
that, and bounds what all files together hold). WRITEs are made without waiting for one another.
Those that overlap are carried out in order, others
perhaps not: `vfs/lanes.py` spreads them over several sessions. Nor is a WRITE carried out before
whatever is asked next on the first session; only an acknowledgement says that it was. Each record
keeps its bytes until then: `vfs/calls.py` sends them again after a lost connection, and what the
server refuses, or never gets, is handed to `WritebackPool.on_undelivered`.

Errors are sticky: a WRITE's failure is kept with a sequence number, and each open file reports it
once, at its next write, fsync or close. When there is no hope of a connection, waiting ends with
an error, but the data stays.

Whoever drains waits for what was written before, not for what comes meanwhile: a file that
somebody writes without a pause can still be looked at, read and closed.

Touched by: the tasks of write, flush, fsync, read and copy requests, and the pool's task. Suspends
only in `write`, `drain`, `before_truncation` and `not_copied_to`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from pysshfs.errors import FilesystemError
from pysshfs.vfs.writebackpool import WriteRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pysshfs.reply import Reply
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.writebackpool import WritebackPool


class Reached:
    """How far the file was written while somebody asked the server for its size, whose answer may
    be from before: one past the last byte that was acknowledged meanwhile."""

    def __init__(self) -> None:
        self.end = 0


class Writeback:
    """One file's unacknowledged data, in the order in which it was written.

    `on_clean` is called when the last of it is acknowledged, and so is what was given to
    `when_clean`. `appending` is held from the question
    where the file ends until the data that goes there is taken, and while a truncation is prepared.
    """

    def __init__(self, pool: WritebackPool, inode: Inode, on_clean: Callable[[], None]) -> None:
        self.appending = trio.Lock()
        # Where the file ends, by the last append; 0 when that is not known or all is acknowledged.
        # Data on its way need not lie at the end.
        self.appended_to = 0
        self.unsynced = False  # something was acknowledged since the last fsync
        self._pool = pool
        self._inode = inode
        self._on_clean = on_clean
        self._when_clean: list[Callable[[], None]] = []
        # How long the file is on the server without what is not acknowledged.
        self._acknowledged_size = 0
        self._size_is_certain = True  # no WRITE failed since the file was looked at
        self._tail = bytearray()
        self._tail_offset = 0
        self._tail_handle: OpenFileHandle | None = None
        # None: not a WRITE, but a change of attributes that was sent behind those before it.
        self._sent: dict[int, WriteRecord | None] = {}
        self._next_record = 0
        # Who drains, each with the serial of the first record that it does not wait for.
        self._drains: list[tuple[int, trio.Event]] = []
        self._watches: list[Reached] = []
        self._error: FilesystemError | None = None
        self.error_sequence = 0
        # Set when the server does not copy to this file any more (`vfs/copying.py`).
        self._copied: trio.Event | None = None

    # --- what is held -----------------------------------------------------------------------

    @property
    def is_clean(self) -> bool:
        return not self._sent and not self._tail

    @property
    def end(self) -> int:
        """One past the last unacknowledged byte; 0 when there is none."""
        ends = (r.offset + len(r.data) for r in self._sent.values() if r is not None)
        end = max(ends, default=0)
        return max(end, self._tail_offset + len(self._tail)) if self._tail else end

    @contextmanager
    def watched(self) -> Iterator[Reached]:
        """For whoever asks for the size: what is acknowledged meanwhile may not be counted in the
        answer, and `end` does not count it any more."""
        reached = Reached()
        self._watches.append(reached)
        try:
            yield reached
        finally:
            self._watches.remove(reached)

    def explains(self, size: int) -> bool:
        """Whether the file can have this size on the server, if nobody else changed it: of the
        WRITEs whose acknowledgements were lost any may have been carried out, whatever their
        order, and those that were acknowledged certainly were."""
        least = self._acknowledged_size if self._size_is_certain else 0
        return least <= size <= max(self._acknowledged_size, self.end)

    def resized(self, size: int, *, is_certain: bool) -> None:
        """The file was truncated, or may have been, before what is not acknowledged."""
        known = self._acknowledged_size
        self._acknowledged_size = size if is_certain else min(known, size)
        for reached in self._watches:  # what was acknowledged until now lay before it
            reached.end = min(reached.end, size)

    def when_clean(self, callback: Callable[[], None]) -> None:
        """Call back once, when nothing is left to be acknowledged; at once if that is so."""
        if self.is_clean:
            callback()
        else:
            self._when_clean.append(callback)

    # --- copies to this file ------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way to this file."""
        return self.is_clean and self._copied is None

    def copy_begins(self) -> None:
        """The server copies to this file, on another session, until `copy_ended`."""
        if self._copied is None:
            self._copied = trio.Event()

    def copy_ended(self) -> None:
        self.unsynced = True
        copied, self._copied = self._copied, None
        if copied is not None:
            copied.set()

    async def not_copied_to(self) -> None:
        """Wait for a copy whose caller was interrupted and which still goes on: what is sent on
        this session would be overtaken by it."""
        while self._copied is not None:
            await self._copied.wait()

    # --- writing ----------------------------------------------------------------------------

    async def write(self, handle: OpenFileHandle, offset: int, data: bytes) -> None:
        """Take all of `data`, or, when cancelled while the buffer is full, nothing of it."""
        await self.not_copied_to()
        await self._pool.reserve(len(data))
        self._take(handle, offset, data)

    def write_at_hand(self, handle: OpenFileHandle, offset: int, data: bytes) -> bool:
        """The same, if there is nothing to wait for. Whether it was taken."""
        if self._copied is not None or not self._pool.reserve_at_hand(len(data)):
            return False
        self._take(handle, offset, data)
        return True

    def _take(self, handle: OpenFileHandle, offset: int, data: bytes) -> None:
        self._begin()
        self._append(handle, offset, memoryview(data))
        if self.appended_to:  # the next append goes behind this, also when it is acknowledged
            self.appended_to = max(self.appended_to, offset + len(data))
        if self._pool.is_contended:
            self.push()

    def _begin(self) -> None:
        """Something is going to be unacknowledged."""
        if self.is_clean:
            self._acknowledged_size = self._inode.known_size
            self._size_is_certain |= self._inode.seen is not None
            self._pool.dirty[self] = None

    async def go_ahead(self) -> None:
        """What is sent from now on, until the next await, is carried out after all that was
        written. The first session carries out in order, so sending it there is enough; what is on
        its way on others (`vfs/lanes.py`) has to be acknowledged."""
        self.push()
        lanes = self._pool.server.lanes
        with lanes.narrowed(self._inode):
            while not lanes.is_in_order(self._inode):
                await self.drain()

    def go_ahead_at_hand(self) -> bool:
        """The same, where nothing has to be acknowledged first. Whether it is so."""
        self.push()
        return self._pool.server.lanes.is_in_order(self._inode)

    def follow(self, reply: Reply[Any], *, is_reported: bool = True) -> None:
        """A change of attributes was sent behind what was written. Who waits for that waits for
        this; so is its failure reported."""
        self._begin()
        serial = self._next_record
        self._next_record += 1
        self._sent[serial] = None
        lanes = self._pool.server.lanes
        lanes.narrow(self._inode)  # nor is what is written later carried out before it

        def answered(reply: Reply[Any]) -> None:
            lanes.widen(self._inode)
            del self._sent[serial]
            if reply.error is not None and is_reported:
                self._keep_error(reply.error)
            self._check_clean()

        reply.add_callback(answered)

    def _append(self, handle: OpenFileHandle, offset: int, data: memoryview) -> None:
        largest = self._pool.server.capabilities.max_write
        if self._tail and not (
            self._tail_handle is handle and self._tail_offset + len(self._tail) == offset
        ):
            self.push()
        if self._tail:
            taken = min(max(largest - len(self._tail), 0), len(data))
            self._tail += data[:taken]
            data, offset = data[taken:], offset + taken
            if len(self._tail) < largest:
                return
            self.push()
        while len(data) >= largest:
            self._send(WriteRecord(handle, offset, bytes(data[:largest])))
            data, offset = data[largest:], offset + largest
        if data:
            self._tail += data
            self._tail_offset, self._tail_handle = offset, handle
            self._pool.tail_begun(self)

    def push(self) -> None:
        """Send what is gathered; do not wait for it."""
        if self._tail and self._tail_handle is not None:
            record = WriteRecord(self._tail_handle, self._tail_offset, self._tail)
            self._tail = bytearray()
            self._pool.tail_sent(self)
            self._send(record)

    def _send(self, record: WriteRecord) -> None:
        serial = self._next_record
        self._next_record += 1
        self._sent[serial] = record
        reply = self._pool.server.write(record.handle, record.offset, record.data)
        reply.add_callback(lambda reply: self._acknowledged(serial, record, reply))

    def _acknowledged(self, serial: int, record: WriteRecord, reply: Reply[None]) -> None:
        del self._sent[serial]
        if reply.error is not None:
            self._fail(record, reply.error)
        else:
            self.unsynced = True
            end = record.offset + len(record.data)
            self._acknowledged_size = max(self._acknowledged_size, end)
            for reached in self._watches:
                reached.end = max(reached.end, end)
        # What was read while it was on its way may be from before.
        self._inode.drop_read_ahead()
        self._pool.release(len(record.data))
        self._check_clean()

    def _check_clean(self) -> None:
        """Something was acknowledged: whoever waited for it goes on."""
        if self.is_clean:
            self.appended_to = 0
            self._pool.dirty.pop(self, None)
            self._on_clean()
            callbacks, self._when_clean = self._when_clean, []
            for callback in callbacks:
                callback()
        oldest = self._oldest
        for end, drained in self._drains:
            if end <= oldest:
                drained.set()
        self._drains = [drain for drain in self._drains if drain[0] > oldest]

    def wake_all(self) -> None:
        """Have those who drain look again whether there is hope."""
        for _, drained in self._drains:
            drained.set()

    @property
    def _oldest(self) -> int:
        """The serial of the oldest record that is not acknowledged, or of the next one."""
        return next(iter(self._sent), self._next_record)

    def _fail(self, record: WriteRecord, error: BaseException) -> None:
        known = self._keep_error(error)
        self._size_is_certain = False
        self._pool.on_undelivered(self._inode, record, known)

    def _keep_error(self, error: BaseException) -> FilesystemError:
        if not isinstance(error, FilesystemError):
            raise error
        self._error = error
        self.error_sequence += 1
        return error

    # --- waiting and reporting --------------------------------------------------------------

    async def drain(self) -> None:
        """Send everything and wait for the server's word on it; errors are kept.

        What others write meanwhile is not waited for. Raises when there is no hope of a
        connection; the data is kept.
        """
        self.push()
        end = self._next_record
        if self._oldest < end:
            self._pool.server.check()
            self._pool.server.hurry()
            drained = trio.Event()
            entry = (end, drained)
            self._drains.append(entry)
            try:
                await drained.wait()
            finally:
                if entry in self._drains:
                    self._drains.remove(entry)
            if self._oldest < end:
                self._pool.server.check()
            self.push()

    async def before_truncation(self) -> None:
        """Deliver everything, so that no older data lands behind a truncation that is sent now, and
        end the burst of appends: the next one goes to the end that the truncation leaves. What
        others write meanwhile is sent before the truncation on the same session, or behind it."""
        async with self.appending:
            with self._pool.server.lanes.narrowed(self._inode):
                await self.not_copied_to()
                await self.drain()
            self.appended_to = 0

    def raise_error(self, seen: int) -> None:
        """Raise the last error unless the caller has `seen` it (an `error_sequence`)."""
        if self._error is not None and self.error_sequence > seen:
            raise self._error.with_traceback(None)
