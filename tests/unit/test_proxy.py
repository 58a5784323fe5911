"""The emulated link: bytes arrive unchanged and in order, and no earlier than they may."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.proxy import OVERHEAD, QUEUE_LIMIT, Proxy
from tests.support.sockets import reset

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds before any connection or read is given up.
LIMIT = 20


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(LIMIT)
        yield listening


def joined(listener: socket.socket, proxy: Proxy) -> tuple[socket.socket, socket.socket]:
    """A client's socket and the target's socket, joined by the proxy."""
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=LIMIT)
    target, _ = listener.accept()
    target.settimeout(LIMIT)
    for end in (client, target):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, target


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def receive(source: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    parts = []
    while part := source.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("rtt_ms", [0, 6])
def test_bytes_arrive_unchanged_in_both_directions_at_once(
    listener: socket.socket, rtt_ms: float
) -> None:
    there = random.Random(1).randbytes(6_000_001)
    back = random.Random(2).randbytes(5_000_003)

    def send(end: socket.socket, data: bytes) -> None:
        for start in range(0, len(data), 70_001):
            end.sendall(data[start : start + 70_001])
        end.shutdown(socket.SHUT_WR)

    with Proxy(port_of(listener), rtt_ms) as proxy:
        client, target = joined(listener, proxy)
        with client, target:
            got: dict[str, bytes] = {}
            threads = [
                threading.Thread(target=send, args=(client, there)),
                threading.Thread(target=send, args=(target, back)),
                threading.Thread(target=lambda: got.update(there=receive(target))),
            ]
            for thread in threads:
                thread.start()
            got["back"] = receive(client)
            for thread in threads:
                thread.join(LIMIT)
    # Compared as lengths first: of megabytes that differ nobody wants to see the difference.
    assert (len(got["back"]), len(got["there"])) == (len(back), len(there))
    unchanged = {"back": got["back"] == back, "there": got["there"] == there}
    assert unchanged == {"back": True, "there": True}


def test_the_other_direction_outlives_an_end_of_stream(listener: socket.socket) -> None:
    with Proxy(port_of(listener), 4) as proxy:
        client, target = joined(listener, proxy)
        with client, target:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert receive(target) == b"question"
            target.sendall(b"answer")
            target.close()
            assert receive(client) == b"answer"


@pytest.mark.parametrize("rtt_ms", [10, 40])
def test_a_round_trip_takes_at_least_its_time(listener: socket.socket, rtt_ms: float) -> None:
    least = rtt_ms / 1000 - 2 * OVERHEAD
    with Proxy(port_of(listener), rtt_ms) as proxy:
        client, target = joined(listener, proxy)
        with client, target:
            taken = []
            for _ in range(10):
                started = time.perf_counter()
                client.sendall(b"ping")
                assert target.recv(16) == b"ping"
                halfway = time.perf_counter() - started
                target.sendall(b"pong")
                assert client.recv(16) == b"pong"
                taken.append(time.perf_counter() - started)
                assert halfway >= least / 2
    assert min(taken) >= least
    # The lower bound alone would hold for a proxy that is far too slow.
    assert sorted(taken)[3] < 2 * rtt_ms / 1000


def test_chunks_travel_at_the_same_time_and_keep_their_order(listener: socket.socket) -> None:
    """Many chunks sent within one delay are on their way together, as on a link."""
    count, rtt = 100, 0.1
    with Proxy(port_of(listener), rtt * 1000) as proxy:
        client, target = joined(listener, proxy)
        with client, target:
            started = time.perf_counter()
            for number in range(count):
                client.sendall(number.to_bytes(4))
            client.shutdown(socket.SHUT_WR)
            data = receive(target)
            taken = time.perf_counter() - started
    assert data == b"".join(number.to_bytes(4) for number in range(count))
    assert rtt / 2 - OVERHEAD <= taken < count * rtt / 2 / 4


def test_a_refused_target_ends_the_connection(listener: socket.socket) -> None:
    port = port_of(listener)
    listener.close()
    with (
        Proxy(port, 2) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=LIMIT) as client,
    ):
        assert client.recv(1) == b""


def test_a_reset_target_ends_the_connection(listener: socket.socket) -> None:
    with Proxy(port_of(listener), 2) as proxy:
        client, target = joined(listener, proxy)
        with client:
            reset(target)
            assert receive(client) == b""


def test_the_port_is_kept_over_a_restart(listener: socket.socket) -> None:
    with Proxy(port_of(listener), 0) as proxy:
        port = proxy.port
        proxy.stop()
        proxy.start()
        assert proxy.port == port
        client, target = joined(listener, proxy)
        client.close()
        target.close()


def test_what_nobody_reads_is_held_up_to_a_limit_and_then_delivered(
    listener: socket.socket,
) -> None:
    block = random.Random(3).randbytes(1 << 20)
    sent = 0
    with Proxy(port_of(listener), 2) as proxy:
        client, target = joined(listener, proxy)
        with client, target:
            client.settimeout(1)
            with contextlib.suppress(TimeoutError):
                while sent < 4 * QUEUE_LIMIT:
                    sent += client.send(block)
            assert QUEUE_LIMIT <= sent < QUEUE_LIMIT + 32 * len(block)
            client.shutdown(socket.SHUT_WR)
            assert len(receive(target)) == sent


def test_a_reset_reaches_both_ends(listener: socket.socket) -> None:
    with Proxy(port_of(listener), 0) as proxy:
        client, target = joined(listener, proxy)
        with client, target:
            client.sendall(b"before")
            assert target.recv(6) == b"before"
            proxy.reset()
            for end in (client, target):
                with pytest.raises(ConnectionResetError):
                    end.recv(1)


def test_a_frozen_link_passes_nothing_until_it_thaws(listener: socket.socket) -> None:
    with Proxy(port_of(listener), 0) as proxy:
        client, target = joined(listener, proxy)
        with client, target:
            proxy.freeze()
            client.sendall(b"late")
            target.settimeout(0.3)
            with pytest.raises(TimeoutError):
                target.recv(4)
            proxy.thaw()
            target.settimeout(LIMIT)
            assert target.recv(4) == b"late"
