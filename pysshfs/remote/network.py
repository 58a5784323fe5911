"""When the way to the server may have changed: after a suspend, and when addresses come and go.

`NetworkWatch` owns a netlink socket, opened before the mount, and compares two clocks: while the
machine is suspended CLOCK_BOOTTIME goes on and CLOCK_MONOTONIC stands still. What a change means
is for `remote/connection.py` to find out; it is told of each, one after the other.

Idle it costs one wake-up in `_POLL_SECONDS`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 3
# The clocks cannot be read at the same instant; a suspend takes far longer than this.
_LEAST_SUSPEND_SECONDS: Final = 1.0
# One event brings several messages (a link comes up, then its addresses), and a machine that
# starts containers has many events: wait for the end of a burst, and for a while after it.
_SETTLE_SECONDS: Final = 0.5
_REST_SECONDS: Final = 2.0

# rtnetlink(7): RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
_GROUPS: Final = 0x1 | 0x10 | 0x100


class Change(NamedTuple):
    """`reason` completes "no answer since ..."."""

    reason: str
    slept: bool  # a suspend: whatever was being tried was interrupted


def seconds_asleep() -> float:
    """Seconds that the machine has spent suspended since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def open_netlink() -> socket.socket | None:
    """A socket that hears of links and addresses; None where the system has none."""
    try:
        listening = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
    except (AttributeError, OSError) as error:
        log.info("changes of the network are not noticed at once: %s", error)
        return None
    try:
        listening.bind((0, _GROUPS))
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        log.info("changes of the network are not noticed at once: %s", error)
        return None
    return listening


class NetworkWatch:
    """Made before the mount; `run` tells of changes, `close` gives the socket back."""

    def __init__(
        self, listening: socket.socket | None, asleep: Callable[[], float] = seconds_asleep
    ) -> None:
        self._listening = listening
        self._asleep = asleep

    async def run(self, changed: Callable[[Change], Awaitable[None]]) -> None:
        """Call `changed` for each change, one at a time, until cancelled."""
        one_at_a_time = trio.Lock()

        async def tell(change: Change) -> None:
            async with one_at_a_time:
                await changed(change)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_clocks, tell)
            if self._listening is not None:
                nursery.start_soon(self._watch_netlink, self._listening, tell)

    async def _watch_clocks(self, tell: Callable[[Change], Awaitable[None]]) -> None:
        before = self._asleep()
        while True:
            await trio.sleep(_POLL_SECONDS)
            now = self._asleep()
            slept, before = now - before, now
            if slept > _LEAST_SUSPEND_SECONDS:
                await tell(Change(f"this machine slept for {slept:.0f} s", True))

    async def _watch_netlink(
        self, listening: socket.socket, tell: Callable[[Change], Awaitable[None]]
    ) -> None:
        with contextlib.suppress(trio.ClosedResourceError):
            while listening.fileno() >= 0:  # not closed
                await trio.lowlevel.wait_readable(listening)
                await trio.sleep(_SETTLE_SECONDS)
                _discard(listening)
                await tell(Change("this machine's addresses changed", False))
                await trio.sleep(_REST_SECONDS)

    def close(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            trio.lowlevel.notify_closing(listening)
            listening.close()


def _discard(listening: socket.socket) -> None:
    """Empty the socket. What the messages hold does not matter: no other kinds are subscribed to,
    and an overrun says as much as they do."""
    while True:
        try:
            listening.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                return
