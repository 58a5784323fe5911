"""Time limits of requests, and the task that watches over them."""

from __future__ import annotations

import errno

import pytest
import trio

from pysshfs.fuse.signals import Pending
from tests.support.fake_kernel import (
    GRACE,
    OTHER,
    OWNER,
    TID,
    FakeKernel,
    Serving,
    change,
    in_a_mount,
    question,
)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return FakeKernel(monkeypatch)


# --- time limits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "tid", "ends"), [(OTHER, TID, 60), (0, TID, 60), (OWNER, TID, None), (0, 0, None)]
)
async def test_calls_of_others_end_in_time(
    kernel: FakeKernel, uid: int, tid: int, ends: float | None
) -> None:
    """With thread 0 the kernel acts for nobody: that is no call of another user."""
    kernel.uid, kernel.tid = uid, tid
    async with trio.open_nursery() as nursery:
        call = await Serving(kernel.serving(), nursery).call(trio.sleep_forever)
        await trio.sleep(1000)
        assert call.has_ended(errno.ETIMEDOUT, ends) if ends else call.errno is None
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("uid", [OWNER, OTHER])
async def test_without_limits_calls_wait_for_ever(kernel: FakeKernel, uid: int) -> None:
    kernel.uid, kernel.silent_since = uid, trio.current_time()
    async with trio.open_nursery() as nursery:
        call = await Serving(kernel.serving(others_timeout=0), nursery).call(trio.sleep_forever)
        await trio.sleep(3000)
        assert call.errno is None
        nursery.cancel_scope.cancel()


async def test_a_soft_mount_gives_up_a_silent_server(kernel: FakeKernel) -> None:
    """Once it was silent for so long, and the call itself is that old."""
    async with trio.open_nursery() as nursery:
        serving = Serving(kernel.serving(timeout=10), nursery)
        old = await serving.call(trio.sleep_forever)
        await trio.sleep(100)
        assert old.errno is None
        kernel.silent_since = trio.current_time()
        await trio.sleep(5)
        young = await serving.call(trio.sleep_forever)
        await trio.sleep(6)
        assert old.has_ended(errno.ETIMEDOUT, 110, 0.6)
        assert young.errno is None
        await trio.sleep(5)
        assert young.has_ended(errno.ETIMEDOUT, 10, 0.6)
        nursery.cancel_scope.cancel()


async def test_who_was_interrupted_hears_of_that_first(kernel: FakeKernel) -> None:
    """In its grace when the time limit is reached."""
    kernel.signal, kernel.silent_since = Pending.STOP, trio.current_time()
    async with trio.open_nursery() as nursery:
        serving = Serving(kernel.serving(timeout=10), nursery)
        call = await serving.call(change())
        await trio.sleep(9)
        serving.served.interrupted(kernel.serial)
        await trio.sleep(GRACE)
        assert call.errno == errno.EINTR
        nursery.cancel_scope.cancel()


async def test_where_the_kernel_limits_requests_one_call_fails_in_time(kernel: FakeKernel) -> None:
    """fs.fuse.max_request_timeout would end the whole mount."""
    kernel.limit = 16.0
    async with trio.open_nursery() as nursery:
        serving = Serving(kernel.serving(), nursery)
        call = await serving.call(trio.sleep_forever)
        kernel.uid = OTHER
        others = await serving.call(trio.sleep_forever)
        await trio.sleep(60)
        assert call.has_ended(errno.ETIMEDOUT, 16)
        assert others.has_ended(errno.ETIMEDOUT, 16)
        nursery.cancel_scope.cancel()


# --- the watch ----------------------------------------------------------------------------------


class Wakings(trio.abc.Instrument):
    """How often tasks are run."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.endswith("Requests.watch")


async def wakings_during(seconds: float) -> int:
    await trio.testing.wait_all_tasks_blocked()
    wakings = Wakings()
    trio.lowlevel.add_instrument(wakings)
    await trio.sleep(seconds)
    trio.lowlevel.remove_instrument(wakings)
    return wakings.count


@in_a_mount
async def test_an_idle_mount_sleeps(kernel: FakeKernel, serving: Serving) -> None:
    assert await wakings_during(1000) == 0
    await serving.call(question(1))
    await trio.sleep(5)
    assert await wakings_during(1000) == 0


@in_a_mount
async def test_requests_that_nobody_interrupted_are_looked_at_rarely(
    kernel: FakeKernel, serving: Serving
) -> None:
    await serving.calls(1)
    assert 50 < await wakings_during(100) <= 201
    serving.served.interrupted(kernel.serial)
    assert 900 < await wakings_during(100) <= 1001
    assert kernel.looks > 900


@in_a_mount
async def test_who_was_interrupted_is_looked_at_soon(kernel: FakeKernel, serving: Serving) -> None:
    """Also when the watch has just begun to sleep for longer."""
    await serving.calls(1)
    await trio.sleep(0.51)
    serving.served.interrupted(kernel.serial)
    looks = kernel.looks
    await trio.sleep(0.11)
    assert kernel.looks == looks + 1


@in_a_mount
async def test_looking_at_many_takes_a_small_share_of_the_time(
    kernel: FakeKernel, serving: Serving
) -> None:
    """500 threads, and each look at one takes a millisecond."""
    kernel.seconds_per_look = 0.001
    await serving.calls(500)
    for serial in range(1, 501):
        serving.served.interrupted(serial)
    await trio.sleep(10)
    before = kernel.looks
    await trio.sleep(100)
    assert 10_000 < kernel.looks - before <= 20_500
