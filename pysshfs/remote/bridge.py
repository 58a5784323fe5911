"""asyncio inside trio: the loop that asyncssh needs, stepped by one trio task of the same thread.

Contract
- trio owns the thread. `Bridge.run` is the only task that runs asyncio's loop, one iteration at a
  time and never blocking in it: between iterations it waits, through trio, for the loop's epoll
  descriptor, for the next asyncio timer, or for `_wake`. No thread is involved.
- Connections are read by tasks of their own in `run`'s nursery (`remote/stream.py`).
- asyncio code (asyncssh's callbacks, our session's `data_received`) therefore runs inside one of
  these tasks, never nested in another step, and may call synchronous trio functions such as
  `trio.lowlevel.reschedule`. It must not raise out of a callback.
- What is written to sockets is gathered and sent when trio has run every task that can run, right
  before it waits (`_BeforeWaiting`): many requests, and what asyncssh adds to each, are one system
  call here and one wake-up of the server.
- Any trio task may call asyncssh's synchronous methods (a channel's `write`) directly; what these
  schedule on the loop wakes the stepping task. Coroutines of asyncssh go through `call`.
- Cancelling `call` cancels the asyncio task and waits until it has ended: nothing it started goes
  on behind the caller's back. Requests on an open SFTP session do not pass here at all
  (`remote/session.py`), so their cancellation is exact and immediate.

Only documented asyncio API is used: a selector of our own, `call_soon`, `call_at`, `run_forever`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import selectors
from collections.abc import Coroutine
from concurrent.futures.thread import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack

import trio

from pysshfs.remote.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextvars import Context

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


# Seconds. Long enough that a program which goes on sends more meanwhile.
_A_WHILE: Final = 0.005


def _nothing() -> None:
    pass


class _SteppedLoop(asyncio.SelectorEventLoop):
    """A selector loop that says when it has something to do, and puts `Stream`s under protocols."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        wake: Callable[[], None],
        on_stream: Callable[[Stream], None],
    ) -> None:
        # Set before the base class runs: its constructor may schedule.
        self._stepping = False
        self.ready = False
        self._timer_heap: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timer_serial = 0
        self._wake_trio = wake
        self._on_stream = on_stream
        self.unsent: list[Stream] = []
        super().__init__(selector)

    async def create_connection(  # type: ignore[override]  # the overloads add nothing here
        self, protocol_factory: Callable[[], asyncio.Protocol], *args: Any, **kwargs: Any
    ) -> tuple[asyncio.BaseTransport, asyncio.Protocol]:
        def stream() -> Stream:
            return Stream(protocol_factory(), self._has_unsent, self._on_stream)

        transport, made = await super().create_connection(stream, *args, **kwargs)
        return transport, made.protocol

    def _has_unsent(self, stream: Stream) -> None:
        self.unsent.append(stream)

    def send_gathered(self) -> None:
        unsent, self.unsent = self.unsent, []
        for stream in unsent:
            stream.send()

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        self.ready = True
        if not self._stepping:
            self._wake_trio()
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        # The byte that wakes the loop may be read together with an earlier one, in the iteration
        # that is under way and does not run this any more; so one more byte behind the flag.
        self.ready = True
        with contextlib.suppress(RuntimeError):  # what it was for has run, and the loop is closed
            super().call_soon_threadsafe(_nothing)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        self._timer_serial += 1
        heapq.heappush(self._timer_heap, (when, self._timer_serial, handle))
        if not self._stepping and self._timer_heap[0][2] is handle:
            self._wake_trio()
        return handle

    def seconds_to_next_timer(self) -> float | None:
        """None without a timer; 0 or less when one is due."""
        heap = self._timer_heap
        while heap and heap[0][2].cancelled():
            heapq.heappop(heap)
        return heap[0][0] - self.time() if heap else None

    def step(self) -> None:
        """One iteration: what is readable, writable, due or ready; never waits."""
        now = self.time()
        while self._timer_heap and self._timer_heap[0][0] <= now:
            heapq.heappop(self._timer_heap)  # this iteration runs it
        self._stepping = True
        try:
            self.call_soon(self.stop)
            self.ready = False  # from here on, only what this iteration adds counts
            self.run_forever()
        finally:
            self._stepping = False


class _BeforeWaiting(trio.abc.Instrument):
    """Has the bridge send what was gathered, each time that trio has nothing to run."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush

    def before_io_wait(self, timeout: float) -> None:
        self._flush()


def _new_threads(loop: asyncio.AbstractEventLoop) -> ThreadPoolExecutor:
    """None is started before it is needed."""
    threads = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(threads)
    return threads


class Bridge:
    """Owns the asyncio loop. Made and used in the trio thread."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self._waiting: trio.CancelScope | None = None
        self._due: list[Callable[[], bool]] = []
        self._was_woken = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None  # of those that receive
        self.loop = _SteppedLoop(self._selector, self._wake, self._receive)
        self._threads = _new_threads(self.loop)

    def before_waiting(self, write: Callable[[], bool]) -> None:
        """Call `write` once, when every task that can run has run, and send what it writes. It must
        not raise, and returns whether it has woken tasks."""
        self._due.append(write)

    def in_a_while(self, write: Callable[[], bool]) -> None:
        """The same, but not before `_A_WHILE` has passed."""
        if not self.loop.is_closed():
            self.loop.call_later(_A_WHILE, self.before_waiting, write)

    def end_threads(self) -> None:
        """End the threads that asyncio has for what blocks (names that are looked up, keys that are
        read). Later ones are new, and have the rights that this thread has then."""
        ended, self._threads = self._threads, _new_threads(self.loop)
        ended.shutdown()

    def _flush(self) -> None:
        """Runs where trio has computed already how long it is going to wait."""
        if not self._due and not self.loop.unsent:
            return
        self._was_woken = False
        due, self._due = self._due, []
        for write in due:
            self._was_woken |= write()
        self.loop.send_gathered()
        if self._was_woken and self._token is not None:
            self._token.run_sync_soon(_nothing)  # so it must not wait

    def _receive(self, stream: Stream) -> None:
        assert self._nursery is not None  # connections are made by the loop, which `run` steps
        self._nursery.start_soon(stream.receive, self.loop)

    def _wake(self) -> None:
        if self._waiting is not None:
            self._was_woken = True
            self._waiting.cancel()

    @trio.lowlevel.enable_ki_protection
    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Step the loop until cancelled, then end what still runs in it and close it. Ctrl-C ends
        the main task, never a callback of asyncio's in the middle of its work."""
        self._token = trio.lowlevel.current_trio_token()
        instrument = _BeforeWaiting(self._flush)
        trio.lowlevel.add_instrument(instrument)
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    if self.loop.ready:
                        await trio.lowlevel.checkpoint()  # busy, but others get their turn
                    else:
                        await self._wait()
                    self.loop.step()
        finally:
            trio.lowlevel.remove_instrument(instrument)
            self._flush()
            self._close()

    async def _wait(self) -> None:
        timeout = self.loop.seconds_to_next_timer()
        deadline = float("inf") if timeout is None else trio.current_time() + max(timeout, 0)
        with trio.CancelScope(deadline=deadline) as self._waiting:
            try:
                await trio.lowlevel.wait_readable(self._selector.fileno())
            finally:
                self._waiting = None

    def _close(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        # A cancelled task may await its own clean-up; what needs the network gets no more of it.
        for _ in range(64):
            if not self.loop.ready and not asyncio.all_tasks(self.loop):
                break
            self.loop.step()
            self.loop.send_gathered()
        self.loop.close()

    async def call(self, awaitable: Awaitable[T]) -> T:
        """Await something of asyncio's to its end: return its result, or raise its exception."""

        async def awaited() -> T:  # asyncssh's calls give awaitables that are no coroutines
            return await awaitable

        task = self.loop.create_task(awaited())
        caller = trio.lowlevel.current_task()
        raise_cancel: Callable[[], None] | None = None

        def finished(_: asyncio.Task[T]) -> None:
            trio.lowlevel.reschedule(caller)

        def abort(raise_cancelled: Callable[[], None]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = raise_cancelled
            task.cancel()
            return trio.lowlevel.Abort.FAILED  # `finished` still comes

        task.add_done_callback(finished)
        await trio.lowlevel.wait_task_rescheduled(abort)
        if isinstance(awaitable, Coroutine):
            awaitable.close()  # cancelled before it began, it would complain of that
        if task.cancelled() and raise_cancel is not None:
            raise_cancel()
        return task.result()
