"""`pysshfsctl` on a real mount whose server does not answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.ctl_codes import CtlCode
from tests.support import procs
from tests.support.commands import CTL, Workspace, one_line, wait_until
from tests.support.sshd import Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Opens a file on the mount, waits for a line, writes, waits for another, and closes it.
_WRITER = """
import sys
file = open(sys.argv[1], "wb", buffering=0)
print("open", flush=True)
sys.stdin.readline()
file.write(b"x" * 4096)
print("written", flush=True)
sys.stdin.readline()
file.close()
"""


@pytest.fixture
def own_server() -> Iterator[Sshd]:
    """One to be stopped."""
    with Sshd() as running:
        yield running


@contextlib.contextmanager
def silent(server: Sshd) -> Iterator[None]:
    pids = server.session_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Writer:
    """A program with an open file on the mount, told line by line how to go on."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _WRITER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"open\n"

    def write(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"written\n"

    def close(self) -> int:
        self._process.communicate(b"\n", timeout=10)
        return self._process.returncode


def test_what_is_not_delivered_can_be_waited_for_and_left(
    work: Workspace, own_server: Sshd, remote: Path
) -> None:
    daemon = work.mounted(own_server.source(remote), *own_server.options())
    writer = Writer(work.mountpoint / "new")
    place = str(work.mountpoint)
    with silent(own_server):
        writer.write()
        for command in ("flush", "umount"):
            waiting = work.terminal([*CTL, command, place])
            waiting.expect("pysshfsctl: 4,096 bytes are not delivered yet")
            waiting.expect("pysshfsctl: 4,096 bytes to deliver, 0.0 MB/s")
            waiting.send("\x03")
            assert waiting.wait() == CtlCode.INTERRUPTED
            # The line of the progress is wiped out, and nothing of it stays.
            said = waiting.output.rpartition("\r\x1b[K")[2].replace("^C", "").strip()
            assert said.startswith(f"pysshfsctl: {place}: interrupted: 4,096 bytes are not")
            assert "\n" not in said
            assert work.entry() is not None and procs.is_alive(daemon)
        began = time.monotonic()
        shown = work.ctl("status", "--json", place)
        assert time.monotonic() - began < 2  # with the start of the interpreter on a busy machine
        (state,) = json.loads(shown.stdout)
        assert state["unacknowledged_bytes"] == 4096 and state["undelivered"] == []
    assert work.ctl("flush", place).returncode == CtlCode.OK
    assert (remote / "new").stat().st_size == 4096
    wait_until("nothing is buffered", lambda: not work.status()["unacknowledged_bytes"])
    assert writer.close() == 0
    assert work.ctl("umount", place).returncode == CtlCode.OK


def test_flush_of_a_stopped_daemon(work: Workspace, own_server: Sshd, remote: Path) -> None:
    daemon = work.mounted(own_server.source(remote), *own_server.options())
    os.kill(daemon, signal.SIGSTOP)
    try:
        result = work.ctl("flush", str(work.mountpoint))
        assert result.returncode == CtlCode.NOT_ANSWERING
        assert one_line(result.stderr).startswith(
            f"{work.mountpoint}: the daemon does not answer: process {daemon} is stopped"
        )
    finally:
        os.kill(daemon, signal.SIGCONT)
