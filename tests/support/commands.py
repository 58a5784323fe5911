"""The commands as a user runs them: in the background, in the foreground, and on a terminal.

A `Workspace` owns a temporary directory with a home directory of its own in it, everything that
is mounted below it, and the processes that were started. What is left of them at its end is
freed by aborting the connections. The process that runs the tests never looks at anything under a
mountpoint.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pysshfs.cli.control_client import ask, socket_path
from pysshfs.fuse import mountinfo
from tests.support import procs
from tests.support.mounts import provide_control_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pysshfs.cli.ctl_codes import CtlCode
    from pysshfs.cli.exitcodes import ExitCode
    from pysshfs.fuse.mountinfo import MountEntry
    from tests.support.sshd import Sshd

_PYSSHFS = (sys.executable, "-m", "pysshfs")
#: The command, whatever is installed.
CTL = (sys.executable, "-c", "import sys; from pysshfs.cli.ctl import main; sys.exit(main())")
_MOUNT_HELPER = (
    sys.executable, "-c", "import sys; from pysshfs.cli.mounthelper import main; sys.exit(main())",
)  # fmt: skip

#: Seconds that a command may take before it counts as stuck.
LIMIT = 20.0

#: The user and group that stand for an ordinary user: they own nothing.
ORDINARY = 65534


def wait_until(what: str, condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Poll a condition that no event announces; AssertionError after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        time.sleep(0.01)


def wait_ended(pid: int, limit: float = LIMIT) -> None:
    """Wait for a process that need not be a child of this one."""
    wait_until(f"the end of process {pid}", lambda: not procs.is_alive(pid), limit)


def one_line(text: str) -> str:
    """The one line that `text` must be, without the program's name."""
    assert text.endswith("\n") and text.count("\n") == 1, f"not one line: {text!r}"
    program, colon, message = text[:-1].partition(": ")
    assert (program in ("pysshfs", "pysshfsctl")) and colon and message, text
    return message


def refused(result: subprocess.CompletedProcess[str], code: ExitCode | CtlCode, *words: str) -> str:
    """The one line with which a command ended with `code`; every one of `words` is in it."""
    assert result.returncode == code, (result.returncode, result.stderr)
    assert result.stdout == ""
    message = one_line(result.stderr)
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"
    return message


class Terminal:
    """A command with a terminal of its own, the way a shell starts one."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.output = ""
        try:
            # setsid --ctty becomes the command: its process is the leader of the session.
            self._process = subprocess.Popen(
                ["setsid", "--ctty", *argv],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=dict(env),
                cwd="/",
            )
        finally:
            os.close(slave)

    @property
    def pid(self) -> int:
        return self._process.pid

    def expect(self, text: str, limit: float = LIMIT) -> str:
        """Read until `text` has come, which is then used up with all before it; returns that."""
        deadline = time.monotonic() + limit
        while text not in self.output:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} has not come; there is {self.output!r}"
            assert self._read(left), f"ended without {text!r}: {self.output!r}"
        before, _, self.output = self.output.partition(text)
        return before

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def resize(self, lines: int, columns: int) -> None:
        """Its window gets another size; who is in the foreground gets SIGWINCH."""
        termios.tcsetwinsize(self._master, (lines, columns))

    def wait(self, limit: float = LIMIT) -> int:
        """The exit status; what the command still writes is in `output` then."""
        deadline = time.monotonic() + limit
        while (status := self._process.poll()) is None:
            assert time.monotonic() < deadline, f"does not end; there is {self.output!r}"
            self._read(0.02)
        while self._read(0):
            pass
        return status

    def _read(self, limit: float) -> bool:
        if not select.select([self._master], [], [], max(limit, 0))[0]:
            return False
        try:
            part = os.read(self._master, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        self.output += part.decode(errors="replace")
        return bool(part)

    def close(self) -> None:
        procs.kill_group(self._process.pid)
        procs.wait_gone(self._process, 5)
        os.close(self._master)


class Workspace:
    """``with Workspace() as work: work.mount(...)``."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pysshfs-command-")).resolve()
        self.home = self.directory / "home"
        self.ssh = self.home / ".ssh"
        self.ssh.mkdir(mode=0o700, parents=True)
        self.mountpoint = self.directory / "mnt"
        self.mountpoint.mkdir()
        self.env = {
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(procs.ROOT),
            "LOGNAME": "root",
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self._terminals: list[Terminal] = []
        self._daemons: set[int] = set()
        provide_control_filesystem()

    # -- the commands ------------------------------------------------------------------------

    def argv(self, source: str, *options: str, flags: Sequence[str] = ()) -> list[str]:
        """A command line for the usual mountpoint; `options` are those of -o."""
        words = [*_PYSSHFS, *flags, source, str(self.mountpoint)]
        for option in options:
            words += ["-o", option]
        return words

    def run(
        self,
        argv: Sequence[str],
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = False,
        limit: float = LIMIT,
    ) -> subprocess.CompletedProcess[str]:
        """Run any program without a terminal; connections are aborted if it gets stuck."""
        return procs.run_limited(
            argv,
            timeout=limit,
            stdin=stdin,
            check=check,
            env={**self.env, **(env or {})},
            unblock=self.abort,
        )

    def mount(
        self,
        source: str,
        *options: str,
        flags: Sequence[str] = (),
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """The command in the background, whatever comes of it."""
        return self.run(self.argv(source, *options, flags=flags), stdin, env)

    def mounted(
        self,
        source: str,
        *options: str,
        flags: Sequence[str] = (),
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """The command in the background, which has to mount silently; the daemon's pid."""
        result = self.mount(source, *options, flags=flags, stdin=stdin, env=env)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result
        return self.daemon()

    def foreground(
        self, source: str, *options: str, log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """The command with -f; returns once it is mounted. Its stderr goes to `log`."""
        with open(log or os.devnull, "ab") as stderr:
            process = subprocess.Popen(
                self.argv(source, *options, flags=["-f"]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=self.env,
                cwd="/",
                start_new_session=True,
            )
        self._processes.append(process)
        wait_until("the mount", lambda: self.entry() or process.poll() is not None)
        assert process.poll() is None, "the command ended"
        return process

    def terminal(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Terminal:
        made = Terminal(argv, {**self.env, **(env or {})})
        self._terminals.append(made)
        return made

    def ctl(self, *words: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        return self.run([*prefix, *CTL, *words])

    # -- the mount ---------------------------------------------------------------------------

    def entry(self, mountpoint: Path | None = None) -> MountEntry | None:
        return mountinfo.mount_at(os.fsencode(mountpoint or self.mountpoint))

    def status(self, mountpoint: Path | None = None) -> dict[str, Any]:
        """What the daemon says of itself."""
        entry = self.entry(mountpoint)
        assert entry is not None, "nothing is mounted"
        for option in entry.super_options.split(","):
            name, _, value = option.partition("=")
            if name == "user_id":
                return ask(socket_path(entry.minor, int(value)), "status", 10)
        raise AssertionError(entry.super_options)

    def daemon(self, mountpoint: Path | None = None) -> int:
        """The daemon's pid; it is killed with the workspace."""
        pid = int(self.status(mountpoint)["pid"])
        self._daemons.add(pid)
        return pid

    def listing(self) -> list[str]:
        """The names in the mount's root, from a program that may get stuck."""
        return self.run(["ls", "-A", "--", str(self.mountpoint)], check=True).stdout.splitlines()

    def unmount(self) -> None:
        """Unmount, and wait for the daemon that was asked for."""
        self.run(["umount", "--", str(self.mountpoint)], check=True)
        for pid in self._daemons:
            wait_ended(pid)

    def config(self, text: str) -> None:
        """Write ~/.ssh/config."""
        (self.ssh / "config").write_text(text)

    # -- the end -----------------------------------------------------------------------------

    def _entries(self) -> list[MountEntry]:
        below = os.fsencode(self.directory) + b"/"
        return [each for each in mountinfo.mounts() if each.mountpoint.startswith(below)]

    def abort(self) -> None:
        """Abort every connection below the workspace; quiet if there is none."""
        for entry in self._entries():
            with contextlib.suppress(OSError):
                mountinfo.abort(entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for terminal in self._terminals:
            terminal.close()
        for entry in self._entries():
            # Nobody has asked for its pid when a mount came up that should not have.
            with contextlib.suppress(AssertionError, OSError, ValueError):
                self.daemon(Path(os.fsdecode(entry.mountpoint)))
        self.abort()
        for process in self._processes:
            procs.kill_group(process.pid)
            procs.wait_gone(process, 5)
        for pid in self._daemons:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for entry in reversed(self._entries()):
            argv = ["umount", "-l", "--", os.fsdecode(entry.mountpoint)]
            procs.run_limited(argv, timeout=10, check=False)
        if not self._entries():
            shutil.rmtree(self.directory)


def as_ordinary_user() -> list[str]:
    """What to put before a command for it to run as a user without any rights.

    Where the interpreter lies in a directory that this user may not enter (root's own, say), the
    command keeps the one capability to read it; that helps neither with /dev/fuse, which it opens
    for writing, nor with anything that fusermount3 does, since that runs set-user-id.
    """
    argv = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]
    # By way of env: setpriv itself still finds what root finds.
    probe = [*argv, "env", sys.executable, "-c", "import pyfuse3"]
    if procs.run_limited(probe, timeout=LIMIT, check=False).returncode != 0:
        argv += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return argv


def command_for_everybody(work: Workspace) -> tuple[Path, str]:
    """A directory with the commands in it, and the name of a user who can run it: any, or
    root where the interpreter lies in a directory of root's own."""
    directory = work.directory / "bin"
    directory.mkdir()
    work.directory.chmod(0o755)
    return directory, write_commands(directory)


def write_commands(directory: Path) -> str:
    """The commands as programs in a directory; returns the name of a user who can run them: any, or
    root where the interpreter lies in a directory of root's own."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    usable = [each for each in (sys.executable, f"/usr/bin/{version}") if is_for_everybody(each)]
    interpreter = (usable or [sys.executable])[0]
    programs = {"pysshfs": _PYSSHFS, "pysshfsctl": CTL, "mount.pysshfs": _MOUNT_HELPER}
    for name, (_, *words) in programs.items():
        program = directory / name
        program.write_text(
            f"#!/bin/sh\nexport PYTHONPATH={':'.join([str(procs.ROOT), *packages])}\n"
            f'exec {shlex.join([interpreter, *words])} "$@"\n'
        )
        program.chmod(0o755)
    return "nobody" if usable else "root"


def is_for_everybody(interpreter: str) -> bool:
    argv = ["setpriv", f"--reuid={ORDINARY}", "--clear-groups", "env", interpreter, "-c", ""]
    return procs.run_limited(argv, timeout=20, check=False).returncode == 0


def user_options(server: Sshd) -> list[str]:
    """The mount options for a user who has the key at home."""
    port, _, known_hosts = server.options()
    return [port, known_hosts]


@contextlib.contextmanager
def fuse_for_everybody() -> Iterator[None]:
    """/dev/fuse as every udev makes it, mode 0666: fusermount3 opens it as the user who calls it.

    A system without udev (a container, an initial ramdisk) may have it for root alone.
    """
    device = Path("/dev/fuse")
    before = device.stat().st_mode & 0o7777
    device.chmod(0o666)
    try:
        yield
    finally:
        device.chmod(before)


@contextlib.contextmanager
def user_allow_other(*, allowed: bool) -> Iterator[None]:
    """Whether the system lets its users let others in (fuse.conf(5)). To be held no longer than a
    mount takes: it holds for everybody. Of several who want it one has it at a time."""
    path = Path("/etc/fuse.conf")
    was_there = path.exists()
    with path.open("a+") as config:
        fcntl.flock(config, fcntl.LOCK_EX)
        config.seek(0)
        before = config.read()
        lines = [line for line in before.splitlines() if line.strip() != "user_allow_other"]
        try:
            path.write_text("\n".join([*lines, *["user_allow_other"] * allowed, ""]))
            yield
        finally:
            path.write_text(before)
            if not was_there:
                path.unlink()
