"""The requests being served: interrupts, time limits, and the guard around every operation.

`Requests.guard` wraps each handler. It binds the kernel's request to a trio `CancelScope`, turns
exceptions into errno by the one table (`errors.errno_of`) and lets nothing else through: pyfuse3
would end the mount on any other exception.

State: the table of requests being served, by serial. Touched by the handlers' tasks and by
`interrupted`, which libfuse calls while it reads an INTERRUPT: in the same thread, between awaits,
with a lock of its own held; it decides and cancels, it never replies.

An INTERRUPT for a signal that no call should be abandoned for (SIGWINCH, SIGALRM, SIGCHLD) does
nothing; but the kernel sends one INTERRUPT per request and no more, so that thread's signals are
looked at again every 100 ms until the reply (`watch`).
"""

from __future__ import annotations

import errno
import functools
import logging
import time
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import trio

from pysshfs.errors import errno_of
from pysshfs.fuse.binding import _session, pyfuse3
from pysshfs.fuse.signals import thread_wants_to_stop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)
trace = logging.getLogger("pysshfs.trace")

_WATCH_INTERVAL: Final = 0.1  # seconds
_REQUEST_TIMEOUTS: Final = (
    "/proc/sys/fs/fuse/default_request_timeout",
    "/proc/sys/fs/fuse/max_request_timeout",
)


class Request:
    """One kernel request while it is served."""

    __slots__ = (
        "inode",
        "interrupted",
        "operation",
        "scope",
        "serial",
        "started",
        "tid",
        "uid",
    )

    def __init__(self, current: tuple[int, str, int, int, int, int], deadline: float) -> None:
        self.serial, self.operation, self.inode, _, self.tid, self.uid = current
        self.scope = trio.CancelScope(deadline=deadline)
        self.started = time.monotonic()
        self.interrupted = False


class Requests:
    """All requests being served; one per mount."""

    def __init__(self) -> None:
        self._active: dict[int, Request] = {}
        self._early: set[int] = set()
        self._watched: set[int] = set()
        self._has_watched = trio.Event()
        self._limit = _kernel_request_limit()
        self.served = 0
        self.interrupts_seen = 0
        self.interrupts_honoured = 0

    @property
    def active(self) -> list[Request]:
        return list(self._active.values())

    # --- interrupts -------------------------------------------------------------------------

    def interrupted(self, serial: int) -> None:
        """The kernel sent an INTERRUPT for this request."""
        self.interrupts_seen += 1
        request = self._active.get(serial)
        if request is None:
            self._early.add(serial)  # it was read before its request; `_begin` finds it
        else:
            self._consider(request)

    def _consider(self, request: Request) -> None:
        if thread_wants_to_stop(request.tid):
            self._watched.discard(request.serial)
            self.interrupts_honoured += 1
            request.interrupted = True
            request.scope.cancel()
        else:
            self._watched.add(request.serial)
            self._has_watched.set()

    async def watch(self) -> None:
        """Look again at threads whose INTERRUPT was not acted on. Ends by cancellation."""
        while True:
            if not self._watched:
                self._has_watched = trio.Event()
                await self._has_watched.wait()
            await trio.sleep(_WATCH_INTERVAL)
            for serial in list(self._watched):
                request = self._active.get(serial)
                if request is None:
                    self._watched.discard(serial)
                else:
                    self._consider(request)

    # --- the guard --------------------------------------------------------------------------

    def _begin(self) -> Request:
        deadline = trio.current_time() + self._limit if self._limit else float("inf")
        request = Request(_session.current(), deadline)
        self._active[request.serial] = request
        self.served += 1
        if request.serial in self._early:
            self._early.discard(request.serial)
            self._consider(request)
        return request

    def _end(self, request: Request) -> None:
        del self._active[request.serial]
        self._watched.discard(request.serial)

    def guard(
        self, handler: Callable[P, Awaitable[T]]
    ) -> Callable[P, Awaitable[T]]:
        """The handler, interruptible, with every expected failure as an errno for the kernel."""

        @functools.wraps(handler)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            request = self._begin()  # must be the first statement: see `_session.c`
            result = 0
            try:
                with request.scope:
                    return await handler(*args, **kwargs)
                # Here only if the scope was cancelled: by an interrupt or by the time limit.
                result = errno.EINTR if request.interrupted else errno.ETIMEDOUT
                raise pyfuse3.FUSEError(result)
            except Exception as error:
                result = self._errno(request, error)
                raise pyfuse3.FUSEError(result) from None
            finally:
                self._end(request)
                if trace.isEnabledFor(logging.DEBUG):
                    _trace(request, args, result)

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
                "%s (inode %d) failed unexpectedly", request.operation, request.inode,
                exc_info=error,
            )
            return errno.EIO
        return number


def _trace(request: Request, args: tuple[Any, ...], result: int) -> None:
    taken = (time.monotonic() - request.started) * 1000
    outcome = errno.errorcode.get(result, str(result)) if result else "ok"
    shown = ", ".join(_shown(arg) for arg in args)
    trace.debug(
        "%d %s inode=%d pid=%d (%s) %.2f ms %s",
        request.serial, request.operation, request.inode, request.tid, shown, taken, outcome,
    )


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return repr(value) if len(value) <= 64 else f"<{len(value)} bytes>"
    return str(value) if isinstance(value, int) else type(value).__name__


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
