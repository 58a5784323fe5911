"""What the emulated link itself can do: a plain TCP transfer through the proxy, and its delay.

Owns, for the time of one measurement, a TCP server in a thread: it answers each byte with one
byte, and sends a stream when asked for one.  No SSH and no filesystem has a part in it.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from dataclasses import dataclass

from tests.support.proxy import Proxy

_STREAM = 256 << 20
_CHUNK = 1 << 20
_ECHOES = 25
_ECHO, _SEND, _TAKE = b"e", b"s", b"t"


@dataclass(frozen=True)
class Link:
    """One link: MB/s to and from the server, and what it adds to the round-trip time in ms."""

    rtt_ms: float
    proxied: bool
    down: float
    up: float
    added_ms: float

    def __str__(self) -> str:
        name = "proxy" if self.proxied else "direct"
        return (
            f"{name}, RTT {self.rtt_ms:g} ms: {self.down:.0f} MB/s from the server, "
            f"{self.up:.0f} MB/s to it, {self.added_ms:+.2f} ms beside the round-trip time"
        )


def measure(rtt_ms: float, *, proxied: bool) -> Link:
    """The limits of the proxy at a round-trip time, or of loopback itself without it."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        thread = threading.Thread(target=_serve, args=(listening,), daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        if proxied:
            port = stack.enter_context(Proxy(port, rtt_ms)).port
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            echo = _echo_ms(connection)
            up = _up(connection)
            down = _down(connection)
        thread.join(10)
    return Link(rtt_ms, proxied, down, up, echo - rtt_ms)


def _echo_ms(connection: socket.socket) -> float:
    times = []
    for _ in range(_ECHOES):
        started = time.perf_counter()
        connection.sendall(_ECHO)
        connection.recv(1)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def _down(connection: socket.socket) -> float:
    """Asks for the stream: from the first byte's arrival to the last's, in MB/s."""
    connection.sendall(_SEND)
    connection.recv(1)
    started = time.perf_counter()
    _take(connection, _STREAM - 1)
    return _STREAM / 1e6 / (time.perf_counter() - started)


def _up(connection: socket.socket) -> float:
    """Sends the stream, until the server says that all of it is there, less one round trip."""
    connection.sendall(_ECHO)
    started = time.perf_counter()
    connection.recv(1)
    round_trip = time.perf_counter() - started
    started = time.perf_counter()
    connection.sendall(_TAKE)
    _give(connection)
    connection.recv(1)
    return _STREAM / 1e6 / (time.perf_counter() - started - round_trip)


def _give(connection: socket.socket) -> None:
    chunk = bytes(_CHUNK)
    for _ in range(_STREAM // _CHUNK):
        connection.sendall(chunk)


def _take(connection: socket.socket, size: int) -> None:
    space = memoryview(bytearray(_CHUNK))
    while size:
        count = connection.recv_into(space[: min(size, _CHUNK)])
        if not count:
            raise ConnectionError("the link's other end is gone")
        size -= count


def _serve(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while asked := connection.recv(1):
            if asked == _SEND:
                _give(connection)
                continue
            if asked == _TAKE:
                _take(connection, _STREAM)
            connection.sendall(asked)
