"""A mount made by the real daemon, used only from other processes.

Owns the daemon's process, the mountpoint (a directory of its own unless one is given), the
daemon's log and the connection's entry in the control filesystem.  The process that runs the
tests never looks at anything under the mountpoint: programs are started through a shell that
changes there first, have a time limit, and are freed by aborting the connection when it is over.
One thread at a time may use an instance.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.support import procs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

CONTROL = Path("/sys/fs/fuse/connections")
_MOUNTINFO = Path("/proc/self/mountinfo")

#: How the daemon is started; the source, the mountpoint and the options follow.
PYSSHFS = (sys.executable, "-m", "pysshfs", "-f")

#: Goes to a directory, which may hang, and becomes the command given.
_THERE = 'cd -- "$1" && shift && exec "$@"'

#: Seconds a daemon has to flush and to end after a clean unmount.
_END_LIMIT = 15.0


class MountError(AssertionError):
    """The mount did not come up, or did not go down as it should."""


class Entry(NamedTuple):
    """One line of mountinfo: `minor` is the connection's number for a FUSE mount."""

    minor: int
    mountpoint: bytes
    fstype: str


def parse_mountinfo(table: bytes) -> list[Entry]:
    """The lines of /proc/self/mountinfo; octal escapes in the mountpoint are undone."""
    entries = []
    for line in table.split(b"\n"):  # not at a carriage return, which a name may hold
        if not line:
            continue
        fields, _, rest = line.partition(b" - ")
        columns = fields.split(b" ")
        mountpoint = columns[4].decode("unicode_escape").encode("latin-1")
        minor = int(columns[2].partition(b":")[2])
        entries.append(Entry(minor, mountpoint, rest.split(b" ")[0].decode()))
    return entries


def mounted_at(mountpoint: Path, table: bytes | None = None) -> Entry | None:
    """What is mounted at `mountpoint` (the topmost), without touching it."""
    entries = parse_mountinfo(_MOUNTINFO.read_bytes() if table is None else table)
    found = [entry for entry in entries if entry.mountpoint == os.fsencode(mountpoint)]
    return found[-1] if found else None


def provide_control_filesystem() -> bool:
    """Mount the control filesystem if it is not there and we may; whether it is there now."""
    there = mounted_at(CONTROL)
    if there is None and os.geteuid() == 0:
        argv = ["mount", "-t", "fusectl", "none", str(CONTROL)]
        procs.run_limited(argv, timeout=10, check=False)
        there = mounted_at(CONTROL)
    return there is not None and there.fstype == "fusectl"


class Mount:
    """``with Mount(source, *options) as mount: mount.run(["ls"])``.

    `options` are mount options without ``-o``.  `program` and `fstype` allow for another
    program with the same command line, which the benchmark compares with.  Settable at any time:

    - `allow_log_errors`: do not fail for ERROR or Traceback in the daemon's log;
    - `expected_status`: the daemon's exit status on a clean exit (None: any).
    """

    def __init__(
        self,
        source: str,
        *options: str,
        mountpoint: Path | None = None,
        program: Sequence[str] = PYSSHFS,
        fstype: str = "fuse.pysshfs",
        env: Mapping[str, str] | None = None,
        start_limit: float = 20.0,
    ) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="pysshfs-mount-")).resolve()
        self.mountpoint = mountpoint or self._directory / "mnt"
        self.log_path = self._directory / "daemon.log"
        self.connection = -1
        self.allow_log_errors = False
        self.expected_status: int | None = 0
        self._argv = [*program, source, str(self.mountpoint)]
        for option in options:
            self._argv += ["-o", option]
        self._fstype, self._start_limit = fstype, start_limit
        self._env = {**os.environ, **env} if env is not None else None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    # -- programs on the mount ---------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        timeout: float = 20,
        cwd: str | os.PathLike[str] = "",
        input: str | bytes | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in `cwd`, relative to the mount, to its end.

        After `timeout` seconds its process group is killed, the connection aborted and
        CommandStuck raised.  With `check`, CommandFailed for a status other than 0.
        """
        return procs.run_limited(
            self._there(argv, cwd),
            timeout=timeout,
            stdin=input,
            check=check,
            env={**os.environ, **env} if env is not None else None,
            unblock=self.abort,
        )

    def python(
        self, code: str, *args: str, timeout: float = 20, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code in the mount's directory; `args` are its ``sys.argv[1:]``."""
        # Isolated: it would look for its modules on the mount otherwise.
        argv = [sys.executable, "-I", "-c", code, *args]
        return self.run(argv, timeout=timeout, check=check)

    def start(
        self, argv: Sequence[str], cwd: str | os.PathLike[str] = ""
    ) -> subprocess.Popen[bytes]:
        """Start a program on the mount and leave it running, in a session of its own.

        For tests that signal it.  Its output goes through pipes; whoever waits for it does so
        with a time limit.  It is killed with the mount.
        """
        process = subprocess.Popen(
            self._there(argv, cwd),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def _there(self, argv: Sequence[str], cwd: str | os.PathLike[str]) -> list[str]:
        # Not Popen's cwd: its constructor waits for the child's chdir, without a limit.
        return ["/bin/sh", "-c", _THERE, "sh", str(self.mountpoint / cwd), *argv]

    # -- the connection and the daemon -------------------------------------------------------

    @property
    def pid(self) -> int:
        """The daemon's pid."""
        assert self._daemon is not None, "the daemon has not been started"
        return self._daemon.pid

    @property
    def status(self) -> int | None:
        """The daemon's exit status; None while it runs."""
        return None if self._daemon is None else self._daemon.poll()

    def log(self) -> str:
        """What the daemon has written to standard error so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def waiting(self) -> int:
        """The number of requests the kernel waits for, queued or with the daemon."""
        return int((CONTROL / str(self.connection) / "waiting").read_text())

    def abort(self) -> None:
        """Abort the connection: every request fails, now and later. Quiet if it is gone."""
        with contextlib.suppress(OSError):
            (CONTROL / str(self.connection) / "abort").write_text("1")

    def is_mounted(self) -> bool:
        """Whether this very mount is in the table of mounts."""
        entry = mounted_at(self.mountpoint)
        return entry is not None and entry.minor == self.connection

    def unmount(self, timeout: float = 20) -> None:
        """Unmount in good order; MountError when it is busy.  Does not wait for the daemon."""
        if not self.is_mounted():
            return
        argv = ["fusermount3", "-u", str(self.mountpoint)]
        result = procs.run_limited(argv, timeout=timeout, check=False, unblock=self.abort)
        if self.is_mounted():
            raise MountError(f"cannot unmount {self.mountpoint}: {result.stderr}")

    def wait_daemon(self, timeout: float = _END_LIMIT) -> int:
        """The daemon's exit status, once it has ended; MountError when it does not."""
        assert self._daemon is not None
        if not procs.wait_gone(self._daemon, timeout):
            raise MountError(f"the daemon still runs {timeout} s later; its log:\n{self.log()}")
        return self._daemon.returncode

    def kill_daemon(self) -> None:
        """SIGKILL to the daemon and what it started."""
        if self._daemon is not None:
            procs.kill_group(self._daemon.pid)
            procs.wait_gone(self._daemon, 10)

    # -- its life ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._bring_up()
        except BaseException:
            self._put_down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if exc is None:
                self.unmount()
                self.wait_daemon()
                self._judge()
            else:
                exc.add_note(f"status of the daemon: {self.status}; its log:\n{self.log()}")
        finally:
            self._put_down()

    def _bring_up(self) -> None:
        provide_control_filesystem()
        if self.mountpoint.parent == self._directory:
            self.mountpoint.mkdir()
        with self.log_path.open("wb") as log:
            self._daemon = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=procs.ROOT,
                env=self._env,
                start_new_session=True,
            )
        self.connection = self._await_mounted()

    def _await_mounted(self) -> int:
        """Sleep until the table of mounts changes or the daemon ends, and look again."""
        deadline = time.monotonic() + self._start_limit
        daemon = os.pidfd_open(self.pid)
        try:
            with _MOUNTINFO.open("rb", buffering=0) as table:
                poller = select.poll()
                poller.register(table, select.POLLPRI | select.POLLERR)
                poller.register(daemon, select.POLLIN)
                while (entry := mounted_at(self.mountpoint, _whole(table.fileno()))) is None or (
                    entry.fstype != self._fstype
                ):
                    left = deadline - time.monotonic()
                    if left <= 0 or self.status is not None:
                        raise MountError(self._why_not())
                    poller.poll(left * 1000)
                return entry.minor
        finally:
            os.close(daemon)

    def _why_not(self) -> str:
        state = "still runs" if self.status is None else f"ended with status {self.status}"
        return (
            f"no {self._fstype} at {self.mountpoint} within {self._start_limit} s; "
            f"the daemon {state}; its log:\n{self.log()}"
        )

    def _judge(self) -> None:
        if self.expected_status not in (None, self.status):
            raise MountError(f"the daemon's status is {self.status}; its log:\n{self.log()}")
        if not self.allow_log_errors and ("ERROR" in self.log() or "Traceback" in self.log()):
            raise MountError(f"errors in the daemon's log:\n{self.log()}")

    def _put_down(self) -> None:
        """Leave nothing behind, whatever the state: programs, connection, daemon, mount."""
        for process in self._started:
            procs.kill_group(process.pid)
        if self.is_mounted():
            self.abort()
        self.kill_daemon()
        late = mounted_at(self.mountpoint)
        if self.connection < 0 and late is not None and late.fstype == self._fstype:
            self.connection = late.minor  # it came up after it had been given up
        if self.is_mounted():
            with contextlib.suppress(procs.CommandStuck):
                argv = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
                procs.run_limited([*argv, str(self.mountpoint)], timeout=10, check=False)
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=5)
        self._started.clear()
        if not self.is_mounted():
            self._remove()

    def _remove(self) -> None:
        if self.mountpoint.parent == self._directory and self.mountpoint.is_dir():
            self.mountpoint.rmdir()  # fails, and is to fail, on anything but an empty directory
        shutil.rmtree(self._directory)


def _whole(fd: int) -> bytes:
    """A file's content from its beginning, by a descriptor that keeps being polled."""
    os.lseek(fd, 0, os.SEEK_SET)
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)
