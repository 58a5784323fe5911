"""After the mount no path is opened that could lie under it: every system call that takes a path is
watched, over a session with all that a daemon ever has to do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.support import procs
from tests.support.commands import (
    Workspace,
    user_options,
    wait_until,
)
from tests.support.outside import agent_of_ordinary_user, proxy_command
from tests.support.sshd import Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: The first path of a call, and what it is relative to; of connect, the name of a local socket.
_CALL = re.compile(r'^(\d+) +(\w+)\((?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"([^"]*)"')
_CONNECT = re.compile(r'^(\d+) +(connect)\((\d+)<[^>]*>, \{sa_family=AF_UNIX, sun_path="([^"]*)"')

#: A new process or thread: who makes it and how, and its number once that is known.
_CLONE = re.compile(r"^(\d+) +(?:clone3?|v?fork)\((.*)")
_CLONED = re.compile(
    r"^(\d+) +(?:(?:clone3?|v?fork)\(|<\.\.\. (?:clone3?|v?fork) resumed>).* = (\d+)$"
)

#: Paths that have nothing to do with where the mount lies, and why they are looked at.
_ALLOWED: Final = [
    r"open\w* /proc/self/mountinfo",  # is it still mounted
    r"\w+ /proc/\d+/(comm|stat|status)",  # of a caller: what it was sent, and what it is
    r"open\w* /dev/null",  # for the standard files of a program that is started
    r"\w+ /(run|tmp)/pysshfs(-\d+)?/\d+\.sock",  # its own socket, when it ends
    r"\w*stat\w* /etc/mtab",  # libfuse's, once unmounted
    # The system's name resolution.
    r"\w+ (/etc/(hosts|resolv\.conf|nsswitch\.conf|gai\.conf|host\.conf)|/run/nscd/socket)",
    r"\w+ /var/run/nscd/socket",
]


class Trace:
    """What strace saw of one daemon and of the programs it started."""

    def __init__(self, pid: int, path: Path) -> None:
        self._pid, self._path = str(pid), path
        watched = "%file,connect,execve,clone,clone3,fork,vfork"
        argv = ["strace", "-f", "-qq", "-y", "-s", "400", "-e", f"trace={watched}"]
        self._process = subprocess.Popen(
            [*argv, "-e", "signal=none", "-o", str(path), "-p", str(pid)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        status = Path(f"/proc/{pid}/status")
        traced = f"TracerPid:\t{self._process.pid}\n"
        wait_until("strace is there", lambda: traced in status.read_text())

    def calls(self) -> tuple[list[str], list[str]]:
        """When the daemon has ended: `name path` of each call of its own, and what it executed.

        What a program does once it was started is its own affair.
        """
        self._process.wait(20)
        lines = self._path.read_text(errors="replace").splitlines()
        threads, children = self._family(lines)
        calls: list[str] = []
        executed: dict[str, str] = {}
        for line in lines:
            match = _CALL.match(line) or _CONNECT.match(line)
            if match is None or not match[4]:  # of an open file alone
                continue
            pid, name, directory, path = match.groups()
            if pid in children and name.startswith("execve"):
                executed.setdefault(pid, path)
            elif pid in threads or (pid in children and pid not in executed):
                where = directory if directory and not path.startswith("/") else ""
                calls.append(f"{name} {os.path.join(where, path)}")
        return calls, list(executed.values())

    def _family(self, lines: list[str]) -> tuple[set[str], set[str]]:
        """The daemon's threads and its children."""
        threads, children = {self._pid}, set[str]()
        flags: dict[str, str] = {}
        for line in lines:
            if (began := _CLONE.match(line)) is not None:
                flags[began[1]] = began[2]
            if (made := _CLONED.match(line)) is not None and made[1] in threads:
                (threads if "CLONE_THREAD" in flags[made[1]] else children).add(made[2])
        return threads, children


@pytest.fixture
def own_server() -> Iterator[Sshd]:
    with Sshd() as running:
        yield running


_HOLDING = """
import sys
file = open(sys.argv[1], "wb", buffering=0)
print("open", flush=True)
sys.stdin.readline()
file.write(b"x" * 100_000)
print("written", flush=True)
sys.stdin.read()
"""

_WORK = """
cd "$0"
ls -l; cat file; echo new >new; mv new moved; chmod 600 moved; touch -d yesterday file
cp file copy; ln file hard; ln -s file soft; readlink soft; mkdir d; rmdir d; df .; find .
dd if=/dev/zero of=big bs=1M count=4; cat big >/dev/null; truncate -s 5 big; rm big
cat missing; mkfifo pipe; chown "$(id -u)" copy
"""


def session(work: Workspace, server: Sshd, prefix: Sequence[str], daemon: int) -> None:
    """Everything that a daemon ever does, up to its end with data that cannot be delivered."""
    mountpoint = str(work.mountpoint)
    work.run([*prefix, "sh", "-c", _WORK, mountpoint])
    for command in ("status", "flush", "reconnect"):
        assert work.ctl(command, mountpoint, prefix=prefix).returncode == 0
    wait_until("the reconnect", lambda: work.status()["reconnects"] >= 1)
    server.restart()
    wait_until("another", lambda: work.status()["reconnects"] >= 2)
    work.run([*prefix, "cat", f"{mountpoint}/copy"], check=True)
    interrupt(work, server, prefix)
    holding = subprocess.Popen(
        [*prefix, sys.executable, "-I", "-c", _HOLDING, f"{mountpoint}/lost"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", start_new_session=True,
    )  # fmt: skip
    try:
        assert holding.stdin is not None and holding.stdout is not None
        assert holding.stdout.readline() == b"open\n"
        server.kill()
        holding.stdin.write(b"\n")
        holding.stdin.flush()
        assert holding.stdout.readline() == b"written\n"
        wait_until("the end", lambda: not told_to_end(daemon))
    finally:
        procs.kill_group(holding.pid)
        holding.communicate(timeout=10)


def told_to_end(daemon: int) -> bool:
    if procs.is_alive(daemon):
        os.kill(daemon, signal.SIGTERM)
        return True
    return False


def interrupt(work: Workspace, server: Sshd, prefix: Sequence[str]) -> None:
    """A call that waits for a silent server, and is given up."""
    sessions = server.session_pids()
    for pid in sessions:
        os.kill(pid, signal.SIGSTOP)
    try:
        argv = [*prefix, "stat", f"{work.mountpoint}/unknown"]
        waiting = subprocess.Popen(argv, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True)
        wait_until("it waits", lambda: work.status()["requests"])
        os.killpg(waiting.pid, signal.SIGINT)
        waiting.wait(10)
    finally:
        for pid in sessions:
            os.kill(pid, signal.SIGCONT)


def judge(work: Workspace, trace: Trace, programs: Sequence[str], *allowed: str) -> None:
    calls, executed = trace.calls()
    undelivered = work.home / ".local/state/pysshfs/undelivered"
    assert any(str(undelivered) in call for call in calls), "nothing was saved"
    assert any("/proc/self/mountinfo" in call for call in calls)
    assert any(re.fullmatch(r"\w+ /proc/\d+/status", call) for call in calls)
    unmounting = rf"umount2 {re.escape(str(work.mountpoint))}"  # for a user, before fusermount3
    saving = rf"\w+ {re.escape(str(undelivered))}(/[^/]*)?"
    patterns = [*_ALLOWED, unmounting, saving, *allowed]
    others = [
        call for call in calls if not any(re.fullmatch(pattern, call) for pattern in patterns)
    ]
    assert others == []
    assert set(executed) == set(programs)


def test_roots_daemon_opens_no_path_under_the_mount(
    work: Workspace, own_server: Sshd, remote: Path
) -> None:
    log = work.directory / "log"
    options = [*own_server.options(), f"log_file={log}", "idmap=user", "log_level=debug"]
    assert work.mount(own_server.source(remote), *options).returncode == 0
    daemon = work.daemon()
    trace = Trace(daemon, work.directory / "trace")
    session(work, own_server, [], daemon)
    judge(work, trace, [])
    assert work.entry() is None


def test_a_users_daemon_uses_the_named_exceptions_and_nothing_else(
    work: Workspace, own_server: Sshd, remote: Path, user: list[str]
) -> None:
    """The agent's socket, the ProxyCommand, and fusermount3 in the end."""
    own_server.directory.chmod(0o755)
    remote.chmod(0o777)
    (work.ssh / "id_ed25519").unlink()
    proxy, _ = proxy_command(work, own_server)
    agent = work.home / "agent"
    with agent_of_ordinary_user(work, own_server, agent) as env:
        argv = [*user, *work.argv(own_server.source(remote), *user_options(own_server), proxy)]
        work.run(argv, env=env, check=True)
        daemon = work.daemon()
        trace = Trace(daemon, work.directory / "trace")
        session(work, own_server, user, daemon)
        agents = rf"connect {re.escape(str(agent))}"
        judge(work, trace, ["/bin/sh", helper(trace)], agents)
        calls, _ = trace.calls()
        assert any(call.startswith("connect ") for call in calls)
    assert work.entry() is None


def helper(trace: Trace) -> str:
    """Where libfuse looks for fusermount3."""
    _, executed = trace.calls()
    (path,) = {each for each in executed if each.endswith("/fusermount3")}
    return path
