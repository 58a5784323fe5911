"""The demo: a mount on a server of our own, used as a user would, and everything cleaned up behind.

Owns one temporary directory with all that the demo needs, the server's process, and the mount with
its daemon.  It never looks at anything under the mountpoint itself: commands do, each in a session
of its own and with a time limit.  Everything happens in one thread; signals are let in only while
it waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.cli.exitcodes import DESCRIPTIONS, ExitCode
from pysshfs.cli.processes import (
    all_ended,
    pidfd,
    processes_naming,
    resolved,
    script,
)
from pysshfs.cli.procstat import is_alive
from pysshfs.fuse import mountinfo, mountpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

HOST: Final = "127.0.0.1"
#: The only name that can log in; files are read and written as the user who started the server.
USER: Final = "demo"


class Served(NamedTuple):
    """What a client needs to know; `serve` prints it as one line of JSON.  Paths are absolute."""

    port: int
    host_key: str
    client_key: str
    known_hosts: str
    user: str


_MEGABYTE: Final = "megabyte.bin"
_NOTE: Final = b"Written on the mount, read on the server's side.\n"

# Seconds.
_COMMAND_LIMIT: Final = 30.0
_SERVER_LIMIT: Final = 30.0
_END_LIMIT: Final = 10.0


class DemoError(Exception):
    """The demo cannot go on; the message says what happened."""


class Stopped(Exception):
    """A signal asked the demo to end."""


class _Signals:
    """SIGINT, SIGTERM and SIGHUP: raised as `Stopped`, and only where `let_in` says so.

    Anywhere else one could fall between the start of a process and the note of its pid, or into
    the clean-up.  It is kept until the next wait then; after `shut` for good.
    """

    def __init__(self) -> None:
        self._asked = self._open = self._shut = False
        # Handlers, not SIG_IGN, even after `shut`: what is ignored stays so in child processes.
        for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(which, self._arrived)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self._asked and self._open and not self._shut:
            self._open = False
            raise Stopped

    @contextlib.contextmanager
    def let_in(self) -> Iterator[None]:
        self._open = True
        try:
            self._raise_if_due()
            yield
        finally:
            self._open = False

    def shut(self) -> None:
        self._shut = True


class Demo:
    """The demo from its temporary directory to the end of it; `clean_up` may always be called."""

    def __init__(self) -> None:
        self._signals = _Signals()
        self.directory = Path(tempfile.mkdtemp(prefix="pysshfs-demo-")).resolve()
        self.mountpoint = self.directory / "mnt"
        self._folder = self.directory / "server" / "project"
        self._server_log = self.directory / "server.log"
        self._server: subprocess.Popen[bytes] | None = None
        self._served: Served | None = None
        self._daemons: list[int] = []

    # -- what is shown -----------------------------------------------------------------------

    def show(self, keep: bool) -> None:
        """The whole of it, but for the clean-up.  Raises DemoError, Stopped or OSError."""
        say(f"Everything happens in {self.directory}")
        if not os.access(script("pysshfs"), os.X_OK):
            say("The commands pysshfs and pysshfsctl are not installed; their modules are run.")
        elif shutil.which("pysshfs") != script("pysshfs"):
            say(f"The commands pysshfs and pysshfsctl are in {Path(sys.executable).parent}")
        self.mountpoint.mkdir()
        make_tree(self._folder)
        self._start_server()
        self._mount()
        self._look()
        self._write()
        self._status()
        if keep:
            self._stay()
        self._unmount(keep)

    def _start_server(self) -> None:
        argv = [sys.executable, "-m", "pysshfs.demo", "serve"]
        argv += ["--root", str(self._folder.parent), "--state", str(self.directory / "keys")]
        with self._server_log.open("wb") as log:
            self._server = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._server.stdout is not None
        with self._signals.let_in():
            ready = select.select([self._server.stdout], [], [], _SERVER_LIMIT)[0]
        line = self._server.stdout.readline() if ready else b""
        if not line:
            raise DemoError(f"the server did not start{self._server_words()}")
        self._served = Served(**json.loads(line))
        say(f"An SFTP server (pid {self._server.pid}) listens on {HOST}, port {self._served.port}")
        say(f"and serves {self._folder.parent}")

    def _mount(self) -> None:
        assert self._served is not None
        known_hosts = self._served.known_hosts
        if " " in known_hosts:  # this keyword takes several files, with blanks between them
            known_hosts = f'"{known_hosts}"'
        options = [
            f"port={self._served.port}",
            f"IdentityFile={self._served.client_key}",
            f"UserKnownHostsFile={known_hosts}",
            # Nothing of the user's own: no agent, no questions, no configuration file.
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
            "BatchMode=yes",
        ]
        joined = ",".join(each.replace("\\", "\\\\").replace(",", "\\,") for each in options)
        source = f"{self._served.user}@{HOST}:/{self._folder.name}"
        say("\nIt is mounted:")
        self._run("pysshfs", "-F", "/dev/null", source, str(self.mountpoint), "-o", joined)
        self._daemons = processes_naming(self.mountpoint)
        if self._entry() is None:
            raise DemoError("pysshfs reports success, but nothing is mounted")
        say(f"(the daemon has pid {', '.join(map(str, self._daemons)) or 'unknown'})")

    def _look(self) -> None:
        say("\nThe server's files are here:")
        self._run("ls", "-lR", str(self.mountpoint))
        shown = self._run("cat", str(self.mountpoint / "notes" / "latest"))
        if shown != (self._folder / "notes" / "latest").read_bytes():
            raise DemoError("that is not what the server's file holds")
        digest = self._run("sha256sum", str(self.mountpoint / _MEGABYTE)).split()[0].decode()
        if digest != hashlib.sha256((self._folder / _MEGABYTE).read_bytes()).hexdigest():
            raise DemoError(f"the server's {_MEGABYTE} has another checksum")
        say("Both are what the server has, byte for byte.")

    def _write(self) -> None:
        note = self.directory / "note.txt"
        note.write_bytes(_NOTE)
        arrived = self._folder / "notes" / "new.txt"
        say("\nA file is written:")
        self._run("cp", str(note), str(self.mountpoint / "notes" / "new.txt"))
        found = arrived.read_bytes() if arrived.exists() else None
        if found != _NOTE:
            raise DemoError(f"{arrived} holds {found!r} on the server's side, not {_NOTE!r}")
        say(f"It arrived: {arrived} has the same {len(_NOTE)} bytes.")

    def _status(self) -> None:
        say("\nHow the mount fares:")
        if os.fsencode(self.mountpoint) not in self._run(
            "pysshfsctl", "status", str(self.mountpoint)
        ):
            raise DemoError("pysshfsctl does not name the mount")

    def _stay(self) -> None:
        """Wait for a signal, or for the end of the mount by another hand."""
        say(f"\nIt stays mounted on {self.mountpoint} until Ctrl-C.  In another terminal:")
        umount = ["pysshfsctl", "umount", str(self.mountpoint)]
        status = ["pysshfsctl", "status", str(self.mountpoint)]
        for argv in (["ls", "-l", str(self.mountpoint)], status, umount):
            # The full path, for one may not be where the other terminal looks for programs.
            say(f"  {shlex.join([*resolved(argv[0]), *argv[1:]])}")
        say(f"The server's side is {self._folder}")
        assert self._server is not None
        with contextlib.ExitStack() as stack:
            poller = select.poll()
            for pid in (self._server.pid, *self._daemons):
                with contextlib.suppress(ProcessLookupError):  # its absence is found below
                    poller.register(stack.enter_context(pidfd(pid)), select.POLLIN)
            try:
                with self._signals.let_in():
                    while self._entry() is not None and not poller.poll(1000):
                        pass
                # A dying server closes its connections, which ends the mount, before it is dead.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._server.wait(1)
            except Stopped:
                self._signals.shut()
                say("\nAsked to end.")
        if self._server.poll() is not None:
            raise DemoError(f"the server ended by itself{self._server_words()}")
        if self._entry() is not None and not all(map(is_alive, self._daemons)):
            raise DemoError("the daemon ended by itself and left the mount behind")

    def _unmount(self, kept: bool) -> None:
        say("\nIt is unmounted:")
        if self._entry() is None:
            say("(it already is)")
        else:
            try:
                self._run("pysshfsctl", "umount", str(self.mountpoint))
            except DemoError as error:
                if not kept:
                    raise
                # Someone still works there, and has been told that this is a demo.
                say(f"{error}; it is taken away all the same.")
                return
        deadline = time.monotonic() + _END_LIMIT
        if not all_ended(self._daemons, deadline):
            raise DemoError(f"the daemon still runs {_END_LIMIT:g} s after that")
        if self._entry() is not None:
            raise DemoError(f"{self.mountpoint} is still mounted")

    # -- the end -----------------------------------------------------------------------------

    def clean_up(self) -> list[str]:
        """End and remove whatever there still is, by force where needed; lists what withstood."""
        self._signals.shut()
        self._clear_mount()
        self._end_server()
        if self._entry() is None:  # below a mount nothing is the demo's to delete
            with contextlib.suppress(OSError):
                if self.mountpoint.exists():
                    self.mountpoint.rmdir()
                shutil.rmtree(self.directory)
        return self._left()

    def _clear_mount(self) -> None:
        entry = self._entry()
        if entry is not None:
            with contextlib.suppress(OSError):
                mountinfo.abort(entry)
        for pid in processes_naming(self.mountpoint):
            if pid not in self._daemons:
                self._daemons.append(pid)
        # An aborted daemon ends by itself, but not one that is still about to mount.
        for which in (None, signal.SIGTERM, signal.SIGKILL):
            if which is not None:
                for pid in filter(is_alive, self._daemons):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, which)
            if all_ended(self._daemons, time.monotonic() + 3):
                break
        if self._entry() is not None:
            mountpoint.unmount(str(self.mountpoint), lazy=True)

    def _end_server(self) -> None:
        server = self._server
        if server is None:
            return
        server.terminate()
        try:
            server.wait(_END_LIMIT)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        for pipe in (server.stdin, server.stdout):
            if pipe is not None:
                pipe.close()

    def _left(self) -> list[str]:
        pids = [*self._daemons, *([self._server.pid] if self._server is not None else [])]
        left = [f"process {pid}" for pid in pids if is_alive(pid)]
        if self._entry() is not None:
            left.append(f"the mount {self.mountpoint}")
        if self.directory.exists():
            left.append(f"{self.directory}, with the keys in it")
        return left

    def gone(self) -> str:
        """Name what was there and no longer is, for the last line."""
        daemons = ", ".join(map(str, self._daemons))
        server = self._server.pid if self._server is not None else "none"
        return (
            f"the mount, its daemon (pid {daemons}), the server (pid {server}), "
            f"the keys, {self.directory}"
        )

    # -- inside ------------------------------------------------------------------------------

    def _entry(self) -> mountinfo.MountEntry | None:
        return mountinfo.mount_at(os.fsencode(self.mountpoint))

    def _server_words(self) -> str:
        """What the server left on standard error, to go behind a message."""
        words = self._server_log.read_text(errors="replace").strip()
        return f":\n{words}" if words else ""

    def _run(self, *argv: str) -> bytes:
        """Print a command, run it within the limit, print what it says and return its stdout.

        Raises DemoError when it fails or does not end.
        """
        say(f"$ {shlex.join(argv)}")
        # Into files: a daemon that keeps a pipe open would hold up whoever reads from it.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                [*resolved(argv[0]), *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            try:
                with self._signals.let_in():
                    process.wait(_COMMAND_LIMIT)
            except (Stopped, subprocess.TimeoutExpired) as error:
                self._put_down(process)
                if isinstance(error, Stopped):
                    raise
            said = []
            for file in (out, err):
                file.seek(0)
                said.append(file.read())
                if said[-1]:
                    say(os.fsdecode(said[-1]).removesuffix("\n"))
        if process.returncode != 0:
            raise DemoError(f"'{argv[0]}' {_outcome(argv[0], process.returncode)}")
        return said[0]

    def _put_down(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a command's session; abort the mount if it sleeps there beyond any signal."""
        for _ in range(2):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
                return
            entry = self._entry()
            if entry is not None:
                with contextlib.suppress(OSError):
                    mountinfo.abort(entry)


def _outcome(program: str, status: int | None) -> str:
    if status is None or status == -signal.SIGKILL:
        return f"did not end within {_COMMAND_LIMIT:g} s"
    if program == "pysshfs" and status in list(ExitCode):
        return f"ended with status {status}: {DESCRIPTIONS[ExitCode(status)]}"
    return f"ended with status {status}"


def make_tree(folder: Path) -> None:
    """Fill a folder, which is made, with a few things to look at."""
    notes = folder / "notes"
    notes.mkdir(parents=True)
    (folder / "README.txt").write_text("This file is on the server, and so is all the rest.\n")
    (notes / "monday.txt").write_text("Monday: nothing to report.\n")
    (notes / "tuesday.txt").write_text("Tuesday: the symlink 'latest' leads here.\n")
    (notes / "latest").symlink_to("tuesday.txt")
    (folder / _MEGABYTE).write_bytes(os.urandom(1 << 20))


def say(text: str) -> None:
    """Print; a terminal that has gone away must not keep the demo from cleaning up."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def run(keep: bool) -> int:
    """Show the demo; 0 when all of it worked and nothing is left of it."""
    demo = Demo()
    failures = []
    try:
        demo.show(keep)
    except (DemoError, OSError) as error:
        failures.append(str(error))
    except Stopped:
        failures.append("interrupted")
    finally:
        failures += [f"still there: {each}" for each in demo.clean_up()]
    for failure in failures:
        with contextlib.suppress(OSError):
            print(f"pysshfs demo: {failure}", file=sys.stderr, flush=True)
    if failures:
        return 1
    say(f"All gone: {demo.gone()}")
    return 0
