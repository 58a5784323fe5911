"""A TCP proxy on loopback at which a connection can be cut at an exact place, and worse.

    with FaultProxy(server.port) as proxy:
        fault = proxy.arm(Reset(), Spot(Way.TO_SERVER, packet=7, inside=3))
        ...
        fault.wait()

It runs an event loop in a thread of its own; `FaultProxy` and `Fault` are used from outside of it,
by any thread, and hand every call over to the loop. So what is armed "from now on" is counted from
one place in the stream. A fault happens once; whoever arms it can see whether it did.

It counts SSH packets as `tests/faults/framing.py` says. Packets and connections are numbered from
1.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import enum
import socket
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

from tests.faults.spots import BOTH, Spot, Way
from tests.faults.streams import Connection, Mode
from tests.support.sockets import reset

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tests.faults.effects import Effect

T = TypeVar("T")

HOST: Final = "127.0.0.1"
_CALL_LIMIT: Final = 10.0
_CONNECT_LIMIT: Final = 5.0


class Passed(NamedTuple):
    """What has come by, in one direction."""

    bytes: int
    packets: int | None  # None where they cannot be counted


@dataclass(frozen=True)
class Count:
    """One connection so far."""

    number: int
    open: bool
    to_server: Passed
    to_client: Passed


class Newcomers(enum.Enum):
    """What becomes of a new connection."""

    PASS = enum.auto()
    REFUSE = enum.auto()  # nobody listens
    RESET = enum.auto()  # accepted and reset at once
    HOLE = enum.auto()  # accepted and never answered


@dataclass
class Fault:
    """An effect that waits for its spot, or has happened."""

    effect: Effect
    spot: Spot
    connection: int
    _proxy: FaultProxy = field(repr=False)
    _fired: threading.Event = field(default_factory=threading.Event, repr=False)
    _done: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def fired(self) -> bool:
        """Whether its spot was reached."""
        return self._fired.is_set()

    @property
    def done(self) -> bool:
        """Whether it has happened in full."""
        return self._done.is_set()

    def wait(self, limit: float = 10) -> None:
        """Until it has happened in full; AssertionError after `limit` seconds."""
        assert self._done.wait(limit), f"not within {limit} s: {self.spot}; {self._proxy.counts()}"

    def undo(self) -> None:
        """End it, if it can be ended: thaw what was frozen, say."""
        self._proxy.call(self.effect.undo)

    def disarm(self) -> None:
        """Have it not happen, if it has not."""
        self._proxy.disarm(self)

    def fire(self, connection: Connection) -> None:
        """For the proxy's loop."""
        self._fired.set()
        self.effect.apply(connection, self._done.set)


class FaultProxy:
    """The proxy in front of the server on `to_port`; `port` is its own, the same for all its life.

    `counting=False` is for what is not SSH. On leaving, what the proxy could not do as it was told
    (`problems`) is an AssertionError.
    """

    def __init__(self, to_port: int, *, counting: bool = True) -> None:
        self.port = 0
        self.problems: list[str] = []
        self._to_port = to_port
        self._counting = counting
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)
        self._listener: socket.socket | None = None
        self._newcomers = Newcomers.PASS
        self._connections: list[Connection] = []
        self._holes: list[socket.socket] = []
        self._waiting: list[Fault] = []  # for connections that have not come yet

    # -- its life ----------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        self.call(self._listen)

    def stop(self) -> None:
        """End it, and with it every connection through it."""
        if self._thread.is_alive():
            self.call(self._close_all)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CALL_LIMIT)
        if not self._loop.is_running():
            self._loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if exc is None:
            assert not self.problems, self.problems

    # -- faults ------------------------------------------------------------------------------

    def arm(self, effect: Effect, spot: Spot, connection: int) -> Fault:
        """Have it happen on the n-th connection, counted from that connection's beginning."""
        fault = Fault(effect, spot, connection, self)
        self.call(lambda: self._arm(fault))
        return fault

    def arm_ahead(self, effect: Effect, spot: Spot) -> Fault:
        """Have it happen on the newest connection, counted from what has passed by now: packet 1
        and byte 1 are the next ones."""
        return self.call(lambda: self._arm_ahead(effect, spot))

    def strike(self, effect: Effect) -> Fault:
        """Have it happen to the newest connection, at once."""

        def now() -> Fault:
            connection = self._newest()
            spot = Spot(Way.TO_SERVER, byte=connection.flows[Way.TO_SERVER].position or 1)
            fault = Fault(effect, spot, connection.number, self)
            fault.fire(connection)
            return fault

        return self.call(now)

    def disarm(self, fault: Fault) -> None:
        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._waiting.remove(fault)
            for flow in (flow for each in self._connections for flow in each.flows.values()):
                with contextlib.suppress(ValueError):
                    flow.triggers.remove(fault)

        self.call(forget)

    def newcomers(self, fate: Newcomers) -> None:
        """What becomes of connections from now on. Those that are there are left alone."""
        self.call(lambda: self._set_newcomers(fate))

    def reset_holes(self) -> None:
        """Reset the connections that were accepted and never answered."""

        def reset_all() -> None:
            holes, self._holes = self._holes, []
            for each in holes:
                reset(each)

        self.call(reset_all)

    # -- counters ----------------------------------------------------------------------------

    @property
    def accepted(self) -> int:
        """Connections so far that were passed on."""
        return self.call(lambda: len(self._connections))

    @property
    def unanswered(self) -> int:
        """Connections that hang in a hole."""
        return self.call(lambda: len(self._holes))

    def counts(self) -> list[Count]:
        """All connections so far."""
        return self.call(lambda: [_count(each) for each in self._connections])

    def newest(self) -> Count:
        return self.call(lambda: _count(self._newest()))

    def call(self, function: Callable[[], T]) -> T:
        """Call something in the proxy's loop; for effects' own methods, say."""
        result: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                result.set_result(function())
            except BaseException as error:
                result.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return result.result(_CALL_LIMIT)

    # -- in the loop -------------------------------------------------------------------------

    def _run(self) -> None:
        self._loop.set_exception_handler(self._failed)
        self._loop.run_forever()

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self.problems.append(f"{context['message']}: {context.get('exception')!r}")

    def _listen(self) -> None:
        self._listener = socket.create_server((HOST, self.port), backlog=128)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop.add_reader(self._listener, self._accept)

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()

    def _set_newcomers(self, fate: Newcomers) -> None:
        self._newcomers = fate
        if fate is Newcomers.REFUSE:
            self._stop_listening()
        elif self._listener is None:
            self._listen()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        if self._newcomers is Newcomers.HOLE:
            self._holes.append(client)
        elif self._newcomers is Newcomers.RESET:
            reset(client)
        else:
            self._join(client)

    def _join(self, client: socket.socket) -> None:
        try:
            # Loopback says yes or no at once.
            server = socket.create_connection((HOST, self._to_port), _CONNECT_LIMIT)
        except OSError:
            reset(client)
            return
        number = len(self._connections) + 1
        connection = Connection(number, self._loop, client, server, self.problems.append)
        if not self._counting:
            for flow in connection.flows.values():
                flow.framing = None
        self._connections.append(connection)
        for fault in [fault for fault in self._waiting if fault.connection == number]:
            self._waiting.remove(fault)
            connection.flows[fault.spot.way].triggers.append(fault)
        for flow in connection.flows.values():
            flow.look()

    def _newest(self) -> Connection:
        assert self._connections, "there is no connection yet"
        return self._connections[-1]

    def _arm(self, fault: Fault) -> None:
        if fault.connection > len(self._connections):
            self._waiting.append(fault)
            return
        connection = self._connections[fault.connection - 1]
        flow = connection.flows[fault.spot.way]
        assert not connection.gone, f"connection {fault.connection} is gone"
        if fault.spot.packet is None:
            assert fault.spot.byte is not None
            assert fault.spot.byte > flow.position, "that byte has passed"
        else:
            assert fault.spot.packet > flow.packets, "that packet has passed"
        flow.triggers.append(fault)

    def _arm_ahead(self, effect: Effect, spot: Spot) -> Fault:
        connection = self._newest()
        flow = connection.flows[spot.way]
        if spot.packet is None:
            assert spot.byte is not None
            spot = replace(spot, byte=spot.byte + flow.position)
        else:
            spot = replace(spot, packet=spot.packet + flow.packets)
        fault = Fault(effect, spot, connection.number, self)
        self._arm(fault)
        return fault

    def _close_all(self) -> None:
        self._stop_listening()
        for each in self._connections:
            for flow in each.flows.values():
                flow.mode = Mode.STOP
            each.close(reset=True)
        for hole in self._holes:
            reset(hole)


def _count(connection: Connection) -> Count:
    there, back = (
        Passed(flow.position, None if flow.framing is None else flow.framing.packets)
        for flow in (connection.flows[way] for way in BOTH)
    )
    return Count(connection.number, not connection.gone, there, back)
