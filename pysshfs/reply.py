"""`Reply`: the answer that a request sent to the server will have.

Requests are sent by an ordinary call, which returns a `Reply` at once; so several are put on the
wire back to back and awaited afterwards, and a reply can be taken by a callback with no task
waiting at all. All of it happens in the trio thread: a reply is resolved by the code that reads
the connection, in whatever task that runs, and nothing here suspends except `wait`.

Cancellation: `await reply` belongs to one caller and *abandons* the request when cancelled (the
sender decides what that means: a read is forgotten, a late handle is closed on the server).
`await reply.wait()` only stops waiting; the reply stays valid, for others and for later.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

T = TypeVar("T")

_PENDING = object()


class Reply(Generic[T]):
    """A value that arrives once, or an exception in its place."""

    __slots__ = ("_callbacks", "_error", "_on_abandon", "_value", "_waiters")

    def __init__(self, on_abandon: Callable[[], None] | None = None) -> None:
        self._value: object = _PENDING
        self._error: BaseException | None = None
        self._waiters: list[trio.lowlevel.Task] = []
        self._callbacks: list[Callable[[Reply[T]], None]] = []
        self._on_abandon = on_abandon

    @classmethod
    def of(cls, value: T) -> Reply[T]:
        """A reply that is there already."""
        reply = cls()
        reply.set_result(value)
        return reply

    @classmethod
    def failed(cls, error: BaseException) -> Reply[T]:
        """A reply that failed already."""
        reply = cls()
        reply.set_error(error)
        return reply

    @property
    def done(self) -> bool:
        return self._value is not _PENDING or self._error is not None

    def set_result(self, value: T) -> None:
        """Resolve. A reply that is done keeps its first outcome."""
        if not self.done:
            self._value = value
            self._wake()

    def set_error(self, error: BaseException) -> None:
        """Resolve with an exception. A reply that is done keeps its first outcome."""
        if not self.done:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        self._on_abandon = None
        waiters, self._waiters = self._waiters, []
        for task in waiters:
            trio.lowlevel.reschedule(task)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def result(self) -> T:
        """The value of a reply that is done; raises its error."""
        if self._error is not None:
            # Several tasks may take the same error: each gets it without the others' traceback.
            raise self._error.with_traceback(None)
        if self._value is _PENDING:
            raise RuntimeError("the reply has not arrived")
        return cast("T", self._value)

    @property
    def error(self) -> BaseException | None:
        return self._error

    def add_callback(self, callback: Callable[[Reply[T]], None]) -> None:
        """Call `callback(reply)` when resolved, at once if it is. It must not raise."""
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def abandon(self) -> None:
        """Its owner does not want the answer any more. Whoever else waits still gets it."""
        on_abandon, self._on_abandon = self._on_abandon, None
        if on_abandon is not None and not self.done:
            on_abandon()

    async def wait(self) -> T:
        """The value, waiting for it; cancelling the wait leaves the request alone."""
        return await self._wait(abandons=False)

    async def _wait(self, abandons: bool) -> T:
        if not self.done:
            task = trio.lowlevel.current_task()
            self._waiters.append(task)

            def abort(_: Any) -> trio.lowlevel.Abort:
                self._waiters.remove(task)
                if abandons:
                    # Now, not when the task comes to know: the answer may arrive in between.
                    self.abandon()
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        return self.result()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._wait(abandons=True).__await__()


@contextmanager
def unless_interrupted(wanted_next: Reply[Any]) -> Iterator[None]:
    """While another reply is waited for: whoever is cancelled there does not want this one."""
    try:
        yield
    except trio.Cancelled:
        wanted_next.abandon()
        raise
