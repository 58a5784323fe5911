"""One connection through the fault proxy: two sockets and the two flows of bytes between them.

A `Connection` owns its sockets, each `Flow` what it has read and not passed on yet. Everything
here runs in the event loop of the proxy's thread; nobody else may call it. What happens to a
connection is decided by effects (`tests/faults/effects.py`), which use the verbs of these classes.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import socket
import termios
from typing import TYPE_CHECKING, Final, Protocol

from tests.faults.framing import Framing, FramingError, check_countable
from tests.faults.spots import BOTH, Way
from tests.support.sockets import reset_when_closed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tests.faults.spots import Spot

_CHUNK: Final = 256 * 1024
_FULL: Final = 1024 * 1024  # bytes that wait for a socket before their source is no longer read
_DRAIN_STEP: Final = 0.0005
_DRAIN_LIMIT: Final = 5.0


class Mode(enum.Enum):
    """What a flow does with what it has read."""

    PASS = enum.auto()
    STOP = enum.auto()  # nothing is read; what was read waits
    SWALLOW = enum.auto()
    HOLD = enum.auto()  # kept aside, to be delivered or not


class Trigger(Protocol):
    """What is to happen once when a flow gets to a spot."""

    @property
    def spot(self) -> Spot: ...

    def fire(self, connection: Connection) -> None: ...


class Flow:
    """The bytes of one direction, from `source` to `sink`."""

    def __init__(
        self, connection: Connection, way: Way, source: socket.socket, sink: socket.socket
    ) -> None:
        self.way = way
        self.mode = Mode.PASS
        self.framing: Framing | None = Framing()
        self.position = 0
        self.held = bytearray()
        self.triggers: list[Trigger] = []
        self._connection = connection
        self._loop = connection.loop
        self._source, self._sink = source, sink
        self._unread = b""
        self._outbox = bytearray()
        self._reading = self._writing = False
        self._ended = False  # the source has no more to say

    @property
    def packets(self) -> int:
        """Whole packets so far; FramingError where they cannot be counted."""
        if self.framing is None:
            raise FramingError("packets of this connection are not counted")
        return self.framing.packets

    @property
    def _stopped(self) -> bool:
        return self.mode is Mode.STOP

    # -- what comes in -----------------------------------------------------------------------

    def set_mode(self, mode: Mode) -> None:
        """From now on. What was read and stopped is taken first."""
        self.mode = mode
        if mode is not Mode.STOP:
            unread, self._unread = self._unread, b""
            self._take(unread)
        self.look()

    def look(self) -> None:
        """Read the source exactly when there is something to be done with what it says."""
        if self._connection.is_closed(self._source):
            self._reading = False
            return
        wanted = self.mode is not Mode.STOP and not self._ended and len(self._outbox) < _FULL
        if wanted and not self._reading:
            self._loop.add_reader(self._source, self._readable)
        elif self._reading and not wanted:
            self._loop.remove_reader(self._source)
        self._reading = wanted

    def sip(self, most: int) -> None:
        """Let a few bytes of a stopped flow pass."""
        data = self._unread or self._receive(most)
        self._unread = b""
        self.mode = Mode.PASS
        self._take(data[:most])
        self._unread += data[most:]
        self.mode = Mode.STOP

    def _readable(self) -> None:
        self._take(self._receive(_CHUNK))
        self.look()

    def _receive(self, most: int) -> bytes:
        """What there is; b"" for nothing, and the end of the stream is noted."""
        try:
            data = self._source.recv(most)
        except BlockingIOError:
            return b""
        except OSError:
            self._ended = True
            self._connection.broken(self.way)
            return b""
        if not data:
            self._ended = True
            self._flush()
        return data

    def _take(self, data: bytes) -> None:
        """Go through what was read, up to each place where something is to happen."""
        rest = memoryview(data)
        while rest and not self._stopped:
            self._fire(beforehand=True)
            if self._stopped:
                break
            step = min(len(rest), self._step())
            self._pass(rest[:step])
            rest = rest[step:]
            self._fire(beforehand=False)
        self._unread += bytes(rest)
        self._flush()

    def _step(self) -> int:
        """How far it goes before something may have to be decided."""
        step = _CHUNK if self.framing is None else self.framing.room()
        for trigger in self.triggers:
            due = self._due(trigger.spot)
            if due is not None and due > self.position:
                step = min(step, due - self.position)
        return step

    def _due(self, spot: Spot) -> int | None:
        return spot.byte if spot.packet is None else spot.find(self.framing)

    def _fire(self, beforehand: bool) -> None:
        """Fire what is due here: as the next byte is at hand, or as the last one has passed."""
        for trigger in list(self.triggers):
            spot = trigger.spot
            if spot.is_before is beforehand and self._due(spot) == self.position:
                self.triggers.remove(trigger)
                trigger.fire(self._connection)

    def _pass(self, part: memoryview) -> None:
        self.position += len(part)
        if self.framing is not None:
            try:
                self.framing.take(part)
                self._connection.check_ciphers()
            except FramingError as error:
                self.framing = None
                self._connection.not_counted(self.way, error)
        if self.mode is Mode.PASS:
            self._outbox += part
        elif self.mode is Mode.HOLD:
            self.held += part

    # -- what goes out -----------------------------------------------------------------------

    def deliver_held(self) -> None:
        held, self.held = self.held, bytearray()
        self._outbox += held
        self._flush()

    def drained(self) -> bool:
        """Whether all that passed has arrived at the other host's end of the socket."""
        if self._outbox:
            return False
        with contextlib.suppress(OSError):
            waiting = fcntl.ioctl(self._sink, termios.TIOCOUTQ, bytes(4))
            return not int.from_bytes(waiting, "little")
        return True

    def _flush(self) -> None:
        if self._connection.is_closed(self._sink):
            self._outbox.clear()
            return
        try:
            while self._outbox:
                sent = self._sink.send(self._outbox)
                del self._outbox[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._outbox.clear()
            self._connection.broken(self.way.back)
            return
        if self._writing is not bool(self._outbox):
            self._writing = bool(self._outbox)
            if self._writing:
                self._loop.add_writer(self._sink, self._writable)
            else:
                self._loop.remove_writer(self._sink)
        if self._ended and not self._outbox and not self._unread and self.mode is Mode.PASS:
            self._connection.ended(self.way)

    def _writable(self) -> None:
        self._flush()
        self.look()


class Connection:
    """A client's socket and the one that was opened to the server for it."""

    def __init__(
        self,
        number: int,
        loop: asyncio.AbstractEventLoop,
        client: socket.socket,
        server: socket.socket,
        complain: Callable[[str], None],
    ) -> None:
        self.number = number
        self.loop = loop
        self.gone = False
        self._complain = complain
        self._sockets = {Way.TO_CLIENT: client, Way.TO_SERVER: server}
        self._checked = False
        self._finished: set[Way] = set()
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.flows = {
            Way.TO_SERVER: Flow(self, Way.TO_SERVER, client, server),
            Way.TO_CLIENT: Flow(self, Way.TO_CLIENT, server, client),
        }

    # -- for effects -------------------------------------------------------------------------

    def set_modes(self, mode: Mode) -> None:
        for flow in self.flows.values():
            flow.set_mode(mode)

    def when_drained(self, then: Callable[[], None], left: float = _DRAIN_LIMIT) -> None:
        """Call once what has passed has arrived: a reset would take it along."""
        if all(flow.drained() for flow in self.flows.values() if not self._cut(flow.way)):
            then()
        elif left <= 0:
            self._complain(f"connection {self.number}: cut, though not all that passed was taken")
            then()
        else:
            self.loop.call_later(_DRAIN_STEP, self.when_drained, then, left - _DRAIN_STEP)

    def cut(self, towards: Way, *, reset: bool) -> None:
        """Close the socket that leads there, with RST or in good order."""
        sock = self._sockets[towards]
        if self.is_closed(sock):
            return
        self.loop.remove_reader(sock)
        self.loop.remove_writer(sock)
        if reset:
            with contextlib.suppress(OSError):
                reset_when_closed(sock)
        sock.close()
        self.gone = all(map(self.is_closed, self._sockets.values()))

    def close(self, *, reset: bool = False) -> None:
        for way in BOTH:
            self.cut(way, reset=reset)

    def is_closed(self, sock: socket.socket) -> bool:
        return sock.fileno() < 0

    def _cut(self, towards: Way) -> bool:
        return self.is_closed(self._sockets[towards])

    # -- for its flows -----------------------------------------------------------------------

    def ended(self, way: Way) -> None:
        """A flow has come to its end in good order: say so to its sink."""
        if way in self._finished:
            return
        self._finished.add(way)
        try:
            self._sockets[way].shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EBADF):
                raise
        if len(self._finished) == 2:
            self.close()

    def broken(self, way: Way) -> None:
        """The socket that a flow reads was reset: so is the other one, unless an effect of ours
        decides about it."""
        self.cut(way.back, reset=True)
        if self.flows[way].mode is Mode.PASS:
            self.when_drained(lambda: self.cut(way, reset=True))

    def check_ciphers(self) -> None:
        """Once both KEXINITs are known."""
        if self._checked:
            return
        there, back = (self.flows[way].framing for way in BOTH)
        if there and back and there.ciphers and back.ciphers:
            self._checked = True
            check_countable(there.ciphers, back.ciphers)

    def not_counted(self, way: Way, error: FramingError) -> None:
        """From here on there are no packets, only bytes; whoever waits for a packet is told."""
        for flow in self.flows.values():
            flow.framing = None
            for trigger in flow.triggers:
                if trigger.spot.packet is not None:
                    self._complain(f"connection {self.number}, {way.value}: {error}")
