"""The demo, and the SFTP server in it, which tests start too: `python -m pysshfs.demo --help`.

`serve` is asyncssh's SFTP server on loopback with keys made for the occasion.  It owns the
directory of those keys and its connections, and writes nowhere else by itself.

`run` shows the program at work and cleans up behind it.  It owns one temporary directory with all
that the demo needs, the server's process, and the mount with its daemon.  It never looks at
anything under the mountpoint itself: commands do, each in a session of its own and with a time
limit.  Everything of `run` happens in one thread; signals are let in only while it waits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncssh

from pysshfs.cli.exitcodes import DESCRIPTIONS, ExitCode
from pysshfs.fuse import mountinfo, mountpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import FrameType

HOST: Final = "127.0.0.1"
#: The only name that can log in; files are read and written as the user who started the server.
USER: Final = "demo"

# --- the server ---------------------------------------------------------------------------------


class Served(NamedTuple):
    """What a client needs to know; `serve` prints it as one line of JSON.  Paths are absolute."""

    port: int
    host_key: str
    client_key: str
    known_hosts: str
    user: str


class _Folder(asyncssh.SFTPServer):
    """One folder, which clients see as `/`.

    It keeps paths inside, but it is no prison: the server follows a symlink wherever it leads.
    """

    def readlink(self, path: bytes) -> bytes:
        """Return the target as it was written.

        The inherited method makes it absolute, which it can do only for absolute targets.
        """
        return os.readlink(self.map_path(path))

    def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        """Write the target as it was sent."""
        os.symlink(oldpath, self.map_path(newpath))


class _Door(asyncssh.SSHServer):
    """Lets in `USER` with the one key, and keeps the list of open connections."""

    def __init__(
        self, key: asyncssh.SSHKey, connections: set[asyncssh.SSHServerConnection]
    ) -> None:
        self._key, self._connections = key, connections
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connections.discard(self._connection)

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == USER and key.public_data == self._key.public_data


async def serve(root: Path, state: Path, port: int) -> None:
    """Serve `root` until SIGTERM, SIGINT, or the end of standard input where that is a pipe.

    `state` gets the keys, or has them from an earlier time.  Port 0 stands for any free one.
    Raises OSError, and asyncssh.KeyImportError for a damaged key.
    """
    asked_to_end = asyncio.Event()
    for which in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(which, asked_to_end.set)
    _end_with_stdin(asked_to_end)
    _make_private(state)
    host_key, client_key = (_key(state / name) for name in ("host_ed25519", "user_ed25519"))
    connections: set[asyncssh.SSHServerConnection] = set()
    acceptor = await asyncssh.listen(
        HOST,
        port,
        config=None,
        server_factory=lambda: _Door(client_key, connections),
        server_host_keys=[host_key],
        sftp_factory=lambda channel: _Folder(channel, os.fsencode(root)),
        gss_host=None,
        agent_forwarding=False,
    )
    served = _tell(state, acceptor.get_port(), host_key)
    print(json.dumps(served._asdict()), flush=True)
    await asked_to_end.wait()
    acceptor.close()
    for connection in list(connections):
        connection.abort()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(acceptor.wait_closed(), 5)


def _end_with_stdin(asked_to_end: asyncio.Event) -> None:
    """Watch standard input if it is a pipe or socket: it ends when whoever started us does."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:  # closed
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        loop = asyncio.get_running_loop()

        def readable() -> None:
            if not os.read(0, 4096):
                loop.remove_reader(0)
                asked_to_end.set()

        loop.add_reader(0, readable)


def _make_private(state: Path) -> None:
    """Make the directory of the keys, or check that nobody else can look into it."""
    state.mkdir(mode=0o700, exist_ok=True)
    found = state.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{state}: must be yours, with mode 0700, to keep keys in")


def _key(path: Path) -> asyncssh.SSHKey:
    """Return the key in `path`, which is made if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return asyncssh.read_private_key(path)
    key = asyncssh.generate_private_key("ssh-ed25519", comment="pysshfs demo")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.export_private_key())
    return key


def _tell(state: Path, port: int, host_key: asyncssh.SSHKey) -> Served:
    """Write known_hosts for this port, and return what clients are to know."""
    known_hosts = state / "known_hosts"
    public = host_key.export_public_key().decode().split()[:2]
    known_hosts.write_text(f"[{HOST}]:{port} {' '.join(public)}\n")
    known_hosts.chmod(0o600)
    host, client = state.absolute() / "host_ed25519", state.absolute() / "user_ed25519"
    return Served(port, str(host), str(client), str(known_hosts.absolute()), USER)


# --- the demo -----------------------------------------------------------------------------------

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
        if not os.access(_script("pysshfs"), os.X_OK):
            say("The commands pysshfs and pysshfsctl are not installed; their modules are run.")
        elif shutil.which("pysshfs") != _script("pysshfs"):
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
                    poller.register(stack.enter_context(_pidfd(pid)), select.POLLIN)
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


# --- processes ----------------------------------------------------------------------------------


def _script(name: str) -> str:
    """Where the console script of this very installation is, or would be."""
    return str(Path(sys.executable).parent / name)


def resolved(program: str) -> list[str]:
    """What to start for the name of a command as a user types it."""
    modules = {"pysshfs": "pysshfs.cli.main", "pysshfsctl": "pysshfs.cli.ctl"}
    if program not in modules:
        return [program]
    if os.access(_script(program), os.X_OK):
        return [_script(program)]
    code = f"from {modules[program]} import main; raise SystemExit(main())"
    return [sys.executable, "-c", code]


def processes_naming(path: Path) -> list[int]:
    """The processes that have this path among their arguments: a daemon keeps its command's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if os.fsencode(path) in arguments:
                    found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether the process is there and not merely waiting for its parent to take note."""
    try:
        # The name of the command is in brackets and may hold brackets itself.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def all_ended(pids: Iterable[int], deadline: float) -> bool:
    """Wait until none of the processes runs; False when that takes longer than to `deadline`."""
    while any(map(is_alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


# --- the commands -------------------------------------------------------------------------------


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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pysshfs.demo", description="pysshfs at work, on this machine alone."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    runs = commands.add_parser("run", help="mount a folder from a local server and use it")
    runs.add_argument("--keep", action="store_true", help="leave it mounted until Ctrl-C")
    runs.set_defaults(run=lambda args: run(args.keep))

    about = "Serve a folder over SFTP, on loopback, to one throw-away key."
    serves = commands.add_parser("serve", help="only the local SFTP server", description=about)
    serves.add_argument("--root", type=Path, required=True, metavar="DIR", help="what is served")
    serves.add_argument("--state", type=Path, required=True, metavar="DIR", help="for its keys")
    serves.add_argument("--port", type=int, default=0, help="default: any free one")
    serves.set_defaults(run=_serve_command)

    args = parser.parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.run
    return command(args)


def _serve_command(args: argparse.Namespace) -> int:
    try:
        if not args.root.is_dir():
            raise NotADirectoryError(f"{args.root}: not a directory")
        asyncio.run(serve(args.root, args.state, args.port))
    except (OSError, asyncssh.KeyImportError) as error:
        print(f"pysshfs demo server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
