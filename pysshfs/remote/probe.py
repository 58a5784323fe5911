"""What `pysshfsctl doctor` finds out about a server: one step after the other, each by itself.

`Probe` owns one connection that is made to be looked at, asks nobody anything, and is closed at
once. It says what is, or raises; what that means for the user is `cli/doctor_remote.py`'s matter.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncssh
import trio

from pysshfs.errors import FilesystemError
from pysshfs.remote import client
from pysshfs.remote.auth import load_keys
from pysshfs.remote.connection import ServerConnection
from pysshfs.remote.hostkeys import HostKeyPolicy
from pysshfs.remotefs import OpenMode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pysshfs.remote.auth import Keys
    from pysshfs.remote.bridge import Bridge
    from pysshfs.remote.client import SftpRemote
    from pysshfs.remote.route import Target
    from pysshfs.remote.sshconfig import HostConfig, SshConfiguration
    from pysshfs.remotefs import RemoteHandle
    from pysshfs.reply import Reply

_PIECE: Final = 32 * 1024  # bytes of one READ or WRITE: every server takes as much
_IN_FLIGHT: Final = 64
_CLEANUP_SECONDS: Final = 5


class Nobody:
    """In place of the terminal: questions are not asked."""

    available = False

    def confirm(self, text: str, fingerprint: str) -> bool:
        return False

    def secret(self, text: str) -> str | None:
        return None


class Throughput(NamedTuple):
    """Bytes a second."""

    written: float
    read: float


async def agent_keys(bridge: Bridge, path: str) -> int:
    """How many keys the agent at this socket has. Raises OSError, ValueError or asyncssh.Error."""

    async def ask() -> int:
        async with asyncssh.connect_agent(path) as agent:
            return len(await agent.get_keys())

    return await bridge.call(ask())


class Probe:
    """Of one server; `close` it in the end."""

    def __init__(self, bridge: Bridge, target: Target, configuration: SshConfiguration) -> None:
        self._target = target
        self.config: HostConfig = configuration.for_host(*target.hop)
        self._connection = ServerConnection(bridge, target, configuration, Nobody(), None)
        self._remote: SftpRemote | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Where the server listens; None when the way leads over another host or a program."""
        jump = self.config.proxy_jump
        if self.config.proxy_command is not None or (jump and jump.lower() != "none"):
            return None
        return self.config.address(self._target.hop.host, self._target.hop.port)

    def keys(self) -> Keys:
        return load_keys(self.config.identity_files, None)

    def host_keys(self) -> int:
        """How many keys of the host the known_hosts files hold."""
        host, port = self.config.address(self._target.hop.host, self._target.hop.port)
        name = self.config.host_key_alias or host
        return len(HostKeyPolicy(self.config, Nobody()).trusted(name, "", port)[0])

    def known_hosts(self) -> list[str]:
        """The files that there are."""
        files = [*self.config.user_known_hosts, *self.config.global_known_hosts]
        return [str(path) for path in files if path.exists()]

    async def connect(self) -> None:
        """Log in, start SFTP, find the directory. Raises `StartupError`s."""
        self._remote = await self._connection.connect()

    @property
    def software(self) -> tuple[str, str]:
        """The server's, and the cipher."""
        return self._connection.server_version, self._connection.cipher

    @property
    def extensions(self) -> set[str]:
        return {name.decode("ascii", "replace") for name in self._connection.extensions}

    async def round_trip(self, times: int) -> float:
        """Seconds: the least of so many."""
        session = self._connection.session
        assert session is not None
        taken = []
        for _ in range(times):
            began = time.monotonic()
            await client.request_realpath(session, b".")
            taken.append(time.monotonic() - began)
        return min(taken)

    async def throughput(self, size: int, seconds: float) -> Throughput:
        """Write a file of at most `size` bytes for at most `seconds`, read it and remove it.

        Raises `FilesystemError` when the directory is not to be written to.
        """
        remote = self._remote
        assert remote is not None
        path = f".pysshfs-doctor-{os.urandom(6).hex()}".encode()
        mode = OpenMode.READ | OpenMode.WRITE | OpenMode.CREATE | OpenMode.EXCLUSIVE
        handle = await remote.open(path, mode, 0o600)
        try:
            data = os.urandom(_PIECE)
            written, speed_out = await _measured(
                size, seconds, lambda at: remote.write(handle, at, data)
            )
            _, speed_in = await _measured(
                written, seconds, lambda at: remote.read(handle, at, _PIECE)
            )
            return Throughput(speed_out, speed_in)
        finally:
            await _removed(remote, handle, path)

    async def close(self) -> None:
        await self._connection.close()


async def _measured(
    size: int, seconds: float, send: Callable[[int], Reply[Any]]
) -> tuple[int, float]:
    """Send pieces, many at a time, until all are answered or the time is over. How many bytes it
    was, and how many a second."""
    began = time.monotonic()
    done = sent = 0
    waiting: list[Reply[Any]] = []
    while done < size:
        while sent < size and len(waiting) < _IN_FLIGHT and time.monotonic() - began < seconds:
            waiting.append(send(sent))
            sent += _PIECE
        if not waiting:
            break
        await waiting.pop(0)
        done += _PIECE
    return done, done / max(time.monotonic() - began, 1e-6)


async def _removed(remote: SftpRemote, handle: RemoteHandle, path: bytes) -> None:
    """Leave nothing behind, even when there is no time left."""
    steps: list[Callable[[], Awaitable[None]]] = [
        lambda: remote.close(handle),
        lambda: remote.remove(path),
    ]
    with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
        for step in steps:
            try:
                await step()
            except FilesystemError:
                continue
