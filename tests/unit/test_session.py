"""The SFTP session with a channel that records what is sent and says what it is told to."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any, cast

import asyncssh
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from pysshfs.errors import ConnectionLostError, ProtocolError, RemoteStatusError
from pysshfs.remote import wire
from pysshfs.remote.session import SftpSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.reply import Reply


class Handle:
    """What an OPEN gives: its token is what is closed."""

    def __init__(self, token: bytes) -> None:
        self.token = token


def a_handle(reader: wire.Reader) -> Handle:
    return Handle(reader.string())


def some_data(reader: wire.Reader) -> bytes:
    return reader.string()


class Peer:
    """A session with its channel, seen from the server."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.aborted = self.closed = 0
        self.broken: Exception | None = None
        self.losses: list[Exception] = []
        self.session = SftpSession(self.losses.append)
        self.session.connection_made(cast("asyncssh.SSHClientChannel[bytes]", self))

    # -- the channel -------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self.broken is not None:
            raise self.broken
        self.sent.append(data)

    def abort(self) -> None:
        self.aborted += 1

    def close(self) -> None:
        self.closed += 1

    # -- the server --------------------------------------------------------------------------

    def say(self, *packets: bytes) -> None:
        self.session.data_received(b"".join(packets), None)

    def requests(self) -> list[tuple[int, int]]:
        """Type and id of everything sent so far."""
        return [(data[4], int.from_bytes(data[5:9], "big")) for data in self.sent]

    def open(self) -> Reply[Handle]:
        return self.session.request(
            wire.FXP_OPEN, expected=wire.FXP_HANDLE, parse=a_handle, closes_late=True
        )

    def read(self) -> Reply[bytes]:
        return self.session.request(
            wire.FXP_READ, expected=wire.FXP_DATA, parse=some_data, at_eof=b""
        )

    def remove(self) -> Reply[None]:
        return self.session.request(wire.FXP_REMOVE)


@pytest.fixture
def peer() -> Peer:
    return Peer()


def packet(kind: int, body: bytes) -> bytes:
    return struct.pack(">IB", 1 + len(body), kind) + body


def status(request_id: int, code: int, message: bytes = b"") -> bytes:
    return packet(wire.FXP_STATUS, struct.pack(">II", request_id, code)
                  + wire.string(message) + wire.string(b"en"))  # fmt: skip


def handle(request_id: int, token: bytes) -> bytes:
    return packet(wire.FXP_HANDLE, wire.u32(request_id) + wire.string(token))


def data(request_id: int, content: bytes) -> bytes:
    return packet(wire.FXP_DATA, wire.u32(request_id) + wire.string(content))


def version(number: int = 3, *pairs: bytes) -> bytes:
    return packet(wire.FXP_VERSION, wire.u32(number) + b"".join(map(wire.string, pairs)))


def is_lost(peer: Peer, *words: str) -> ConnectionLostError:
    """The session has been given up, once, for a reason with `words` in it."""
    (loss,) = peer.losses
    assert isinstance(loss, ConnectionLostError) and loss is peer.session.lost
    for word in words:
        assert word in str(loss)
    assert peer.aborted == 1
    assert peer.session.in_flight == 0
    return loss


# --- in good order ------------------------------------------------------------------------------


def test_the_handshake_gives_the_extensions(peer: Peer) -> None:
    reply = peer.session.handshake()
    assert peer.sent == [b"\0\0\0\5\1\0\0\0\3"]
    assert not reply.done
    peer.say(version(3, b"one@example", b"1", b"two@example", b""))
    assert reply.result() == {b"one@example": b"1", b"two@example": b""}


def test_replies_in_any_order_find_their_requests(peer: Peer) -> None:
    first, second, third = peer.open(), peer.read(), peer.remove()
    assert peer.requests() == [(wire.FXP_OPEN, 0), (wire.FXP_READ, 1), (wire.FXP_REMOVE, 2)]
    assert peer.session.in_flight == 3
    peer.say(status(2, 0))
    peer.say(data(1, b"content"))
    peer.say(handle(0, b"token"))
    assert third.done and third.error is None
    assert second.result() == b"content"
    assert first.result().token == b"token"
    assert peer.session.in_flight == 0


def test_a_status_is_an_error_with_its_code(peer: Peer) -> None:
    reply = peer.remove()
    peer.say(status(0, 3, b"not yours"))
    error = reply.error
    assert isinstance(error, RemoteStatusError)
    assert error.code == 3 and "not yours" in str(error)
    assert peer.losses == []


def test_the_end_of_a_file_is_a_result_where_it_may_be(peer: Peer) -> None:
    read, opened = peer.read(), peer.open()
    peer.say(status(0, 1), status(1, 1))
    assert read.result() == b""
    assert isinstance(opened.error, RemoteStatusError)


def test_several_packets_in_one_piece(peer: Peer) -> None:
    replies = [peer.read() for _ in range(5)]
    peer.say(*(data(number, bytes([number]) * number) for number in range(5)))
    assert [reply.result() for reply in replies] == [bytes([n]) * n for n in range(5)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 13, 64])
def test_packets_in_pieces_of_every_size(peer: Peer, size: int) -> None:
    version_reply = peer.session.handshake()
    replies = [peer.read() for _ in range(4)]
    stream = version() + b"".join(data(number, b"x" * (50 * number)) for number in range(4))
    for at in range(0, len(stream), size):
        peer.say(stream[at : at + size])
    assert version_reply.done
    assert [reply.result() for reply in replies] == [b"x" * (50 * n) for n in range(4)]
    assert peer.session.bytes_received == len(stream)


@given(
    contents=st.lists(st.binary(max_size=200), max_size=8),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
)
def test_packets_cut_anywhere(contents: list[bytes], cuts: list[int]) -> None:
    peer = Peer()
    replies = [peer.read() for _ in contents]
    stream = b"".join(data(number, content) for number, content in enumerate(contents))
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for start, end in itertools.pairwise(edges):
        peer.say(stream[start:end])
    assert [reply.result() for reply in replies] == contents
    assert peer.losses == []


def test_a_reply_is_the_readers_to_keep(peer: Peer) -> None:
    first, second = peer.read(), peer.read()
    chunk = data(0, b"first") + data(1, b"second")
    peer.say(chunk[:7])
    peer.say(chunk[7:])
    peer.say(b"")
    assert (first.result(), second.result()) == (b"first", b"second")
    assert type(first.result()) is bytes


def test_ids_wrap_around_and_pass_over_those_in_use(peer: Peer) -> None:
    session: Any = peer.session
    old = peer.remove()  # number 0 stays out
    session._next_id = 0xFFFFFFFE
    replies = [peer.remove() for _ in range(3)]
    assert [number for _, number in peer.requests()] == [0, 0xFFFFFFFE, 0xFFFFFFFF, 1]
    peer.say(*(status(number, 0) for number in (1, 0xFFFFFFFF, 0xFFFFFFFE)))
    assert all(reply.done for reply in replies) and not old.done
    peer.say(status(0, 0))
    assert old.done


def test_a_write_is_sent_whole(peer: Peer) -> None:
    reply = peer.session.write(b"token", 1 << 40, memoryview(b"content"))
    assert peer.sent == [
        struct.pack(">IBI", 5 + 4 + 5 + 8 + 4 + 7, wire.FXP_WRITE, 0)
        + wire.string(b"token") + wire.u64(1 << 40) + wire.string(b"content")
    ]  # fmt: skip
    assert peer.session.bytes_sent == len(peer.sent[0])
    peer.say(status(0, 0))
    assert reply.done and reply.error is None


def test_what_the_server_says_on_stderr_is_no_packet(peer: Peer) -> None:
    reply = peer.remove()
    peer.session.data_received(b"\0\0\0\1nonsense", asyncssh.EXTENDED_DATA_STDERR)
    assert peer.losses == [] and not reply.done


# --- abandoned requests -------------------------------------------------------------------------


def test_an_abandoned_open_closes_its_late_handle(peer: Peer) -> None:
    peer.open().abandon()
    kept = peer.open()
    assert peer.session.replies_abandoned == 1
    peer.say(handle(0, b"late"), handle(1, b"kept"))
    assert peer.requests() == [(wire.FXP_OPEN, 0), (wire.FXP_OPEN, 1), (wire.FXP_CLOSE, 2)]
    assert peer.sent[2][9:] == wire.string(b"late")
    assert kept.result().token == b"kept"
    peer.say(status(2, 0))
    assert peer.session.in_flight == 0 and peer.losses == []


def test_an_abandoned_open_that_fails_closes_nothing(peer: Peer) -> None:
    peer.open().abandon()
    peer.say(status(0, 2))
    assert len(peer.sent) == 1 and peer.losses == []


def test_an_abandoned_read_is_dropped(peer: Peer) -> None:
    reply = peer.read()
    reply.abandon()
    assert peer.session.in_flight == 1
    peer.say(data(0, b"late"))
    assert len(peer.sent) == 1
    assert peer.session.in_flight == 0 and peer.losses == []


def test_requests_that_are_given_up_and_never_answered_do_not_pile_up(peer: Peer) -> None:
    asked = 0
    while peer.session.lost is None and asked < 100_000:
        peer.read().abandon()
        asked += 1
    assert 1000 < asked < 20_000
    is_lost(peer, "without an answer")


def test_requests_that_are_never_answered_do_not_pile_up(peer: Peer) -> None:
    replies = [peer.remove() for _ in range(65_536)]
    assert peer.losses == []
    assert isinstance(peer.remove().error, ConnectionLostError)
    is_lost(peer, "65536 requests")
    assert all(type(reply.error) is ConnectionLostError for reply in replies)


def test_requests_that_are_given_up_and_answered_late_are_no_harm(peer: Peer) -> None:
    for number in range(20_000):
        peer.read().abandon()
        peer.say(data(number, b"late"))
    assert peer.losses == []


async def test_cancelling_who_waits_abandons_the_request(peer: Peer) -> None:
    async def wait() -> None:
        await peer.open()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    peer.say(handle(0, b"late"))
    assert peer.requests()[-1][0] == wire.FXP_CLOSE


# --- violations ---------------------------------------------------------------------------------


def test_an_unknown_id(peer: Peer) -> None:
    reply = peer.remove()
    peer.say(status(7, 0))
    assert isinstance(is_lost(peer, "7"), ProtocolError)
    assert isinstance(reply.error, ProtocolError)  # the oldest is taken to be its cause


def test_what_belongs_to_no_request_is_the_oldest_ones_fault_only(peer: Peer) -> None:
    given_up, oldest, other = peer.read(), peer.remove(), peer.remove()
    given_up.abandon()
    peer.say(wire.u32(0))
    assert isinstance(oldest.error, ProtocolError)
    assert type(other.error) is ConnectionLostError


def test_a_second_reply_to_one_request(peer: Peer) -> None:
    reply = peer.remove()
    peer.say(status(0, 0), status(0, 0))
    is_lost(peer)
    assert reply.done and reply.error is None


@pytest.mark.parametrize(
    "wrong", [handle(0, b"x"), packet(wire.FXP_ATTRS, wire.u32(0) * 2), packet(77, wire.u32(0))]
)
def test_a_reply_of_the_wrong_type(peer: Peer, wrong: bytes) -> None:
    reply = peer.read()
    peer.say(wrong)
    is_lost(peer, "type", str(wire.FXP_DATA))
    assert isinstance(reply.error, ProtocolError)


def test_ok_where_a_result_was_asked_for(peer: Peer) -> None:
    reply = peer.open()
    peer.say(status(0, 0))
    is_lost(peer)
    assert isinstance(reply.error, ProtocolError)


@pytest.mark.parametrize("length", [0, 1, 4, wire.MAX_REPLY + 1, 0xFFFFFFFF])
def test_a_length_that_cannot_be(peer: Peer, length: int) -> None:
    reply = peer.remove()
    peer.say(wire.u32(length))  # nothing more has to come for it to be known
    assert isinstance(is_lost(peer, str(length)), ProtocolError)
    assert isinstance(reply.error, ProtocolError)


@pytest.mark.parametrize("body", [b"", b"\0\0\0\7abc", b"\xff\xff\xff\xff"])
def test_a_reply_shorter_than_it_says(peer: Peer, body: bytes) -> None:
    reply = peer.read()
    peer.say(packet(wire.FXP_DATA, wire.u32(0) + body))
    is_lost(peer)
    assert isinstance(reply.error, ProtocolError)


def test_nothing_after_a_violation_counts(peer: Peer) -> None:
    first, second = peer.remove(), peer.remove()
    peer.say(status(9, 0), status(1, 0))
    assert isinstance(peer.session.lost, ProtocolError)
    assert isinstance(first.error, ProtocolError)
    assert type(second.error) is ConnectionLostError
    peer.say(status(0, 0), b"\0\0\0\0")
    is_lost(peer)


@pytest.mark.parametrize("number", [0, 2, 4, 6])
def test_another_version_of_the_protocol(peer: Peer, number: int) -> None:
    reply = peer.session.handshake()
    peer.say(version(number))
    is_lost(peer, f"version {number}")
    assert isinstance(reply.error, ProtocolError)


def test_a_second_version(peer: Peer) -> None:
    peer.session.handshake()
    peer.say(version(), version())
    is_lost(peer, "second VERSION")


def test_more_extensions_than_anybody_has(peer: Peer) -> None:
    peer.session.handshake()
    peer.say(version(3, *(b"x" for _ in range(2 * 257))))
    is_lost(peer, "extensions")


# --- loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["closed", "reset", "end of file"])
def test_a_loss_fails_everything_once(peer: Peer, how: str) -> None:
    version_reply = peer.session.handshake()
    replies: list[Reply[Any]] = [peer.open(), peer.read(), peer.remove()]
    if how == "end of file":
        peer.session.eof_received()
    else:
        peer.session.connection_lost(OSError("reset") if how == "reset" else None)
    loss = is_lost(peer, *(["reset"] if how == "reset" else []))
    assert all(reply.error is loss for reply in (version_reply, *replies))
    peer.session.connection_lost(OSError("again"))
    peer.session.fail(ConnectionLostError("and again"))
    is_lost(peer)


def test_after_a_loss_nothing_is_sent(peer: Peer) -> None:
    peer.session.connection_lost(None)
    loss = is_lost(peer)
    before = len(peer.sent)
    for reply in (peer.open(), peer.session.write(b"token", 0, b"x")):
        assert reply.error is loss
    assert len(peer.sent) == before


@pytest.mark.parametrize("error", [OSError("gone"), asyncssh.ConnectionLost("gone")])
def test_a_channel_that_cannot_send_is_a_loss(peer: Peer, error: Exception) -> None:
    other = peer.remove()
    peer.broken = error
    reply = peer.remove()
    loss = is_lost(peer, "gone")
    assert other.error is reply.error is loss


def test_a_request_without_a_channel_fails() -> None:
    losses: list[Exception] = []
    session = SftpSession(losses.append)
    reply: Reply[None] = session.request(wire.FXP_REMOVE)
    assert isinstance(reply.error, ConnectionLostError)
    assert len(losses) == 1


def test_an_answer_may_send_the_next_request(peer: Peer) -> None:
    following: list[Reply[bytes]] = []
    peer.open().add_callback(lambda _: following.append(peer.read()))
    peer.say(handle(0, b"token"))
    peer.say(data(1, b"content"))
    assert following[0].result() == b"content"


def test_the_loss_may_be_answered_with_a_close(peer: Peer) -> None:
    session = SftpSession(lambda _: session.close())
    session.connection_made(cast("asyncssh.SSHClientChannel[bytes]", peer))
    session.connection_lost(None)
    assert peer.closed == 1


def test_the_age_of_the_oldest_request(peer: Peer) -> None:
    assert peer.session.oldest_request_age() == 0
    peer.remove()
    assert 0 <= peer.session.oldest_request_age() < 60
    peer.say(status(0, 0))
    assert peer.session.oldest_request_age() == 0


# --- how long it takes --------------------------------------------------------------------------


async def test_the_round_trip_is_the_shortest_reply() -> None:
    losses: list[Exception] = []
    session = SftpSession(losses.append, clock=trio.current_time)
    peer = Peer()
    session.connection_made(cast("asyncssh.SSHClientChannel[bytes]", peer))
    peer.session = session
    session.handshake()
    await trio.sleep(0.3)
    peer.say(version())
    assert session.round_trip == pytest.approx(0.3)
    for seconds in (0.5, 0.1, 0.2):
        reply = peer.remove()
        await trio.sleep(seconds)
        peer.say(status(peer.requests()[-1][1], 0))
        assert reply.done
    assert session.round_trip == pytest.approx(0.1)


async def test_silence_counts_from_the_last_sign_of_life_or_the_oldest_request() -> None:
    peer = Peer()
    peer.session = SftpSession(peer.losses.append, clock=trio.current_time)
    peer.session.connection_made(cast("asyncssh.SSHClientChannel[bytes]", peer))
    await trio.sleep(9)
    assert peer.session.silence() == 0
    peer.remove()
    await trio.sleep(2)
    peer.remove()
    assert peer.session.silence() == 2
    peer.say(status(0, 0))
    assert peer.session.silence() == 0
    await trio.sleep(3)
    assert peer.session.silence() == 3
    # Of a long answer every 4 KiB are a sign; a byte now and then is none.
    peer.session.data_received(wire.u32(1 << 20), None)
    for _ in range(4):
        peer.session.data_received(bytes(1022), None)
        await trio.sleep(1)
    assert peer.session.silence() == 7
    peer.session.data_received(bytes(4), None)
    assert peer.session.silence() == 0
    await trio.sleep(1)
    assert peer.session.silence() == 1
    peer.session.fail(ConnectionLostError())
    assert peer.session.silence() == 0


class Waits:
    """Takes what a session wants to be called for, `soon` and `later`."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], bool]] = []
        self.later: list[Callable[[], bool]] = []

    def over(self, which: list[Callable[[], bool]]) -> None:
        due = which[:]
        which.clear()
        for write in due:
            write()


def waiting_peer() -> tuple[Peer, Waits]:
    waits = Waits()
    peer = Peer()
    peer.session = SftpSession(peer.losses.append, waits.soon.append, waits.later.append)
    peer.session.connection_made(cast("asyncssh.SSHClientChannel[bytes]", peer))
    return peer, waits


def close_lazily(peer: Peer) -> None:
    peer.session.request(wire.FXP_CLOSE, lazily=True)


def kinds(peer: Peer) -> list[int]:
    found, data = [], b"".join(peer.sent)
    while data:
        found.append(data[4])
        data = data[4 + int.from_bytes(data[:4], "big") :]
    return found


def test_what_nobody_waits_for_goes_with_what_is_sent_next_and_in_its_turn() -> None:
    peer, waits = waiting_peer()
    close_lazily(peer)
    close_lazily(peer)
    assert not waits.soon
    assert len(waits.later) == 1
    peer.remove()
    waits.over(waits.soon)
    assert kinds(peer) == [wire.FXP_CLOSE, wire.FXP_CLOSE, wire.FXP_REMOVE]
    waits.over(waits.later)
    assert len(kinds(peer)) == 3


def test_what_nobody_waits_for_goes_by_itself_in_the_end() -> None:
    peer, waits = waiting_peer()
    for _ in range(2):
        close_lazily(peer)
        assert not waits.soon
        waits.over(waits.later)
    assert kinds(peer) == [wire.FXP_CLOSE] * 2


def test_what_nobody_waits_for_is_sent_before_the_session_is_closed() -> None:
    peer, _ = waiting_peer()
    close_lazily(peer)
    peer.session.close()
    assert kinds(peer) == [wire.FXP_CLOSE]
    assert peer.closed == 1


def test_what_is_unhurried_waits_until_somebody_does() -> None:
    peer, waits = waiting_peer()
    peer.session.hurry()  # nothing has gathered
    assert not waits.soon
    peer.session.is_unhurried = True
    peer.remove()
    peer.session.is_unhurried = False
    assert not waits.soon
    peer.session.hurry()
    peer.session.hurry()
    assert len(waits.soon) == 1
    waits.over(waits.soon)
    assert kinds(peer) == [wire.FXP_REMOVE]
