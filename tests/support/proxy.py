"""A TCP proxy that makes a loopback connection as slow to answer as a distant one.

Run as a program it owns one listening socket and, per connection, one queue of (due time,
chunk) for each direction.  A chunk is passed on half a round trip after it was read, and the
bandwidth is not limited: chunks overtake nothing and wait for nothing but their time.  A
connection is opened to the target one round trip after it was accepted, as the handshake over
such a link would take.  Everything runs in one event loop; nothing is shared between threads.

SIGUSR1 resets all connections; stopped, it is a link that has gone silent.

It does not emulate loss, jitter, congestion or a peer's receive window.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import selectors
import signal
import socket
import stat
import subprocess
import sys
import weakref
from collections import deque
from pathlib import Path
from typing import Self, cast

from tests.support import procs
from tests.support.sockets import reset_when_closed

#: Bytes that may wait in one direction of a connection before its source is no longer read.
QUEUE_LIMIT = 64 * 1024 * 1024

#: Seconds a chunk spends in the proxy besides its delay (the wakeups); taken off the delay.
OVERHEAD = 100e-6

#: A processor that has slept for milliseconds wakes up to 0.2 ms late, one that has slept
#: shortly some 20 us late: so a long wait is cut in two, this many seconds before its end.
APPROACH = 300e-6


class Lane:
    """One direction of a connection: what was read from `source` and is due at `sink`."""

    def __init__(self, pair: Pair, delay: float) -> None:
        self._pair = pair
        self._loop = asyncio.get_running_loop()
        self._delay = max(0.0, delay - OVERHEAD)
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sink_full = False
        self._source_paused = False
        self._source_ended = False
        self.finished = False
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None

    def push(self, chunk: bytes) -> None:
        """Take a chunk just read; an empty one is the end of the stream."""
        if self._source_ended:
            return
        self._source_ended = not chunk
        self._queue.append((self._loop.time() + self._delay, chunk))
        self._queued += len(chunk)
        if self._queued > QUEUE_LIMIT and self.source and not self._source_paused:
            self._source_paused = True
            self.source.pause_reading()
        if self._timer is None:
            self._deliver()

    def hold(self) -> None:
        """The sink's own buffer is full."""
        self._sink_full = True

    def go_on(self) -> None:
        """The sink takes data again."""
        self._sink_full = False
        if self._timer is None:
            self._deliver()

    def drop(self) -> None:
        """The sink is gone: what waits for it is lost."""
        self._queue.clear()
        self._queued = 0
        self._finish()

    def _deliver(self) -> None:
        """Pass on what is due, and arrange to be called when the next chunk is."""
        self._timer = None
        while self._queue and not self._sink_full and not self.finished:
            due, chunk = self._queue[0]
            left = due - self._loop.time()
            if left > 0:
                wake = due - APPROACH if left > 2 * APPROACH else due
                self._timer = self._loop.call_at(wake, self._deliver)
                break
            self._queue.popleft()
            self._pass_on(chunk)
        if self._source_paused and self._queued <= QUEUE_LIMIT // 2 and self.source:
            self._source_paused = False
            self.source.resume_reading()

    def _pass_on(self, chunk: bytes) -> None:
        if self.sink is None or self.sink.is_closing():
            return
        if chunk:
            self._queued -= len(chunk)
            self.sink.write(chunk)
        else:
            with contextlib.suppress(OSError):  # it may have been reset meanwhile
                self.sink.write_eof()
            self._finish()

    def _finish(self) -> None:
        self.finished = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pair.settle()


class End(asyncio.Protocol):
    """One socket of a connection: feeds `outgoing`, is fed by `incoming`."""

    def __init__(self, pair: Pair, outgoing: Lane, incoming: Lane) -> None:
        self._pair, self._outgoing, self._incoming = pair, outgoing, incoming
        self.transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport.set_write_buffer_limits(high=1024 * 1024, low=256 * 1024)
        self._outgoing.source = self._incoming.sink = self.transport
        self._pair.connected(self)

    def data_received(self, data: bytes) -> None:
        self._outgoing.push(data)

    def eof_received(self) -> bool:
        self._outgoing.push(b"")
        return True  # the other direction may have more to say

    def pause_writing(self) -> None:
        self._incoming.hold()

    def resume_writing(self) -> None:
        # Not from inside the transport's own writing: closing it there would close it twice.
        asyncio.get_running_loop().call_soon(self._incoming.go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._outgoing.push(b"")
        self._incoming.drop()


class Pair:
    """A client's connection and the one opened to the target for it."""

    def __init__(self, target: tuple[str, int], rtt: float) -> None:
        self._target, self._rtt = target, rtt
        self._loop = asyncio.get_running_loop()
        self._opening: asyncio.Task[None] | None = None
        _pairs.add(self)
        there, back = Lane(self, rtt / 2), Lane(self, rtt / 2)
        self._there, self._back = there, back
        self.client = End(self, there, back)
        self._server = End(self, back, there)

    def connected(self, end: End) -> None:
        if end is self.client and end.transport is not None:
            # Not read until there is somewhere to put it; the kernel keeps it meanwhile.
            end.transport.pause_reading()
            self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        await asyncio.sleep(self._rtt)
        client = self.client.transport
        try:
            await self._loop.create_connection(lambda: self._server, *self._target)
        except OSError as problem:
            print(f"proxy: {self._target}: {problem}", file=sys.stderr)
            if client is not None:
                client.abort()
            return
        if client is not None and not self.client.lost:
            client.resume_reading()
        self.settle()

    def settle(self) -> None:
        """Close what has nothing left to send or nobody left to send it to."""
        both = self._there.finished and self._back.finished
        for end, lane, other in (
            (self.client, self._back, self._server),
            (self._server, self._there, self.client),
        ):
            if end.transport is not None and (both or (other.lost and lane.finished)):
                end.transport.close()

    def reset(self) -> None:
        """End both sides as a crashed machine would."""
        for end in (self.client, self._server):
            if end.transport is not None and not end.lost:
                reset_when_closed(end.transport.get_extra_info("socket"))
                end.transport.abort()


_pairs: weakref.WeakSet[Pair] = weakref.WeakSet()


def _reset_all() -> None:
    for pair in list(_pairs):
        pair.reset()


async def serve(listen: int, target: tuple[str, int], rtt: float) -> None:
    """Listen on loopback, print the port as one line, and run until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Pair(target, rtt).client, "127.0.0.1", listen)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop.add_signal_handler(signal.SIGUSR1, _reset_all)
    parent_gone = asyncio.Event()
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        # A pipe is held open by whoever started us, as long as that process lives.
        loop.add_reader(0, parent_gone.set)
    async with server:
        await parent_gone.wait()


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are good to some ten microseconds.

    The default one sleeps in epoll_wait, in whole milliseconds rounded up; select() takes
    microseconds.  The kernel may add its timer slack to either, 50 us unless told otherwise.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1")
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    parser = argparse.ArgumentParser(description="a TCP proxy with a round-trip time")
    parser.add_argument("--listen", type=int, default=0, metavar="PORT", help="0: any free one")
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    args = parser.parse_args()
    host, _, port = args.to.rpartition(":")
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=precise_loop) as runner,
    ):
        runner.run(serve(args.listen, (host, int(port)), args.rtt_ms / 1000))


class Proxy:
    """The proxy as a process of its own; ``with Proxy(port, rtt_ms) as proxy: proxy.port``."""

    def __init__(self, to_port: int, rtt_ms: float, *, to_host: str = "127.0.0.1") -> None:
        self.rtt_ms = rtt_ms
        self.port = 0
        self._target = f"{to_host}:{to_port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and learn its port; RuntimeError when it does not come up within 10 s."""
        argv = [sys.executable, "-m", "tests.support.proxy", "--listen", str(self.port)]
        argv += ["--to", self._target, "--rtt-ms", str(self.rtt_ms)]
        self._process = process = subprocess.Popen(
            argv, cwd=procs.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(10) else b""
        if not line.strip().isdigit():
            self.stop()
            raise RuntimeError(f"the proxy to {self._target} did not start")
        self.port = int(line)

    def stop(self) -> None:
        """End it, and with it every connection through it; `start` takes the same port again."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def freeze(self) -> None:
        """Pass nothing on any more. Connections are still accepted, by the kernel."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def reset(self) -> None:
        """End the connections there are with a reset, on both sides."""
        self._signal(signal.SIGUSR1)

    def _signal(self, which: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(which)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


if __name__ == "__main__":
    main()
