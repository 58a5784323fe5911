"""What the tests about trouble share: a network that can be taken away, and what must not be left.

A `Network` owns an OpenSSH server, a proxy in front of it and the directory that is served; it is
used by one test. `Belongings` are the processes and files of one daemon, recorded while it lives.
Programs on a mount run in other processes; only the server's side is touched from this one.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pysshfs.cli.control_client import ask, socket_path
from pysshfs.cli.procstat import is_alive
from tests.mount import places
from tests.mount.places import name_of, read_a_line, wait_until
from tests.support import procs
from tests.support.mounts import Mount
from tests.support.proxy import Proxy
from tests.support.sshd import SFTP_SERVER, Sshd

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from types import TracebackType

#: How the network can be down: connections are refused, or nothing is answered at all.
DOWN = ("stopped", "black-holed")

# Carries a connection over standard input and output; its second argument is its mark.
_RELAY = """
import os, select, socket, sys
there = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
while True:
    for ready in select.select([0, there], [], [])[0]:
        data = os.read(0, 65536) if ready == 0 else there.recv(65536)
        if not data:
            sys.exit()
        if ready == 0:
            there.sendall(data)
        else:
            os.write(1, data)
"""


class Network:
    """``with Network() as network, network.mount() as mount: ...``."""

    def __init__(self, sftp: str = SFTP_SERVER, **more: Any) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pysshfs-network-")).resolve()
        self.directory.chmod(0o755)
        self.served = self.directory / "served"
        self.served.mkdir()
        self.state = self.directory / "state"
        self.sshd = Sshd(sftp=sftp, **more)
        self.proxy: Proxy | None = None

    def mount(self, *options: str, by_command: bool = False, **more: Any) -> Mount:
        """A mount by way of the proxy, not yet made. `by_command`: by way of a ProxyCommand."""
        assert self.proxy is not None
        options = (*self.sshd.options(self.proxy.port), *options)
        if by_command:
            relay = self.directory / "relay.py"
            relay.write_text(_RELAY)
            words = shlex.join([sys.executable, "-I", str(relay), str(self.directory)])
            options = (*options, f"ProxyCommand={words} %p")
        env = {"XDG_STATE_HOME": str(self.state)}
        return Mount(self.sshd.source(self.served), *options, env=env, **more)

    def saved(self) -> dict[str, bytes]:
        """What daemons saved because the server did not take it, by the end of the remote name."""
        found = (self.state / "pysshfs/undelivered").glob("*.data")
        return {path.name.split("-", 2)[2].rpartition("%2F")[2].removesuffix(".data"):
                path.read_bytes() for path in found}  # fmt: skip

    def down(self, how: str) -> None:
        if how == "stopped":
            self.sshd.kill()
        else:
            self._signal_proxy(signal.SIGSTOP)

    def up(self, how: str) -> None:
        if how == "stopped":
            self.sshd.start()
        else:
            self._signal_proxy(signal.SIGCONT)

    @contextlib.contextmanager
    def is_down(self, how: str = "stopped") -> Iterator[None]:
        self.down(how)
        try:
            yield
        finally:
            self.up(how)

    def _signal_proxy(self, which: signal.Signals) -> None:
        assert self.proxy is not None and self.proxy._process is not None
        self.proxy._process.send_signal(which)

    def __enter__(self) -> Self:
        self.sshd.start()
        self.proxy = Proxy(self.sshd.port, 0)
        self.proxy.start()
        self.sshd.trust(self.proxy.port)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.proxy is not None:
            self.proxy.stop()
        self.sshd.__exit__(kind, exc, trace)
        shutil.rmtree(self.directory, ignore_errors=True)


class Belongings:
    """The processes and files of a daemon."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self.pids = [mount.pid, *procs.descendants(mount.pid)]
        self._socket = socket_of(mount)

    def assert_gone(self, still_mounted: bool = False) -> None:
        """Nothing is left: no process, no socket, no mount (but a dead one after an abort)."""
        for pid in self.pids:
            wait_until(f"the end of {pid} ({name_of(pid)})", lambda pid=pid: not is_alive(pid), 3)  # type: ignore[misc]  # a lambda's default
        assert not self._is_socket_left()
        assert self._mount.is_mounted() == still_mounted
        marked = os.fsencode(self._mount.mountpoint)
        left = [pid for pid in _pids() if marked in _words(pid)]
        assert left == [], f"left: {left}"

    def _is_socket_left(self) -> bool:
        """The number may be another mount's by now, and with it the name."""
        try:
            return bool(ask(self._socket, "status", 5)["pid"] == self.pids[0])
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            return self._socket.exists()


def socket_of(mount: Mount) -> Path:
    """The daemon's socket, which is opened a moment after the mount is there."""
    path = Path(socket_path(mount.connection, os.geteuid()))
    wait_until("the control socket", path.exists, 5)
    return path


def status(mount: Mount) -> dict[str, Any]:
    """What the daemon says of itself."""
    socket_of(mount)
    return places.status(mount)


def _pids() -> list[int]:
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def state_of(mount: Mount) -> str:
    """The connection's state."""
    return str(status(mount)["state"])


def reconnect(mount: Mount) -> None:
    """What `pysshfsctl reconnect` does."""
    assert ask(socket_of(mount), "reconnect", 5)["ok"]


def wait_up(mount: Mount, sessions: int = 1, limit: float = 20) -> None:
    """Wait until there have been so many reconnects and the connection is up."""

    def is_up() -> bool:
        known = status(mount)
        return bool(known["state"] == "up" and known["reconnects"] >= sessions)

    wait_until("the connection is up again", is_up, limit)


def wait_noticed(mount: Mount) -> None:
    """Wait until the daemon knows that the server does not answer."""
    wait_until("the loss is noticed", lambda: state_of(mount) != "up", 10)


def python(mount: Mount, code: str, *args: str) -> subprocess.Popen[bytes]:
    """Start Python code in the mount's directory; it has said "ready" when this returns."""
    program = mount.start([sys.executable, "-I", "-c", code, *args])
    line = read_a_line(program)
    assert line == b"ready\n", (line, program.stderr and program.stderr.read())
    return program


def go(program: subprocess.Popen[bytes]) -> None:
    """Give a program the line for which it waits."""
    assert program.stdin is not None
    program.stdin.write(b"\n")
    program.stdin.flush()


def wait_requests(mount: Mount, pid: int, operation: str = "", limit: float = 10) -> None:
    """Wait until a process waits for the daemon, with such a request."""

    def waits() -> bool:
        return any(
            each["pid"] == pid and operation in ("", each["operation"])
            for each in status(mount)["requests"]
        )

    wait_until(f"{operation or 'a request'} of {pid} waits", waits, limit)
