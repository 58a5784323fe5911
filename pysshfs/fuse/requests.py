"""The requests being served: interrupts, time limits, and the guard around every operation.

`Requests.guard` wraps each handler. It binds the kernel's request to a trio `CancelScope`, makes it
the current caller (`vfs/caller.py`), turns exceptions into errno by the one table
(`errors.errno_of`) and lets nothing else through: pyfuse3 would end the mount on any other
exception.

State: the table of requests being served, by serial. Touched by the handlers' tasks, by `watch`,
and by `interrupted`, which libfuse calls while it reads an INTERRUPT: in the same thread, between
awaits, with a lock of its own held; it decides and cancels, it never replies.

When an INTERRUPT comes, what is pending for the thread decides (`fuse/signals.py`). For a signal
that ends the process the request ends at once. For one that asks a program to stop it does, too,
unless something that changes the server was sent: then the answer, which tells whether it happened,
is waited for a little longer (`Policy.interrupt_grace`). Any other signal ends it only while the
server does not answer.

The kernel sends one INTERRUPT per request and no more, and none for a process that is exiting. So
threads that were interrupted are looked at again every 100 ms until the reply, and the sender of a
FLUSH that takes long is looked at once (`watch`). Changes in one directory, or of one file, wait
for one another in the kernel, where no signal reaches them. So for a while after an interrupt, who
comes with a change is looked at before it is begun: else each would have a grace of its own.
"""

from __future__ import annotations

import errno
import functools
import logging
import math
import os
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, TypeVar

import trio

from pysshfs.errors import errno_of
from pysshfs.fuse import deadlock, signals
from pysshfs.fuse.binding import _session, pyfuse3
from pysshfs.fuse.signals import Pending
from pysshfs.fuse.tracing import Tracing
from pysshfs.vfs import caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

# Seconds between two looks: at threads that are watched, and at all requests for those to watch.
_WATCH_INTERVAL: Final = 0.1
_LOOK_INTERVAL: Final = 0.5
_LARGEST_SHARE: Final = 0.2  # of the time that looking may take
_LONG_FLUSH: Final = 0.1  # seconds; most closes are done by then and never looked at
_LATE_FLUSHES: Final = 60.0  # seconds for which it is remembered that a process exits
_FOLLOWERS: Final = 1.0  # seconds after an ended call in which those behind it arrive
_SERIALIZED: Final = frozenset([
    "create", "mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "setattr", "write",
    "fsync", "copy_file_range",
])  # fmt: skip
_REQUEST_TIMEOUTS: Final = (
    "/proc/sys/fs/fuse/default_request_timeout",
    "/proc/sys/fs/fuse/max_request_timeout",
)


class Policy(NamedTuple):
    """How long calls wait. Times in seconds."""

    owner: int = os.getuid()  # the user whose mount it is
    interrupt_grace: float = 2.0  # for the answer, after an interrupt, to what changes the server
    timeout: float = 0.0  # for a server that does not answer, then ETIMEDOUT; 0: for ever
    others_timeout: float = 60.0  # the longest call of another user, then ETIMEDOUT; 0: any
    silence: Callable[[], float] = lambda: 0.0  # since the connection stopped answering; 0: it does
    may_be_here: Callable[[], bool] = lambda: False  # whether the server may be this machine


class Request(caller.Caller):
    """One kernel request while it is served."""

    __slots__ = (
        "args",
        "began",
        "deadlocked",
        "inode",
        "interrupted",
        "is_close",
        "operation",
        "scope",
        "serial",
        "started",
        "uid",
    )

    def __init__(
        self,
        current: tuple[int, str, int, int, int, int],
        args: tuple[Any, ...] = (),
        limit: float = math.inf,
    ) -> None:
        """`args` are the handler's; it gives up after `limit` seconds."""
        self.args = args
        self.serial, self.operation, self.inode, _, tid, self.uid = current
        super().__init__(tid)
        self.began = trio.current_time()
        self.scope = trio.CancelScope(deadline=self.began + limit)
        self.started = time.monotonic()
        self.interrupted = False  # if the scope is cancelled, it is for that: EINTR
        self.deadlocked = False  # if the scope is cancelled, it is for that: EDEADLK
        self.is_close = self.operation == "flush"  # and its sender has not been looked at

    def end_by(self, when: float) -> None:
        """Give up then (trio's clock), if not before."""
        self.scope.deadline = min(self.scope.deadline, when)

    def why_ended(self) -> int:
        """The errno when the scope was cancelled: by an interrupt, by `_look` or by a limit."""
        if self.deadlocked:
            return errno.EDEADLK
        return errno.EINTR if self.interrupted else errno.ETIMEDOUT


class Requests:
    """All requests being served; one per mount."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._limit = _kernel_request_limit() or math.inf
        self._others_limit = min(policy.others_timeout or math.inf, self._limit)
        self._active: dict[int, Request] = {}
        self._early = 0
        self._followers_until = -math.inf
        self._deadlock = deadlock.Deadlock(policy.may_be_here)
        self._exiting: dict[int, float] = {}  # thread to when it stops to wait
        self._watched: set[int] = set()
        self._has_active = trio.Event()
        self._has_watched = trio.Event()
        self.tracing = Tracing()
        self.last_answer = -math.inf  # of the guard's; trio's clock
        # Called at each look, while something is being served.
        self.on_look: Callable[[], None] = lambda: None
        self.served = 0
        self.answered_at_once = 0  # of these, by `fuse/quick.py`
        self.interrupts_seen = 0
        self.interrupts_honoured = 0
        self.interrupted_in_flight = 0  # were really cut short by it

    @property
    def active(self) -> list[Request]:
        return list(self._active.values())

    def stalled(self) -> float:
        """For how many seconds requests have been waiting while none was answered; 0 for none."""
        oldest = next(iter(self._active.values()), None)
        if oldest is None:
            return 0.0
        return max(trio.current_time() - max(oldest.began, self.last_answer), 0.0)

    # --- interrupts -------------------------------------------------------------------------

    def interrupted(self, serial: int) -> None:
        """The kernel sent an INTERRUPT for this request."""
        self.interrupts_seen += 1
        request = self._active.get(serial)
        if request is not None:
            self._consider(request)
        else:
            # It was read before its request, which is about to begin: libfuse keeps those that
            # belong to none, and calls back when it registers the request.
            self._early = serial

    def _consider(self, request: Request) -> None:
        """Act on what is pending for the thread that was interrupted, and keep an eye on it."""
        pending = signals.pending(request.tid)
        if pending is Pending.HANDLED and self._policy.silence() > 0:
            pending = Pending.STOP
        if pending in (Pending.FATAL, Pending.STOP, Pending.UNKNOWN):
            self._honour(request, now=pending is Pending.FATAL or not request.committed)
        if not request.scope.cancel_called:
            self._watched.add(request.serial)
            self._has_watched.set()

    def _honour(self, request: Request, now: bool) -> None:
        """End the request, now or when its grace is over, which begins with its first interrupt."""
        grace = self._policy.interrupt_grace
        if not request.interrupted:
            request.interrupted = True
            self.interrupts_honoured += 1
            request.end_by(trio.current_time() + grace)
            self._followers_until = trio.current_time() + grace + _FOLLOWERS
        if now:
            request.scope.cancel()

    # --- looking again ------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look again at the threads that wait. Ends by cancellation; sleeps while nobody does."""
        interval = _WATCH_INTERVAL
        while True:
            if not self._active:
                self._has_active = trio.Event()
                await self._has_active.wait()
            if not self._watched:
                self._has_watched = trio.Event()
                with trio.move_on_after(_LOOK_INTERVAL):
                    await self._has_watched.wait()
            if self._watched:
                await trio.sleep(interval)
            began = time.monotonic()
            self._look()
            self.on_look()
            # Of thousands, less often.
            interval = max(_WATCH_INTERVAL, (time.monotonic() - began) / _LARGEST_SHARE)

    def _look(self) -> None:
        policy, now = self._policy, trio.current_time()
        silence = policy.silence()
        for request in self.active:
            age = now - request.began
            if request.serial in self._watched:
                self._consider(request)
            if policy.timeout and min(age, silence) >= policy.timeout:
                request.scope.cancel()
            elif silence and self._deadlock.includes(request.tid, request.operation):
                request.deadlocked = True
                request.scope.cancel()
            elif request.is_close and age >= _LONG_FLUSH:
                self._look_at_close(request)
        if self._exiting:
            oldest = now - _LATE_FLUSHES
            self._exiting = {tid: end for tid, end in self._exiting.items() if end > oldest}

    def _look_at_close(self, request: Request) -> None:
        """A process that exits closes its files one after the other, and no signal, not even
        SIGKILL, ends that wait. It has the grace once for all of them."""
        request.is_close = False  # looked at: no process begins to exit while it closes a file
        if signals.is_exiting(request.tid):
            grace_ends = request.began + self._policy.interrupt_grace
            request.end_by(self._exiting.setdefault(request.tid, grace_ends))

    # --- the guard --------------------------------------------------------------------------

    def _begin(self, args: tuple[Any, ...]) -> Request:
        current = _session.current()
        *_, tid, uid = current
        is_others = uid != self._policy.owner and tid != 0
        request = Request(current, args, self._others_limit if is_others else self._limit)
        if self._deadlock.is_expected(request.tid, request.operation):
            request.deadlocked = True
            request.end_by(request.began + deadlock.PATIENCE)
        if not self._active:
            self._has_active.set()
        self._active[request.serial] = request
        self.served += 1
        caller.current.set(request)
        if request.serial == self._early:
            self._consider(request)
        elif request.operation in _SERIALIZED:
            self._look_at_follower(request)
        elif request.is_close and request.tid in self._exiting:
            self._look_at_close(request)
        return request

    def _look_at_follower(self, request: Request) -> None:
        if request.began < self._followers_until:
            pending = signals.pending(request.tid)
            if pending in (Pending.FATAL, Pending.STOP):
                self._honour(request, now=True)

    def _end(self, request: Request) -> None:
        caller.current.set(None)
        del self._active[request.serial]
        self._watched.discard(request.serial)
        self.last_answer = trio.current_time()

    def guard(self, handler: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """The handler, interruptible, with every expected failure as an errno for the kernel."""

        @functools.wraps(handler)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            request = self._begin(args)  # must be the first statement: see `_session.c`
            result = 0
            if self.tracing.is_on:
                self.tracing.read(request)
            try:
                with request.scope:
                    if not request.scope.cancel_called:  # before it began
                        return await handler(*args, **kwargs)
                # Here only if the scope was cancelled.
                result = request.why_ended()
                self.interrupted_in_flight += request.interrupted and request.scope.cancelled_caught
                raise pyfuse3.FUSEError(result)
            except Exception as error:
                result = self._errno(request, error)
                raise pyfuse3.FUSEError(result) from None
            finally:
                self._end(request)
                if self.tracing.is_on:
                    self.tracing.answered(request, result)

        return guarded

    def _errno(self, request: Request, error: Exception) -> int:
        if isinstance(error, pyfuse3.FUSEError):
            return int(error.errno)
        if isinstance(error, ExceptionGroup):
            # A nursery inside an operation failed: the first expected failure tells.
            for inner in error.exceptions:
                number = errno_of(inner)
                if number is not None:
                    return number
        number = errno_of(error)
        if number is None:
            log.error(
                "%s (inode %d) failed unexpectedly",
                request.operation,
                request.inode,
                exc_info=error,
            )
            return errno.EIO
        return number


def _kernel_request_limit() -> float:
    """Seconds after which a request must be answered; 0 for no limit.

    Where an administrator set fs.fuse.max_request_timeout (or the default one), the kernel aborts
    the whole connection over one request that is slower. Better that one call fails.
    """
    limits = []
    for path in _REQUEST_TIMEOUTS:
        try:
            with open(path) as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):
            continue
    set_limits = [limit for limit in limits if limit > 0]
    return min(set_limits) * 0.8 if set_limits else 0.0
