"""Noticing a suspend and changes of addresses, on clocks and messages of the test's making."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from pysshfs.remote import network
from pysshfs.remote.network import Change, NetworkWatch, open_netlink, seconds_asleep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Machine:
    """Its time spent asleep, its kernel's messages, and what was told of them."""

    def __init__(self) -> None:
        self.asleep = 1000.0  # before we were started
        self.heard, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard.setblocking(False)
        self.told: list[tuple[float, Change]] = []
        self.telling_takes = 0.0
        self.telling = 0

    async def changed(self, change: Change) -> None:
        self.telling += 1
        assert self.telling == 1, "one at a time"
        self.told.append((trio.current_time(), change))
        await trio.sleep(self.telling_takes)
        self.telling -= 1

    @contextlib.asynccontextmanager
    async def watched(self, *, netlink: bool = True) -> AsyncIterator[NetworkWatch]:
        watch = NetworkWatch(self.heard if netlink else None, lambda: self.asleep)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run, self.changed)
            await trio.testing.wait_all_tasks_blocked()
            yield watch
            nursery.cancel_scope.cancel()
        watch.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.heard.close()
    made.kernel.close()


async def test_nothing_happens(machine: Machine) -> None:
    async with machine.watched():
        await trio.sleep(300)
        machine.asleep += 0.5  # the clocks are not read at the same instant
        await trio.sleep(300)
    assert machine.told == []


@pytest.mark.parametrize("netlink", [True, False])
async def test_a_suspend_is_told_of_once(machine: Machine, netlink: bool) -> None:
    async with machine.watched(netlink=netlink):
        await trio.sleep(10)
        machine.asleep += 57.3
        await trio.sleep(3)
        assert [change for _, change in machine.told] == [
            Change("this machine slept for 57 s", True)
        ]
        await trio.sleep(100)
        assert len(machine.told) == 1


async def test_a_burst_of_messages_is_one_change(machine: Machine) -> None:
    async with machine.watched():
        began = trio.current_time()
        for _ in range(5):
            machine.kernel.send(b"message")
            await trio.sleep(0.05)
        await trio.sleep(60)
    (told,) = machine.told
    assert told[0] - began < 1 and not told[1].slept


async def test_messages_without_end_are_not_changes_without_end(machine: Machine) -> None:
    async with machine.watched():
        for _ in range(600):
            machine.kernel.send(b"message")
            await trio.sleep(0.1)
    assert 10 <= len(machine.told) <= 30


async def test_a_change_during_another_is_told_of_afterwards(machine: Machine) -> None:
    machine.telling_takes = 20
    async with machine.watched():
        machine.kernel.send(b"message")
        await trio.sleep(5)
        machine.asleep += 100
        machine.kernel.send(b"message")
        await trio.sleep(70)
    assert [change.slept for _, change in machine.told] == [False, True, False]


async def test_closing_ends_the_watch_on_messages(machine: Machine) -> None:
    async with machine.watched() as watch:
        watch.close()
        await trio.sleep(1)
        machine.asleep += 100
        await trio.sleep(4)
        assert len(machine.told) == 1


def test_the_clocks_agree_on_a_machine_that_is_awake() -> None:
    assert abs(seconds_asleep() - seconds_asleep()) < network._LEAST_SUSPEND_SECONDS / 2


def test_a_system_without_netlink(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(socket, "NETLINK_ROUTE", 31)
    assert open_netlink() is None
    assert len(caplog.records) == 1
    monkeypatch.undo()
    listening = open_netlink()
    assert listening is not None
    listening.close()
