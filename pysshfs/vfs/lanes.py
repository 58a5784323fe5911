"""Bulk READs and WRITEs on sessions of their own, so that nothing else waits behind them.

A *lane* is a session beside the first (`RemoteFS.open_extra`). The first carries everything but
what is said here, and all rules about the order of requests are about it alone. A file goes on
lanes when it pays: a reader with much on its way and much still to come, a writer with much on its
way. It is opened there again by its present path, and used only when everything that SFTP tells
says that it is the same file (`vfs/lane.py: open_alike`). Where that fails, or the server gives no
further session or handle, the first session carries on, and nobody is told. Readers share one lane;
writers spread over as many as the round trip makes worth while, since a server takes no more than
its window (2 MiB with OpenSSH) in each round trip of a session.

**Order.** Nothing orders requests on different sessions. So a WRITE is sent only when no earlier
one of the same file that overlaps it is unacknowledged elsewhere; until then it waits here, and
what was written to the file later waits behind it. Whoever needs data to be on the server waits for
the acknowledgements (`Writeback.drain`). While a file is being truncated its WRITEs take the first
session only, which keeps them behind the truncation (`narrowed`, `Inode.resizing`).

**Bounds.** Each session has at most `_WINDOW` bytes of WRITEs on its way, and all of them together
no more than the link carries without a queue (`vfs/flow.py`); the rest waits here, where a lane
that is opened later finds it. So no other request waits long behind them.

**Losing a lane** loses nothing: what has no answer goes on on the first session, READs at once,
WRITEs after a pause (the fence, as for a whole connection: `remote/connection.py`) in which what
the old lane still does comes to its end. Until then what overlaps them waits. When the connection
is lost, so are the lanes; they come back when they pay again.

State: the lanes, which files are open on them, the WRITEs without an acknowledgement. Touched by
`vfs/calls.py` synchronously; the tasks of `run` open lanes and files, and check after each await
that the session is still the one they began with.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from pysshfs.errors import FilesystemError, PysshfsError
from pysshfs.vfs.call import Transfer, close_on
from pysshfs.vfs.flow import Flow
from pysshfs.vfs.lane import Lane, Spread, Writes, open_alike

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pysshfs.remotefs import RemoteFS, RemoteHandle
    from pysshfs.reply import Reply
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.calls import Calls
    from pysshfs.vfs.inodes import Inode

log = logging.getLogger(__name__)

_READ_MUCH: Final = 1 << 20  # bytes of one reader on their way, from which a lane pays
_READ_REST: Final = 4 << 20  # and bytes of the file that are still to come
_WRITE_MUCH: Final = 2 << 20  # bytes of one file on their way to the server
_WINDOW: Final = 2 << 20  # bytes: what OpenSSH's server takes in advance, on each session
_MOST_WRITING: Final = 7  # with the first, one for reading and one to spare: OpenSSH's MaxSessions
# What one session can carry in a round trip keeps the processor busy for as long (seconds).
_FULL: Final = 0.006
_MOST_HANDLES: Final = 64  # on one lane
_MOST_LOSSES: Final = 3  # of lanes alone, in one session: then there is something wrong with them
_FENCE: Final = 0.25  # seconds, or four round trips
_IDLE: Final = 60.0  # seconds after which a lane without files is closed

_Key: TypeAlias = "Inode | OpenFileHandle"


class Lanes:
    """The lanes of the session that is up."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._nursery: trio.Nursery | None = None
        self._first: Lane | None = None
        self._lanes: list[Lane] = []
        self._refused = False
        self._losses = 0
        self._spreads: dict[tuple[OpenFileHandle, bool], Spread] = {}
        self._writes: dict[_Key, Writes] = {}
        self._narrowed: Counter[_Key] = Counter()
        self._flow = Flow()

    @property
    def open_lanes(self) -> int:
        return sum(lane.remote is not None for lane in self._lanes)

    async def run(self) -> None:
        """Opens what is wanted. Ends by cancellation; what is open then goes on being used."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # --- the session --------------------------------------------------------------------------

    def session_up(self, remote: RemoteFS) -> None:
        """From now on `remote` is the first session."""
        self._first = Lane(False, remote)
        self._flow = Flow()
        self._refused = False
        self._losses = 0

    def session_lost(self) -> None:
        """Everything without an answer belongs to `Calls` again, which has it in order."""
        self._first = None
        self._lanes.clear()
        self._spreads.clear()
        self._writes.clear()

    def closed(self, handle: OpenFileHandle) -> None:
        """The file is closed: nothing of it is on its way that anybody wants."""
        for reads in (True, False):
            spread = self._spreads.pop((handle, reads), None)
            for lane in spread.lanes if spread is not None else ():
                self._let_go(lane, handle, lane.handles.get(handle))

    def _let_go(self, lane: Lane, handle: OpenFileHandle, opened: RemoteHandle | None) -> None:
        lane.handles.pop(handle, None)
        if opened is not None and lane.remote is not None:
            close_on(lane.remote, opened)
        if not lane.handles and not lane.is_lost and self._nursery is not None:
            self._nursery.start_soon(self._close_unless_used, lane, lane.uses)

    async def _close_unless_used(self, lane: Lane, uses: int) -> None:
        await trio.sleep(_IDLE)
        if lane.uses == uses and not lane.is_lost:
            self._drop(lane)
            lane.end()

    # --- what is sent ---------------------------------------------------------------------------

    def take(self, call: Transfer) -> bool:
        """Choose the session for a call that is to be sent now. False: it waits here."""
        if call.handle.closed:  # nobody wants it
            call.lane = self._first
            return True
        if not call.is_counted:
            call.is_counted = True
            call.add_callback(self._finished)
        return self._take_read(call) if call.reads else self._take_write(call)

    def is_in_order(self, inode: Inode) -> bool:
        """Whether a request sent on the first session now is carried out after every WRITE of this
        file that was made until now."""
        writes = self._writes.get(inode)
        return writes is None or not (writes.waiting or writes.elsewhere)

    @contextmanager
    def narrowed(self, inode: Inode) -> Iterator[None]:
        """Meanwhile WRITEs of this file go on the first session only."""
        self.narrow(inode)
        try:
            yield
        finally:
            self.widen(inode)

    def narrow(self, inode: Inode) -> None:
        """The same until `widen`."""
        self._narrowed[inode] += 1

    def widen(self, inode: Inode) -> None:
        self._narrowed[inode] -= 1
        if not self._narrowed[inode]:
            del self._narrowed[inode]

    def _take_read(self, call: Transfer) -> bool:
        spread = self._spread_of(call.handle, True)
        call.lane = next((lane for lane in spread.lanes if not lane.is_lost), self._first)
        spread.in_flight += call.length
        inode = call.handle.inode
        rest = 0 if inode is None else inode.known_size - call.offset
        if spread.in_flight >= _READ_MUCH and rest >= _READ_REST:
            self._want(spread, 1)
        return True

    def _take_write(self, call: Transfer) -> bool:
        key = call.handle.inode or call.handle
        writes = self._writes.get(key)
        if writes is None:
            writes = self._writes[key] = Writes()
        writes.bytes += call.length
        if not writes.waiting:
            lane = self._lane_for(call, writes)
            if lane is not None:
                self._put_on(call, lane, writes)
                return True
        writes.waiting.append(call)
        self._consider(call.handle, writes)
        return False

    def _put_on(self, call: Transfer, lane: Lane, writes: Writes) -> None:
        call.lane = lane
        call.sent_at = trio.current_time()
        lane.in_flight += call.length
        self._flow.in_flight += call.length
        writes.sent[call] = None
        writes.end = max(writes.end, call.offset + call.length)
        writes.elsewhere += lane is not self._first

    def _lane_for(self, call: Transfer, writes: Writes) -> Lane | None:
        """Where this WRITE can be sent now, the earlier ones of the file having been."""
        first = self._first
        spread = self._spreads.get((call.handle, False))
        lanes = [] if spread is None else [lane for lane in spread.lanes if not lane.is_lost]
        if self._is_narrow(call.handle.inode) or not lanes:
            lanes = [] if first is None else [first]
        if writes.elsewhere or lanes != [first]:
            overlapping = writes.lanes_of_overlapping(call)
            if overlapping:
                lanes = [lane for lane in lanes if overlapping == {lane}]
        lane = min(lanes, key=lambda lane: lane.in_flight, default=None)
        if lane is None or (lane.in_flight and lane.in_flight + call.length > _WINDOW):
            return None
        return lane if self._flow.has_room(call.length) else None

    def _is_narrow(self, inode: Inode | None) -> bool:
        return inode is not None and (inode.resizing > 0 or inode in self._narrowed)

    def _finished(self, call: Reply[Any]) -> None:
        """The call has its answer, from wherever."""
        assert isinstance(call, Transfer)
        lane, call.lane = call.lane, None
        if call.reads:
            spread = self._spreads.get((call.handle, True))
            if spread is not None and lane is not None:
                spread.in_flight -= call.length
            return
        key = call.handle.inode or call.handle
        writes = self._writes.get(key)
        if writes is None:
            return
        if lane is None:
            if call not in writes.waiting:
                return
            writes.waiting.remove(call)
        else:
            lane.in_flight -= call.length
            self._acknowledged(call)
            del writes.sent[call]
            writes.elsewhere -= lane is not self._first
        writes.bytes -= call.length
        if not writes.bytes:
            del self._writes[key]
        self._pump()

    def _acknowledged(self, call: Transfer) -> None:
        if self._first is not None and self._first.remote is not None:
            now, round_trip = trio.current_time(), self._first.remote.round_trip
            self._flow.acknowledged(call.length, call.sent_at, now, round_trip)
        self._flow.in_flight -= call.length

    def _pump(self) -> None:
        """Send what waits, as far as there is room: one WRITE of each file in turn."""
        waiting = [writes for writes in self._writes.values() if writes.waiting]
        while waiting and self._first is not None:
            waiting = [writes for writes in waiting if self._send_next(writes)]

    def _send_next(self, writes: Writes) -> bool:
        if not writes.waiting:
            return False
        lane = self._lane_for(writes.waiting[0], writes)
        if lane is None:
            return False
        call = writes.waiting.popleft()
        self._put_on(call, lane, writes)
        self._calls.send_now(call)
        return True

    # --- when lanes pay -------------------------------------------------------------------------

    def _spread_of(self, handle: OpenFileHandle, reads: bool) -> Spread:
        spread = self._spreads.get((handle, reads))
        if spread is None:
            spread = self._spreads[handle, reads] = Spread(handle, reads)
        return spread

    def _consider(self, handle: OpenFileHandle, writes: Writes) -> None:
        """Whether this file, which has to wait, should go on (more) lanes."""
        if writes.bytes < _WRITE_MUCH or handle.inode is None or self._first is None:
            return
        assert self._first.remote is not None
        worth = min(1 + int(self._first.remote.round_trip / _FULL), _MOST_WRITING)
        self._want(self._spread_of(handle, False), min(worth, 1 + writes.bytes // _WINDOW))

    def _want(self, spread: Spread, count: int) -> None:
        spread.lanes = [lane for lane in spread.lanes if not lane.is_lost]
        while (
            len(spread.lanes) + spread.opening < count
            and not spread.refused
            and self._nursery is not None
        ):
            lane = self._lane_to_use(spread)
            if lane is None:
                return
            spread.opening += 1
            lane.handles[spread.handle] = None
            lane.uses += 1
            self._nursery.start_soon(self._open_on, lane, spread)

    def _lane_to_use(self, spread: Spread) -> Lane | None:
        """One on which the file is not open yet; a new one if there is none."""
        alike = [lane for lane in self._lanes if lane.reads == spread.reads]
        free = [
            lane
            for lane in alike
            if spread.handle not in lane.handles and len(lane.handles) < self._most_handles()
        ]
        if free:
            return min(free, key=lambda lane: len(lane.handles))
        if len(alike) >= (1 if spread.reads else _MOST_WRITING) or not self._most_handles():
            return None
        if self._refused or self._nursery is None or self._first is None:
            return None
        lane = Lane(spread.reads)
        self._lanes.append(lane)
        self._nursery.start_soon(self._start, lane, self._first)
        return lane

    def _most_handles(self) -> int:
        """Half of what the server allows a session: the kernel there may allow less."""
        stated = self._calls.capabilities.max_handles
        return min(_MOST_HANDLES, stated // 2) if stated else _MOST_HANDLES

    # --- opening ----------------------------------------------------------------------------

    async def _start(self, lane: Lane, first: Lane) -> None:
        assert first.remote is not None
        try:
            extra = await first.remote.open_extra()
        except PysshfsError as error:
            log.info("no further session: %s", error)
            if self._first is first:
                self._refused = True
                self._drop(lane)
        else:
            if self._first is first and not lane.is_lost:
                lane.remote, lane.end = extra, extra.end
            else:
                extra.end()
        finally:
            lane.ready.set()

    async def _open_on(self, lane: Lane, spread: Spread) -> None:
        """Open a file on a lane, if it is the same there."""
        handle, first = spread.handle, self._first
        opened: RemoteHandle | None = None
        is_same = False
        try:
            await lane.ready.wait()
            if lane.remote is not None and first is not None and first is self._first:
                opened, is_same = await open_alike(lane.remote, first, spread)
        except FilesystemError as error:
            log.info("a file stays on the first session: %s", error)
        finally:
            spread.opening -= 1
            if is_same and self._first is first and not (handle.closed or lane.is_lost):
                lane.handles[handle] = opened
                spread.lanes.append(lane)
                self._pump()
            else:
                spread.refused |= lane.remote is not None
                self._let_go(lane, handle, opened)

    # --- losing one alone -----------------------------------------------------------------------

    def unanswered(self, call: Transfer) -> None:
        """The session that carried this call is lost."""
        lane, first = call.lane, self._first
        if lane is None or first is None or lane is first:
            return  # lost with the connection, or about to be known as such
        if not lane.is_lost:
            self._losses += 1
            self._refused |= self._losses >= _MOST_LOSSES
            self._drop(lane)
            log.info("a lane was lost; its requests go on on the first session")
            if self._nursery is not None:
                self._nursery.start_soon(self._settle, lane, first)
        if call.reads:
            call.lane = first
            self._calls.send_now(call)
        elif self._nursery is not None:
            lane.unsettled.append(call)
        else:  # everything is ending
            self._move_to_first(call, lane, first)

    def _drop(self, lane: Lane) -> None:
        lane.is_lost = True
        if lane in self._lanes:
            self._lanes.remove(lane)

    async def _settle(self, lane: Lane, first: Lane) -> None:
        """Send its WRITEs again, once what it had received can have been carried out."""
        assert first.remote is not None
        try:
            await trio.sleep(max(_FENCE, 4 * first.remote.round_trip))
        finally:
            if self._first is first:
                for call in sorted(lane.unsettled, key=lambda call: call.serial):
                    if not call.done:
                        self._move_to_first(call, lane, first)
                self._pump()

    def _move_to_first(self, call: Transfer, lane: Lane, first: Lane) -> None:
        writes = self._writes.get(call.handle.inode or call.handle)
        if writes is None or self._first is not first:
            return
        lane.in_flight -= call.length
        first.in_flight += call.length
        writes.elsewhere -= 1
        call.lane = first
        self._calls.send_now(call)
