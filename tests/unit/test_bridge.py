"""The bridge: asyncio's loop inside trio, on real descriptors and the real clock."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
import trio.testing

from pysshfs.remote.bridge import Bridge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


def bridged(body: Callable[[Bridge], Awaitable[T]], limit: float = 10) -> T:
    """Run `body` beside a bridge, which is ended after it."""

    async def main() -> T:
        bridge = Bridge()
        async with trio.open_nursery() as nursery:
            await nursery.start(bridge.run)
            with trio.fail_after(limit):
                result = await body(bridge)
            nursery.cancel_scope.cancel()
        assert bridge.loop.is_closed()
        return result

    return trio.run(main, strict_exception_groups=True)


def only(group: BaseException) -> BaseException:
    """The one exception in a group."""
    while isinstance(group, BaseExceptionGroup):
        (group,) = group.exceptions
    return group


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


# --- calls --------------------------------------------------------------------------------------


def test_a_call_returns() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert bridged(lambda bridge: bridge.call(answer())) == 42


def test_a_call_raises() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("reason")

    async def body(bridge: Bridge) -> None:
        with pytest.raises(KeyError, match="reason"):
            await bridge.call(fail())

    bridged(body)


def test_a_call_takes_what_is_no_coroutine() -> None:
    async def body(bridge: Bridge) -> str:
        future: asyncio.Future[str] = bridge.loop.create_future()
        bridge.loop.call_later(0.01, future.set_result, "done")
        return await bridge.call(future)

    assert bridged(body) == "done"


def test_many_calls_run_at_the_same_time() -> None:
    running = most = 0
    gate: asyncio.Event | None = None

    async def one(number: int) -> int:
        nonlocal running, most, gate
        running += 1
        most = max(most, running)
        if gate is None:
            gate = asyncio.Event()
        if running == 500:
            gate.set()
        await gate.wait()
        running -= 1
        return number

    async def body(bridge: Bridge) -> None:
        results: list[int] = []

        async def call(number: int) -> None:
            results.append(await bridge.call(one(number)))

        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(call, number)
        assert sorted(results) == list(range(500))

    bridged(body)
    assert most == 500


# --- cancellation -------------------------------------------------------------------------------


def test_a_call_that_is_cancelled_before_it_begins_leaves_nothing_behind() -> None:
    began = False

    async def never() -> None:
        nonlocal began
        began = True

    async def body(bridge: Bridge) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await bridge.call(never())
        assert scope.cancelled_caught

    bridged(body)
    gc.collect()  # a coroutine that was never awaited would be a warning, and so an error
    assert not began


def test_cancelling_waits_for_the_end_of_the_task() -> None:
    events: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            events.append("cancelled")
            await asyncio.sleep(0.05)
            events.append("cleaned up")

    async def body(bridge: Bridge) -> None:
        with trio.move_on_after(0.02) as scope:
            await bridge.call(slow())
        events.append("returned")
        assert scope.cancelled_caught

    bridged(body)
    assert events == ["cancelled", "cleaned up", "returned"]


def test_a_task_that_ends_all_the_same_has_its_result() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "finished"
        return "not cancelled"

    async def body(bridge: Bridge) -> str:
        with trio.move_on_after(0.02):
            return await bridge.call(stubborn())
        return "lost"

    assert bridged(body) == "finished"


def test_a_task_that_fails_while_cancelled_raises() -> None:
    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise OSError("broken") from None

    async def body(bridge: Bridge) -> None:
        with trio.move_on_after(0.02), pytest.raises(OSError, match="broken"):
            await bridge.call(failing())

    bridged(body)


def test_the_end_of_the_bridge_ends_what_still_runs() -> None:
    events: list[str] = []

    async def left_behind() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            events.append("ended")

    async def body(bridge: Bridge) -> None:
        bridge.loop.create_task(left_behind())
        await bridge.call(asyncio.sleep(0.01))

    bridged(body)
    gc.collect()
    assert events == ["ended"]


def test_a_failure_elsewhere_does_not_leave_a_caller_waiting() -> None:
    async def main() -> None:
        bridge = Bridge()
        async with trio.open_nursery() as nursery:
            await nursery.start(bridge.run)
            nursery.start_soon(bridge.call, asyncio.sleep(60))
            await trio.sleep(0.01)
            raise LookupError

    with pytest.raises(BaseExceptionGroup) as raised:
        trio.run(main, strict_exception_groups=True)
    assert isinstance(only(raised.value), LookupError)


# --- waking -------------------------------------------------------------------------------------


def test_timers_fire_in_time_and_in_order() -> None:
    fired: list[str] = []

    async def body(bridge: Bridge) -> None:
        started = time.monotonic()
        bridge.loop.call_later(0.06, fired.append, "third")
        bridge.loop.call_later(0.02, fired.append, "first")
        cancelled = bridge.loop.call_later(0.03, fired.append, "never")
        bridge.loop.call_later(0.04, fired.append, "second")
        cancelled.cancel()
        await bridge.call(asyncio.sleep(0.08))
        assert 0.08 <= time.monotonic() - started < 2

    bridged(body)
    assert fired == ["first", "second", "third"]


def test_an_earlier_timer_wakes_a_bridge_that_waits_for_a_later() -> None:
    async def body(bridge: Bridge) -> None:
        bridge.loop.call_later(60, lambda: None)
        await trio.sleep(0.01)  # it waits for that one now
        woken = trio.Event()
        bridge.loop.call_later(0.01, woken.set)
        with trio.fail_after(2):
            await woken.wait()

    bridged(body)


def test_work_from_a_trio_task_wakes_the_bridge() -> None:
    async def body(bridge: Bridge) -> None:
        for _ in range(3):
            await trio.sleep(0.01)  # it has nothing to do and waits
            woken = trio.Event()
            bridge.loop.call_soon(woken.set)
            with trio.fail_after(2):
                await woken.wait()

    bridged(body)


def test_work_from_another_thread_wakes_the_bridge() -> None:
    async def body(bridge: Bridge) -> None:
        woken = trio.Event()
        await trio.sleep(0.01)
        thread = threading.Thread(target=bridge.loop.call_soon_threadsafe, args=(woken.set,))
        thread.start()
        with trio.fail_after(2):
            await woken.wait()
        thread.join()

    bridged(body)


def test_work_that_the_loop_gives_itself_as_a_thread_would() -> None:
    """asyncio does so for a program that has ended: the byte that announces it may be read in the
    very iteration that wrote it."""

    async def body(bridge: Bridge) -> None:
        woken = trio.Event()
        loop = bridge.loop
        loop.call_soon_threadsafe(lambda: loop.call_soon_threadsafe(woken.set))
        with trio.fail_after(2):
            await woken.wait()

    bridged(body)


def test_a_busy_loop_leaves_trio_its_turns() -> None:
    async def busy() -> int:
        steps = 0
        while not stop:
            steps += 1
            await asyncio.sleep(0)
        return steps

    stop = False

    async def body(bridge: Bridge) -> int:
        nonlocal stop
        turns = 0
        steps = 0

        async def call() -> None:
            nonlocal steps
            steps = await bridge.call(busy())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            for _ in range(100):
                await trio.lowlevel.checkpoint()
                turns += 1
            stop = True
        assert steps > 10
        return turns

    assert bridged(body) == 100


def test_an_idle_bridge_costs_nothing() -> None:
    async def body(bridge: Bridge) -> None:
        bridge.loop.call_later(60, lambda: None)
        await trio.sleep(0.05)
        before = time.process_time()
        await trio.sleep(0.5)
        assert time.process_time() - before < 0.1

    bridged(body)


# --- the world outside --------------------------------------------------------------------------


def test_sockets_work_and_no_thread_is_started() -> None:
    before = threads()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def talk() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"x" * 1_000_000)
        writer.write_eof()
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return received

    async def body(bridge: Bridge) -> bytes:
        received = await bridge.call(talk())
        assert threads() == before
        return received

    assert bridged(body) == b"x" * 1_000_000


def test_a_program_may_be_run() -> None:
    async def run() -> tuple[bytes, int | None]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(input()[::-1])",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate(b"abc\n")
        return out, process.returncode

    assert bridged(lambda bridge: bridge.call(run())) == (b"cba\n", 0)


def test_ctrl_c_in_trio_ends_a_call() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    async def body(bridge: Bridge) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.call, slow())
            await trio.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep(5)

    with pytest.raises(BaseExceptionGroup) as raised:
        bridged(body)
    assert isinstance(only(raised.value), KeyboardInterrupt)
    assert ended == ["ended"]


# --- what is sent -------------------------------------------------------------------------------


def test_a_task_that_a_failed_write_wakes_runs_at_once() -> None:
    """trio has computed how long it waits when things are written."""

    async def main(bridge: Bridge) -> None:
        event = trio.Event()

        def fail() -> bool:
            event.set()
            return True

        bridge.before_waiting(fail)
        with trio.fail_after(1):
            await event.wait()

    bridged(main)
