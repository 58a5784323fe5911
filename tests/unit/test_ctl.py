"""`pysshfsctl` from within: what it makes of the daemons' answers, and of none."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from pysshfs.cli import (
    control_client,
    ctl,
    ctl_commands,
    ctl_flush,
    ctl_mounts,
    ctl_parser,
    ctl_status,
    ctl_umount,
    ctl_watch,
    procstat,
)
from pysshfs.cli.ctl_codes import DESCRIPTIONS, CtlCode
from pysshfs.cli.status_text import rendered
from pysshfs.fuse import mountinfo
from tests.support.procs import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pysshfs.fuse.mountinfo import MountEntry

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
        **{"metadata_bytes": 1000, "read_ahead_bytes": 0, "extensions": ["a", "b"]},
        **{"requests_answered_at_once": 5, "requests_active": 0, "stalled_seconds": 0.0},
        **{"last_error": None, "memory_bytes": 50_000_000, "traced_by": 0},
        **{"cache_hits": 3, "cache_misses": 1, "read_hits": 0, "read_misses": 0},
        **{"health": "ok", "health_reason": "", "control_mounted": True},
        **{"max_background": 512, "congestion_threshold": 384},
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
        assert found["daemon"] == ["pid 4711, mounted for 60 s, 50,000,000 bytes of memory"]
        assert found["extensions"] == ["a, b"] and found["waiting"] == ["2 requests"]
        assert found["hits"] == ["attributes 75% of 4, reads none asked for"]
        assert found["link"] == ["round trip 1.3 ms, silent for 0.5 s, reconnected 0 times"]
        assert found["requests"] == [
            "20 from the kernel, 5 of them answered at once, 0 being served, 2 interrupted"
        ]
        assert found["caches"] == [
            "3,000 of 268,435,456 bytes: 0 not acknowledged, 0 read ahead, 1,000 attributes,"
            " 2,000 listings"
        ]
        assert found["settings"] == [
            "max_background 512, congestion_threshold 384, writes of 1024 KiB at most,"
            " kernel's read-ahead 128 KiB"
        ]
        assert not {"serving", "undelivered", "health", "last error", "traced"} & set(found)

    def test_down(self) -> None:
        names = ["/home/u/.local/state/pysshfs/undelivered/a.data", "/b.data"]
        found = lines(
            answered(
                state="waiting", reason="Connection refused", reconnects=1, round_trip_ms=None,
                silent_seconds=None, unacknowledged_bytes=4096, undelivered=names,
                server="", cipher="", interrupted_in_flight=1, health="disconnected",
                last_error={"at": 95.0, "text": "lost"},
            )
        )  # fmt: skip
        assert found["state"] == ["waiting for 12 s (Connection refused)"]
        assert found["link"] == ["round trip unknown, reconnected 1 time"]
        assert found["server"] == ["unknown, cipher unknown"]
        assert found["buffered"] == ["4,096 bytes not acknowledged"]
        assert found["undelivered"] == names and found["last error"] == ["5 s ago: lost"]
        assert found["requests"][0].endswith("1 of them not yet answered by the server")

    def test_the_oldest_requests_come_first(self) -> None:
        requests = [
            {"operation": "read", "inode": 1, "path": "a", "new_path": None, "pid": pid,
             "process": 7, "program": "tar", "seconds": float(pid)}
            for pid in range(1, 11)
        ]  # fmt: skip
        found = lines(answered(requests=requests, requests_active=300))
        assert found["serving"][0] == "read of a for 10.0 s, pid 7 (tar)"
        assert len(found["serving"]) == 9 and found["serving"][-1] == "292 more"

    def test_a_rename_and_a_file_without_a_name(self) -> None:
        requests = [
            {"operation": "rename", "path": "", "new_path": "b\n", "pid": 5, "seconds": 2.0},
            {"operation": "getattr", "path": None, "new_path": None, "pid": 6, "seconds": 1.0},
        ]
        found = lines(answered(requests=requests, requests_active=2))
        assert found["serving"] == [
            "rename of . to b\\n for 2.0 s, pid 5",
            "getattr for 1.0 s, pid 6",
        ]

    @pytest.mark.parametrize(
        ("mounted", "text"),
        [(True, "does not say"), (False, "mount -t fusectl fusectl /sys/fs/fuse/connections")],
    )
    def test_without_the_control_filesystem(self, mounted: bool, text: str) -> None:
        found = lines(
            answered(
                waiting=None, control_mounted=mounted, max_background=None,
                congestion_threshold=None,
            )
        )  # fmt: skip
        assert text in found["waiting"][0]
        assert found["settings"][0].startswith("max_background 512, congestion_threshold 384")

    @pytest.mark.parametrize(
        ("health", "reason", "text"),
        [
            (
                "not answering",
                "2 requests waiting, none",
                "not answering: 2 requests waiting, none",
            ),
            ("not answering", "the daemon does not answer", "the daemon does not answer"),
            ("dead", "no daemon: the mount is dead", "no daemon: the mount is dead"),
        ],
    )
    def test_what_is_wrong_comes_first(self, health: str, reason: str, text: str) -> None:
        state = answered(health=health, health_reason=reason)
        assert rendered(state, 100.0).splitlines()[1] == f"  health       {text}"
        assert text in rendered({**state, "answers": False}, 100.0)

    def test_a_clock_that_was_set_back(self) -> None:
        assert lines(answered(since=500.0))["state"] == ["up for 0 s"]


# --- pysshfsctl ---------------------------------------------------------------------------------


class FakeDaemon:
    """A socket that answers each command with a fixed object, or never."""

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, dict[str, Any] | None] = {"status": answered()}
        self.asked: list[str] = []
        self.delay = 0.0
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
            time.sleep(self.delay)
            if answer is None:
                self._silent.append(asker)
            else:
                with contextlib.suppress(BrokenPipeError):
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
        self.sockets: dict[int, str] = {}  # of a user, those that are not at the top
        monkeypatch.setattr(mountinfo, "mounts", lambda: self._entries)
        monkeypatch.setattr(mountinfo, "control_value", lambda *_: None)
        monkeypatch.setattr(ctl_mounts, "socket_path", self._socket_path)
        monkeypatch.setattr(ctl_umount, "runtime_directory", lambda _: str(directory))
        monkeypatch.setattr(ctl_umount, "unmount", self._unmount)
        monkeypatch.setattr(ctl_umount, "_daemon", lambda _: None)  # it would be this process
        monkeypatch.setattr(os, "chdir", lambda _: None)

    def _socket_path(self, number: int, uid: int) -> str:
        return os.path.join(self._directory, self.sockets.get(uid, ""), f"{number}.sock")

    def _unmount(self, path: str, lazy: bool = False) -> None:
        self.unmounted.append(path)

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


@pytest.mark.parametrize(
    "command",
    ["flush", "reconnect", "umount", "status", "watch", "trace", "abort", "drop-caches"],
)
def test_no_mount_there(pysshfsctl: Ctl, daemon: FakeDaemon, command: str) -> None:
    code, out, error = pysshfsctl(command, "/elsewhere")
    assert (code, out, error) == (CtlCode.NO_MOUNT, "", "/elsewhere: no pysshfs mount\n")
    assert daemon.asked == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "a command is needed"),
        (("nonsense",), "unknown command 'nonsense'"),
        (("umount",), "umount takes a MOUNTPOINT"),
        (("abort",), "abort takes a MOUNTPOINT"),
        (("flush", "a", "b"), "flush takes one MOUNTPOINT"),
        (("reconnect", "-x"), "reconnect has no option '-x'"),
        (("umount", "--lazy=1", "/mnt0"), "umount has no option '--lazy=1'"),
        (("watch", "/mnt0", "--interval"), "--interval takes a value"),
        (("watch", "/mnt0", "--interval", "x"), "--interval takes a number of at least 0.05"),
        (("watch", "/mnt0", "--count=0"), "--count takes a number of at least 1"),
        (("trace", "/mnt0", "--operation", "x"), "no operation 'x'; there are access"),
    ],
    ids=str,
)
def test_a_wrong_command_line(
    pysshfsctl: Ctl, daemon: FakeDaemon, words: tuple[str, ...], said: str
) -> None:
    code, out, error = pysshfsctl(*words)
    assert code == CtlCode.USAGE and out == ""
    assert error.startswith("usage: pysshfsctl ") and f"pysshfsctl: {said}" in error
    assert daemon.asked == []


class TestHelp:
    def test_every_command_option_and_code_is_there(self, pysshfsctl: Ctl) -> None:
        code, out, _ = pysshfsctl("--help")
        assert code == CtlCode.OK
        assert set(DESCRIPTIONS) == set(CtlCode)
        for number, text in DESCRIPTIONS.items():
            assert f"\n  {number:<4}{text}\n" in out
        for name, command in ctl_parser.COMMANDS.items():
            assert f"pysshfsctl {name} {command.place}" in out
            for words, _ in command.options:
                assert f"\n    {words} " in out

    def test_of_one_command(self, pysshfsctl: Ctl) -> None:
        code, out, _ = pysshfsctl("unmount", "--help")
        assert code == CtlCode.OK
        assert out.startswith("usage: pysshfsctl umount MOUNTPOINT [options]\n") and "--kill" in out

    def test_the_manual_has_the_same_codes(self) -> None:
        text = (ROOT / "docs" / "pysshfsctl.md").read_text()
        for number, words in DESCRIPTIONS.items():
            assert f"| {number} | {words} |" in text
        for name, command in ctl_parser.COMMANDS.items():
            assert f"`{name}" in text
            for words, _ in command.options:
                assert f"`{words}`" in text, words


class TestWhoseMount:
    def test_another_users(
        self, pysshfsctl: Ctl, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
        said = f"/mnt0: another user's mount (uid {os.getuid()})\n"
        pysshfsctl.sockets = {4242: "none"}
        assert pysshfsctl("status", "/mnt0") == (CtlCode.NOT_PERMITTED, "", said)
        assert pysshfsctl("status") == (CtlCode.OK, "no pysshfs mounts\n", "")

    @pytest.mark.parametrize("alive", [True, False])
    def test_a_socket_that_a_daemon_left_does_not_count(
        self, pysshfsctl: Ctl, tmp_path: Path, alive: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The number of its connection may be that of another user's mount by now. With a daemon
        of ours it is one that was handed down."""
        pysshfsctl.mount(daemon=False)
        (tmp_path / "left").mkdir()
        pysshfsctl.sockets = {4242: "left"}
        with control_client.bound(f"{tmp_path}/left/0.sock") as listening:
            if not alive:
                listening.close()
            monkeypatch.setattr(os, "geteuid", lambda: 4242)
            code, _, _ = pysshfsctl("status", "/mnt0")
        assert code == (CtlCode.NOT_ANSWERING if alive else CtlCode.NOT_PERMITTED)

    def test_who_took_the_place_of_the_daemon_is_not_believed(
        self, pysshfsctl: Ctl, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In /tmp another user may have been first."""
        monkeypatch.setattr(control_client, "peer", lambda _: (os.getpid(), 4242, 4242))
        code, out, _ = pysshfsctl("status")
        assert code == CtlCode.NOT_ANSWERING and "another user (uid 4242) listens" in out
        assert pysshfsctl("reconnect")[0] == CtlCode.NOT_ANSWERING


class TestWithoutAMountpoint:
    def test_the_only_mount_is_meant(self, pysshfsctl: Ctl, daemon: FakeDaemon) -> None:
        daemon.answers["reconnect"] = {"ok": True}
        assert pysshfsctl("reconnect") == (CtlCode.OK, "", "")
        assert daemon.asked == ["reconnect"]

    def test_of_several_one_is_to_be_named(self, pysshfsctl: Ctl, daemon: FakeDaemon) -> None:
        pysshfsctl.mount(daemon=False)
        code, _, error = pysshfsctl("reconnect")
        assert code == CtlCode.NO_MOUNT and "there are 2: say which" in error

    def test_there_may_be_none(self, pysshfsctl: Ctl) -> None:
        code, _, error = pysshfsctl("flush")
        assert code == CtlCode.NO_MOUNT and "there is none" in error
        assert pysshfsctl("status") == (CtlCode.OK, "no pysshfs mounts\n", "")


class TestReconnect:
    def test_it_is_asked_for(self, pysshfsctl: Ctl, daemon: FakeDaemon) -> None:
        daemon.answers["reconnect"] = {"ok": True}
        assert pysshfsctl("reconnect", "/mnt0") == (CtlCode.OK, "", "")
        assert daemon.asked == ["reconnect"]

    def test_it_is_refused(self, pysshfsctl: Ctl, daemon: FakeDaemon) -> None:
        daemon.answers["reconnect"] = {"error": "unmounting"}
        expected = (CtlCode.FAILURE, "", "/mnt0: unmounting\n")
        assert pysshfsctl("reconnect", "/mnt0") == expected

    def test_the_daemon_does_not_answer(
        self, pysshfsctl: Ctl, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ctl_commands, "_COMMAND_SECONDS", 0.05)
        daemon.answers["reconnect"] = None
        said = f"/mnt0: the daemon (process {os.getpid()}) does not answer\n"
        assert pysshfsctl("reconnect", "/mnt0") == (CtlCode.NOT_ANSWERING, "", said)

    def test_there_is_no_daemon(self, pysshfsctl: Ctl) -> None:
        pysshfsctl.mount(daemon=False)
        expected = (CtlCode.NOT_ANSWERING, "", "/mnt0: no daemon: the mount is dead\n")
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
        assert pysshfsctl(command, "/mnt0") == (CtlCode.OK, "", "")
        assert set(daemon.asked) == {"status"}
        assert pysshfsctl.unmounted == (["/mnt0"] if command == "umount" else [])

    def test_delivered(self, pysshfsctl: Ctl, waiting: FakeDaemon, command: str) -> None:
        waiting.answers["flush"] = {"ok": True}
        assert pysshfsctl(command, "/mnt0") == (CtlCode.OK, "", "")
        assert "flush" in waiting.asked
        assert pysshfsctl.unmounted == (["/mnt0"] if command == "umount" else [])

    def test_not_delivered_in_time(
        self,
        pysshfsctl: Ctl,
        waiting: FakeDaemon,
        command: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(ctl_flush, "FLUSH_SECONDS", 0.05)
        waiting.answers["flush"] = None
        expected = (CtlCode.UNDELIVERED, "", f"/mnt0: {self.WAITING}\n")
        assert pysshfsctl(command, "/mnt0") == expected
        assert pysshfsctl.unmounted == []

    def test_refused(self, pysshfsctl: Ctl, waiting: FakeDaemon, command: str) -> None:
        waiting.answers["flush"] = {"error": "given up"}
        expected = (CtlCode.UNDELIVERED, "", f"/mnt0: given up: {self.WAITING}\n")
        assert pysshfsctl(command, "/mnt0") == expected
        assert pysshfsctl.unmounted == []

    def test_interrupted(
        self,
        pysshfsctl: Ctl,
        waiting: FakeDaemon,
        command: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def interrupted(*_: object) -> dict[str, Any]:
            raise KeyboardInterrupt

        monkeypatch.setattr(ctl_flush, "_flush", interrupted)
        expected = (CtlCode.INTERRUPTED, "", f"/mnt0: interrupted: {self.WAITING}\n")
        assert pysshfsctl(command, "/mnt0") == expected
        assert pysshfsctl.unmounted == []

    def test_the_daemon_falls_silent(
        self,
        pysshfsctl: Ctl,
        waiting: FakeDaemon,
        command: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def silent(*_: object) -> dict[str, Any]:
            waiting.answers["status"] = None
            raise TimeoutError

        monkeypatch.setattr(ctl_flush, "_flush", silent)
        monkeypatch.setattr(ctl_flush, "_STATUS_SECONDS", 0.2)
        code, _, error = pysshfsctl(command, "/mnt0")
        assert code == CtlCode.UNDELIVERED and pysshfsctl.unmounted == []
        assert error == f"/mnt0: {self.WAITING}; now the daemon does not answer\n"

    def test_without_a_daemon(self, pysshfsctl: Ctl, command: str) -> None:
        pysshfsctl.mount(daemon=False)
        code, _, error = pysshfsctl(command, "/mnt0")
        if command == "umount":  # a dead mount can only be unmounted
            assert (code, error, pysshfsctl.unmounted) == (CtlCode.OK, "", ["/mnt0"])
        else:
            assert (code, error) == (CtlCode.NOT_ANSWERING, "/mnt0: no daemon: the mount is dead\n")


class TestStatus:
    def test_silent_daemons_are_not_waited_for_one_after_the_other(
        self, pysshfsctl: Ctl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(8):
            daemon = pysshfsctl.mount()
            assert daemon is not None
            daemon.answers["status"] = None
        answering = pysshfsctl.mount()
        assert answering is not None
        asked: list[float] = []

        def once(*arguments: Any) -> Any:
            asked.append(arguments[2])
            return control_client.ask_all(*arguments)

        monkeypatch.setattr(ctl_mounts, "ask_all", once)
        code, out, _ = pysshfsctl("status", "--json")
        assert code == CtlCode.NOT_ANSWERING
        (seconds,) = asked  # all of them within that
        assert seconds <= 0.15
        states = json.loads(out)
        assert [state["answers"] for state in states] == [False] * 8 + [True]
        assert states[0]["health"] == "not answering"
        assert states[0]["reason"] == f"the daemon (process {os.getpid()}) does not answer"

    def test_a_stopped_daemon_is_not_waited_for(
        self, pysshfsctl: Ctl, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(procstat, "state", lambda _: "T")
        monkeypatch.setattr(ctl_status, "_time_left", lambda: 3600.0)
        daemon.answers["status"] = None
        code, out, _ = pysshfsctl("status", "/mnt0")
        assert code == CtlCode.NOT_ANSWERING
        assert f"does not answer: process {os.getpid()} is stopped (kill -CONT" in out

    def test_a_busy_daemon_has_a_little_longer(
        self, pysshfsctl: Ctl, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ctl_status, "_time_left", lambda: 0.0)
        daemon.delay = 0.1
        monkeypatch.setattr(procstat, "state", lambda _: "R")
        assert pysshfsctl("status", "/mnt0")[0] == CtlCode.OK
        monkeypatch.setattr(procstat, "state", lambda _: "S")
        assert pysshfsctl("status", "/mnt0")[0] == CtlCode.NOT_ANSWERING

    def test_a_full_queue_of_questions_is_no_answer(self, pysshfsctl: Ctl, tmp_path: Path) -> None:
        """That of a daemon that was stopped for long."""
        pysshfsctl.mount(daemon=False)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"{tmp_path}/0.sock")
            listening.listen(0)
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(listening.getsockname())
                code, out, _ = pysshfsctl("status", "--json")
        assert code == CtlCode.NOT_ANSWERING
        assert json.loads(out)[0]["reason"] == "the daemon does not answer"

    @pytest.mark.parametrize(
        ("changes", "health", "reason"),
        [
            ({}, "ok", ""),
            ({"state": "waiting", "reason": "refused"}, "disconnected", "refused"),
            (
                {"stalled_seconds": 12.3, "requests_active": 1},
                "not answering", "1 request waiting, none was answered for 12 s",
            ),
            ({"stalled_seconds": 0.5, "requests_active": 1}, "ok", ""),
            ({"stalled_seconds": None}, "ok", ""),
        ],
        ids=str,
    )  # fmt: skip
    def test_health(
        self, pysshfsctl: Ctl, daemon: FakeDaemon, changes: dict[str, Any], health: str, reason: str
    ) -> None:
        daemon.answers["status"] = answered(**changes)
        code, out, _ = pysshfsctl("status", "--json")
        (state,) = json.loads(out)
        assert (state["health"], state["health_reason"]) == (health, reason)
        assert code == (CtlCode.NOT_ANSWERING if health == "not answering" else CtlCode.OK)

    def test_a_daemon_of_an_earlier_release(self, pysshfsctl: Ctl, daemon: FakeDaemon) -> None:
        told = answered()
        for name in ctl_status._EARLIER:
            del told[name]
        daemon.answers["status"] = told
        code, out, _ = pysshfsctl("status")
        assert code == CtlCode.OK and "up for" in out

    def test_a_daemon_that_refuses(self, pysshfsctl: Ctl, daemon: FakeDaemon) -> None:
        daemon.answers["status"] = {"error": "32 ask already", "code": "busy"}
        code, out, _ = pysshfsctl("status")
        assert code == CtlCode.NOT_ANSWERING and "32 ask already" in out


def test_status_loads_little() -> None:
    """200 ms from the start of the process are not enough for much of Python's library."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pysshfs.cli.ctl import main\n"
        "main(['status'])\n"
        "print(len(sys.modules), *sys.modules, file=sys.stderr)"
    )
    # -S: what lies in site-packages may load a lot, as an editable installation does.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(ROOT)], capture_output=True, text=True, check=True
    )
    count, *names = done.stderr.split()
    assert int(count) < 100
    heavy = {"asyncssh", "trio", "pyfuse3", "asyncio", "logging", "subprocess", "ctypes", "pathlib"}
    assert not heavy & set(names) and "threading" not in names and "argparse" not in names


class TestScreen:
    SIZE = os.terminal_size((40, 12))

    def test_it_fits_whatever_the_size(self) -> None:
        text = ctl_watch.screen(answered(), ctl_watch.Speed(1.5e6, 0, 3), 100.0, self.SIZE)
        shown = text.removeprefix("\x1b[H").removesuffix("\x1b[J").split("\x1b[K\n")[:-1]
        assert len(shown) == 11 and all(len(line) < 40 for line in shown)
        assert shown[1].startswith("me@host:dir on /mnt")

    def test_names_do_not_steer_it(self) -> None:
        text = ctl_watch.screen(
            answered(source="\x1b[2Jx"), ctl_watch.Speed(), 100.0, os.terminal_size((80, 50))
        )
        assert "\x1b[2J" not in text and "\\x1b[2Jx" in text

    def test_a_line(self) -> None:
        line = ctl_watch.line_of(answered(), ctl_watch.Speed(1.5e6, 2000, 3), 100.0)
        assert "; ok; up; rtt 1.3 ms; in 1.5 MB/s; out 2.0 kB/s; 3 requests/s; serving 0;" in line
        dead = {"answers": False, "health": "dead", "health_reason": "no daemon", "waiting": None}
        assert ctl_watch.line_of(dead, ctl_watch.Speed(), 100.0).endswith(
            "; dead; waiting unknown; no daemon"
        )

    def test_counters_that_begin_anew_are_no_speed(self) -> None:
        rates = ctl_watch._Rates()
        assert rates.since_last(answered(bytes_received=5000), 10.0) == (0, 0, 0)
        assert rates.since_last(answered(bytes_received=9000), 12.0).received == 2000
        assert rates.since_last(answered(bytes_received=100), 13.0).received == 0
        assert rates.since_last({"answers": False}, 14.0) == (0, 0, 0)
        assert rates.since_last(answered(bytes_received=900), 15.0).received == 0


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
