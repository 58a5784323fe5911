"""What is said to systemd, on sockets of the test's making; and what goes to the journal, how."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio
import trio.testing

from pysshfs.cli import daemon, journal, logs
from pysshfs.cli.systemd import Manager, connection_status
from pysshfs.remote.connection import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """Its end of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


@pytest.fixture
def environ(systemd: socket.socket) -> dict[str, str]:
    """What a service finds, without a watchdog."""
    return {"NOTIFY_SOCKET": systemd.getsockname(), "HOME": "/"}


def heard(systemd: socket.socket) -> list[str]:
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(systemd.recv(4096).decode())
    return messages


@pytest.fixture(autouse=True)
def _every_socket_is_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A manager's lives as long as its process."""
    made: list[socket.socket] = []
    whole = socket.socket.connect

    def connect(self: socket.socket, address: str) -> None:
        made.append(self)
        whole(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    yield
    for each in made:
        each.close()


# --- sd_notify ----------------------------------------------------------------------------------


async def test_each_message_is_one_datagram(
    systemd: socket.socket, environ: dict[str, str]
) -> None:
    manager = Manager(environ)
    await manager.ready("connected")
    manager.status("a\nREADY=0 \udcff" + "x" * 1000)
    manager.stopping("unmounting")
    ready, status, stopping = heard(systemd)
    assert ready == "READY=1\nSTATUS=connected"
    assert status.startswith(r"STATUS=a\nREADY=0 \udcffxxx") and len(status) < 600
    assert stopping == "STOPPING=1\nSTATUS=unmounting"


def test_programs_that_are_started_are_not_the_service(environ: dict[str, str]) -> None:
    environ |= {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    Manager(environ)
    assert environ == {"HOME": "/"}


def test_an_abstract_name_begins_with_an_at_sign() -> None:
    name = f"pysshfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        Manager({"NOTIFY_SOCKET": f"@{name}"}).status("here")
        assert systemd.recv(100) == b"STATUS=here"


@pytest.mark.parametrize("address", ["", "vsock:2:1", "/nonexistent/socket"])
async def test_without_systemd_nothing_happens(address: str) -> None:
    manager = Manager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"})
    await manager.ready("connected")
    manager.stopping("unmounting")
    assert manager.watchdog == 0
    with trio.move_on_after(10) as scope:
        await manager.keep_alive()
    assert scope.cancelled_caught


async def test_readiness_is_not_lost_when_systemd_is_slow(
    systemd: socket.socket, environ: dict[str, str]
) -> None:
    manager = Manager(environ)
    while manager.tell("STATUS=busy"):
        pass
    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.ready, "connected")
        await trio.testing.wait_all_tasks_blocked()
        assert set(heard(systemd)) == {"STATUS=busy"}
    assert heard(systemd) == ["READY=1\nSTATUS=connected"]


def test_a_systemd_that_is_gone_disturbs_nobody(
    systemd: socket.socket, environ: dict[str, str]
) -> None:
    manager = Manager(environ)
    systemd.close()
    manager.status("still here")


async def test_signs_of_life_come_twice_in_an_interval(
    systemd: socket.socket, environ: dict[str, str]
) -> None:
    environ |= {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    manager = Manager(environ)
    times = []
    with trio.move_on_after(61):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.keep_alive)
            while True:
                await trio.testing.wait_all_tasks_blocked()
                times += [trio.current_time()] * len(heard(systemd))
                await trio.sleep(1)
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [15] * 4


def test_the_watchdog_of_another_process_is_not_ours(environ: dict[str, str]) -> None:
    assert Manager(environ | {"WATCHDOG_USEC": "1000000"}).watchdog == 1
    assert Manager(environ | {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog == 0


def test_every_state_of_the_connection_has_words(
    systemd: socket.socket, environ: dict[str, str]
) -> None:
    values = {state.value for state in State} - {"new", "closed"}
    assert len({connection_status(value, "") for value in values} - values) == 5
    assert connection_status("waiting", "refused") == "not connected, trying again: refused"
    manager = Manager(environ)
    manager.connection("lost", "reset")
    manager.connection("closed", "")  # by us, who have said why
    assert heard(systemd) == ["STATUS=connection lost: reset"]


# --- the journal --------------------------------------------------------------------------------


class Stream(NamedTuple):
    """A file that stands for the journal's socket."""

    path: Path
    monkeypatch: pytest.MonkeyPatch

    @contextlib.contextmanager
    def as_stderr(self) -> Iterator[None]:
        """For a part of a test, as pytest redirects standard error between the parts."""
        saved = os.dup(2)
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.dup2(fd, 2)
        os.close(fd)
        try:
            with self.monkeypatch.context() as patched, open(2, "w", closefd=False) as stderr:
                patched.setattr(sys, "stderr", stderr)
                yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stream:
    made = Stream(tmp_path / "stream", monkeypatch)
    made.path.touch()
    found = made.path.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    return made


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:], root.level = handlers, level


def test_stderr_is_the_journal_only_if_it_is_that_very_file(stream: Stream) -> None:
    assert not journal.is_journal(2)
    with stream.as_stderr():
        assert journal.is_journal(2)
        assert not journal.is_journal(2, {})
        assert not journal.is_journal(2, {"JOURNAL_STREAM": "8:"})
    assert not journal.is_journal(9999, {"JOURNAL_STREAM": ":"})


@pytest.mark.parametrize(
    ("level", "mark"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3),
     (logging.CRITICAL, 2), (logging.NOTSET, 7)],
)  # fmt: skip
def test_each_line_has_its_priority(level: int, mark: int) -> None:
    assert journal.with_priority("a\nb", level) == f"<{mark}>a\n<{mark}>b"


def test_a_message_in_the_journal_is_one_line(stream: Stream, root_logger: logging.Logger) -> None:
    with stream.as_stderr():
        logs.to_stderr(logging.INFO, in_foreground=True)
        logging.getLogger("pysshfs.x").warning("a\n<0>b")
        logs.to_stderr(logging.INFO)
        logging.getLogger("pysshfs.x").info("of mount(8)'s unit")
        logs.to_stderr(logging.DEBUG)
        logging.getLogger("pysshfs.x").debug("traced")
    assert stream.path.read_text() == (
        "<4>a\\n<0>b\n<6>pysshfs: of mount(8)'s unit\n<7>pysshfs.x: traced\n"
    )


def test_a_traceback_in_the_journal_has_the_priority_on_every_line(
    stream: Stream, root_logger: logging.Logger
) -> None:
    with stream.as_stderr():
        logs.to_stderr(logging.INFO)
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("pysshfs").exception("failed")
    lines = stream.path.read_text().splitlines()
    assert len(lines) > 4 and all(line.startswith("<3>") for line in lines)


def test_the_commands_last_word_is_an_error(stream: Stream) -> None:
    with stream.as_stderr():
        daemon.complain("no\nsuch host")
    assert stream.path.read_text() == "<3>pysshfs: no\\nsuch host\n"


def test_the_background_keeps_the_journal(stream: Stream, root_logger: logging.Logger) -> None:
    """When its standard error is another."""
    with stream.as_stderr():
        handler = logs.background_handler(logging.INFO)
    logs.switch_to(handler, logging.INFO)
    logging.getLogger("pysshfs").warning("still here")
    assert stream.path.read_text() == "<4>pysshfs: still here\n"
    assert isinstance(handler, logging.StreamHandler)
    handler.stream.close()


def test_the_background_without_a_journal_has_syslog(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "log"))
        syslog.settimeout(5)
        monkeypatch.setattr(logs, "_SYSLOG", tmp_path / "log")
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        handler = logs.background_handler(logging.INFO)
        handler.handle(logging.LogRecord("x", logging.ERROR, "", 0, "a\nb", (), None))
        handler.close()
        said = syslog.recv(1000).rstrip(b"\0").decode()
    daemon_error = 3 * 8 + 3  # facility and severity, as in syslog(3)
    assert said == rf"<{daemon_error}>pysshfs[{os.getpid()}]: a\nb"
