"""One SFTP session on one SSH channel: which requests are out, and what their replies mean.

asyncssh carries the channel; the SFTP messages are ours, because a filesystem needs what a client
library does not give: exact cancellation, late handles closed, several READDIRs in flight, every
length checked, no task per request (the measurements are in docs/architecture.md).

State: the table of pending requests and the receive buffer. Who touches it: any trio task sends
(`request` never suspends); replies are handled in `data_received`, called by asyncssh inside the
bridge's task. What is sent gathers until trio waits (`Bridge.before_waiting`); what nobody waits
for (`lazily`) goes with whatever is sent next, or by itself a little later, in its turn all the
same.
Nothing here awaits, so nothing can change under it. A session never recovers: the first violation
or loss fails every pending request and calls `on_lost` once.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

import asyncssh

from pysshfs.errors import FX_EOF, FX_OK, ConnectionLostError, ProtocolError, RemoteStatusError
from pysshfs.remote import wire
from pysshfs.remote.pending import NO_EOF, Pending
from pysshfs.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
log = logging.getLogger(__name__)

_MAX_STDERR_LINES = 20
_MOST_WORDS = 200  # characters of a reason that the server gives
_MOST_ABANDONED = 8192  # requests that nobody waits for any more and the server owes an answer
_MOST_PENDING = 65_536  # of all kinds: far more than programs can wait for at once
# Of a reply that is not whole yet, what counts as a sign of life (bytes): a server that sends a
# byte now and then does not answer.
_STEP = 4096
_SHORT = 16 * 1024  # bytes: below that, messages are joined before they are encrypted


def words_of(error: Exception) -> str:
    """What an exception of asyncssh's says, which may be the server's words: the beginning."""
    return str(error)[:_MOST_WORDS]


def _now(write: Callable[[], object]) -> None:
    write()


def _joined(messages: list[bytes]) -> Iterator[bytes]:
    """The messages, runs of short ones in one piece."""
    run: list[bytes] = []
    for message in messages:
        if len(message) < _SHORT:
            run.append(message)
            continue
        if run:
            yield b"".join(run)
            run = []
        yield message
    if run:
        yield run[0] if len(run) == 1 else b"".join(run)


class Traffic:
    """What went over all the sessions of a mount, past ones included: messages, and their bytes."""

    __slots__ = ("bytes_received", "bytes_sent", "requests_sent")

    def __init__(self) -> None:
        self.requests_sent = self.bytes_sent = self.bytes_received = 0


class SftpSession(asyncssh.SSHClientSession[bytes]):
    """Made by `remote/link.py` for each channel."""

    def __init__(
        self,
        on_lost: Callable[[Exception], None],
        soon: Callable[[Callable[[], bool]], None] = _now,
        later: Callable[[Callable[[], bool]], None] = _now,
        clock: Callable[[], float] = time.monotonic,
        traffic: Traffic | None = None,
    ) -> None:
        self._on_lost = on_lost
        self._traffic = traffic or Traffic()
        self._soon = soon  # `Bridge.before_waiting`
        self._later = later  # `Bridge.in_a_while`
        self._outgoing: list[bytes] = []
        self._is_due = self._is_due_later = False  # whether `soon`, `later` was asked
        self.is_unhurried = False  # what is sent now goes `lazily`, whatever it is
        self._clock = clock
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._write: Callable[[bytes], None]  # to the channel, once there is one
        self._pending: dict[int, Pending] = {}
        self._next_id = 0
        self._buffer = bytearray()
        self._lost: ConnectionLostError | None = None
        self._version: Reply[dict[bytes, bytes]] = Reply()
        self._greeted_at = clock()
        self._now = self._greeted_at  # when something was received
        self._received_at = self._greeted_at  # when there was a sign of life
        self._received_more = 0  # bytes since
        self.round_trip = math.inf  # seconds: the shortest time that a reply has taken
        self._stderr_lines = 0
        self.requests_sent = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.replies_abandoned = 0
        self._owed = 0  # replies to what was abandoned, that have not come

    # --- sending ----------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    def oldest_request_age(self) -> float:
        """Seconds since the oldest unanswered request was sent; 0 when there is none."""
        first = next(iter(self._pending.values()), None)
        return self._clock() - first.sent_at if first else 0.0

    def quiet(self) -> float:
        """Seconds since anything was received, whether anything is due or not."""
        return self._clock() - self._received_at

    def silence(self) -> float:
        """Seconds for which an answer has been due and nothing was received; 0 when none is."""
        first = next(iter(self._pending.values()), None)
        return self._clock() - max(self._received_at, first.sent_at) if first else 0.0

    def handshake(self) -> Reply[dict[bytes, bytes]]:
        """Send INIT; the reply is the server's extensions (name to data)."""
        self._greeted_at = self._clock()
        self._transmit(wire.init_packet())
        return self._version

    def request(
        self,
        kind: int,
        *fields: bytes,
        expected: int = wire.FXP_STATUS,
        parse: Callable[[wire.Reader], T] | None = None,
        at_eof: object = NO_EOF,
        closes_late: bool = False,
        lazily: bool = False,
    ) -> Reply[T]:
        """Send a request, now unless nobody waits for what it does (`lazily`).

        `expected` is the reply type that carries a result, made by `parse`; a STATUS of OK counts
        as a result (None) only when STATUS is what was expected. `at_eof` is the result when the
        status is EOF. `closes_late`: the result is a handle that must be closed if nobody waits
        for it any more when it comes.
        """
        if self._lost is not None or len(self._pending) >= _MOST_PENDING:
            return self._refused()
        request_id = self._take_id()
        reply = self._register(kind, request_id, expected, parse, at_eof, closes_late)
        self._transmit(wire.packet(kind, request_id, *fields), lazily)
        return cast("Reply[T]", reply)

    def write(
        self, handle: bytes, offset: int, data: bytes | bytearray | memoryview
    ) -> Reply[None]:
        """A WRITE; apart from `request` because its data should be copied once only."""
        if self._lost is not None or len(self._pending) >= _MOST_PENDING:
            return self._refused()
        request_id = self._take_id()
        reply = self._register(wire.FXP_WRITE, request_id, wire.FXP_STATUS, None, NO_EOF, False)
        self._transmit(wire.write_packet(request_id, handle, offset, data))
        return reply

    def _refused(self) -> Reply[Any]:
        """There is no session, or none that answers."""
        if self._lost is None:
            self.fail(ConnectionLostError(f"{len(self._pending)} requests without an answer"))
        assert self._lost is not None
        return Reply.failed(self._lost)

    def _take_id(self) -> int:
        request_id = self._next_id
        while request_id in self._pending:  # after 2^32 requests an old one may still be out
            request_id = (request_id + 1) & 0xFFFFFFFF
        self._next_id = (request_id + 1) & 0xFFFFFFFF
        return request_id

    def _register(
        self,
        kind: int,
        request_id: int,
        expected: int,
        parse: Callable[[wire.Reader], Any] | None,
        at_eof: object,
        closes_late: bool,
    ) -> Reply[Any]:
        reply: Reply[Any] = Reply(on_abandon=lambda: self._abandon(request_id))
        self._pending[request_id] = Pending(
            kind, reply, expected, parse, at_eof, closes_late, self._clock()
        )
        self.requests_sent += 1
        self._traffic.requests_sent += 1
        return reply

    def _abandon(self, request_id: int) -> None:
        # The id stays known: the reply is still on its way, and one to an unknown id would be a
        # violation. A server that never answers some request, which is made and given up again and
        # again, must not have us remember all of them.
        pending = self._pending.get(request_id)
        if pending is not None:
            pending.abandoned = True
            self.replies_abandoned += 1
            self._owed += 1
            if self._owed > _MOST_ABANDONED:
                self.fail(ConnectionLostError(f"{self._owed} requests without an answer"))

    def _transmit(self, data: bytes, lazily: bool = False) -> None:
        if self._channel is None:
            self.fail(ConnectionLostError())
            return
        self._outgoing.append(data)
        self.bytes_sent += len(data)
        self._traffic.bytes_sent += len(data)
        if self._is_due:
            return
        if not (lazily or self.is_unhurried):
            self.hurry()
        elif not self._is_due_later:
            self._is_due_later = True
            self._later(self._flush_late)

    def hurry(self) -> None:
        """Somebody waits for what was sent, if anything has gathered."""
        if self._outgoing and not self._is_due:
            self._is_due = True
            self._soon(self._flush)

    def _flush_late(self) -> bool:
        self._is_due_later = False
        return bool(self._outgoing) and self._flush()

    def _flush(self) -> bool:
        """Hand asyncssh what has gathered; short messages together, since it makes two packets of
        each piece that it gets. Whether that has woken tasks."""
        outgoing, self._outgoing = self._outgoing, []
        self._is_due = False
        channel = self._channel
        if channel is None or self._lost is not None:
            return False
        try:
            for piece in _joined(outgoing):
                self._write(piece)
        except (OSError, asyncssh.Error) as error:
            self.fail(ConnectionLostError(f"cannot send: {error}"))
            return True
        return False

    def write_by(self, write: Callable[[bytes], None]) -> None:
        """Write to the channel by that from now on, to the same effect as by the channel's own."""
        self._write = write

    # --- asyncssh's callbacks ---------------------------------------------------------------

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        self._write = chan.write

    def connection_lost(self, exc: Exception | None) -> None:
        reason = words_of(exc) if exc else "the server closed the connection"
        self.fail(ConnectionLostError(reason))

    def eof_received(self) -> bool:
        self.fail(ConnectionLostError("the server ended the SFTP session"))
        return False

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype is not None:
            self._log_stderr(data)
            return
        self.bytes_received += len(data)
        self._traffic.bytes_received += len(data)
        self._now = self._clock()
        if self._lost is not None:
            return
        try:
            self._consume(data)
        except ProtocolError as error:
            # It belongs to no request, so it is taken for the answer to the oldest: a request that
            # makes the server do so each time must come to an end.
            oldest = next((each for each in self._pending.values() if not each.abandoned), None)
            if oldest is not None:
                oldest.reply.set_error(error)
            self.fail(error)

    def _log_stderr(self, data: bytes) -> None:
        if self._stderr_lines < _MAX_STDERR_LINES:
            self._stderr_lines += 1
            log.info("the server says: %r", data[:200])

    # --- receiving --------------------------------------------------------------------------

    def _consume(self, data: bytes) -> None:
        """Handle every whole packet; keep the rest. Data is copied once, into the result."""
        source: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            source = self._buffer
        at = 0
        with memoryview(source) as view:
            while self._lost is None and len(view) - at >= 4:
                length = int.from_bytes(view[at : at + 4], "big")
                if not 5 <= length <= wire.MAX_REPLY:
                    raise ProtocolError(f"reply of {length} bytes")
                end = at + 4 + length
                if end > len(view):
                    break
                with view[at + 4 : end] as body:
                    self._handle_packet(body)
                at = end
        self._received_more += len(data)
        if at or self._received_more >= _STEP:
            self._received_at, self._received_more = self._now, 0
        if source is self._buffer:
            del self._buffer[:at]
        else:
            self._buffer += data[at:]

    def _handle_packet(self, body: memoryview) -> None:
        kind = body[0]
        if kind == wire.FXP_VERSION:
            self._handle_version(body)
            return
        request_id = int.from_bytes(body[1:5], "big")
        pending = self._pending.pop(request_id, None)
        if pending is None:
            raise ProtocolError(f"reply to request {request_id}, which is not out")
        self._note_delay(pending.sent_at)
        if pending.abandoned:
            self._owed -= 1
        try:
            self._resolve(pending, kind, wire.Reader(body, 5))
        except ProtocolError as error:
            named = ProtocolError(f"answer to {wire.REQUEST_NAMES.get(pending.kind)}: {error}")
            pending.reply.set_error(named)
            self.fail(named)

    def _note_delay(self, sent_at: float) -> None:
        delay = self._now - sent_at
        if delay < self.round_trip:
            self.round_trip = delay

    def _handle_version(self, body: memoryview) -> None:
        if self._version.done:
            raise ProtocolError("a second VERSION")
        self._note_delay(self._greeted_at)
        reader = wire.Reader(body, 1)
        version = reader.u32()
        if version != wire.VERSION:
            raise ProtocolError(f"the server speaks SFTP version {version}, not {wire.VERSION}")
        self._version.set_result(wire.parse_extensions(reader))

    def _resolve(self, pending: Pending, kind: int, reader: wire.Reader) -> None:
        reply = pending.reply
        if kind == wire.FXP_STATUS:
            code, message = wire.parse_status(reader)
            if code == FX_OK and pending.expected == wire.FXP_STATUS:
                reply.set_result(None)
            elif code == FX_OK:
                raise ProtocolError("OK where a result was asked for")
            elif code == FX_EOF and pending.at_eof is not NO_EOF:
                reply.set_result(pending.at_eof)
            else:
                reply.set_error(RemoteStatusError(code, message))
            return
        if kind != pending.expected or pending.parse is None:
            raise ProtocolError(f"type {kind}, not {pending.expected}")
        result = pending.parse(reader)
        if pending.abandoned and pending.closes_late:
            self.request(wire.FXP_CLOSE, wire.string(result.token))
        reply.set_result(result)

    # --- ending -----------------------------------------------------------------------------

    @property
    def lost(self) -> ConnectionLostError | None:
        return self._lost

    def fail(self, error: ConnectionLostError) -> None:
        """End the session: everything pending fails with `error`, as far as it is a loss for it: a
        violation of the protocol is that of the reply that was one. Only the first call counts."""
        if self._lost is not None:
            return
        self._lost = error
        pending, self._pending = self._pending, {}
        if self._channel is not None:
            self._channel.abort()
        self._version.set_error(error)
        loss = ConnectionLostError(str(error)) if isinstance(error, ProtocolError) else error
        for request in pending.values():
            request.reply.set_error(loss)
        self._on_lost(error)

    def close(self) -> None:
        """End the session on purpose; asyncssh then calls `connection_lost`."""
        if self._channel is not None:
            self._flush()
            self._channel.close()
