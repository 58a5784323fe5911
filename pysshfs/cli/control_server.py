"""The daemon's end of the control socket: answers `status`, `flush` and `reconnect`.

- `status` tells what is known here and now; it waits for nothing and asks the server nothing.
- `flush` is answered when nothing is buffered any more, which may never be while the connection is
  down: it ends when the asker hangs up.
- `reconnect` has the connection made anew at once; it does not wait for that.

The answer to what fails or is not understood is {"error": reason}.

Owns the socket file. It is opened right after the mount, in a directory that only the mounting
user can enter, and the peer's credentials are checked on top: that user and root may ask.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from pysshfs import __version__
from pysshfs.cli.control_client import private_directory
from pysshfs.errors import PysshfsError

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pysshfs.fuse.session import FuseSession
    from pysshfs.remote.session import SftpSession
    from pysshfs.vfs.filesystem import Filesystem

log = logging.getLogger(__name__)

_MOST_QUESTION: Final = 4096  # bytes
_QUESTION_SECONDS: Final = 5
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class Connection(Protocol):
    """What `remote/connection.py: ServerConnection` is asked here."""

    @property
    def state(self) -> enum.Enum: ...
    @property
    def since(self) -> float:
        """The time of day of the last change of state."""
        ...

    @property
    def reason(self) -> str:
        """Why it is in this state; may be empty."""
        ...

    @property
    def reconnects(self) -> int: ...
    @property
    def round_trip(self) -> float | None:
        """Seconds."""
        ...

    @property
    def server_version(self) -> str: ...
    @property
    def cipher(self) -> str: ...
    @property
    def extensions(self) -> Mapping[bytes, bytes]: ...
    @property
    def sessions(self) -> Sequence[SftpSession]:
        """The session that is up, or was last, and those beside it; empty before there is one."""
        ...

    def silence(self) -> float:
        """For how many seconds nothing has come from the server."""
        ...

    def reconnect_now(self, reason: str) -> None: ...


class ControlServer:
    """Answers for one mount."""

    def __init__(
        self,
        source: str,
        mountpoint: str,
        session: FuseSession,
        filesystem: Filesystem,
        connection: Connection,
        undelivered: Callable[[], list[str]] = list,
    ) -> None:
        """`undelivered` lists the files that hold what the server did not take."""
        self._source = source
        self._mountpoint = mountpoint
        self._session = session
        self._filesystem = filesystem
        self._connection = connection
        self._undelivered = undelivered
        self._since = time.time()
        self._listener: trio.SocketListener | None = None
        self._path: Path | None = None
        self._socket_inode = 0

    def open(self) -> None:
        """Listen. Without a place for the socket the mount works all the same."""
        try:
            self._path = private_directory(os.geteuid()) / f"{self._session.connection}.sock"
            self._path.unlink(missing_ok=True)  # of a daemon that was killed; the number is ours
            listening = trio.socket.from_stdlib_socket(self._bound(self._path))
            self._socket_inode = self._path.stat().st_ino
            self._listener = trio.SocketListener(listening)
        except OSError as error:
            log.warning("no control socket: %s", error)

    @staticmethod
    def _bound(path: Path) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(os.fspath(path))
        path.chmod(0o600)
        listening.listen(16)
        return listening

    def close(self) -> None:
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                # Once unmounted, the connection's number may be another mount's, and the name, too.
                if self._path.stat().st_ino == self._socket_inode:
                    self._path.unlink()
        if self._listener is not None:
            self._listener.socket.close()

    async def run(self) -> None:
        """Answer until cancelled."""
        if self._listener is None:
            await trio.sleep_forever()
        else:
            await trio.serve_listeners(self._answer, [self._listener])

    async def _answer(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, OSError):
            async with stream:
                if not self._may_ask(stream):
                    return
                question = b""
                with trio.move_on_after(_QUESTION_SECONDS):
                    question = await _read_line(stream)
                answer = await self._handle(question, stream)
                with trio.move_on_after(_QUESTION_SECONDS):
                    await stream.send_all(json.dumps(answer).encode() + b"\n")

    @staticmethod
    def _may_ask(stream: trio.SocketStream) -> bool:
        credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        _, uid, _ = _PEER.unpack(credentials)
        return uid in (0, os.geteuid())

    async def _handle(self, question: bytes, stream: trio.SocketStream) -> dict[str, Any]:
        try:
            command = json.loads(question)["command"]
        except (ValueError, KeyError, TypeError):
            return {"error": "a question is a JSON object with a command"}
        try:
            match command:
                case "status":
                    return self._status()
                case "flush":
                    return await self._flush(stream)
                case "reconnect":
                    self._connection.reconnect_now("asked for by pysshfsctl")
                    return {"ok": True}
        except PysshfsError as error:
            return {"error": str(error)}
        return {"error": f"unknown command {command!r}"}

    async def _flush(self, stream: trio.SocketStream) -> dict[str, Any]:
        """Deliver what is buffered, for as long as somebody waits for that."""
        answer: dict[str, Any] = {"error": "nobody waits for it"}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_the_end, stream, nursery.cancel_scope)
            try:
                await self._filesystem.flush_all()
                self._filesystem.raise_broken_promise()
                answer = {"ok": True}
            except PysshfsError as error:
                answer = {"error": str(error)}
            nursery.cancel_scope.cancel()
        return answer

    def _status(self) -> dict[str, Any]:
        connection, sessions = self._connection, self._connection.sessions
        requests = self._session.requests
        now = time.monotonic()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "source": self._source,
            "mountpoint": self._mountpoint,
            "mounted_at": self._since,
            "state": connection.state.value,
            "since": connection.since,
            "reason": connection.reason,
            "reconnects": connection.reconnects,
            "round_trip_ms": _rounded(connection.round_trip, 1000),
            "silent_seconds": _rounded(connection.silence()),
            "server": connection.server_version,
            "cipher": connection.cipher,
            "extensions": sorted(name.decode("ascii", "replace") for name in connection.extensions),
            "sftp_sessions": len(sessions),
            "sftp_requests": sum(sftp.requests_sent for sftp in sessions),
            "sftp_in_flight": sum(sftp.in_flight for sftp in sessions),
            "bytes_sent": sum(sftp.bytes_sent for sftp in sessions),
            "bytes_received": sum(sftp.bytes_received for sftp in sessions),
            "requests_served": requests.served,
            "requests_answered_at_once": requests.answered_at_once,
            "interrupts_seen": requests.interrupts_seen,
            "interrupts_honoured": requests.interrupts_honoured,
            "interrupted_in_flight": requests.interrupted_in_flight,
            "requests": [
                {
                    "operation": request.operation,
                    "inode": request.inode,
                    "pid": request.tid,
                    "seconds": round(now - request.started, 3),
                }
                for request in requests.active
            ],
            "kernel": self._session.negotiated,
            "undelivered": self._undelivered(),
            **self._filesystem.statistics(),
        }


async def _read_line(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n") and len(received) < _MOST_QUESTION:
        part = await stream.receive_some(_MOST_QUESTION)
        if not part:
            break
        received += part
    return bytes(received)


async def _cancel_at_the_end(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Wait until the asker hangs up; what it still says is of no interest."""
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(_MOST_QUESTION):
            pass
    scope.cancel()


def _rounded(seconds: float | None, scale: float = 1) -> float | None:
    """For JSON, which knows no infinity: None for what is not known."""
    if seconds is None or not math.isfinite(seconds):
        return None
    return round(seconds * scale, 3)
