"""The daemon's end of the control socket: what it answers, and to whom."""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import logging
import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
import trio
import trio.testing

from pysshfs.cli import control_client, control_server
from pysshfs.cli.control_client import MOST_QUESTION, PROTOCOL
from pysshfs.cli.control_server import ControlServer
from pysshfs.errors import ConnectionLostError, FilesystemError
from pysshfs.fuse.tracing import Tracing
from pysshfs.remote.session import Traffic
from pysshfs.vfs.filesystem import Forgotten

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from pysshfs.fuse.requests import Request
    from pysshfs.fuse.session import FuseSession
    from pysshfs.remote.session import SftpSession
    from pysshfs.vfs.filesystem import Filesystem

OK: Final = {"protocol": PROTOCOL, "ok": True}
NOT_DELIVERED: Final = {"protocol": PROTOCOL, "code": "not-delivered"}


class State(enum.Enum):
    UP = "up"
    WAITING = "waiting"


class FakeConnection:
    def __init__(self) -> None:
        self.state: enum.Enum = State.WAITING
        self.since = 1000.0
        self.reason = "Connection refused"
        self.reconnects = 3
        self.round_trip: float | None = 0.0123456
        self.server_version = "OpenSSH_9.2"
        self.cipher = "aes128-gcm@openssh.com"
        self.extensions = {b"limits@openssh.com": b"1"}
        self.sessions: list[SftpSession] = []
        self.traffic = Traffic()
        self.last_loss: tuple[float, str] | None = (990.0, "connection reset")
        self.silent = self.quiet_for = 42.5
        self.asked: list[str] = []
        self.refusal: Exception | None = None

    def silence(self) -> float:
        return self.silent

    def quiet(self) -> float:
        return self.quiet_for

    def reconnect_now(self, reason: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(reason)


class FakeFilesystem:
    def __init__(self) -> None:
        self.unacknowledged = 4096
        self.delivering = 0.0
        self.flushes: list[str] = []
        self.refusal: Exception | None = None
        self.broken: Exception | None = None

    def raise_broken_promise(self) -> None:
        if self.broken is not None:
            raise self.broken

    def statistics(self) -> dict[str, int]:
        return {"inodes": 5, "open_files": 1, "unacknowledged_bytes": self.unacknowledged}

    async def flush_all(self) -> None:
        self.flushes.append("begun")
        try:
            await trio.sleep(self.delivering)
        except trio.Cancelled:
            self.flushes.append("cancelled")
            raise
        if self.refusal is not None:
            raise self.refusal
        self.flushes.append("done")


class Daemon:
    """A `ControlServer` with everything around it faked, and one asker."""

    def __init__(self) -> None:
        self.connection = FakeConnection()
        self.filesystem = FakeFilesystem()
        self.tracing = Tracing()
        self.requests = SimpleNamespace(
            served=100, answered_at_once=40, interrupts_seen=3, interrupts_honoured=2,
            interrupted_in_flight=1, active=[], tracing=self.tracing, stalled=lambda: 0.0,
        )  # fmt: skip
        self.forgotten = Forgotten([1, 2, 3], [(1, b"name")])
        self.saved = ["/home/u/.local/state/pysshfs/undelivered/20261120T132501Z-1-%2Fa.data"]
        session = SimpleNamespace(
            requests=self.requests, negotiated={}, connection=7, drop_caches=self._drop_caches
        )
        self._server = ControlServer(
            "me@host:dir",
            "/mnt",
            cast("FuseSession", session),
            cast("Filesystem", self.filesystem),
            self.connection,
            lambda: self.saved,
        )

    async def _drop_caches(self) -> Forgotten:
        await trio.sleep(self.filesystem.delivering)
        return self.forgotten

    def close(self) -> None:
        self._server.close()

    @contextlib.contextmanager
    def asking(self, nursery: trio.Nursery) -> Iterator[trio.SocketStream]:
        ours, theirs = (trio.SocketStream(each) for each in trio.socket.socketpair())
        nursery.start_soon(self._server._answer, theirs)
        with contextlib.closing(ours.socket):
            yield ours

    async def ask(self, question: bytes) -> dict[str, Any]:
        async with trio.open_nursery() as nursery:
            with self.asking(nursery) as stream:
                await stream.send_all(question)
                answer = b"".join([part async for part in stream])
        found = json.loads(answer)
        assert answer.endswith(b"\n") and isinstance(found, dict)
        return found

    async def command(self, command: str) -> dict[str, Any]:
        return await self.ask(json.dumps({"command": command}).encode() + b"\n")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    made.close()


class TestAnswers:
    async def test_status(self, daemon: Daemon) -> None:
        started = time.monotonic() - 12.0
        daemon.requests.active = [
            SimpleNamespace(
                operation="write", inode=9, tid=4711, uid=1000, started=started, args=(3, 0, b"x")
            )
        ]
        daemon.tracing.path_of = {9: b"dir/file"}.get
        found = await daemon.command("status")
        (request,) = found.pop("requests")
        assert 12 <= request.pop("seconds") < 60
        assert request == {
            "operation": "write", "inode": 9, "path": "dir/file", "new_path": None, "pid": 4711,
            "uid": 1000,
        }  # fmt: skip
        expected = {
            "pid": os.getpid(),
            "state": "waiting",
            "since": 1000.0,
            "reason": "Connection refused",
            "reconnects": 3,
            "round_trip_ms": 12.346,
            "silent_seconds": 42.5,
            "unacknowledged_bytes": 4096,
            "undelivered": daemon.saved,
            "interrupted_in_flight": 1,
            "last_error": {"at": 990.0, "text": "connection reset"},
        }
        assert {name: found[name] for name in expected} == expected

    @pytest.mark.parametrize("unknown", [None, float("inf"), float("nan")])
    async def test_what_is_not_known_is_null(self, daemon: Daemon, unknown: float | None) -> None:
        daemon.connection.round_trip = unknown
        if unknown is not None:
            daemon.connection.silent = unknown
        found = await daemon.command("status")
        assert found["round_trip_ms"] is None
        assert found["silent_seconds"] == (42.5 if unknown is None else None)

    async def test_reconnect(self, daemon: Daemon) -> None:
        assert await daemon.command("reconnect") == OK
        assert daemon.connection.asked == ["asked for by pysshfsctl"]
        daemon.connection.refusal = ConnectionLostError("unmounting")
        assert await daemon.command("reconnect") == {
            **{"protocol": PROTOCOL, "code": "failed", "error": str(daemon.connection.refusal)}
        }

    @pytest.mark.parametrize("seconds", [0.0, 50.0])
    async def test_flush_is_answered_when_all_is_delivered(
        self, daemon: Daemon, seconds: float
    ) -> None:
        daemon.filesystem.delivering = seconds
        began = trio.current_time()
        assert await daemon.command("flush") == OK
        assert trio.current_time() - began == pytest.approx(seconds)
        assert daemon.filesystem.flushes == ["begun", "done"]

    async def test_flush_ends_with_who_asked_for_it(self, daemon: Daemon) -> None:
        daemon.filesystem.delivering = float("inf")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            with daemon.asking(nursery) as stream:
                await stream.send_all(b'{"command": "flush"}\n')
                await trio.sleep(20)
                assert daemon.filesystem.flushes == ["begun"]
        assert daemon.filesystem.flushes == ["begun", "cancelled"]
        assert trio.current_time() - began == pytest.approx(20)

    async def test_flush_that_fails(self, daemon: Daemon) -> None:
        daemon.filesystem.refusal = ConnectionLostError("given up")
        assert await daemon.command("flush") == {
            **NOT_DELIVERED,
            "error": str(daemon.filesystem.refusal),
        }

    async def test_flush_tells_what_was_promised_in_vain(self, daemon: Daemon) -> None:
        daemon.filesystem.broken = FilesystemError(errno.EACCES, "made/more")
        assert await daemon.command("flush") == {
            **NOT_DELIVERED,
            "error": str(daemon.filesystem.broken),
        }

    async def test_caches_are_dropped(self, daemon: Daemon) -> None:
        assert await daemon.command("drop-caches") == {**OK, "inodes": 3, "names": 1}

    @pytest.mark.parametrize(
        ("question", "code"),
        [
            (b"{}\n", "malformed"),
            (b"status\n", "malformed"),
            (b"[]\n", "malformed"),
            (b'{"command": ["status"]}\n', "malformed"),
            (b"\xff\n", "malformed"),
            (b"[" * MOST_QUESTION, "malformed"),
            (b'{"command": "nonsense"}\n', "unknown-command"),
            (b'{"command": "status", "protocol": 2}\n', "protocol"),
            (b'{"command": "trace", "pid": "1"}\n', "bad-argument"),
            (b'{"command": "trace", "pid": true}\n', "bad-argument"),
            (b'{"command": "trace", "operations": [1]}\n', "bad-argument"),
        ],
    )
    async def test_what_is_not_understood(self, daemon: Daemon, question: bytes, code: str) -> None:
        found = await daemon.ask(question)
        assert found.pop("error") and found == {"protocol": PROTOCOL, "code": code}

    async def test_a_mistake_of_ours_ends_nothing(
        self, daemon: Daemon, caplog: pytest.LogCaptureFixture
    ) -> None:
        daemon.filesystem.refusal = ValueError("a mistake")
        assert (await daemon.command("flush"))["code"] == "failed"
        assert "a mistake" in caplog.text
        assert (await daemon.command("status"))["pid"] == os.getpid()

    async def test_who_asks_too_much_is_cut_off(self, daemon: Daemon) -> None:
        """A line without an end is read no further than a question may be long."""
        async with trio.open_nursery() as nursery:
            with daemon.asking(nursery) as stream:
                await stream.send_all(b"x" * (MOST_QUESTION + 100))
                assert b"malformed" in await stream.receive_some(4096)

    async def test_who_says_nothing_is_not_waited_for(self, daemon: Daemon) -> None:
        began = trio.current_time()
        assert "error" in await daemon.ask(b"")
        assert trio.current_time() - began < 10


class TestAskers:
    async def test_only_so_many_at_once(self, daemon: Daemon) -> None:
        daemon.filesystem.delivering = float("inf")
        async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
            for _ in range(control_server._MOST_ASKERS):
                stream = stack.enter_context(daemon.asking(nursery))
                await stream.send_all(b'{"command": "flush"}\n')
            await trio.testing.wait_all_tasks_blocked()
            assert (await daemon.command("status"))["code"] == "busy"
        assert (await daemon.command("status"))["pid"] == os.getpid()

    async def test_others_are_refused(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)  # the daemon's user; root may ask
        if os.getuid() == 0:
            assert (await daemon.command("status"))["pid"] == os.getpid()
        monkeypatch.setattr(
            control_server, "PEER", SimpleNamespace(size=12, unpack=lambda _: (1, 4243, 4243))
        )
        assert (await daemon.command("status"))["code"] == "permission"


class TestLastError:
    async def test_the_later_of_what_was_logged_and_the_last_loss(self, daemon: Daemon) -> None:
        logging.getLogger("pysshfs.some.where").warning("it is %s", "so")
        last = (await daemon.command("status"))["last_error"]
        assert last["text"] == "it is so" and abs(last["at"] - time.time()) < 60
        daemon.connection.last_loss = time.time() + 1, "lost again"
        assert (await daemon.command("status"))["last_error"]["text"] == "lost again"

    async def test_none(self, daemon: Daemon) -> None:
        daemon.connection.last_loss = None
        assert (await daemon.command("status"))["last_error"] is None


class TestTraces:
    """What is told to a tracer that reads, and to one that does not."""

    @contextlib.asynccontextmanager
    async def tracing(
        self, daemon: Daemon, **arguments: object
    ) -> AsyncIterator[trio.SocketStream]:
        question = {"protocol": PROTOCOL, "command": "trace", **arguments}
        async with trio.open_nursery() as nursery:
            with daemon.asking(nursery) as stream:
                await stream.send_all(json.dumps(question).encode() + b"\n")
                assert json.loads(await stream.receive_some(4096)) == OK
                yield stream

    @staticmethod
    def happens(daemon: Daemon, operation: str, error: int = 0, **more: Any) -> None:
        request = SimpleNamespace(
            **{"serial": 1, "operation": operation, "inode": 9, "tid": 4711, "uid": 0, "args": ()},
            started=time.monotonic(),
        )
        for name, value in more.items():
            setattr(request, name, value)
        if daemon.tracing.is_on:
            daemon.tracing.answered(cast("Request", request), error)

    async def test_what_is_told(self, daemon: Daemon) -> None:
        daemon.tracing.path_of = {1: b"", 9: b"dir"}.get
        async with self.tracing(daemon) as stream:
            self.happens(daemon, "unlink", errno.ENOENT, serial=17, args=(9, b"\xff", None))
            told = json.loads(await stream.receive_some(4096))
            assert abs(told.pop("at") - time.time()) < 60 and 0 <= told.pop("ms") < 60_000
            assert told == {
                "id": 17, "operation": "unlink", "inode": 9, "path": "dir/\udcff",
                "new_path": None, "offset": None, "length": None, "pid": 4711, "uid": 0,
                "result": "ENOENT",
            }  # fmt: skip
            self.happens(daemon, "rename", args=(1, b"a", 9, b"b", 0, None))
            told = json.loads(await stream.receive_some(4096))
            assert (told["path"], told["new_path"], told["result"]) == ("a", "dir/b", "ok")
            self.happens(daemon, "write", args=(3, 4096, b"12345"))
            told = json.loads(await stream.receive_some(4096))
            assert (told["path"], told["offset"], told["length"]) == ("dir", 4096, 5)

    @pytest.mark.parametrize(
        ("arguments", "wanted"),
        [
            ({"operations": ["read", "unlink"]}, {"one", "three"}),
            ({"errors": True}, {"three"}),
            ({"path": "/dir/"}, {"two", "three"}),
            ({"least_ms": 50}, {"two"}),
            ({"pid": 17}, {"two"}),
            ({"pid": 17, "errors": True}, set()),
        ],
        ids=str,
    )
    async def test_filters(
        self, daemon: Daemon, arguments: dict[str, Any], wanted: set[str]
    ) -> None:
        daemon.tracing.path_of = {1: b"dir2", 2: b"dir", 3: b"dir/below"}.get
        async with self.tracing(daemon, **arguments) as stream:
            self.happens(daemon, "read", inode=1, args=(1, 0, 0), serial="one")
            self.happens(
                daemon, "open", inode=2, serial="two", started=time.monotonic() - 0.1, tid=17
            )
            self.happens(daemon, "unlink", 1, args=(3, b"x", None), serial="three")
            seen = set()
            with trio.move_on_after(1):
                while part := await stream.receive_some(65536):
                    seen |= {json.loads(line)["id"] for line in part.splitlines()}
        assert seen == wanted

    async def test_who_reads_nothing_costs_a_bounded_amount_and_is_told_what_was_lost(
        self, daemon: Daemon
    ) -> None:
        daemon.tracing.path_of = lambda _: b"x" * 1000
        count = 20_000
        async with self.tracing(daemon) as stream:
            for _ in range(count):
                self.happens(daemon, "getattr")
            (tracer,) = daemon.tracing._tracers
            assert tracer._size <= 1 << 20
            await trio.testing.wait_all_tasks_blocked()
            received = bytearray()
            while b"dropped" not in received:
                received += await stream.receive_some(65536)
        *told, last = received.splitlines()
        assert len(told) + json.loads(last)["dropped"] == count
        assert 0 < len(told) < 1000

    async def test_who_reads_nothing_for_long_is_given_up(self, daemon: Daemon) -> None:
        """While somebody traces, nothing is answered on the spot."""
        daemon.tracing.path_of = lambda _: b"x" * 1000
        async with self.tracing(daemon):
            for _ in range(1000):
                self.happens(daemon, "getattr")
            await trio.sleep(control_server._UNREAD_SECONDS + 1)
            assert not daemon.tracing.is_on

    async def test_it_is_on_while_somebody_traces(self, daemon: Daemon) -> None:
        switched: list[bool] = []
        daemon.tracing.on_switched = lambda: switched.append(daemon.tracing.is_on)
        async with self.tracing(daemon):
            async with self.tracing(daemon):
                assert (await daemon.command("status"))["traced_by"] == 2
            await trio.testing.wait_all_tasks_blocked()
            assert switched == [True] and daemon.tracing.is_on
        assert switched == [True, False]

    async def test_only_so_many(self, daemon: Daemon) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(control_server._MOST_TRACERS):
                await stack.enter_async_context(self.tracing(daemon))
            assert (await daemon.command("trace"))["code"] == "busy"


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(control_server, "private_directory", lambda _uid: str(tmp_path))
    return tmp_path


async def test_a_daemon_that_ends_leaves_the_socket_of_the_next_one(sockets: Path) -> None:
    """The kernel gives the number of an unmounted connection to the next mount at once."""
    first, second = Daemon()._server, Daemon()._server
    first.open()
    second.open()
    first.close()
    assert (sockets / "7.sock").exists()
    second.close()
    assert not (sockets / "7.sock").exists()


async def test_sockets_of_killed_daemons_are_removed(sockets: Path) -> None:
    listening, dead = (control_client.bound(f"{sockets}/{number}.sock") for number in (3, 4))
    dead.close()
    (sockets / "other").touch()
    daemon = Daemon()
    daemon._server.open()
    assert set(os.listdir(sockets)) == {"3.sock", "7.sock", "other"}
    listening.close()
    daemon.close()
