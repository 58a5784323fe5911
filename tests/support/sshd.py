"""A throw-away OpenSSH server on loopback.

Owns a temporary directory (keys, configuration, log, known_hosts) and the listener process with
everything below it.  The server lets the user who runs the tests in, with the key made for the
occasion and with nothing else.  Its children leave its process group, so they are found through
/proc when it is ended.  One thread at a time may use an instance.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support import procs

if TYPE_CHECKING:
    from collections.abc import Sequence

SSHD = "/usr/sbin/sshd"
HOST = "127.0.0.1"

#: What ``sftp=`` usually is: the server inside sshd, or the program of its own.
INTERNAL_SFTP = "internal-sftp"
SFTP_SERVER = "/usr/lib/openssh/sftp-server"

#: How often a free port is looked for anew when another process was quicker to bind it.
_PORT_ATTEMPTS = 5


class SshdError(RuntimeError):
    """The server did not come up."""


class Sshd:
    """``with Sshd() as server: ...``; the attributes below hold from construction on.

    `sftp` is the subsystem's command, `log_level` sshd's LogLevel, `extra_config` further lines
    of sshd_config.  `start_limit` is the time in seconds it may take to answer.
    """

    def __init__(
        self,
        *,
        sftp: str = INTERNAL_SFTP,
        log_level: str = "VERBOSE",
        extra_config: Sequence[str] = (),
        max_sessions: int = 1000,
        start_limit: float = 15.0,
    ) -> None:
        self.host = HOST
        self.port = 0
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.directory = Path(tempfile.mkdtemp(prefix="pysshfs-sshd-"))
        self.host_key_path = self.directory / "host_ed25519"
        self.client_key = self.directory / "user_ed25519"
        self.known_hosts = self.directory / "known_hosts"
        self.log_path = self.directory / "sshd.log"
        self._config = self.directory / "sshd_config"
        self._sftp, self._log_level, self._extra = sftp, log_level, tuple(extra_config)
        self._max_sessions = max_sessions  # on one connection
        self._start_limit = start_limit
        self._listener: subprocess.Popen[bytes] | None = None
        for key in (self.host_key_path, self.client_key):
            _make_key(key)
        shutil.copy(self.client_key.with_suffix(".pub"), self.directory / "authorized_keys")

    # -- for clients -------------------------------------------------------------------------

    def log(self) -> str:
        """What the server has logged so far, over all its restarts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def trust(self, port: int) -> None:
        """Add the host key to known_hosts for `port` too, say a proxy's in front of it."""
        key = self.host_key_path.with_suffix(".pub").read_text().split()[:2]
        with self.known_hosts.open("a") as known_hosts:
            known_hosts.write(f"[{HOST}]:{port} {' '.join(key)}\n")

    def source(self, directory: str | os.PathLike[str] = "") -> str:
        """The first argument of a mount: user@host:directory."""
        return f"{self.user}@{HOST}:{os.fspath(directory)}"

    def options(self, port: int | None = None) -> list[str]:
        """The mount options (without -o) that lead here, by way of `port` if one is given."""
        return [
            f"port={port or self.port}",
            f"IdentityFile={self.client_key}",
            f"UserKnownHostsFile={self.known_hosts}",
        ]

    def ssh(self, port: int | None = None) -> list[str]:
        """The beginning of an ssh command line; the remote command is to be appended."""
        settings = [*self.options(port), "BatchMode=yes", "IdentitiesOnly=yes"]
        return ["ssh", "-F", "none", *(f"-o{each}" for each in settings), f"{self.user}@{HOST}"]

    # -- its life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start it on a free port, or on the port it had before; returns when it answers."""
        if self._listener is not None:
            raise SshdError("it is already running")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        attempts = 1 if self.port else _PORT_ATTEMPTS
        for attempt in range(1, attempts + 1):
            port = self.port or _free_port()
            try:
                self._launch(port)
            except SshdError:
                if attempt == attempts:
                    raise
                continue
            if not self.port:
                self.port = port
                self.trust(port)
            return

    def stop(self) -> None:
        """End the listener and all sessions with SIGTERM, and with SIGKILL what stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the listener and all sessions: no connection is closed in good order."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it if it runs, and start it on the same port."""
        self.kill()
        self.start()

    def kill_sessions(self) -> None:
        """SIGKILL to the sessions only; the listener goes on."""
        if self._listener is not None:
            procs.end_tree(self._listener.pid, signal.SIGKILL, spare_root=True)

    def session_pids(self) -> list[int]:
        """The processes below the listener."""
        return [] if self._listener is None else procs.descendants(self._listener.pid)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._remove()

    # -- inside ------------------------------------------------------------------------------

    def _launch(self, port: int) -> None:
        self._config.write_text("\n".join(self._settings(port)) + "\n")
        argv = [SSHD, "-D", "-f", os.fspath(self._config), "-E", os.fspath(self.log_path)]
        self._listener = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True
        )
        try:
            self._await_answer(port)
        except BaseException:
            self.kill()
            raise

    def _settings(self, port: int) -> list[str]:
        settings = [
            f"ListenAddress {HOST}",
            f"Port {port}",
            f"HostKey {self.host_key_path}",
            f"AuthorizedKeysFile {self.directory / 'authorized_keys'}",
            f"PidFile {self.directory / 'sshd.pid'}",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PrintMotd no",
            "MaxStartups 1000",
            f"MaxSessions {self._max_sessions}",
            "MaxAuthTries 20",
            f"LogLevel {self._log_level}",
            # The shell that starts sftp-server is not to run the account's ~/.bashrc, as bash does
            # for a first shell: killed in the middle of that, it may leave a lock behind.
            "SetEnv SHLVL=2",
            f"Subsystem sftp {self._sftp}",
            *self._extra,
        ]
        # From 9.8 on, sshd shuts out addresses whose connections end badly; tests do that.
        if _knows("PerSourcePenalties=no"):
            settings.append("PerSourcePenalties no")
        return settings

    def _await_answer(self, port: int) -> None:
        assert self._listener is not None
        deadline = time.monotonic() + self._start_limit
        while not _says_ssh(port):
            # Only the listener's end would be an event; its readiness shows by trying alone.
            if procs.wait_gone(self._listener, 0.01):
                raise SshdError(f"sshd ended at once:\n{self.log()}")
            if time.monotonic() > deadline:
                raise SshdError(f"sshd does not answer on port {port}:\n{self.log()}")

    def _end(self, how: signal.Signals) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            procs.end_tree(listener.pid, how)
            listener.wait(10)

    def _remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def _make_key(path: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pysshfs-test", "-f", str(path)]
    procs.run_limited(argv, timeout=20)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _says_ssh(port: int) -> bool:
    """Whether an SSH server greets on `port`."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _knows(option: str) -> bool:
    """Whether this version of sshd has an option."""
    argv = [SSHD, "-T", "-f", "/dev/null", "-o", option, "-o", "HostKey=/dev/null"]
    return "Bad configuration" not in procs.run_limited(argv, timeout=10, check=False).stderr
