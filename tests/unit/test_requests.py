"""The guard around every operation: exceptions that become errno, and whose call it is."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import pytest
import trio

from pysshfs.errors import ConnectionLostError, FilesystemError
from pysshfs.fuse import requests
from pysshfs.fuse.binding import pyfuse3
from pysshfs.vfs import caller

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
    return requests.Requests(requests.Policy())


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


async def test_the_end_of_the_daemon_is_no_failure_of_a_call(served: requests.Requests) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await served.guard(trio.sleep_forever)()
    assert scope.cancelled_caught
    assert served.active == []


async def test_the_caller_is_known_while_it_is_served(served: requests.Requests) -> None:
    async def handler() -> caller.Caller | None:
        return caller.current.get()

    known = await served.guard(handler)()
    assert known is not None
    assert (known.tid, known.committed) == (1234, False)
    assert caller.current.get() is None


async def test_each_task_has_the_caller_that_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyfuse3's workers serve many requests side by side and one after the other."""
    tids = iter([11, 12, 13, 14])

    class Session:
        def current(self) -> tuple[int, str, int, int, int, int]:
            tid = next(tids)
            return (tid, "open", 42, 0, tid, 1000)

    monkeypatch.setattr(requests, "_session", Session())
    served = requests.Requests(requests.Policy())
    seen: list[tuple[int, int]] = []

    async def handler() -> None:
        before = caller.current.get()
        await trio.sleep(1)
        after = caller.current.get()
        assert before is not None and after is not None
        seen.append((before.tid, after.tid))

    async def worker() -> None:
        await served.guard(handler)()
        assert caller.current.get() is None
        await served.guard(handler)()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker)
        nursery.start_soon(worker)
    assert sorted(seen) == [(11, 11), (12, 12), (13, 13), (14, 14)]
