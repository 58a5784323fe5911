"""The control socket: what the daemon answers, and what `pysshfsctl` makes of the answer."""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from pysshfs.cli import ctl
from pysshfs.cli.control_client import ask
from pysshfs.cli.control_server import ControlServer
from pysshfs.cli.exitcodes import ExitCode
from pysshfs.cli.status_text import rendered
from pysshfs.errors import ConnectionLostError, FilesystemError
from pysshfs.fuse import mountinfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pysshfs.fuse.mountinfo import MountEntry
    from pysshfs.fuse.session import FuseSession
    from pysshfs.remote.session import SftpSession
    from pysshfs.vfs.filesystem import Filesystem


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
        self.silent = 42.5
        self.asked: list[str] = []
        self.refusal: Exception | None = None

    def silence(self) -> float:
        return self.silent

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
        self.requests = SimpleNamespace(
            served=100, answered_at_once=40, interrupts_seen=3, interrupts_honoured=2,
            interrupted_in_flight=1, active=[],
        )  # fmt: skip
        self.saved = ["/home/u/.local/state/pysshfs/undelivered/20261120T132501Z-1-%2Fa.data"]
        session = SimpleNamespace(requests=self.requests, negotiated={}, connection=7)
        self._server = ControlServer(
            "me@host:dir",
            "/mnt",
            cast("FuseSession", session),
            cast("Filesystem", self.filesystem),
            self.connection,
            lambda: self.saved,
        )

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


# --- the daemon's end ---------------------------------------------------------------------------


class TestAnswers:
    async def test_status(self) -> None:
        daemon = Daemon()
        started = time.monotonic() - 12.0
        daemon.requests.active = [
            SimpleNamespace(operation="write", inode=9, tid=4711, started=started)
        ]
        found = await daemon.command("status")
        (request,) = found.pop("requests")
        assert 12 <= request.pop("seconds") < 60
        assert request == {"operation": "write", "inode": 9, "pid": 4711}
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
        }
        assert {name: found[name] for name in expected} == expected

    @pytest.mark.parametrize("unknown", [None, float("inf"), float("nan")])
    async def test_what_is_not_known_is_null(self, unknown: float | None) -> None:
        daemon = Daemon()
        daemon.connection.round_trip = unknown
        if unknown is not None:
            daemon.connection.silent = unknown
        found = await daemon.command("status")
        assert found["round_trip_ms"] is None
        assert found["silent_seconds"] == (42.5 if unknown is None else None)

    async def test_reconnect(self) -> None:
        daemon = Daemon()
        assert await daemon.command("reconnect") == {"ok": True}
        assert daemon.connection.asked == ["asked for by pysshfsctl"]
        daemon.connection.refusal = ConnectionLostError("unmounting")
        assert await daemon.command("reconnect") == {"error": str(daemon.connection.refusal)}

    @pytest.mark.parametrize("seconds", [0.0, 50.0])
    async def test_flush_is_answered_when_all_is_delivered(self, seconds: float) -> None:
        daemon = Daemon()
        daemon.filesystem.delivering = seconds
        began = trio.current_time()
        assert await daemon.command("flush") == {"ok": True}
        assert trio.current_time() - began == pytest.approx(seconds)
        assert daemon.filesystem.flushes == ["begun", "done"]

    async def test_flush_ends_with_who_asked_for_it(self) -> None:
        daemon = Daemon()
        daemon.filesystem.delivering = float("inf")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            with daemon.asking(nursery) as stream:
                await stream.send_all(b'{"command": "flush"}\n')
                await trio.sleep(20)
                assert daemon.filesystem.flushes == ["begun"]
        assert daemon.filesystem.flushes == ["begun", "cancelled"]
        assert trio.current_time() - began == pytest.approx(20)

    async def test_flush_that_fails(self) -> None:
        daemon = Daemon()
        daemon.filesystem.refusal = ConnectionLostError("given up")
        assert await daemon.command("flush") == {"error": str(daemon.filesystem.refusal)}

    async def test_flush_tells_what_was_promised_in_vain(self) -> None:
        daemon = Daemon()
        daemon.filesystem.broken = FilesystemError(errno.EACCES, "made/more")
        assert await daemon.command("flush") == {"error": str(daemon.filesystem.broken)}

    @pytest.mark.parametrize(
        "question", [b"{}\n", b"status\n", b"[]\n", b'{"command": "nonsense"}\n', b"x" * 4096]
    )
    async def test_what_is_not_understood(self, question: bytes) -> None:
        assert list(await Daemon().ask(question)) == ["error"]

    async def test_who_says_nothing_is_not_waited_for(self) -> None:
        began = trio.current_time()
        assert "error" in await Daemon().ask(b"")
        assert trio.current_time() - began < 10


async def test_a_daemon_that_ends_leaves_the_socket_of_the_next_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kernel gives the number of an unmounted connection to the next mount at once."""
    monkeypatch.setattr("pysshfs.cli.control_server.private_directory", lambda _uid: tmp_path)
    first, second = Daemon()._server, Daemon()._server
    first.open()
    second.open()
    first.close()
    assert (tmp_path / "7.sock").exists()
    second.close()
    assert not (tmp_path / "7.sock").exists()


# --- in words -----------------------------------------------------------------------------------


def answered(**changes: object) -> dict[str, Any]:
    state: dict[str, Any] = {
        **{"source": "me@host:dir", "mountpoint": "/mnt", "answers": True, "waiting": 2},
        **{"state": "up", "since": 88.0, "reason": "", "mounted_at": 40.0, "pid": 4711},
        **{"server": "OpenSSH_9.2", "cipher": "aes128-gcm", "round_trip_ms": 1.26},
        **{"silent_seconds": 0.5, "reconnects": 0, "bytes_received": 1000, "bytes_sent": 2000},
        **{"sftp_requests": 30, "sftp_in_flight": 1, "requests_served": 20, "requests": []},
        **{"interrupts_honoured": 2, "interrupted_in_flight": 0, "unacknowledged_bytes": 0},
        **{"undelivered": [], "inodes": 5, "open_files": 1, "sftp_sessions": 2},
        **{"cache_bytes": 3000, "cache_size": 1 << 28, "written_bytes": 0, "listings_bytes": 2000},
        **{"metadata_bytes": 1000, "read_ahead_bytes": 0},
        "kernel": {
            "max_background": 512, "congestion_threshold": 384, "max_write": 1 << 20,
            "max_readahead": 1 << 17,
        },
    }  # fmt: skip
    return {**state, **changes}


def lines(state: dict[str, Any]) -> dict[str, list[str]]:
    """By the word that each begins with."""
    found: dict[str, list[str]] = {}
    for line in rendered(state, 100.9).splitlines()[1:]:
        assert line.startswith("  ") and line[2:15].rstrip() in line
        found.setdefault(line[2:15].rstrip(), []).append(line[15:])
    return found


class TestWords:
    def test_up(self) -> None:
        found = lines(answered())
        assert found["state"] == ["up for 12 s"]
        assert found["daemon"] == ["pid 4711, mounted for 60 s"]
        assert found["link"] == ["round trip 1.3 ms, silent for 0.5 s, reconnected 0 times"]
        assert found["kernel"] == ["20 requests, 0 being served, 2 interrupted"]
        assert found["memory"] == [
            "3,000 of 268,435,456 bytes: 0 not acknowledged, 0 read ahead, 1,000 attributes,"
            " 2,000 listings"
        ]
        assert found["settings"] == [
            "max_background 512, congestion_threshold 384, writes of 1024 KiB at most,"
            " kernel's read-ahead 128 KiB"
        ]
        assert "serving" not in found and "undelivered" not in found

    def test_down(self) -> None:
        names = ["/home/u/.local/state/pysshfs/undelivered/a.data", "/b.data"]
        found = lines(
            answered(
                state="waiting", reason="Connection refused", reconnects=1, round_trip_ms=None,
                silent_seconds=None, unacknowledged_bytes=4096, undelivered=names,
                server="", cipher="", interrupted_in_flight=1,
            )
        )  # fmt: skip
        assert found["state"] == ["waiting for 12 s (Connection refused)"]
        assert found["link"] == ["round trip unknown, reconnected 1 time"]
        assert found["server"] == ["unknown, cipher unknown"]
        assert found["buffered"] == ["4,096 bytes not acknowledged"]
        assert found["undelivered"] == names
        assert found["kernel"][0].endswith("interrupted, 1 of them not yet answered by the server")

    def test_the_oldest_requests_come_first(self) -> None:
        requests = [
            {"operation": "read", "inode": 1, "pid": pid, "seconds": float(pid)}
            for pid in range(1, 11)
        ]
        found = lines(answered(requests=requests))
        assert found["serving"][0] == "read for 10.0 s, pid 10"
        assert len(found["serving"]) == 9 and found["serving"][-1] == "2 more"

    def test_a_clock_that_was_set_back(self) -> None:
        assert lines(answered(since=500.0))["state"] == ["up for 0 s"]


# --- pysshfsctl ---------------------------------------------------------------------------------


class FakeDaemon:
    """A socket that answers each command with a fixed object, or never."""

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, dict[str, Any] | None] = {"status": answered()}
        self.asked: list[str] = []
        self._silent: list[socket.socket] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(os.fspath(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            asker, _ = self._listening.accept()
            question = asker.makefile("rb").readline()
            if not question:
                asker.close()
                return
            command = json.loads(question)["command"]
            answer = self.answers.get(command, {"error": "unknown"})
            self.asked.append(command)
            if answer is None:
                self._silent.append(asker)
            else:
                asker.sendall(json.dumps(answer).encode() + b"\n")
                asker.close()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._listening.getsockname())
        self._thread.join(10)
        for each in (self._listening, *self._silent):
            each.close()


class Ctl:
    """`pysshfsctl`, on mounts that are none."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], directory: Path
    ) -> None:
        self._capsys = capsys
        self._daemons: list[FakeDaemon] = []
        self._entries: list[MountEntry] = []
        self._directory = directory
        self.unmounted: list[str] = []
        monkeypatch.setattr(mountinfo, "mounts", lambda: self._entries)
        monkeypatch.setattr(mountinfo, "waiting_requests", lambda _: None)
        monkeypatch.setattr(ctl, "socket_path", lambda number, _: directory / f"{number}.sock")
        monkeypatch.setattr(ctl, "unmount", self.unmounted.append)

    def mount(self, *, daemon: bool = True) -> FakeDaemon | None:
        number = len(self._entries)
        line = f"1 2 0:{number} / /mnt{number} rw - fuse.pysshfs x rw,user_id={os.geteuid()}"
        self._entries += mountinfo.parse_mountinfo(line.encode())
        if not daemon:
            return None
        self._daemons.append(FakeDaemon(self._directory / f"{number}.sock"))
        return self._daemons[-1]

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = ctl.main(words)
        said = self._capsys.readouterr()
        return code, said.out, said.err.removeprefix("pysshfsctl: ")

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.close()


@pytest.fixture
def pysshfsctl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Ctl]:
    made = Ctl(monkeypatch, capsys, tmp_path)
    yield made
    made.close()


@pytest.fixture
def daemon(pysshfsctl: Ctl) -> FakeDaemon:
    made = pysshfsctl.mount()
    assert made is not None
    return made


@pytest.mark.parametrize("command", ["flush", "reconnect", "umount", "status"])
def test_no_mount_there(pysshfsctl: Ctl, daemon: FakeDaemon, command: str) -> None:
    code, out, error = pysshfsctl(command, "/elsewhere")
    assert (code, out, error) == (ExitCode.MOUNTPOINT, "", "/elsewhere: no pysshfs mount\n")
    assert daemon.asked == []


@pytest.mark.parametrize("words", [("flush",), ("reconnect",), ("reconnect", "-x")], ids=str)
def test_a_wrong_command_line(pysshfsctl: Ctl, words: tuple[str, ...]) -> None:
    code, out, error = pysshfsctl(*words)
    assert code == ExitCode.USAGE and out == ""
    assert "pysshfsctl flush MOUNTPOINT" in error and "pysshfsctl reconnect MOUNTPOINT" in error


class TestReconnect:
    def test_it_is_asked_for(self, pysshfsctl: Ctl, daemon: FakeDaemon) -> None:
        daemon.answers["reconnect"] = {"ok": True}
        assert pysshfsctl("reconnect", "/mnt0") == (ExitCode.OK, "", "")
        assert daemon.asked == ["reconnect"]

    def test_it_is_refused(self, pysshfsctl: Ctl, daemon: FakeDaemon) -> None:
        daemon.answers["reconnect"] = {"error": "unmounting"}
        expected = (ExitCode.FAILURE, "", "/mnt0: unmounting\n")
        assert pysshfsctl("reconnect", "/mnt0") == expected

    def test_the_daemon_does_not_answer(
        self, pysshfsctl: Ctl, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ctl, "_COMMAND_SECONDS", 0.05)
        daemon.answers["reconnect"] = None
        expected = (ExitCode.FAILURE, "", "/mnt0: the daemon does not answer\n")
        assert pysshfsctl("reconnect", "/mnt0") == expected

    def test_there_is_no_daemon(self, pysshfsctl: Ctl) -> None:
        pysshfsctl.mount(daemon=False)
        expected = (ExitCode.FAILURE, "", "/mnt0: no daemon: the mount is dead\n")
        assert pysshfsctl("reconnect", "/mnt0") == expected


@pytest.mark.parametrize("command", ["flush", "umount"])
class TestDelivering:
    """`flush`, and `umount` before it unmounts."""

    WAITING = "4,096 bytes are not delivered yet; connection waiting for 12 s (Connection refused)"

    @pytest.fixture
    def waiting(self, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
        daemon.answers["status"] = answered(
            state="waiting", reason="Connection refused", since=88.0, unacknowledged_bytes=4096,
            pid="gone",
        )  # fmt: skip
        monkeypatch.setattr(time, "time", lambda: 100.0)
        return daemon

    def test_with_nothing_to_deliver(
        self, pysshfsctl: Ctl, daemon: FakeDaemon, command: str
    ) -> None:
        daemon.answers["status"] = answered(pid="gone")
        assert pysshfsctl(command, "/mnt0") == (ExitCode.OK, "", "")
        assert set(daemon.asked) == {"status"}
        assert pysshfsctl.unmounted == (["/mnt0"] if command == "umount" else [])

    def test_delivered(self, pysshfsctl: Ctl, waiting: FakeDaemon, command: str) -> None:
        waiting.answers["flush"] = {"ok": True}
        assert pysshfsctl(command, "/mnt0") == (ExitCode.OK, "", "")
        assert "flush" in waiting.asked
        assert pysshfsctl.unmounted == (["/mnt0"] if command == "umount" else [])

    def test_not_delivered_in_time(
        self,
        pysshfsctl: Ctl,
        waiting: FakeDaemon,
        command: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(ctl, "_FLUSH_SECONDS", 0.05)
        waiting.answers["flush"] = None
        expected = (ExitCode.FAILURE, "", f"/mnt0: {self.WAITING}\n")
        assert pysshfsctl(command, "/mnt0") == expected
        assert pysshfsctl.unmounted == []

    def test_refused(self, pysshfsctl: Ctl, waiting: FakeDaemon, command: str) -> None:
        waiting.answers["flush"] = {"error": "given up"}
        expected = (ExitCode.FAILURE, "", f"/mnt0: given up: {self.WAITING}\n")
        assert pysshfsctl(command, "/mnt0") == expected
        assert pysshfsctl.unmounted == []

    def test_interrupted(
        self,
        pysshfsctl: Ctl,
        waiting: FakeDaemon,
        command: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real = ask

        def interrupted(path: Path, command: str, timeout: float) -> dict[str, Any]:
            if command == "flush":
                raise KeyboardInterrupt
            return real(path, command, timeout)

        monkeypatch.setattr(ctl, "ask", interrupted)
        expected = (ExitCode.INTERRUPTED, "", f"/mnt0: interrupted: {self.WAITING}\n")
        assert pysshfsctl(command, "/mnt0") == expected
        assert pysshfsctl.unmounted == []

    def test_the_daemon_falls_silent(
        self,
        pysshfsctl: Ctl,
        waiting: FakeDaemon,
        command: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real = ask

        def silent(path: Path, command: str, timeout: float) -> dict[str, Any]:
            if command == "flush":
                waiting.answers["status"] = None
                raise TimeoutError
            return real(path, command, min(timeout, 0.05))

        monkeypatch.setattr(ctl, "ask", silent)
        code, _, error = pysshfsctl(command, "/mnt0")
        assert code == ExitCode.FAILURE and pysshfsctl.unmounted == []
        assert error == f"/mnt0: {self.WAITING}; now the daemon does not answer\n"

    def test_without_a_daemon(self, pysshfsctl: Ctl, command: str) -> None:
        pysshfsctl.mount(daemon=False)
        code, _, error = pysshfsctl(command, "/mnt0")
        if command == "umount":  # a dead mount can only be unmounted
            assert (code, error, pysshfsctl.unmounted) == (ExitCode.OK, "", ["/mnt0"])
        else:
            assert (code, error) == (ExitCode.FAILURE, "/mnt0: no daemon: the mount is dead\n")


def test_silent_daemons_are_not_waited_for_one_after_the_other(pysshfsctl: Ctl) -> None:
    for _ in range(8):
        daemon = pysshfsctl.mount()
        assert daemon is not None
        daemon.answers["status"] = None
    answering = pysshfsctl.mount()
    assert answering is not None
    began = time.monotonic()
    code, out, _ = pysshfsctl("status", "--json")
    assert time.monotonic() - began < 4 * ctl._ANSWER_SECONDS
    assert code == ExitCode.OK
    states = json.loads(out)
    assert [state["answers"] for state in states] == [False] * 8 + [True]
    assert states[0]["reason"] == "the daemon does not answer"


# --- without touching the mount -----------------------------------------------------------------


class TestPlaces:
    @pytest.fixture
    def looked_at(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        found: list[bytes] = []

        def watched(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(path: Any, *args: Any, **more: Any) -> Any:
                found.append(os.fsencode(path))
                return call(path, *args, **more)

            return wrapper

        for name in ("readlink", "lstat", "stat"):
            monkeypatch.setattr(os, name, watched(getattr(os, name)))
        return found

    @pytest.fixture
    def mount(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A directory that counts as mounted, with a link above it and one inside."""
        place = tmp_path / "deep" / "mnt"
        place.mkdir(parents=True)
        (place / "inside").symlink_to(tmp_path)
        (tmp_path / "direct").symlink_to(place)
        (tmp_path / "above").symlink_to("direct/../../deep")
        (tmp_path / "deep" / "relative").symlink_to("../direct")
        (tmp_path / "loop").symlink_to("loop")
        line = b"1 2 0:3 / %b rw - fuse.pysshfs x rw" % os.fsencode(place)
        monkeypatch.setattr(mountinfo, "mounts", lambda: mountinfo.parse_mountinfo(line))
        return place

    @pytest.mark.parametrize(
        ("place", "expected"),
        [
            ("deep/mnt", "deep/mnt"),
            ("deep/mnt/", "deep/mnt"),
            ("direct", "deep/mnt"),
            ("deep/relative", "deep/mnt"),
            ("direct/inside", "deep/mnt/inside"),
            ("deep/mnt/inside/x", "deep/mnt/inside/x"),
            ("absent/x", "absent/x"),
            ("loop", "loop"),
            ("", ""),
        ],
    )
    def test_links_are_followed_up_to_the_mount(
        self, tmp_path: Path, mount: Path, looked_at: list[bytes], place: str, expected: str
    ) -> None:
        found = mountinfo.absolute(f"{tmp_path}/{place}")
        assert os.fsdecode(found) == os.path.join(tmp_path, expected).rstrip("/")
        touched = [path for path in looked_at if path.startswith(os.fsencode(mount))]
        assert looked_at and touched == []

    def test_dots_in_a_link_go_up_from_where_it_leads(self, tmp_path: Path) -> None:
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "c").mkdir()
        (tmp_path / "link").symlink_to("a/b/../../c")
        (tmp_path / "absolute").symlink_to(f"{tmp_path}/a/../c")
        for name in ("link", "absolute"):
            assert mountinfo.absolute(f"{tmp_path}/{name}") == os.fsencode(tmp_path / "c")
