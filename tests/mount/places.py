"""Where the tests of this package work: a directory of its own on a mount that several share.

`ServerUnderTest` is one SFTP server with the directory it serves, `SharedMount` a mount of it that
is made again when a test has broken it, `Place` one test's directory there. Programs run in other
processes with hard limits; only the server's side of a place is touched from the process that
runs the tests. After each test `Place.close` waits for the daemon and the server to have let go of
every handle, and fails the test that left one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pysshfs.cli.control_client import ask, socket_path
from tests.mount import remote_call
from tests.support import procs
from tests.support.mounts import Mount, mounted_at
from tests.support.sshd import HOST, Sshd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that handles may take to be given back once the programs that had them are gone.
_CLOSE_LIMIT = 3.0


def wait_until(what: str, condition: Callable[[], bool], limit: float) -> None:
    """Poll a condition that no event announces; AssertionError after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        time.sleep(0.005)


def read_a_line(process: subprocess.Popen[bytes], limit: float = 20) -> bytes:
    """The next line of a program's output; AssertionError when there is none in time."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], limit)[0], "no output"
    return process.stdout.readline()


def run_call(
    run: Callable[[list[str]], subprocess.CompletedProcess[str]],
    function: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Call a function of a module in another process, which `run` starts; the result comes back
    as JSON, and so do the arguments."""
    assert not kwargs, "positional arguments only"
    name = [function.__module__, function.__name__]
    argv = [sys.executable, "-I", remote_call.__file__, str(procs.ROOT), *name, json.dumps(args)]
    result: T = json.loads(run(argv).stdout.splitlines()[-1])
    return result


class AsyncsshServer:
    """asyncssh's SFTP server, as `python -m pysshfs.demo serve` runs it, as a process. `module`
    may be another with the same command line."""

    def __init__(self, root: Path, module: str = "pysshfs.demo") -> None:
        self._state = Path(tempfile.mkdtemp(prefix="pysshfs-keys-")) / "keys"
        argv = [sys.executable, "-m", module, "serve"]
        argv += ["--root", str(root), "--state", str(self._state)]
        self._process = subprocess.Popen(
            argv, cwd=procs.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        ready = select.select([self._process.stdout], [], [], 20)[0]
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self.close()
            raise RuntimeError("the server did not start")
        self._served: dict[str, Any] = json.loads(line)

    @property
    def source(self) -> str:
        return f"{self._served['user']}@{HOST}:/"

    def options(self) -> list[str]:
        return [
            f"port={self._served['port']}",
            f"IdentityFile={self._served['client_key']}",
            f"UserKnownHostsFile={self._served['known_hosts']}",
        ]

    def pids(self) -> list[int]:
        return [self._process.pid]

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self._state.parent)


class ServerUnderTest:
    """One server and the directory that it serves: `openssh` or `asyncssh`."""

    def __init__(self, kind: str, openssh: Sshd, port: int | None = None) -> None:
        """OpenSSH's is reached by `port`, if that is given."""
        self.kind = kind
        self._port = port
        self.root = Path(tempfile.mkdtemp(prefix="pysshfs-served-")).resolve()
        self.root.chmod(0o755)
        self._openssh = openssh
        self._asyncssh = AsyncsshServer(self.root) if kind == "asyncssh" else None

    def mount(self, *options: str) -> Mount:
        """A mount of the served directory, not yet made."""
        if self._asyncssh is not None:
            return Mount(self._asyncssh.source, *self._asyncssh.options(), *options)
        source, reached = self._openssh.source(self.root), self._openssh.options(self._port)
        return Mount(source, *reached, *options)

    def pids(self) -> list[int]:
        """The processes that carry out what clients ask: sftp-server's, one for each session."""
        if self._asyncssh is not None:
            return self._asyncssh.pids()
        return [pid for pid in self._openssh.session_pids() if name_of(pid) == "sftp-server"]

    def open_below(self, directory: Path) -> list[str]:
        """What the server's processes have open in this directory."""
        return [
            path for pid in self.pids() for path in open_files(pid) if _is_below(path, directory)
        ]

    def close(self) -> None:
        if self._asyncssh is not None:
            self._asyncssh.close()
        shutil.rmtree(self.root)


def name_of(pid: int) -> str:
    """The name of a process's program; of one that is gone, nothing."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def open_files(pid: int) -> Iterator[str]:
    """What a process has open, by name; of a process that is gone, nothing."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for number in numbers:
        try:
            yield os.readlink(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue


def _is_below(path: str, directory: Path) -> bool:
    return path == str(directory) or path.startswith(f"{directory}/")


def status(mount: Mount) -> dict[str, Any]:
    """What the daemon says of itself; it answers whatever its server does."""
    return ask(socket_path(mount.connection, os.geteuid()), "status", 5)


class SharedMount:
    """A mount of a server's directory that outlives a test, as long as it works."""

    def __init__(self, server: ServerUnderTest, *options: str) -> None:
        self.server = server
        self._options = options
        self._mount: Mount | None = None
        self.server_pids: list[int] = []

    def get(self) -> Mount:
        """The mount, made (again) if need be."""
        if self._mount is None:
            others = self.server.pids()
            self._mount = self.server.mount(*self._options).__enter__()
            self.server_pids = [pid for pid in self.server.pids() if pid not in others]
        return self._mount

    def retire(self) -> None:
        """Unmount in good order. Fails for errors in the daemon's log, or a mount left behind."""
        mount, self._mount = self._mount, None
        if mount is not None:
            mount.__exit__(None, None, None)
            assert mount.status is not None, "the daemon still runs"
            assert mounted_at(mount.mountpoint) is None, "the mount is still there"

    def break_down(self, why: BaseException) -> None:
        """Put down a mount that a test has broken; `why` gets the daemon's log as a note."""
        mount, self._mount = self._mount, None
        if mount is not None:
            mount.abort()
            mount.__exit__(type(why), why, None)


@contextlib.contextmanager
def sharing(server: ServerUnderTest, *options: str) -> Iterator[SharedMount]:
    """A mount with these options for whoever has it; closes the server."""
    try:
        shared = SharedMount(server, *options)
        try:
            yield shared
            shared.retire()
        except BaseException as error:
            shared.break_down(error)
            raise
    finally:
        server.close()


class Place:
    """One test's directory: `server` is its path on the server's side, `name` that on the mount."""

    def __init__(self, shared: SharedMount) -> None:
        self._shared = shared
        self.mount = shared.get()
        self.server = Path(tempfile.mkdtemp(prefix="t-", dir=shared.server.root))
        self.server.chmod(0o755)
        self.name = self.server.name
        self.kind = shared.server.kind

    def run(
        self,
        argv: Sequence[str],
        timeout: float = 30,
        check: bool = True,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in this directory of the mount."""
        return self.mount.run(argv, timeout=timeout, cwd=self.name, check=check, input=input)

    def sh(self, script: str, timeout: float = 30, check: bool = True) -> str:
        """Run a shell script, which ends at its first failure; gives its output."""
        return self.run(["sh", "-ec", script], timeout=timeout, check=check).stdout

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of a module, by a process in this directory of the mount."""
        return run_call(lambda argv: self.run(argv, timeout=60), function, *args, **kwargs)

    def start(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        return self.mount.start(argv, cwd=self.name)

    @contextlib.contextmanager
    def silent_server(self) -> Iterator[None]:
        """The server does not answer until the end of the block; the connection stays up."""
        pids = self._shared.server_pids
        assert pids, "the server's process is not known"
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def requests(self) -> list[dict[str, Any]]:
        """The requests that the daemon has and has not answered."""
        found: list[dict[str, Any]] = status(self.mount)["requests"]
        return found

    def wait_blocked(self, pid: int, operation: str) -> None:
        """Wait until this process waits for the answer to such a request."""

        def blocked() -> bool:
            return (pid, operation) in [(r["pid"], r["operation"]) for r in self.requests()]

        wait_until(f"{operation} of process {pid} is blocked", blocked, 10)

    def held(self) -> list[str]:
        """What is still open for this directory, with the daemon or with the server."""
        known = status(self.mount)
        names = ("open_files", "open_directories", "unacknowledged_bytes", "sftp_in_flight")
        open_here = [f"{name}: {known[name]}" for name in (*names, "requests") if known[name]]
        return open_here + self._shared.server.open_below(self.server)

    def close(self) -> None:
        """Fails if the test left the daemon, the mount or a handle in a bad way."""
        assert self.mount.status is None, f"the daemon ended: {self.mount.log()}"
        assert self.mount.is_mounted(), "the mount is gone"
        deadline = time.monotonic() + _CLOSE_LIMIT
        while held := self.held():
            assert time.monotonic() < deadline, f"left open: {held}"
            time.sleep(0.005)

    def remove(self) -> None:
        shutil.rmtree(self.server)


@contextlib.contextmanager
def own_mount(openssh: Sshd, *options: str) -> Iterator[Place]:
    """A mount for one test, for what the others' must not see."""
    with sharing(ServerUnderTest("openssh", openssh), *options) as shared:
        place = Place(shared)
        yield place
        place.close()
