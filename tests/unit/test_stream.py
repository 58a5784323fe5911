"""A connection's socket between asyncio's transport and a protocol, over a real pair of sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from pysshfs.remote.bridge import Bridge
from pysshfs.remote.stream import Stream
from tests.support.sockets import reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

#: Seconds before a test that waits for something gives up.
LIMIT = 20


class Recorder(asyncio.Protocol):
    """Keeps what it is told, and runs `on_data` for each piece."""

    def __init__(self) -> None:
        self.received = b""
        self.pieces = 0
        self.ended = False
        self.stays_open = False
        self.lost = trio.Event()
        self.error: Exception | None = None
        self.running: list[object] = []
        self.on_data: Callable[[], None] = lambda: None
        self.more = trio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Stream)
        self.stream = transport

    def data_received(self, data: bytes) -> None:
        self.running.append(asyncio.get_running_loop())
        self.received += data
        self.pieces += 1
        self.on_data()
        self.more.set()
        self.more = trio.Event()

    def eof_received(self) -> bool:
        self.ended = True
        self.more.set()
        self.more = trio.Event()
        return self.stays_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.lost.set()

    async def until(self, data: bytes) -> None:
        with trio.fail_after(LIMIT):
            while self.received != data:
                await self.more.wait()

    async def until_lost(self) -> None:
        with trio.fail_after(LIMIT):
            await self.lost.wait()


class Rig:
    """A bridge, a protocol at one end and the socket of the other."""

    def __init__(self, bridge: Bridge, protocol: Recorder, theirs: socket.socket) -> None:
        self.bridge, self.protocol, self.theirs = bridge, protocol, theirs

    @property
    def stream(self) -> Stream:
        return self.protocol.stream

    @property
    def transport(self) -> asyncio.Transport:
        return self.stream._transport

    @property
    def descriptor(self) -> int:
        number = self.transport.get_extra_info("socket").fileno()
        assert isinstance(number, int)
        return number


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection: only these can be reset."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    return ours, theirs


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Rig]:
    bridge = Bridge()
    ours, theirs = connected_pair()
    with theirs:
        async with trio.open_nursery() as nursery:
            await nursery.start(bridge.run)
            protocol = Recorder()
            await bridge.call(bridge.loop.create_connection(lambda: protocol, sock=ours))
            yield Rig(bridge, protocol, theirs)
            if not protocol.lost.is_set():
                protocol.stream.abort()
                await protocol.until_lost()
            nursery.cancel_scope.cancel()


def with_rig(body: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        async with connected() as rig:
            await body(rig)

    trio.run(main)


def test_what_comes_is_received_with_the_loop_running() -> None:
    async def body(rig: Rig) -> None:
        rig.theirs.sendall(b"one")
        await rig.protocol.until(b"one")
        rig.theirs.sendall(b"two")
        await rig.protocol.until(b"onetwo")
        assert set(rig.protocol.running) == {rig.bridge.loop}
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    with_rig(body)


def test_asyncio_itself_does_not_read() -> None:
    """Two readers of one socket would each get a part."""

    async def body(rig: Rig) -> None:
        assert not rig.transport.is_reading()

    with_rig(body)


def test_what_tasks_write_before_anybody_waits_is_sent_in_one_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(rig: Rig) -> None:
        sent: list[object] = []
        monkeypatch.setattr(rig.transport, "write", sent.append)

        async def write(text: bytes) -> None:
            def send() -> bool:
                rig.stream.write(text)
                return False

            rig.bridge.before_waiting(send)
            assert sent == []

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(write, b"%d" % number)
        await trio.testing.wait_all_tasks_blocked()
        rig.stream.write(b"later")
        await trio.testing.wait_all_tasks_blocked()
        together, later = sent
        assert isinstance(together, bytes) and sorted(together) == list(b"01234")
        assert later == b"later"

    with_rig(body)


def test_nothing_is_received_while_reading_is_paused() -> None:
    async def body(rig: Rig) -> None:
        rig.protocol.on_data = rig.stream.pause_reading
        rig.theirs.sendall(b"one")
        await rig.protocol.until(b"one")
        assert not rig.stream.is_reading()
        rig.theirs.sendall(b"two")
        await trio.testing.wait_all_tasks_blocked()
        assert rig.protocol.received == b"one"
        rig.stream.resume_reading()
        assert rig.stream.is_reading()
        await rig.protocol.until(b"onetwo")

    with_rig(body)


def test_nothing_is_received_when_reading_is_paused_while_it_waits() -> None:
    async def body(rig: Rig) -> None:
        await trio.testing.wait_all_tasks_blocked()
        rig.stream.pause_reading()
        rig.theirs.sendall(b"one")
        await trio.testing.wait_all_tasks_blocked()
        assert rig.protocol.received == b""
        rig.stream.abort()
        await rig.protocol.until_lost()
        assert rig.protocol.received == b""

    with_rig(body)


def test_what_was_written_is_sent_before_a_close() -> None:
    async def body(rig: Rig) -> None:
        rig.stream.write(b"last words")
        rig.stream.close()
        await rig.protocol.until_lost()
        assert rig.theirs.recv(100) == b"last words"
        assert rig.theirs.recv(100) == b""
        assert rig.protocol.error is None

    with_rig(body)


def test_nothing_is_sent_behind_an_abort() -> None:
    async def body(rig: Rig) -> None:
        rig.stream.write(b"never")
        rig.stream.abort()
        await rig.protocol.until_lost()
        assert rig.theirs.recv(100) == b""

    with_rig(body)


def test_the_end_of_what_comes_closes_it() -> None:
    async def body(rig: Rig) -> None:
        rig.theirs.sendall(b"all")
        rig.theirs.shutdown(socket.SHUT_WR)
        await rig.protocol.until_lost()
        assert (rig.protocol.received, rig.protocol.ended) == (b"all", True)
        assert rig.protocol.error is None

    with_rig(body)


def test_a_protocol_may_go_on_writing_behind_the_end() -> None:
    async def body(rig: Rig) -> None:
        rig.protocol.stays_open = True
        rig.theirs.shutdown(socket.SHUT_WR)
        with trio.fail_after(LIMIT):
            while not rig.protocol.ended:
                await rig.protocol.more.wait()
        rig.stream.write(b"still here")
        await trio.testing.wait_all_tasks_blocked()
        assert rig.theirs.recv(100) == b"still here"
        assert not rig.protocol.lost.is_set()

    with_rig(body)


def test_a_reset_is_told_as_the_error_it_is() -> None:
    async def body(rig: Rig) -> None:
        reset(rig.theirs)
        await rig.protocol.until_lost()
        assert isinstance(rig.protocol.error, OSError)
        assert rig.protocol.error.errno == errno.ECONNRESET

    with_rig(body)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_nothing_is_received_after_it_was_closed(how: str) -> None:
    """The rest is there already when the protocol ends the connection; and the number of its
    descriptor may be that of another file a moment later."""

    async def body(rig: Rig) -> None:
        rig.protocol.on_data = getattr(rig.stream, how)
        rig.theirs.sendall(b"x" * 300_000)
        await rig.protocol.until_lost()
        await trio.testing.wait_all_tasks_blocked()
        assert rig.protocol.pieces == 1

    with_rig(body)


def test_one_that_is_closed_before_its_turn_receives_nothing_of_what_gets_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Readable, hence about to run, and closed by a task that runs before."""
    real = trio.lowlevel.wait_readable

    async def body(rig: Rig) -> None:
        number = rig.descriptor

        async def wait_readable(fd: int) -> None:
            await real(fd)
            if fd == number:
                rig.stream.abort()
                await rig.protocol.until_lost()
                read_end, first = os.pipe()  # one of them has the number
                write_end = os.dup(first)
                os.dup2(read_end, number)
                os.write(write_end, b"somebody else's")
                pipe.extend({read_end, number, write_end, first})

        pipe: list[int] = []
        monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_readable)
        rig.theirs.sendall(b"1")  # the wait that had begun before
        await rig.protocol.until(b"1")
        rig.theirs.sendall(b"2")
        await rig.protocol.until_lost()
        await trio.testing.wait_all_tasks_blocked()
        assert rig.protocol.received == b"1"
        assert os.read(number, 100) == b"somebody else's"
        for end in pipe:
            os.close(end)

    with_rig(body)


def test_a_write_that_fails_ends_reading_too() -> None:
    async def body(rig: Rig) -> None:
        reset(rig.theirs)
        # The error is the socket's; who comes first gets it, and the other must do nothing.
        rig.stream.write(b"x")
        rig.stream.send()
        await rig.protocol.until_lost()
        assert isinstance(rig.protocol.error, OSError)

    with_rig(body)


@pytest.mark.filterwarnings("ignore:unclosed")
def test_nobody_receives_any_more_when_the_bridge_has_ended() -> None:
    """Also when nobody has closed the connection, which is a mistake and not a reason to stay."""

    async def main() -> None:
        bridge = Bridge()
        ours, theirs = connected_pair()
        protocol = Recorder()
        with theirs:
            async with trio.open_nursery() as nursery:
                await nursery.start(bridge.run)
                await bridge.call(bridge.loop.create_connection(lambda: protocol, sock=ours))
                nursery.cancel_scope.cancel()
            theirs.sendall(b"x")
            await trio.testing.wait_all_tasks_blocked()
            assert protocol.received == b""

    trio.run(main)
    gc.collect()  # asyncio warns of it here, not in some later test
