"""Interrupts, and programs that exit: which requests end before their answer, and when."""

from __future__ import annotations

import errno

import pytest
import trio

from pysshfs.fuse.signals import Pending
from tests.support.fake_kernel import (
    GRACE,
    FakeKernel,
    Serving,
    change,
    in_a_mount,
    question,
)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return FakeKernel(monkeypatch)


# --- interrupts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pending", [Pending.STOP, Pending.FATAL])
async def test_a_call_that_changed_nothing_ends_at_once(
    kernel: FakeKernel, pending: Pending
) -> None:
    kernel.signal = pending
    async with trio.open_nursery() as nursery:
        serving = Serving(kernel.serving(), nursery)
        call = await serving.call(trio.sleep_forever)
        serving.served.interrupted(kernel.serial)
        await trio.testing.wait_all_tasks_blocked()
        assert call.has_ended(errno.EINTR, 0)
        nursery.cancel_scope.cancel()
    served = serving.served
    counts = (served.interrupts_seen, served.interrupts_honoured, served.interrupted_in_flight)
    assert counts == (1, 1, 1)


@in_a_mount
async def test_a_change_that_was_sent_has_its_grace(kernel: FakeKernel, serving: Serving) -> None:
    kernel.signal = Pending.STOP
    call = await serving.call(change())
    await trio.sleep(10)
    serving.served.interrupted(kernel.serial)
    await trio.sleep(GRACE - 0.01)
    assert call.errno is None
    await trio.sleep(0.02)
    assert call.has_ended(errno.EINTR, 10 + GRACE)
    assert serving.served.interrupted_in_flight == 1


@in_a_mount
async def test_a_change_that_is_answered_within_the_grace_has_its_result(
    kernel: FakeKernel, serving: Serving
) -> None:
    kernel.signal = Pending.STOP
    call = await serving.call(change(GRACE - 0.5))
    serving.served.interrupted(kernel.serial)
    await trio.sleep(GRACE)
    assert call.has_ended(0, GRACE - 0.5)
    assert (serving.served.interrupts_honoured, serving.served.interrupted_in_flight) == (1, 0)


@in_a_mount
async def test_nobody_waits_for_a_change_whose_process_ends(
    kernel: FakeKernel, serving: Serving
) -> None:
    kernel.signal = Pending.FATAL
    call = await serving.call(change())
    serving.served.interrupted(kernel.serial)
    await trio.testing.wait_all_tasks_blocked()
    assert call.has_ended(errno.EINTR, 0)


@in_a_mount
async def test_a_process_killed_during_the_grace_ends(kernel: FakeKernel, serving: Serving) -> None:
    """The kernel says nothing of the second signal."""
    kernel.signal = Pending.STOP
    call = await serving.call(change())
    serving.served.interrupted(kernel.serial)
    await trio.sleep(0.5)
    kernel.signal = Pending.FATAL
    await trio.sleep(0.2)
    assert call.errno == errno.EINTR
    assert (serving.served.interrupts_honoured, serving.served.interrupted_in_flight) == (1, 1)


@in_a_mount
async def test_the_grace_is_not_made_longer_by_looking_again(
    kernel: FakeKernel, serving: Serving
) -> None:
    kernel.signal = Pending.STOP
    call = await serving.call(change())
    serving.served.interrupted(kernel.serial)
    await trio.sleep(2 * GRACE)
    assert call.took == pytest.approx(GRACE)
    assert kernel.looks > 10


async def test_a_deadline_that_comes_first_stays(kernel: FakeKernel) -> None:
    kernel.signal, kernel.limit = Pending.STOP, 1.0
    async with trio.open_nursery() as nursery:
        serving = Serving(kernel.serving(), nursery)
        call = await serving.call(change())
        serving.served.interrupted(kernel.serial)
        await trio.sleep(GRACE)
        assert call.has_ended(errno.EINTR, 1)
        nursery.cancel_scope.cancel()


@in_a_mount
async def test_other_signals_wait_while_the_server_answers(
    kernel: FakeKernel, serving: Serving
) -> None:
    kernel.signal = Pending.HANDLED
    call = await serving.call(trio.sleep_forever)
    changing = await serving.call(change())
    for serial in (1, 2):
        serving.served.interrupted(serial)
    await trio.sleep(100)
    assert (call.errno, changing.errno) == (None, None)
    kernel.silent_since = trio.current_time()
    await trio.sleep(0.15)
    assert (call.errno, changing.errno) == (errno.EINTR, None)
    await trio.sleep(GRACE)
    assert changing.errno == errno.EINTR


@in_a_mount
async def test_an_interrupt_that_means_nothing_hides_no_later_one(
    kernel: FakeKernel, serving: Serving
) -> None:
    """The kernel sends one INTERRUPT per request: the thread has to be looked at again."""
    kernel.silent_since = trio.current_time()
    call = await serving.call(trio.sleep_forever)
    serving.served.interrupted(kernel.serial)
    await trio.sleep(5)
    assert call.errno is None
    kernel.signal = Pending.STOP
    await trio.sleep(0.15)
    assert call.errno == errno.EINTR


@in_a_mount
async def test_an_interrupt_read_before_its_request_is_honoured(
    kernel: FakeKernel, serving: Serving
) -> None:
    kernel.signal = Pending.STOP
    serving.served.interrupted(kernel.serial + 1)
    call = await serving.call(trio.sleep_forever)
    assert call.has_ended(errno.EINTR, 0)


@in_a_mount
async def test_an_interrupt_of_no_request_is_forgotten(
    kernel: FakeKernel, serving: Serving
) -> None:
    """Its request was answered, or never came."""
    kernel.signal = Pending.STOP
    call = await serving.call(question(1))
    await trio.sleep(2)
    for serial in (kernel.serial, kernel.serial - 1, 10**9):
        serving.served.interrupted(serial)
    other = await serving.call(question(1))
    await trio.sleep(2)
    assert (call.errno, other.errno) == (0, 0)
    assert (serving.served.interrupts_seen, serving.served.interrupts_honoured) == (3, 0)


@in_a_mount
async def test_a_call_that_is_done_all_the_same_keeps_its_result(
    kernel: FakeKernel, serving: Serving
) -> None:
    kernel.signal = Pending.STOP

    async def handler() -> None:
        serving.served.interrupted(kernel.serial)

    call = await serving.call(handler)
    assert call.errno == 0
    assert (serving.served.interrupts_honoured, serving.served.interrupted_in_flight) == (1, 0)


@in_a_mount
async def test_who_waited_behind_an_interrupted_change_has_no_grace_of_its_own(
    kernel: FakeKernel, serving: Serving
) -> None:
    """In the kernel, for the lock of the directory. What comes with nothing pending goes on, and
    what changes nothing is not looked at."""
    kernel.signal, kernel.operation = Pending.STOP, "create"
    first = await serving.call(change())
    serving.served.interrupted(kernel.serial)
    await trio.sleep(GRACE + 0.01)
    assert first.errno == errno.EINTR
    for _ in range(100):
        await trio.sleep(0.9)
        follower = await serving.call(change())
        assert follower.has_ended(errno.EINTR, 0)
    assert serving.served.interrupted_in_flight == 1
    looks = kernel.looks
    kernel.signal = Pending.NONE
    assert (await serving.call(change(0.001))).errno is None
    assert kernel.looks == looks + 1
    kernel.operation = "lookup"
    assert (await serving.call(question(0.001))).errno is None
    assert kernel.looks == looks + 1
    kernel.operation = "create"
    await trio.sleep(GRACE + 2)
    assert (await serving.call(change(0.001))).errno is None
    assert kernel.looks == looks + 1


@pytest.mark.parametrize("pending", [Pending.UNKNOWN, Pending.HANDLED, Pending.NONE])
async def test_only_who_was_told_to_stop_is_stopped_before_it_begins(
    kernel: FakeKernel, pending: Pending
) -> None:
    async with trio.open_nursery() as nursery:
        serving = Serving(kernel.serving(), nursery)
        kernel.signal, kernel.operation = Pending.STOP, "mkdir"
        await serving.call(change())
        serving.served.interrupted(kernel.serial)
        kernel.signal = pending
        follower = await serving.call(change(1))
        await trio.sleep(1.1)
        assert follower.errno == 0
        nursery.cancel_scope.cancel()


async def test_a_thread_that_is_not_to_be_seen_may_have_been_told_to_stop(
    kernel: FakeKernel,
) -> None:
    kernel.signal = Pending.UNKNOWN
    async with trio.open_nursery() as nursery:
        serving = Serving(kernel.serving(), nursery)
        asking, changing = await serving.call(trio.sleep_forever), await serving.call(change())
        for serial in (1, 2):
            serving.served.interrupted(serial)
        await trio.sleep(GRACE + 0.1)
        assert asking.has_ended(errno.EINTR, 0)
        assert changing.has_ended(errno.EINTR, GRACE)
        nursery.cancel_scope.cancel()


# --- exiting programs ---------------------------------------------------------------------------


@in_a_mount
async def test_a_program_that_exits_waits_no_longer_than_the_grace(
    kernel: FakeKernel, serving: Serving
) -> None:
    kernel.operation, kernel.exiting = "flush", True
    call = await serving.call(change())
    await trio.sleep(GRACE + 0.1)
    assert call.took == pytest.approx(GRACE)


@in_a_mount
async def test_a_program_that_exits_has_one_grace_for_all_its_files(
    kernel: FakeKernel, serving: Serving
) -> None:
    kernel.operation, kernel.exiting = "flush", True
    for left in (GRACE, 0, 0, 0):
        call = await serving.call(change())
        await trio.sleep(GRACE + 0.1)
        assert call.took == pytest.approx(left)
    kernel.exiting = False  # another one, with the same number
    call = await serving.call(question(10))
    await trio.sleep(11)
    assert call.errno == 0


@in_a_mount
async def test_who_exited_is_not_remembered_for_ever(kernel: FakeKernel, serving: Serving) -> None:
    kernel.operation, kernel.exiting = "flush", True
    await serving.call(change())
    await trio.sleep(GRACE + 100)
    kernel.operation = "lookup"
    await serving.call(question(1))
    await trio.sleep(2)
    kernel.operation = "flush"
    later = await serving.call(change())
    await trio.sleep(GRACE + 0.1)
    assert later.took == pytest.approx(GRACE)


@in_a_mount
async def test_a_close_of_a_living_program_is_waited_for(
    kernel: FakeKernel, serving: Serving
) -> None:
    kernel.operation = "flush"
    call = await serving.call(question(100))
    await trio.sleep(101)
    assert call.errno == 0
    assert kernel.looks == 1


@in_a_mount
async def test_nothing_but_a_long_close_is_looked_at(kernel: FakeKernel, serving: Serving) -> None:
    kernel.exiting = True
    call = await serving.call(question(10))
    kernel.operation = "flush"
    for _ in range(20):
        await serving.call(question(0.05))
        await trio.sleep(0.06)
    await trio.sleep(10)
    assert call.errno == 0
    assert kernel.looks == 0
