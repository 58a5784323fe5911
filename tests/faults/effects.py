"""What can happen to a connection: each effect is applied at the spot where its fault is due.

An effect owns the few facts it needs between the moment it is applied and its end; it is used once.
All of it runs in the event loop of the proxy's thread (`tests/faults/proxy.py`).
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.faults.spots import AFTER, BOTH, Spot, Way
from tests.faults.streams import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.streams import Connection


class Effect(abc.ABC):
    """Something that happens to one connection."""

    @abc.abstractmethod
    def apply(self, connection: Connection, done: Callable[[], None]) -> None:
        """Begin; `done` is to be called when it has happened in full."""

    def undo(self) -> None:
        """End it, for effects that can be ended."""
        raise TypeError(f"{type(self).__name__} cannot be undone")


class Reset(Effect):
    """RST to both sides. What had passed before has arrived; nothing after it does."""

    reset = True

    def apply(self, connection: Connection, done: Callable[[], None]) -> None:
        connection.set_modes(Mode.STOP)

        def cut() -> None:
            connection.close(reset=self.reset)
            done()

        connection.when_drained(cut)


class Close(Reset):
    """The end of the stream for both sides, as when the other program closes."""

    reset = False


class BlackHole(Effect):
    """Nothing is read and nothing passes, and nobody is told: the sockets stay open.

    Undone, it was a freeze: everything goes on where it stopped.
    """

    def __init__(self, ways: Sequence[Way] = BOTH) -> None:
        self._ways = ways
        self._connection: Connection | None = None

    def apply(self, connection: Connection, done: Callable[[], None]) -> None:
        self._connection = connection
        for way in self._ways:
            connection.flows[way].set_mode(Mode.STOP)
        done()

    def undo(self) -> None:
        if self._connection is not None:
            for way in self._ways:
                self._connection.flows[way].set_mode(Mode.PASS)


class LoseReplies(Effect):
    """The server carries out what has passed; what it answers is lost, and then the connection.

    The end comes when the server has said something and then nothing for `quiet` seconds, and
    after `most` seconds in any case.
    """

    def __init__(self, quiet: float = 0.03, most: float = 0.5) -> None:
        self._quiet, self._left = quiet, most
        self._seen = 0

    def apply(self, connection: Connection, done: Callable[[], None]) -> None:
        connection.flows[Way.TO_SERVER].set_mode(Mode.STOP)
        replies = connection.flows[Way.TO_CLIENT]
        replies.set_mode(Mode.SWALLOW)
        self._seen = before = replies.position

        def look_again() -> None:
            self._left -= self._quiet
            said_all = before < replies.position == self._seen
            self._seen = replies.position
            if said_all or self._left <= 0:
                Reset().apply(connection, done)
            else:
                connection.loop.call_later(self._quiet, look_again)

        connection.loop.call_later(self._quiet, look_again)


@dataclass
class _Full:
    """The last packet that is held back."""

    spot: Spot
    then: Callable[[], None]

    def fire(self, _: Connection) -> None:
        self.then()


class HalfOpen(Effect):
    """The client's side is reset, the server's side stays open and hears nothing of it.

    Before that, up to `hold` packets from the client are held back; fewer when the client falls
    silent for `quiet` seconds. `deliver` lets them through to the old connection. Undoing closes
    the server's side.
    """

    def __init__(self, hold: int = 0, quiet: float = 0.05) -> None:
        self._hold, self._quiet = hold, quiet
        self._connection: Connection | None = None
        self._seen = -1
        self._over = False

    def apply(self, connection: Connection, done: Callable[[], None]) -> None:
        self._connection = connection
        if not self._hold:
            connection.set_modes(Mode.STOP)
            connection.when_drained(lambda: self._reset_client(done))
            return
        there = connection.flows[Way.TO_SERVER]
        connection.flows[Way.TO_CLIENT].set_mode(Mode.SWALLOW)
        last = Spot(Way.TO_SERVER, packet=there.packets + self._hold, inside=AFTER)
        there.triggers.append(_Full(last, lambda: self._reset_client(done)))
        there.set_mode(Mode.HOLD)
        self._look_again(done)

    def _look_again(self, done: Callable[[], None]) -> None:
        assert self._connection is not None
        there = self._connection.flows[Way.TO_SERVER]
        if there.position == self._seen:
            self._reset_client(done)
        elif not self._over:
            self._seen = there.position
            self._connection.loop.call_later(self._quiet, self._look_again, done)

    def _reset_client(self, done: Callable[[], None]) -> None:
        assert self._connection is not None
        if self._over:
            return
        self._over = True
        self._connection.flows[Way.TO_SERVER].set_mode(Mode.STOP)
        self._connection.cut(Way.TO_CLIENT, reset=True)
        self._connection.flows[Way.TO_CLIENT].set_mode(Mode.SWALLOW)
        done()

    @property
    def held(self) -> int:
        """Bytes that wait to be delivered."""
        if self._connection is None:
            return 0
        return len(self._connection.flows[Way.TO_SERVER].held)

    def deliver(self) -> None:
        if self._connection is not None:
            self._connection.flows[Way.TO_SERVER].deliver_held()

    def undo(self) -> None:
        if self._connection is not None:
            self._connection.close()


class DeliverLate(Effect):
    """Lets through, `delay` seconds later, what a `HalfOpen` of an earlier connection held back.

    This connection goes on undisturbed.
    """

    def __init__(self, earlier: HalfOpen, delay: float = 0.0) -> None:
        self._earlier, self._delay = earlier, delay
        self.delivered = 0

    def apply(self, connection: Connection, done: Callable[[], None]) -> None:
        connection.loop.call_later(self._delay, self._deliver, done)

    def _deliver(self, done: Callable[[], None]) -> None:
        self.delivered = self._earlier.held
        self._earlier.deliver()
        done()


class Drip(Effect):
    """`amount` bytes pass in each `interval` (seconds), until it is undone."""

    def __init__(self, amount: int, interval: float, ways: Sequence[Way] = BOTH) -> None:
        self._amount, self._interval, self._ways = amount, interval, ways
        self._connection: Connection | None = None
        self._over = False

    def apply(self, connection: Connection, done: Callable[[], None]) -> None:
        self._connection = connection
        for way in self._ways:
            connection.flows[way].set_mode(Mode.STOP)
        # Not from here: what this flow has just read comes before anything that it still gets.
        connection.loop.call_soon(self._drop)
        done()

    def _drop(self) -> None:
        if self._over or self._connection is None or self._connection.gone:
            return
        for way in self._ways:
            self._connection.flows[way].sip(self._amount)
        self._connection.loop.call_later(self._interval, self._drop)

    def undo(self) -> None:
        self._over = True
        if self._connection is not None:
            for way in self._ways:
                self._connection.flows[way].set_mode(Mode.PASS)
