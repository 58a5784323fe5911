"""The fault proxy: it cuts where it was told to, says so, and leaves everything else alone."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.effects import (
    BlackHole,
    Close,
    DeliverLate,
    Drip,
    Effect,
    HalfOpen,
    LoseReplies,
    Reset,
)
from tests.faults.framing import Ciphers, Framing, FramingError, check_countable
from tests.faults.proxy import FaultProxy, Newcomers
from tests.faults.spots import AFTER, Spot, Way
from tests.support.sockets import reset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Seconds before any connection or read is given up.
LIMIT = 20

#: Seconds after which a socket counts as silent.
SILENT = 0.15

GCM = "aes128-gcm@openssh.com"


# --- what SSH looks like ------------------------------------------------------------------------


def in_clear(kind: int, payload: bytes = b"") -> bytes:
    """A packet before there are keys (RFC 4253, 6)."""
    padding = bytes(8)
    body = bytes([len(padding), kind]) + payload + padding
    return len(body).to_bytes(4) + body


def kexinit(cipher: str) -> bytes:
    lists = ["kex", "key", cipher, cipher, "mac", "mac", "none", "none", "", ""]
    packed = b"".join(len(each).to_bytes(4) + each.encode() for each in lists)
    return in_clear(20, bytes(16) + packed + bytes(5))


def sealed(blocks: int) -> bytes:
    """A packet as AES-GCM leaves it: length, so many blocks that nobody can read, a tag."""
    return (16 * blocks).to_bytes(4) + random.Random(blocks).randbytes(16 * blocks + 16)


def begun(name: str = "x", cipher: str = GCM) -> list[bytes]:
    """The version and the first packets of one side."""
    return [f"SSH-2.0-{name}\r\n".encode(), kexinit(cipher), in_clear(30, b"secret"), in_clear(21)]


#: One side of a connection: the version, and packets 1 to 3 in the clear, 4 to 9 encrypted.
STREAM = [*begun(), *map(sealed, (2, 1, 400, 3, 2048, 1))]
WHOLE = b"".join(STREAM)


def offset(packet: int) -> int:
    """Where a packet of STREAM begins."""
    return len(b"".join(STREAM[:packet]))


# --- framing ------------------------------------------------------------------------------------


def feed(framing: Framing, data: bytes) -> list[int]:
    """Where packets ended, on the way."""
    ends = []
    while data:
        count = framing.packets
        step = min(framing.room(), len(data))
        framing.take(data[:step])
        data = data[step:]
        if framing.packets > count:
            ends.append(framing.position)
    return ends


@pytest.mark.parametrize("seed", range(5))
def test_packets_are_found_however_the_bytes_are_cut_up(seed: int) -> None:
    choice = random.Random(seed)
    framing, at, ends = Framing(), 0, []
    while at < len(WHOLE):
        size = choice.choice((1, 2, 3, 7, 100, 5000))
        ends += feed(framing, WHOLE[at : at + size])
        at += size
    assert ends == [offset(packet) for packet in range(2, len(STREAM) + 1)]
    assert framing.packets == len(STREAM) - 1 and framing.encrypted
    assert framing.ciphers == Ciphers([GCM], [GCM])


def test_lines_before_the_version_are_no_packets() -> None:
    framing = Framing()
    assert feed(framing, b"welcome\r\n" + b"".join(begun())) and framing.packets == 3


@pytest.mark.parametrize(
    "data",
    [
        b"".join(begun()) + (33).to_bytes(4),
        b"".join(begun()) + (1 << 24).to_bytes(4),
        b"SSH-2.0-x\r\n" + bytes(4),
        b"GET / HTTP/1.1" * 100,
    ],
    ids=["no whole blocks", "too long", "empty", "not SSH"],
)
def test_what_cannot_be_counted_is_an_error(data: bytes) -> None:
    with pytest.raises(FramingError):
        feed(Framing(), data)


def test_only_ciphers_that_can_be_counted_are_accepted() -> None:
    ours = Ciphers(["chacha20-poly1305@openssh.com", GCM], [GCM])
    check_countable(ours, Ciphers([GCM], [GCM, "aes128-ctr"]))
    with pytest.raises(FramingError, match="chacha20"):
        check_countable(ours, ours)
    with pytest.raises(FramingError, match="None"):
        check_countable(ours, Ciphers([GCM], ["aes128-ctr"]))


# --- the proxy between two sockets --------------------------------------------------------------


class Ends:
    """A proxy, what listens behind it, and the connections through it."""

    def __init__(self, counting: bool) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(LIMIT)
        self.proxy = FaultProxy(self.listener.getsockname()[1], counting=counting)
        self.open: list[socket.socket] = []

    def client(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.proxy.port), timeout=LIMIT)
        self.open.append(client)
        return client

    def joined(self) -> tuple[socket.socket, socket.socket]:
        """A client's socket and the server's for it."""
        client = self.client()
        server, _ = self.listener.accept()
        server.settimeout(LIMIT)
        self.open.append(server)
        return client, server

    def begun(self) -> tuple[socket.socket, socket.socket]:
        """The same, with keys agreed on in both directions: packets 1 to 3 have passed."""
        client, server = self.joined()
        for one, other in ((client, server), (server, client)):
            first = b"".join(begun())
            one.sendall(first)
            assert receive(other, len(first)) == first
        return client, server


@contextlib.contextmanager
def both_ends(counting: bool) -> Iterator[Ends]:
    ends = Ends(counting)
    with ends.listener, ends.proxy:
        try:
            yield ends
        finally:
            for each in ends.open:
                each.close()


@pytest.fixture
def plain() -> Iterator[Ends]:
    with both_ends(False) as ends:
        yield ends


@pytest.fixture
def ssh() -> Iterator[Ends]:
    with both_ends(True) as ends:
        yield ends


def receive(source: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count and (part := source.recv(min(1 << 20, count - len(parts)))):
        parts += part
    return bytes(parts)


def to_the_end(source: socket.socket) -> tuple[bytes, str]:
    """All that comes, and how it ends: "end" or "reset"."""
    parts = bytearray()
    try:
        while part := source.recv(1 << 20):
            parts += part
    except ConnectionResetError:
        return bytes(parts), "reset"
    return bytes(parts), "end"


def is_silent(source: socket.socket) -> bool:
    """Nothing comes, nor an end."""
    source.settimeout(SILENT)
    try:
        source.recv(1)
    except TimeoutError:
        return True
    finally:
        source.settimeout(LIMIT)
    return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_not_disturbed_arrives_and_is_counted(ssh: Ends) -> None:
    client, server = ssh.joined()
    client.sendall(WHOLE)
    assert receive(server, len(WHOLE)) == WHOLE
    server.sendall(WHOLE[: offset(7) + 5])
    assert receive(client, offset(7) + 5) == WHOLE[: offset(7) + 5]
    (count,) = ssh.proxy.counts()
    assert (count.number, count.open) == (1, True)
    assert count.to_server == (len(WHOLE), 9)
    assert count.to_client == (offset(7) + 5, 6)


def test_megabytes_in_both_directions_at_once_and_an_end(plain: Ends) -> None:
    there, back = random.Random(1).randbytes(6_000_001), random.Random(2).randbytes(5_000_003)
    client, server = plain.joined()

    def send(end: socket.socket, data: bytes) -> None:
        end.sendall(data)
        end.shutdown(socket.SHUT_WR)

    got: dict[str, tuple[bytes, str]] = {}
    threads = [
        threading.Thread(target=send, args=(client, there)),
        threading.Thread(target=send, args=(server, back)),
        threading.Thread(target=lambda: got.update(there=to_the_end(server))),
    ]
    for thread in threads:
        thread.start()
    got["back"] = to_the_end(client)
    for thread in threads:
        thread.join(LIMIT)
    unchanged = (got["there"] == (there, "end"), got["back"] == (back, "end"))
    assert unchanged == (True, True)
    wait_for(lambda: not plain.proxy.newest().open)


def test_the_other_direction_outlives_an_end_of_stream(plain: Ends) -> None:
    client, server = plain.joined()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert to_the_end(server) == (b"question", "end")
    server.sendall(b"answer")
    server.close()
    assert to_the_end(client) == (b"answer", "end")


def test_a_reset_of_one_side_is_one_of_the_other(plain: Ends) -> None:
    client, server = plain.joined()
    client.sendall(b"last words")
    wait_for(lambda: plain.proxy.newest().to_server.bytes == 10)
    reset(client)
    assert to_the_end(server) == (b"last words", "reset")


def test_without_a_server_a_connection_is_reset(plain: Ends) -> None:
    plain.listener.close()
    with pytest.raises(ConnectionResetError):  # by connect, when it looks that late
        plain.client().recv(1)


# --- where it is cut ----------------------------------------------------------------------------

SPOTS = [
    (Spot(Way.TO_SERVER, packet=1), offset(1)),
    (Spot(Way.TO_SERVER, packet=2, inside=3), offset(2) + 3),
    (Spot(Way.TO_SERVER, packet=3, inside=AFTER), offset(4)),
    (Spot(Way.TO_SERVER, packet=6), offset(6)),
    (Spot(Way.TO_SERVER, packet=6, inside=1), offset(6) + 1),
    (Spot(Way.TO_SERVER, packet=6, inside=4), offset(6) + 4),
    (Spot(Way.TO_SERVER, packet=6, inside=6), offset(6) + 6),
    (Spot(Way.TO_SERVER, packet=6, inside=5001), offset(6) + 5001),
    (Spot(Way.TO_SERVER, packet=6, inside=-1), offset(7) - 1),
    (Spot(Way.TO_SERVER, packet=6, inside=-17), offset(7) - 17),
    (Spot(Way.TO_SERVER, packet=5, inside=4097), offset(6) - 1),
    (Spot(Way.TO_SERVER, packet=5, inside=-4097), offset(5) + 4),
    (Spot(Way.TO_SERVER, packet=6, inside=AFTER), offset(7)),
    (Spot(Way.TO_SERVER, packet=9, inside=AFTER), offset(10)),
    (Spot(Way.TO_SERVER, byte=1), 1),
    (Spot(Way.TO_SERVER, byte=offset(6) + 77), offset(6) + 77),
]


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize(("spot", "passed"), SPOTS, ids=str)
def test_a_cut_is_where_it_was_asked_for(ssh: Ends, way: Way, spot: Spot, passed: int) -> None:
    spot = Spot(way, spot.packet, spot.inside, spot.byte)
    fault = ssh.proxy.arm(Reset(), spot, connection=1)
    client, server = ssh.joined()
    one, other = (client, server) if way is Way.TO_SERVER else (server, client)
    # What comes in one piece is cut within it, what comes in small ones between them.
    for at in range(0, len(WHOLE), 30_000 if passed % 2 else 5_000):
        with contextlib.suppress(ConnectionError):
            one.sendall(WHOLE[at : at + (30_000 if passed % 2 else 5_000)])
    fault.wait()
    assert fault.fired
    assert to_the_end(other) == (WHOLE[:passed], "reset")
    assert to_the_end(one)[0] == b""
    assert not ssh.proxy.newest().open


def test_a_cut_before_a_packet_waits_for_that_packet(ssh: Ends) -> None:
    fault = ssh.proxy.arm(Reset(), Spot(Way.TO_SERVER, packet=5), connection=1)
    client, server = ssh.begun()
    client.sendall(STREAM[4])
    assert receive(server, len(STREAM[4])) == STREAM[4]
    assert is_silent(server) and not fault.fired
    client.sendall(STREAM[5][:1])
    fault.wait()
    assert to_the_end(server) == (b"", "reset")


def test_a_fault_ahead_is_counted_from_now(ssh: Ends) -> None:
    client, server = ssh.begun()
    client.sendall(STREAM[4] + STREAM[5][:10])
    assert receive(server, len(STREAM[4]) + 10)
    fault = ssh.proxy.arm_ahead(Close(), Spot(Way.TO_SERVER, packet=2, inside=5))
    client.sendall(STREAM[5][10:] + STREAM[6] + STREAM[7])
    fault.wait()
    assert to_the_end(server) == (STREAM[5][10:] + STREAM[6][:5], "end")
    assert fault.spot.packet == 6


def test_bytes_ahead_are_counted_from_now(plain: Ends) -> None:
    client, server = plain.joined()
    server.sendall(b"0123")
    assert receive(client, 4) == b"0123"
    fault = plain.proxy.arm_ahead(Reset(), Spot(Way.TO_CLIENT, byte=3))
    server.sendall(b"456789")
    assert to_the_end(client) == (b"456", "reset")
    assert fault.fired


def test_only_the_connection_meant_is_cut(ssh: Ends) -> None:
    faults = [
        ssh.proxy.arm(Reset(), Spot(Way.TO_SERVER, packet=5), connection=2),
        ssh.proxy.arm(Close(), Spot(Way.TO_SERVER, packet=6), connection=3),
        ssh.proxy.arm(Close(), Spot(Way.TO_SERVER, packet=6), connection=4),
    ]
    found = []
    for _ in range(3):
        client, server = ssh.joined()
        client.sendall(WHOLE)
        client.shutdown(socket.SHUT_WR)
        found.append(to_the_end(server))
    ends = [(WHOLE, "end"), (WHOLE[: offset(5)], "reset"), (WHOLE[: offset(6)], "end")]
    assert found == ends
    assert [fault.fired for fault in faults] == [True, True, False]
    assert ssh.proxy.accepted == 3


def test_a_fault_that_did_not_happen_says_so(ssh: Ends) -> None:
    fault = ssh.proxy.arm(Reset(), Spot(Way.TO_SERVER, packet=7), connection=1)
    client, server = ssh.begun()
    client.sendall(STREAM[4])
    assert receive(server, len(STREAM[4]))
    assert not fault.fired
    with pytest.raises(AssertionError, match="before packet 7"):
        fault.wait(0.05)
    fault.disarm()
    rest = b"".join(STREAM[5:])
    client.sendall(rest)
    assert receive(server, len(rest)) == rest and not fault.fired


@pytest.mark.parametrize(
    "spot",
    [Spot(Way.TO_CLIENT, packet=3), Spot(Way.TO_CLIENT, byte=20)],
    ids=["packet", "byte"],
)
def test_what_has_passed_cannot_be_cut(ssh: Ends, spot: Spot) -> None:
    ssh.begun()
    with pytest.raises(AssertionError, match="has passed"):
        ssh.proxy.arm(Reset(), spot, connection=1)


def test_nothing_is_cut_by_packets_that_cannot_be_counted() -> None:
    ends = Ends(True)
    with (
        ends.listener,
        pytest.raises(AssertionError, match="cannot be counted with the cipher chacha20"),
        ends.proxy,
    ):
        fault = ends.proxy.arm(Reset(), Spot(Way.TO_SERVER, packet=5), connection=1)
        client, server = ends.joined()
        with client, server:
            for one, other in ((client, server), (server, client)):
                first = b"".join(begun(cipher="chacha20-poly1305@openssh.com"))
                one.sendall(first)
                assert receive(other, len(first)) == first
            assert not fault.fired
            with pytest.raises(FramingError):
                ends.proxy.arm_ahead(Reset(), Spot(Way.TO_SERVER, packet=1))


def test_what_passed_before_a_cut_arrives_however_slowly_it_is_read(plain: Ends) -> None:
    """A reset throws away what waits in the sender's socket."""
    data = random.Random(3).randbytes(24 << 20)
    client, server = plain.joined()
    fault = plain.proxy.arm_ahead(Reset(), Spot(Way.TO_SERVER, byte=len(data) - 5))
    sender = threading.Thread(target=lambda: client.sendall(data))
    sender.start()
    assert is_silent(plain.client()) and not fault.done  # nobody has read anything so far
    found = to_the_end(server)
    sender.join(LIMIT)
    assert found[1] == "reset" and len(found[0]) == len(data) - 5
    fault.wait()


def test_a_cut_waits_for_what_is_still_in_the_sockets(plain: Ends) -> None:
    """The proxy itself has passed everything on; the kernel has not."""
    plain.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client, server = plain.joined()
    data = random.Random(7).randbytes(60_000)
    client.sendall(data)
    wait_for(lambda: plain.proxy.newest().to_server.bytes == len(data))
    fault = plain.proxy.strike(Reset())
    with pytest.raises(AssertionError, match="not within"):
        fault.wait(SILENT)
    assert to_the_end(server) == (data, "reset")
    fault.wait()


# --- what happens there -------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "end"), [(Reset(), "reset"), (Close(), "end")], ids=str)
def test_both_sides_learn_of_a_cut(plain: Ends, effect: Effect, end: str) -> None:
    client, server = plain.joined()
    client.sendall(b"x")
    assert receive(server, 1) == b"x"
    plain.proxy.strike(effect).wait()
    assert to_the_end(client) == to_the_end(server) == (b"", end)


def test_a_black_hole_lets_nothing_pass_until_it_thaws(ssh: Ends) -> None:
    fault = ssh.proxy.arm(BlackHole(), Spot(Way.TO_SERVER, packet=6, inside=9), connection=1)
    client, server = ssh.begun()
    rest = b"".join(STREAM[4:])
    client.sendall(rest)
    seen = receive(server, offset(6) + 9 - offset(4))
    server.sendall(b"unheard")
    assert is_silent(server) and is_silent(client)
    assert fault.done and ssh.proxy.newest().open
    fault.undo()
    assert seen + receive(server, len(rest) - len(seen)) == rest
    assert receive(client, 7) == b"unheard"


def test_a_black_hole_in_one_direction(plain: Ends) -> None:
    client, server = plain.joined()
    fault = plain.proxy.strike(BlackHole([Way.TO_CLIENT]))
    server.sendall(b"unheard")
    client.sendall(b"heard")
    assert receive(server, 5) == b"heard"
    assert is_silent(client)
    fault.undo()
    assert receive(client, 7) == b"unheard"


def test_replies_are_lost_after_the_server_has_acted(ssh: Ends) -> None:
    effect = LoseReplies(quiet=0.05, most=5)
    fault = ssh.proxy.arm(effect, Spot(Way.TO_SERVER, packet=5, inside=AFTER), connection=1)
    client, server = ssh.begun()
    client.sendall(b"".join(STREAM[4:]))
    assert receive(server, offset(6) - offset(4)) == STREAM[4] + STREAM[5]
    server.sendall(STREAM[4])
    time.sleep(0.02)  # as a server that answers in two parts
    server.sendall(STREAM[5])
    assert to_the_end(client) == (b"", "reset")
    assert to_the_end(server) == (b"", "reset")
    fault.wait()


def test_a_server_that_says_nothing_does_not_put_off_the_loss_for_ever(plain: Ends) -> None:
    client, _ = plain.joined()
    plain.proxy.strike(LoseReplies(quiet=0.01, most=0.1)).wait(2)
    assert to_the_end(client) == (b"", "reset")


def test_a_half_open_connection_has_a_server_that_knows_nothing(ssh: Ends) -> None:
    spot = Spot(Way.TO_SERVER, packet=4, inside=AFTER)
    fault = ssh.proxy.arm(HalfOpen(), spot, connection=1)
    client, server = ssh.begun()
    client.sendall(b"".join(STREAM[4:6]))
    assert to_the_end(client) == (b"", "reset")
    assert receive(server, len(STREAM[4])) == STREAM[4]
    server.sendall(b"answer to nobody")
    assert is_silent(server)
    assert fault.done and ssh.proxy.newest().open
    fault.undo()
    assert to_the_end(server)[0] == b""
    assert not ssh.proxy.newest().open


@pytest.mark.parametrize("sent", [6, 10])
def test_what_is_held_back_arrives_after_the_client_has_come_again(ssh: Ends, sent: int) -> None:
    """Exactly three packets, or fewer when the client sends no more."""
    effect = HalfOpen(hold=3, quiet=0.1)
    spot = Spot(Way.TO_SERVER, packet=4, inside=AFTER)
    lost = ssh.proxy.arm(effect, spot, connection=1)
    late = DeliverLate(effect)
    delivered = ssh.proxy.arm(late, Spot(Way.TO_SERVER, packet=2, inside=AFTER), connection=2)
    client, server = ssh.begun()
    with contextlib.suppress(ConnectionError):
        client.sendall(b"".join(STREAM[4:sent]))
    lost.wait()
    assert to_the_end(client)[0] == b""
    assert receive(server, len(STREAM[4])) == STREAM[4]
    assert is_silent(server) and not delivered.fired
    again, behind = ssh.joined()
    again.sendall(b"".join(STREAM[:2]))
    assert receive(behind, offset(2)) == b"".join(STREAM[:2])
    assert is_silent(server)
    again.sendall(STREAM[2])
    delivered.wait()
    held = b"".join(STREAM[5 : min(sent, 8)])
    assert receive(server, len(held)) == held and late.delivered == len(held)
    again.sendall(STREAM[3])
    assert receive(behind, len(STREAM[2] + STREAM[3])) == STREAM[2] + STREAM[3]


def test_a_drip_is_slow_and_complete(plain: Ends) -> None:
    client, server = plain.joined()
    fault = plain.proxy.strike(Drip(10, 0.01))
    data = random.Random(4).randbytes(300)
    began = time.monotonic()
    client.sendall(data)
    server.sendall(data[:20])
    assert receive(server, 200) == data[:200]
    assert time.monotonic() - began >= 0.18
    assert receive(client, 20) == data[:20]
    fault.undo()
    client.shutdown(socket.SHUT_WR)
    assert to_the_end(server) == (data[200:], "end")


def test_a_drip_keeps_the_order(ssh: Ends) -> None:
    """Also of what comes in while the piece is taken apart within which it begins."""
    fault = ssh.proxy.arm(Drip(4_001, 0.001), Spot(Way.TO_SERVER, packet=6, inside=7), connection=1)
    client, server = ssh.joined()
    data = WHOLE + random.Random(8).randbytes(600_000)
    sender = threading.Thread(target=client.sendall, args=(data,))
    freeze = ssh.proxy.strike(BlackHole())
    sender.start()
    sender.join(SILENT)  # whether or not all of it fits into the sockets
    freeze.undo()
    found = receive(server, len(data))
    sender.join(LIMIT)
    fault.wait()
    assert (len(found), found == data) == (len(data), True)


# --- newcomers ----------------------------------------------------------------------------------


def test_newcomers_are_refused_and_let_in_again(plain: Ends) -> None:
    client, server = plain.joined()
    port = plain.proxy.port
    plain.proxy.newcomers(Newcomers.REFUSE)
    with pytest.raises(ConnectionRefusedError):
        plain.client()
    client.sendall(b"still here")
    assert receive(server, 10) == b"still here"
    plain.proxy.newcomers(Newcomers.PASS)
    assert plain.proxy.port == port
    plain.joined()
    assert plain.proxy.accepted == 2


def test_newcomers_are_reset(plain: Ends) -> None:
    plain.proxy.newcomers(Newcomers.RESET)
    with pytest.raises(ConnectionResetError):  # by connect, when it looks that late
        plain.client().recv(1)


def test_newcomers_fall_into_a_hole(plain: Ends) -> None:
    plain.proxy.newcomers(Newcomers.HOLE)
    lost = plain.client()
    lost.sendall(b"hello?")
    assert is_silent(lost)
    assert (plain.proxy.accepted, plain.proxy.unanswered) == (0, 1)
    plain.proxy.newcomers(Newcomers.PASS)
    client, server = plain.joined()
    client.sendall(b"x")
    assert receive(server, 1) == b"x" and is_silent(lost)
    plain.proxy.reset_holes()
    assert to_the_end(lost) == (b"", "reset")
