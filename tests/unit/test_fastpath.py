"""The fast path beside asyncssh's own: against a real asyncssh server, each case both ways."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest
from asyncssh.packet import String, UInt32

from pysshfs.remote import fastpath

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LIMIT = 30  # seconds
WINDOW = 256 * 1024
GCM = "aes128-gcm@openssh.com"

KEY = asyncssh.generate_private_key("ssh-ed25519")


class End:
    """What one end of the channel has received, for whoever waits for it."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = False
        self.changed = asyncio.Event()

    async def _until(self, is_there: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not is_there():
                self.changed.clear()
                await self.changed.wait()

    async def until_size(self, size: int) -> None:
        await self._until(lambda: len(self.received) >= size)

    async def until(self, data: bytes) -> None:
        await self.until_size(len(data))
        assert self.received == data

    async def until_ended(self) -> None:
        await self._until(lambda: self.ended)


class Far(End, asyncssh.SSHServerSession[bytes]):
    """The server's."""

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self.channel: Any = chan

    def shell_requested(self) -> bool:
        return True

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self.received += data
        self.changed.set()

    def send_raw(self, kind: int, *fields: bytes) -> None:
        """A packet that asyncssh would not send like this."""
        self.channel._conn.send_packet(kind, *fields)


class Server(asyncssh.SSHServer):
    """Lets everybody in, to one session."""

    def __init__(self, far: Far) -> None:
        self._far = far

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        return False

    def session_requested(
        self,
    ) -> tuple[asyncssh.SSHServerChannel[bytes], asyncssh.SSHServerSession[bytes]]:
        return self._connection.create_server_channel(encoding=None), self._far


class Near(End, asyncssh.SSHClientSession[bytes]):
    """Ours, in the place of an SFTP session."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[tuple[bytes, object]] = []
        self.on_data: Callable[[], None] = lambda: None

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        assert type(data) is bytes
        self.pieces.append((data, datatype))
        self.received += data
        self.on_data()
        self.changed.set()

    def eof_received(self) -> bool:
        self.ended = True
        self.changed.set()
        return True


class Client(asyncssh.SSHClient):
    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.error: Exception | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.lost.set()


@dataclasses.dataclass
class Pair:
    near: Near
    far: Far
    channel: asyncssh.SSHClientChannel[bytes]
    connection: asyncssh.SSHClientConnection
    client: Client
    write: Callable[[bytes], None]

    async def reason(self) -> str:
        """Why the connection was lost."""
        async with asyncio.timeout(LIMIT):
            await self.client.lost.wait()
        return f"{type(self.client.error).__name__}: {self.client.error}"

    def count_asyncssh(self) -> list[int]:
        """Grows by the size of what asyncssh itself is left to take apart."""
        left: list[int] = []
        plain = self.connection._recv_data

        def counted() -> None:
            left.append(len(self.connection._inpbuf))
            plain()

        vars(self.connection)["_recv_data"] = counted
        return left


@contextlib.asynccontextmanager
async def connected(
    fast: bool = True,
    cipher: str = GCM,
    compression: str = "none",
    server: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Pair]:
    far, near, client = Far(), Near(), Client()
    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: Server(far),
        server_host_keys=[KEY],
        encryption_algs=[cipher],
        compression_algs=[compression],
        **(server or {}),
    )
    async with listener:
        connection, _ = await asyncssh.create_connection(
            lambda: client,
            "127.0.0.1",
            listener.get_port(),
            username="user",
            known_hosts=None,
            config=None,
            client_keys=[],
            agent_path=None,
            encryption_algs=[cipher],
            compression_algs=[compression],
            **options,
        )
        try:
            if fast:
                fastpath.hasten(connection)
            channel, _ = await connection.create_session(
                lambda: near, encoding=None, window=WINDOW, max_pktsize=32768
            )
            write = fastpath.writer(channel) if fast else channel.write
            yield Pair(near, far, channel, connection, client, write)
        finally:
            connection.abort()
            await connection.wait_closed()


def some(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# --- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cipher", [GCM, "aes256-gcm@openssh.com"])
def test_data_goes_both_ways_and_asyncssh_takes_none_of_it_apart(cipher: str) -> None:
    async def body() -> None:
        async with connected(cipher=cipher) as pair:
            left = pair.count_asyncssh()
            there = b"".join(some(size, size) for size in (1, 9, 16, 100, 5000, 32768, 40_000))
            for size in (1, 9, 16, 100, 5000, 32768, 40_000):
                pair.write(some(size, size))
                pair.far.channel.write(some(size, size))
            await pair.far.until(there)
            await pair.near.until_size(len(there))
            assert pair.near.received == there
            assert left == []

    asyncio.run(body())


@pytest.mark.parametrize("chunk", [1, 3, 4, 19, 20, 21, 1000, 33_000, 100_000])
def test_packets_that_come_in_pieces(chunk: int) -> None:
    """Some are the errors' output, which is asyncssh's to take apart, piece by piece as well."""

    async def body() -> None:
        async with connected() as pair:
            whole = pair.connection.data_received

            def in_pieces(data: bytes, datatype: asyncssh.DataType = None) -> None:
                for at in range(0, len(data), chunk):
                    whole(data[at : at + chunk])

            vars(pair.connection)["data_received"] = in_pieces
            data = some(40_000 if chunk > 100 else 3000)
            for at in range(0, len(data), 700):
                write = pair.far.channel.write_stderr if at % 3 else pair.far.channel.write
                write(data[at : at + 700])
            await pair.near.until_size(len(data))
            assert pair.near.received == data

    asyncio.run(body())


@pytest.mark.parametrize("at", [10, 30])
def test_a_packet_that_asyncssh_has_begun_with(at: int) -> None:
    async def body() -> None:
        async with connected(fast=False) as pair:
            whole = pair.connection.data_received

            def begin(data: bytes, datatype: asyncssh.DataType = None) -> None:
                del vars(pair.connection)["data_received"]
                whole(data[:at])
                fastpath.hasten(pair.connection)
                pair.connection.data_received(data[at:])

            vars(pair.connection)["data_received"] = begin
            pair.far.channel.write(b"x" * 1000)
            await pair.near.until_size(1000)
            pair.far.channel.write(b"y" * 1000)
            await pair.near.until_size(2000)
            assert pair.near.received == b"x" * 1000 + b"y" * 1000

    asyncio.run(body())


def test_more_than_the_windows_take() -> None:
    """Ours is opened again as it is used up; what theirs does not take waits in the channel."""

    async def body() -> None:
        async with connected() as pair:
            data = some(5 * WINDOW)
            pair.far.channel.write(data)
            await pair.near.until_size(len(data))
            assert pair.near.received == data
            pair.far.channel.pause_reading()
            big = some(8 << 20)  # asyncssh's window is 2 MiB
            pair.write(big)
            pair.write(b"behind")
            assert pair.channel.get_write_buffer_size() > 0
            pair.far.channel.resume_reading()
            await pair.far.until(big + b"behind")

    asyncio.run(body())


@pytest.mark.parametrize(
    ("cipher", "compression"),
    [("aes128-ctr", "none"), ("chacha20-poly1305@openssh.com", "none"), (GCM, "zlib")],
)
def test_everything_else_is_asyncssh_s(cipher: str, compression: str) -> None:
    async def body() -> None:
        async with connected(cipher=cipher, compression=compression) as pair:
            left = pair.count_asyncssh()
            data = some(100_000)
            pair.write(data)
            pair.far.channel.write(data)
            await pair.far.until(data)
            await pair.near.until_size(len(data))
            assert pair.near.received == data
            assert left

    asyncio.run(body())


@pytest.mark.parametrize("who", ["we", "the server"])
def test_new_keys_in_the_middle(who: str) -> None:
    async def body() -> None:
        often: dict[str, Any] = {"rekey_bytes": 300_000}
        theirs, ours = (often, {}) if who == "the server" else ({}, often)
        async with connected(server=theirs, **ours) as pair:
            receiving, sending = pair.connection._recv_encryption, pair.connection._send_encryption
            data = some(1 << 20)
            for at in range(0, len(data), 10_000):
                pair.write(data[at : at + 10_000])
                pair.far.channel.write(data[at : at + 10_000])
                await asyncio.sleep(0)
            await pair.far.until(data)
            await pair.near.until_size(len(data))
            assert pair.near.received == data
            assert pair.connection._recv_encryption is not receiving
            assert pair.connection._send_encryption is not sending
            # With the new ones it goes on as before.
            left = pair.count_asyncssh()
            pair.far.channel.write(b"more")
            await pair.near.until_size(len(data) + 4)
            assert left == []

    asyncio.run(body())


def test_a_connection_that_is_old_gets_new_keys_although_little_was_sent() -> None:
    async def body() -> None:
        async with connected(rekey_seconds=3600) as pair:
            sending = pair.connection._send_encryption
            pair.write(b"young")
            pair.connection._rekey_time = 0.0
            pair.write(b"old")
            await pair.far.until(b"youngold")
            pair.far.channel.write(b"x")
            await pair.near.until_size(1)
            assert pair.connection._send_encryption is not sending

    asyncio.run(body())


def test_no_more_is_sent_under_the_same_keys_than_is_allowed() -> None:
    async def body() -> None:
        async with connected(rekey_bytes=300_000) as pair:
            sent: list[int] = []
            plain = pair.connection._send

            def send(data: bytes) -> None:
                plain(data)
                sent.append(pair.connection._rekey_bytes_sent)

            vars(pair.connection)["_send"] = send
            data = some(1 << 20)
            for at in range(0, len(data), 10_000):
                pair.write(data[at : at + 10_000])
            await pair.far.until(data)
            assert 290_000 < max(sent) < 320_000

    asyncio.run(body())


def test_nothing_is_sent_ahead_of_a_packet() -> None:
    """asyncssh sends an empty one, which helps with CBC."""

    async def body() -> None:
        async with connected() as pair:
            before = pair.connection._send_seq
            pair.write(b"x" * 1000)
            assert pair.connection._send_seq == before + 1
            await pair.far.until(b"x" * 1000)

    asyncio.run(body())


# --- endings ------------------------------------------------------------------------------------


def test_the_end_and_the_errors_output_are_asyncssh_s() -> None:
    async def body() -> None:
        async with connected() as pair:
            pair.far.channel.write(b"one")
            pair.far.channel.write_stderr(b"hm")
            pair.far.channel.write(b"two")
            pair.far.channel.write_eof()
            await pair.near.until_ended()
            datatype = asyncssh.EXTENDED_DATA_STDERR
            assert pair.near.pieces == [(b"one", None), (b"hm", datatype), (b"two", None)]

    asyncio.run(body())


def test_what_comes_behind_an_abort_is_not_delivered() -> None:
    async def body() -> None:
        async with connected() as pair:
            pair.near.on_data = pair.connection.abort
            whole = pair.connection.data_received
            came = bytearray()
            all_came = asyncio.Event()

            def keep(data: bytes, datatype: asyncssh.DataType = None) -> None:
                came.extend(data)
                # A number: 16 bytes with headers and padding, a length and a tag; and before each
                # an empty packet of the same size.
                if len(came) == 5 * 2 * (4 + 16 + 16):
                    all_came.set()

            vars(pair.connection)["data_received"] = keep
            for number in range(5):
                pair.far.channel.write(b"%d" % number)
            async with asyncio.timeout(LIMIT):
                await all_came.wait()
            whole(bytes(came))
            await pair.reason()
            assert len(pair.near.pieces) == 1

    asyncio.run(body())


def test_writing_to_what_is_closed_is_an_error_as_ever() -> None:
    async def body() -> None:
        async with connected() as pair:
            pair.channel.abort()
            with pytest.raises(OSError, match="not open"):
                pair.write(b"x")

    asyncio.run(body())


def packet_for(pair: Pair, *fields: bytes) -> None:
    pair.far.send_raw(94, UInt32(pair.far.channel._send_chan), *fields)


async def more_than_the_window(pair: Pair) -> None:
    pair.channel.pause_reading()  # nothing is given back then
    for _ in range(20):
        packet_for(pair, String(b"x" * 32_000))


async def behind_the_end(pair: Pair) -> None:
    pair.far.channel.write_eof()
    await pair.near.until_ended()
    packet_for(pair, String(b"x"))


async def without_padding(pair: Pair) -> None:
    payload = bytes((0, 94)) + UInt32(pair.far.channel._send_chan) + String(b"x" * 6)
    assert len(payload) == 16
    connection = pair.far.channel._conn
    sealed, tag = connection._send_encryption.encrypt_packet(0, UInt32(16), payload)
    connection._send(sealed + tag)


def sends(*packet: bytes, kind: int) -> Callable[[Pair], Awaitable[None]]:
    async def send(pair: Pair) -> None:
        pair.far.send_raw(kind, *packet)

    return send


def sends_data(*fields: bytes) -> Callable[[Pair], Awaitable[None]]:
    async def send(pair: Pair) -> None:
        packet_for(pair, *fields)

    return send


async def longer_than_allowed(pair: Pair) -> None:
    pair.connection._max_recv_pktlen = 1000
    packet_for(pair, String(b"x" * 2000))


async def a_disconnect(pair: Pair) -> None:
    pair.far.channel._conn.disconnect(11, "so long")


VIOLATIONS: dict[str, Callable[[Pair], Awaitable[None]]] = {
    "more than the window": more_than_the_window,
    "data for no channel": sends(UInt32(77), String(b"x"), kind=94),
    "a length that is too long": sends_data(UInt32(100), b"x"),
    "a length that is too short": sends_data(UInt32(1), b"xyz"),
    "no length": sends_data(),
    "no channel": sends(kind=94),
    "nothing to be ignored, with a length": sends(UInt32(9), b"x", kind=2),
    "data behind the end": behind_the_end,
    "no padding": without_padding,
    "longer than allowed": longer_than_allowed,
    "a disconnect": a_disconnect,
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_ends_the_connection_as_asyncssh_ends_it(name: str) -> None:
    reasons: list[str] = []

    async def body() -> None:
        for fast in (False, True):
            async with connected(fast) as pair:
                await VIOLATIONS[name](pair)
                reasons.append(await pair.reason())

    asyncio.run(body())
    assert reasons[0] == reasons[1]


def corrupted(at: int, to: int | None = None) -> Callable[[bytes], bytes]:
    def corrupt(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] = changed[at] ^ 1 if to is None else to
        return bytes(changed)

    return corrupt


@pytest.mark.parametrize(
    ("what", "corrupt"),
    [
        ("the data", corrupted(30)),
        ("the tag", corrupted(-1)),
        ("the length, which is too long then", corrupted(0, 0xFF)),
        ("a length of nothing", lambda data: bytes(4) + data[4:]),
    ],
)
def test_a_packet_that_was_tampered_with(what: str, corrupt: Callable[[bytes], bytes]) -> None:
    reasons: list[str] = []

    async def body() -> None:
        for fast in (False, True):
            async with connected(fast) as pair:
                whole = pair.connection.data_received
                vars(pair.connection)["data_received"] = lambda data, datatype=None, whole=whole: (
                    whole(corrupt(data))
                )
                pair.far.channel.write(b"x" * 100)
                reasons.append(await pair.reason())
                assert pair.near.pieces == []

    asyncio.run(body())
    assert reasons[0] == reasons[1]


# --- signs of life ------------------------------------------------------------------------------


def test_the_time_to_the_next_keepalive_is_counted_anew_now_and_then() -> None:
    async def body() -> None:
        async with connected(keepalive_interval=1000) as pair:

            async def echo(data: bytes) -> object:
                pair.far.channel.write(data)
                await pair.near.until_size(len(pair.near.received) + len(data))
                return pair.connection._keepalive_timer

            pair.connection._heard_at = -1000.0  # type: ignore[attr-defined]  # the subclass has it
            first = await echo(b"a")
            assert await echo(b"b") is first
            pair.connection._heard_at -= 1000 / 15  # type: ignore[attr-defined]  # as above
            assert await echo(b"c") is not first

    asyncio.run(body())


# --- which connections --------------------------------------------------------------------------


def test_an_asyncssh_that_is_not_known_goes_its_own_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asyncssh, "__version__", "9.0.0")
    caplog.set_level(logging.INFO, "pysshfs")

    async def body() -> None:
        async with connected() as pair:
            assert type(pair.connection) is asyncssh.SSHClientConnection
            assert pair.write == pair.channel.write
            pair.write(b"x")
            await pair.far.until(b"x")

    asyncio.run(body())
    assert "asyncssh 9.0.0" in caplog.text


def test_the_asyncssh_that_is_installed_is_known() -> None:
    assert asyncssh.__version__.startswith(fastpath._KNOWN)
