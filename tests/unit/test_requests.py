"""The guard around every operation: interrupts, time limits, and exceptions that become errno."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import pytest
import trio

from pysshfs.errors import ConnectionLostError, FilesystemError
from pysshfs.fuse import requests
from pysshfs.fuse.binding import pyfuse3

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SERIAL = 7


class FakeSession:
    """In place of the extension: says which request is being started."""

    def current(self) -> tuple[int, str, int, int, int, int]:
        return (SERIAL, "open", 42, 0, 1234, 1000)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> requests.Requests:
    monkeypatch.setattr(requests, "_session", FakeSession())
    monkeypatch.setattr(requests, "_kernel_request_limit", lambda: 0.0)
    return requests.Requests()


def stopping(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    """What the calling thread's pending signals say."""
    monkeypatch.setattr(requests, "thread_wants_to_stop", lambda tid: answer)


async def errno_from(call: Callable[[], Awaitable[object]]) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await call()
    return int(caught.value.errno)


async def test_a_result_is_handed_on(served: requests.Requests) -> None:
    async def handler(value: int) -> int:
        assert [request.serial for request in served.active] == [SERIAL]
        return value + 1

    assert await served.guard(handler)(4) == 5
    assert served.active == []
    assert served.served == 1


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (FilesystemError(errno.ENOTEMPTY), errno.ENOTEMPTY),
        (ConnectionLostError(), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (ExceptionGroup("nursery", [FilesystemError(errno.ESTALE)]), errno.ESTALE),
        (pyfuse3.FUSEError(errno.EROFS), errno.EROFS),
    ],
)
async def test_expected_failures_become_errno_without_a_word(
    served: requests.Requests,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    number: int,
) -> None:
    async def handler() -> None:
        raise error

    assert await errno_from(served.guard(handler)) == number
    assert not caplog.records
    assert served.active == []


async def test_anything_else_is_eio_with_a_traceback(
    served: requests.Requests, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler() -> None:
        raise ZeroDivisionError("a mistake of ours")

    assert await errno_from(served.guard(handler)) == errno.EIO
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


async def test_an_interrupt_ends_the_call(
    served: requests.Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping(monkeypatch, True)

    async def handler() -> None:
        served.interrupted(SERIAL)
        await trio.sleep_forever()

    assert await errno_from(served.guard(handler)) == errno.EINTR
    assert (served.interrupts_seen, served.interrupts_honoured) == (1, 1)


async def test_an_interrupt_read_before_its_request_is_honoured(
    served: requests.Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping(monkeypatch, True)
    served.interrupted(SERIAL)
    assert await errno_from(served.guard(trio.sleep_forever)) == errno.EINTR


async def test_a_call_that_is_done_all_the_same_keeps_its_result(
    served: requests.Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping(monkeypatch, True)

    async def handler() -> str:
        served.interrupted(SERIAL)
        return "done"

    assert await served.guard(handler)() == "done"


async def test_a_signal_of_no_consequence_waits_and_a_later_one_does_not(
    served: requests.Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sends one INTERRUPT per request: the thread has to be looked at again."""
    stopping(monkeypatch, False)
    outcome: list[int] = []

    async def handler() -> None:
        served.interrupted(SERIAL)
        await trio.sleep_forever()

    async def call() -> None:
        outcome.append(await errno_from(served.guard(handler)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.watch)
        nursery.start_soon(call)
        await trio.sleep(5)
        assert outcome == []
        stopping(monkeypatch, True)
        await trio.sleep(0.2)
        assert outcome == [errno.EINTR]
        nursery.cancel_scope.cancel()


async def test_where_the_kernel_limits_requests_one_call_fails_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """fs.fuse.max_request_timeout would end the whole mount."""
    monkeypatch.setattr(requests, "_session", FakeSession())
    monkeypatch.setattr(requests, "_kernel_request_limit", lambda: 16.0)
    began = trio.current_time()
    assert await errno_from(requests.Requests().guard(trio.sleep_forever)) == errno.ETIMEDOUT
    assert trio.current_time() - began == pytest.approx(16)


async def test_the_end_of_the_daemon_is_no_failure_of_a_call(served: requests.Requests) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await served.guard(trio.sleep_forever)()
    assert scope.cancelled_caught
    assert served.active == []
