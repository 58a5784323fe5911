"""A sandbox with pysshfs in it: its commands, its units, a key, and mounts that are configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from tests.support import procs
from tests.support.commands import wait_until, write_commands
from tests.support.sandbox import Sandbox

if TYPE_CHECKING:
    from types import TracebackType

    from tests.support.sshd import Sshd

UNITS = procs.ROOT / "contrib" / "systemd"


_CLEAN_UP = """
systemctl kill --signal=SIGKILL "$1"; systemctl stop "$1"; systemctl reset-failed "$1"
umount -l "$2"
if [ -d "/run/systemd/system/$1.d" ]; then
    rm -r "/run/systemd/system/$1.d"; systemctl daemon-reload
fi
"""


class Machine:
    """``with Machine(server) as machine: machine.sandbox.systemctl(...)``"""

    def __init__(self, server: Sshd) -> None:
        self.server = server
        self.sandbox = Sandbox()
        for kind in ("system", "user"):
            for unit in (UNITS / kind).iterdir():
                self.sandbox.put(f"/etc/systemd/{kind}/{unit.name}", unit.read_text())
        self.sandbox.put("/etc/pysshfs/id", server.client_key.read_text(), 0o600)
        self.sandbox.put("/etc/pysshfs/known_hosts", server.known_hosts.read_text())
        commands = self.sandbox.shared / "bin"
        commands.mkdir()
        self.everybody = write_commands(commands)  # who can run them

    def options(self, port: int) -> str:
        """Those that lead to the server, by way of this port."""
        return (
            f"Port={port},IdentityFile=/etc/pysshfs/id,UserKnownHostsFile=/etc/pysshfs/known_hosts"
        )

    def trust(self, port: int) -> None:
        """That port, too, leads to the server."""
        self.server.trust(port)
        self.sandbox.put("/etc/pysshfs/known_hosts", self.server.known_hosts.read_text())

    def __enter__(self) -> Self:
        self.sandbox.__enter__()
        install = 'cp "$1"/* /usr/local/bin; ln -s /usr/local/bin/mount.pysshfs "$2"'
        helper = "/sbin/mount.fuse.pysshfs"
        self.sandbox.run(["sh", "-c", install, "sh", str(self.sandbox.shared / "bin"), helper])
        # The checkout may lie in a directory of root's own.
        probe = ["setpriv", f"--reuid={self.everybody}", "--clear-groups", "pysshfs", "--version"]
        if self.sandbox.run(probe, check=False).returncode != 0:
            self.everybody = "root"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sandbox.__exit__(kind, exc, trace)


class Service:
    """pysshfs@NAME in a machine, mounting on /mnt/NAME."""

    def __init__(self, machine: Machine, name: str, source: str, port: int) -> None:
        self.machine, self.sandbox = machine, machine.sandbox
        self.unit = f"pysshfs@{name}.service"
        self.mountpoint = f"/mnt/{name}"
        self.source, self.port = source, port
        self._name, self._invocation = name, ""

    def configure(self, *options: str) -> None:
        """Write its EnvironmentFile; the last of these options count."""
        given = ",".join([self.machine.options(self.port), *(options or ["log_level=info"])])
        lines = [f"SOURCE={self.source}", f"MOUNTPOINT={self.mountpoint}", f"OPTIONS={given}"]
        self.sandbox.put(f"/etc/pysshfs/{self._name}.conf", "\n".join(lines) + "\n", 0o600)

    def drop_in(self, text: str, name: str = "test") -> None:
        """Change the unit, for this test."""
        self.sandbox.put(f"/run/systemd/system/{self.unit}.d/{name}.conf", text)
        self.sandbox.systemctl("daemon-reload")

    def start(self) -> None:
        self.sandbox.systemctl("start", self.unit)
        self._invocation = self.shows("InvocationID")

    def stop(self, timeout: float = 20) -> None:
        self.sandbox.systemctl("stop", self.unit, timeout=timeout)

    def shows(self, name: str) -> str:
        return self.sandbox.shows(self.unit, name)

    @property
    def invocation(self) -> str:
        """Systemd's number for the last start."""
        return self.shows("InvocationID") or self._invocation

    @property
    def pid(self) -> int:
        """The daemon's, as it is called inside."""
        return int(self.shows("MainPID"))

    def wait_status(self, words: str) -> str:
        """Until `words` are in its STATUS=; the whole of it."""
        shown = ""

        def has_come() -> bool:
            nonlocal shown
            shown = self.shows("StatusText")
            return words in shown

        try:
            wait_until(f"the status {words!r}", has_come)
        except AssertionError as error:
            error.add_note(f"it is {shown!r}")
            raise
        return shown

    def cat(self, name: str = "file") -> str:
        return self.sandbox.run(["cat", "--", f"{self.mountpoint}/{name}"]).stdout

    def __enter__(self) -> Self:
        self.sandbox.run(["mkdir", "-p", self.mountpoint])
        self.configure()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if exc is not None:
            exc.add_note(self.sandbox.journal("--unit", self.unit)[-6000:])
        # Whatever state it is in, with as little waiting as can be.
        if self.sandbox.is_running:
            self.sandbox.run(["sh", "-c", _CLEAN_UP, "sh", self.unit, self.mountpoint], check=False)
