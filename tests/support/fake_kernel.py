"""`FakeKernel`: in place of the kernel, says which requests come, and what their threads were sent.

`Serving` has the tasks of a mount as far as requests are concerned, on a virtual clock; its `call`
starts a request, whose handler is made by `question` or `change`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from pysshfs.fuse import requests, signals
from pysshfs.fuse.binding import pyfuse3
from pysshfs.fuse.signals import Pending
from pysshfs.vfs import caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OWNER: Final = 1000
OTHER: Final = 1001
GRACE: Final = 2.0  # seconds
TID: Final = 1234


class FakeKernel:
    """What the modules below would hear from the kernel and the connection, and the requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.serial = 0
        self.operation, self.tid, self.uid = "open", TID, OWNER
        self.signal = Pending.NONE
        self.exiting = False
        self.silent_since: float | None = None
        self.looks = 0
        self.seconds_per_look = 0.0
        self.limit = 0.0
        monkeypatch.setattr(requests, "_session", self)
        monkeypatch.setattr(requests, "_kernel_request_limit", lambda: self.limit)
        monkeypatch.setattr(time, "monotonic", lambda: self.looks * self.seconds_per_look)
        monkeypatch.setattr(signals, "pending", self._pending)
        monkeypatch.setattr(signals, "is_exiting", self._is_exiting)

    def serving(self, timeout: float = 0.0, others_timeout: float = 60.0) -> requests.Requests:
        policy = requests.Policy(OWNER, GRACE, timeout, others_timeout, self._silence)
        return requests.Requests(policy)

    def current(self) -> tuple[int, str, int, int, int, int]:
        self.serial += 1
        return (self.serial, self.operation, 42, 0, self.tid, self.uid)

    def _pending(self, tid: int) -> Pending:
        assert tid == self.tid
        self.looks += 1
        return self.signal

    def _is_exiting(self, tid: int) -> bool:
        assert tid == self.tid
        self.looks += 1
        return self.exiting

    def _silence(self) -> float:
        return 0.0 if self.silent_since is None else trio.current_time() - self.silent_since


class Call:
    """A request that is served in a task of its own, beside the watch."""

    def __init__(self, served: requests.Requests, handler: Callable[[], Awaitable[object]]) -> None:
        self._guarded = served.guard(handler)
        self.began = trio.current_time()
        self.took: float | None = None  # None: it has not ended
        self.errno: int | None = None  # 0: it succeeded

    async def run(self) -> None:
        try:
            await self._guarded()
            self.errno = 0
        except pyfuse3.FUSEError as error:
            self.errno = int(error.errno)
        self.took = trio.current_time() - self.began

    def has_ended(self, number: int, took: float, margin: float = 1e-6) -> bool:
        return self.errno == number and self.took == pytest.approx(took, abs=margin)


class Serving:
    """The tasks of a mount; `call` returns once the handler has run as far as it can."""

    def __init__(self, served: requests.Requests, nursery: trio.Nursery) -> None:
        self.served = served
        self._nursery = nursery
        nursery.start_soon(served.watch)

    async def call(self, handler: Callable[[], Awaitable[object]]) -> Call:
        call = Call(self.served, handler)
        self._nursery.start_soon(call.run)
        await trio.testing.wait_all_tasks_blocked()
        return call

    async def calls(self, count: int) -> list[Call]:
        return [await self.call(trio.sleep_forever) for _ in range(count)]


def question(seconds: float) -> Callable[[], Awaitable[None]]:
    """A handler that changes nothing, and has its answer so much later."""

    async def handler() -> None:
        await trio.sleep(seconds)

    return handler


def change(seconds: float = float("inf")) -> Callable[[], Awaitable[None]]:
    """A handler that has asked the server for a change, and gets the answer so much later."""

    async def handler() -> None:
        sender = caller.current.get()
        assert sender is not None
        sender.committed = True
        await trio.sleep(seconds)

    return handler


def in_a_mount(
    test: Callable[[FakeKernel, Serving], Awaitable[None]],
) -> Callable[[FakeKernel], Awaitable[None]]:
    async def running(kernel: FakeKernel) -> None:
        async with trio.open_nursery() as nursery:
            await test(kernel, Serving(kernel.serving(), nursery))
            nursery.cancel_scope.cancel()

    running.__name__ = getattr(test, "__name__", "test")
    running.__doc__ = test.__doc__
    return running
