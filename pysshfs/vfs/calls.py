"""Calls to the server that outlive a connection: sent, kept until answered, sent again.

`Calls` is the engine under `vfs/server.py`. While no session is up, calls wait. When a session is
lost, everything without a reply is kept, in order; on the next one (`resume`) what is in doubt is
settled by looking, open files are opened again (`vfs/reopen.py`), and the rest is sent again, in
the order in which it was first called. What may be repeated is decided by one table,
`vfs/repeat.py`.

State: the calls without an answer (`_calls`, oldest first), the open files, the orphans. Touched by
the tasks of requests (calls are synchronous), by the session's callbacks, and by the task of
`remote/connection.py` that runs `resume`, the only place that suspends.

Taking back. A caller who is interrupted abandons its reply. A call that was not sent is then
withdrawn; one that only asks is forgotten; one that changes the server goes on, as an orphan
(`vfs/orphans.py`), and when it succeeds without its caller, `late` tells the kernel.
"""

from __future__ import annotations

import errno
import logging
import math
import time
from typing import TYPE_CHECKING, Any, Final

import trio

from pysshfs.errors import (
    ConnectionLostError,
    FilesystemError,
    ProtocolError,
    StaleHandleError,
)
from pysshfs.remotefs import OpenMode, RemoteHandle
from pysshfs.reply import Reply
from pysshfs.vfs import caller, reopen
from pysshfs.vfs.call import Call, Change, OpenFileHandle, Opening, Transfer, shown
from pysshfs.vfs.lanes import Lanes
from pysshfs.vfs.orphans import Orphans
from pysshfs.vfs.repeat import CHANGES, NOT_TWICE, RULES, Done, Rule, is_missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.remotefs import Capabilities, RemoteFS
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.repeat import Doubt

log = logging.getLogger(__name__)

# A request that makes the server break the protocol each time is given up after as many sessions.
_MOST_VIOLATIONS: Final = 3
# How many looks are out together while a new session is made ready.
_LOOKS_AT_ONCE: Final = 64


class Calls:
    """Every call that has no answer yet, on the session that is up or the next one."""

    def __init__(self, remote: RemoteFS) -> None:
        self._remote: RemoteFS | None = remote
        self._capabilities = remote.capabilities
        self._served = remote.served
        self._calls: dict[int, Call] = {}
        self._next_serial = 0
        self._files: dict[OpenFileHandle, None] = {}
        self._to_close: list[RemoteHandle] = []  # on the session that `resume` makes ready
        self.orphans = Orphans()
        self._refused: ConnectionLostError | None = None
        self._ended = False
        self.losses = 0  # sessions that were lost until now
        self.lanes = Lanes(self)
        self.lanes.session_up(remote)
        # A call came while there is no session (`ServerConnection.wanted`).
        self.on_demand: Callable[[], None] = lambda: None
        # A file was opened again (`reopen.reopened`); whether it still is the same file.
        self.on_reopened: reopen.Check = lambda _inode, _found: None
        # Told of each call that is sent, and who waits for it; for the trace.
        self.on_sent: Callable[[caller.Caller | None, str], None] | None = None
        # The session is gone; called before anything else is done about it.
        self.on_lost: Callable[[], None] = lambda: None
        # There is no hope: whoever waits for data to be delivered must hear of it.
        self.on_given_up: Callable[[ConnectionLostError], None] = lambda _error: None

    @property
    def capabilities(self) -> Capabilities:
        """Of the session that is up, or was last."""
        return self._capabilities

    @property
    def served(self) -> bytes:
        """Likewise: the server's own path of the served directory."""
        return self._served

    @property
    def session(self) -> RemoteFS | None:
        """The first session, if it is up."""
        return self._remote

    @property
    def is_up(self) -> bool:
        return self._remote is not None

    @property
    def round_trip(self) -> float:
        """Seconds, of the session that is up; 0 while there is none."""
        return 0.0 if self._remote is None else self._remote.round_trip

    @property
    def waiting(self) -> int:
        """How many calls have no answer yet."""
        return len(self._calls)

    @property
    def open_files(self) -> int:
        return len(self._files)

    def is_open_below(self, inode: Inode) -> bool:
        """Whether this file, or one in this directory or below, is open."""
        return any(
            handle.inode is not None and inode in handle.inode.ancestors() for handle in self._files
        )

    # --- calls --------------------------------------------------------------------------------

    def start(self, call: Call) -> Reply[Any]:
        handle = call.handle
        if handle is not None and handle.stale is not None:
            return Reply.failed(handle.stale)
        if self._refused is not None and (self._ended or not call.is_kept):
            return Reply.failed(self._refused)
        serial = call.serial = self._next_serial
        self._next_serial = serial + 1
        self._calls[serial] = call
        if handle is not None and handle.waiting is not None:
            handle.waiting.append(call)
        elif self._remote is not None:
            self._transmit(call, self._remote)
        else:
            self.on_demand()
        return call

    def start_change(
        self, call: Change, answered: Callable[[Reply[Any]], None] | None = None
    ) -> Reply[Any]:
        """As `start`, unless the same thread made the same call before and was interrupted.
        `answered` is called with the reply, once, however many calls are joined in it.

        A task that has been cancelled, and does not know yet, sends nothing any more: its next
        await ends it.
        """
        if trio.current_effective_deadline() == -math.inf:
            return call
        asking = call.caller
        orphan = None
        if asking is not None and self.orphans:
            orphan = self.orphans.take(asking.tid, call.method, call.words)
        if orphan is None or asking is None:
            reply = self.start(call)
            if answered is not None:
                reply.add_callback(answered)
            return reply
        if orphan.finished_at is None:
            orphan.is_abandoned, orphan.caller = False, asking
            asking.committed = True
            return orphan
        if orphan.opens is None:
            return orphan
        mode, path = orphan.opens  # its handle was closed when it came: it is opened once more
        mode &= ~(OpenMode.CREATE | OpenMode.EXCLUSIVE)
        return self.start(Opening(self, lambda remote: remote.open(path, mode), path, mode))

    def _transmit(self, call: Call, remote: RemoteFS) -> None:
        if not isinstance(call, Transfer) or self.lanes.take(call):
            self._send(call, remote)

    def send_now(self, call: Transfer) -> None:
        """For `Lanes`, which had kept it, or has another session for it."""
        if self._remote is not None and call.serial in self._calls:
            if call.is_abandoned or call.handle.closed:
                self._fail(call, ConnectionLostError("withdrawn"))
            else:
                self._send(call, self._remote)

    def _send(self, call: Call, remote: RemoteFS) -> None:
        call.sent = True
        if call.caller is not None:
            call.caller.committed = True
        if self.on_sent is not None:
            self.on_sent(call.caller or caller.current.get(), call.method)
        if call.doubt is not None:
            call.doubt.since = time.time()
        inner = remote.unhurried(call.send_on) if call.is_unhurried else call.send_on(remote)
        call.inner = inner
        inner.add_callback(call.answered)

    def answered(self, call: Call, inner: Reply[Any]) -> None:
        """The session has a reply to a call, or is lost."""
        if call.inner is not inner or call.serial not in self._calls:
            return
        error = inner.error
        if error is None:
            self._finish(call, inner.result())
        elif isinstance(error, ConnectionLostError):
            self._count_violation(call, error)  # otherwise it stays, for the next session
            if isinstance(call, Transfer):
                self.lanes.unanswered(call)  # or for the first of this one
        elif call.lost and RULES[call.method] is Rule.GONE and is_missing(error):
            self._finish(call, None)
        else:
            self._fail(call, error)

    def _count_violation(self, call: Call, error: ConnectionLostError) -> None:
        if isinstance(error, ProtocolError):
            call.violations += 1
            if call.violations >= _MOST_VIOLATIONS:
                self._fail(call, FilesystemError(errno.EIO, f"{call.method}: {error}"))

    def _finish(self, call: Call, value: Any) -> None:
        """The call succeeded."""
        del self._calls[call.serial]
        if call.opens is not None:
            value = self._opened(call, *call.opens, value)
        call.set_result(value)
        if isinstance(call, Change):
            self._outcome_known(call)
            call.tell_unless_waited_for()

    def _fail(self, call: Call, error: BaseException) -> None:
        del self._calls[call.serial]
        if call.fills is not None:
            self._not_opened(call.fills, error)
        call.set_error(error)
        if isinstance(call, Change):
            self._outcome_known(call)

    def _outcome_known(self, call: Change) -> None:
        call.finished_at = time.monotonic()
        if call.is_abandoned:
            self.orphans.finished(call)

    def _opened(
        self, call: Call, mode: OpenMode, path: bytes, remote: RemoteHandle
    ) -> OpenFileHandle:
        if call.fills is not None:
            return self._filled(call.fills, remote)
        handle = OpenFileHandle(remote, mode, path)
        if not call.is_abandoned:
            self._files[handle] = None
        elif call.method in NOT_TWICE and self._remote is not None:
            self._remote.close(remote)  # the others' the session closes, which was told to
        return handle

    def _filled(self, handle: OpenFileHandle, remote: RemoteHandle) -> OpenFileHandle:
        """A file that programs use already is open now: what was called on it is sent, in order.
        (While a new session is made ready, `resume` does that.)"""
        handle.remote = remote
        self._files[handle] = None
        waiting, handle.waiting = handle.waiting or (), None
        for call in waiting:
            if self._remote is not None and call.serial in self._calls:
                self._transmit(call, self._remote)
        return handle

    def _not_opened(self, handle: OpenFileHandle, error: BaseException) -> None:
        """It was refused: so is everything that was called on it, and will be."""
        if not isinstance(error, FilesystemError):
            raise error
        handle.stale = error
        waiting, handle.waiting = handle.waiting or (), None
        for call in waiting:
            if call.serial in self._calls:
                self._fail(call, error)

    # --- callers who leave --------------------------------------------------------------------

    def abandoned(self, call: Call) -> None:
        """Whoever made the call was interrupted."""
        call.is_abandoned = True
        if call.serial not in self._calls:
            call.set_error(ConnectionLostError("withdrawn"))
        elif not call.sent:
            self._fail(call, ConnectionLostError("withdrawn"))
        elif call.method not in NOT_TWICE:
            if call.inner is not None:
                call.inner.abandon()
            if call.lost:
                self._fail(call, ConnectionLostError("withdrawn"))
        elif isinstance(call, Change) and call.caller is not None and call.caller.tid:
            self.orphans.add(call.caller.tid, call)

    def undecided(self, path: bytes) -> Change | None:
        """A call that changes this path, which the thread that asks now made before, was
        interrupted in, and whose outcome is not known: for this thread it has not happened yet."""
        asking = caller.current.get() if self.orphans else None
        return None if asking is None else self.orphans.undecided(asking.tid, path)

    def hurry(self) -> None:
        """Somebody waits for calls that nobody was to wait for."""
        if self._remote is not None:
            self._remote.hurry()

    def committing(self) -> None:
        """The call that asks now waits for data that was sent: it gets the grace of one that
        changes the server."""
        asking = caller.current.get()
        if asking is not None and self._remote is not None:
            asking.committed = True

    # --- losing and finding the connection ------------------------------------------------------

    @property
    def in_doubt(self) -> bool:
        """Whether the old session may still change something (see `Recovering`)."""
        return any(
            call.lost and (call.method in CHANGES or call.method == "write")
            for call in self._calls.values()
        )

    def lost(self, error: ConnectionLostError) -> None:
        """The session is gone (see `Recovering`)."""
        self._remote = None
        self.on_lost()
        self.losses += 1
        self.lanes.session_lost()
        for handle in self._files:
            handle.remote = None
        for call in list(self._calls.values()):
            if call.sent and call.serial in self._calls:
                self._lose(call, error)

    def _lose(self, call: Call, error: ConnectionLostError) -> None:
        call.inner, call.lost = None, True
        if isinstance(call, Transfer):
            call.lane = None
        rule = RULES[call.method]
        is_closed = call.handle is not None and call.handle.closed
        is_unwanted = call.is_abandoned and call.method not in NOT_TWICE
        if rule is Rule.RESTART and call.violations:  # it would break the protocol once more
            self._fail(call, FilesystemError(errno.EIO, f"{call.method}: {error}"))
        elif rule is Rule.RESTART:
            self._fail(call, StaleHandleError())
        elif rule is Rule.FORGET or is_unwanted or is_closed:
            self._fail(call, error)
            if isinstance(call, Change):
                call.tell_unless_waited_for()

    async def resume(self, remote: RemoteFS) -> None:
        """Go on with this session (see `Recovering`)."""
        losses = self.losses
        self._to_close.clear()
        for handle in self._files:  # what an attempt that failed had opened is closed
            handle.remote = None
        await self._settle(remote)
        await reopen.reopen_all(list(self._files), remote, self.on_reopened)
        if losses != self.losses or self._ended:
            raise ConnectionLostError("lost again")
        # From here on nothing suspends: what is sent next keeps its order.
        self._refused = None
        self._remote = remote
        self._capabilities = remote.capabilities
        self._served = remote.served
        self.lanes.session_up(remote)
        unwanted, self._to_close = self._to_close, []
        for opened in unwanted:
            remote.close(opened)
        for call in list(self._calls.values()):
            if call.serial in self._calls and self._remote is not None:
                self._send_again(call, remote)

    def _send_again(self, call: Call, remote: RemoteFS) -> None:
        handle = call.handle
        if handle is not None and handle.stale is not None:
            self._fail(call, handle.stale)
        elif handle is not None and handle.waiting is not None:
            pass  # its turn comes when the file is open
        elif handle is not None and handle.remote is None:
            self._fail(call, StaleHandleError("closed meanwhile"))
        else:
            self._transmit(call, remote)

    async def _settle(self, remote: RemoteFS) -> None:
        """Find out about each call that must not be repeated blindly, oldest first: a later one
        may rest on an earlier. What programs were told is done are calls on different names
        (`vfs/promises.py`), and may be many: they are looked at together."""
        kept = [call for call in self._calls.values() if call.is_kept]
        await self._settle_together(kept, remote)
        for call in list(self._calls.values()):
            if not call.lost or call.doubt is None or call.serial not in self._calls:
                continue
            if RULES[call.method] is Rule.GONE and not call.is_abandoned:
                continue  # it is repeated; only what nobody waits for must not be any more
            await self._settle_one(call, call.doubt, remote)

    async def _settle_together(self, calls: list[Call], remote: RemoteFS) -> None:
        limiter = trio.CapacityLimiter(_LOOKS_AT_ONCE)
        lost: list[ConnectionLostError] = []

        async def settle(call: Call, doubt: Doubt) -> None:
            async with limiter:
                try:
                    if not lost and call.serial in self._calls:
                        await self._settle_one(call, doubt, remote)
                except ConnectionLostError as error:
                    lost.append(error)

        async with trio.open_nursery() as nursery:
            for call in calls:
                if call.lost and call.doubt is not None and RULES[call.method] is Rule.LOOK:
                    nursery.start_soon(settle, call, call.doubt)
        if lost:
            raise lost[0]

    async def _settle_one(self, call: Call, doubt: Doubt, remote: RemoteFS) -> None:
        try:
            done = await doubt.settle(remote)
        except ConnectionLostError:
            raise
        except FilesystemError as error:
            log.warning("%s %s: %s", call.method, shown(call), error)
            self._settled(call, error)
        else:
            if done is not None and done.handle is not None and self._is_left(call):
                remote.close(done.handle)
            self._settled(call, done)

    def _is_left(self, call: Call) -> bool:
        return call.is_abandoned or call.serial not in self._calls

    def _settled(self, call: Call, outcome: Done | FilesystemError | None) -> None:
        if call.serial not in self._calls:
            pass  # withdrawn meanwhile
        elif isinstance(outcome, FilesystemError):
            self._fail(call, outcome)
            if isinstance(call, Change):
                call.tell_unless_waited_for()
        elif outcome is not None:
            self._finish(call, outcome.handle)
        elif call.is_abandoned:
            self._fail(call, ConnectionLostError("not carried out"))
        else:
            call.sent = call.lost = False  # as if it had never been sent

    def given_up(self, error: ConnectionLostError) -> None:
        """No session will come by itself (see `Recovering`): calls fail, but what was written is
        kept, in case one comes after all."""
        self._refused = error
        self.on_given_up(error)
        for call in list(self._calls.values()):
            if not call.is_kept and call.serial in self._calls:
                self._fail(call, error)

    def end(self, error: ConnectionLostError) -> None:
        """The mount ends: everything that is left fails, what was written included."""
        self._refused, self._ended = error, True
        self._remote = None
        self.on_given_up(error)  # first: what fails makes room, which nobody must take any more
        for call in list(self._calls.values()):
            if call.serial in self._calls:
                self._fail(call, error)

    def check(self) -> None:
        """Raises the reason when no server can be hoped for."""
        if self._refused is not None:
            raise self._refused.with_traceback(None)
