"""What the daemon tells of itself: the answer to `status` (docs/control-protocol.md).

Collects what is known here and now; waits for nothing and asks the server nothing. Owns no state
but what `LastProblem` remembers.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from pysshfs import __version__

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable, Mapping, Sequence

    from pysshfs.fuse.requests import Request
    from pysshfs.fuse.session import FuseSession
    from pysshfs.remote.session import SftpSession, Traffic
    from pysshfs.vfs.filesystem import Filesystem

_MOST_REQUESTS: Final = 256  # told of, the oldest first


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
    def last_loss(self) -> tuple[float, str] | None:
        """The time of day at which a session was lost, and why."""
        ...

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

    @property
    def traffic(self) -> Traffic: ...

    def silence(self) -> float:
        """For how many seconds the server has not answered."""
        ...

    def quiet(self) -> float:
        """For how many seconds nothing has come from it."""
        ...

    def reconnect_now(self, reason: str) -> None: ...


class LastProblem(logging.Handler):
    """Remembers the last warning or error that was logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: tuple[float, str] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.created, record.getMessage()


class StatusReport:
    """Of one mount."""

    def __init__(
        self,
        source: str,
        mountpoint: str,
        session: FuseSession,
        filesystem: Filesystem,
        connection: Connection,
        undelivered: Callable[[], list[str]],
    ) -> None:
        self._source = source
        self._mountpoint = mountpoint
        self._session = session
        self._filesystem = filesystem
        self._connection = connection
        self._undelivered = undelivered
        self._since = time.time()
        self._problem = LastProblem()
        # Opened before the mount: no path is, afterwards.
        self._memory = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        logging.getLogger("pysshfs").addHandler(self._problem)

    def close(self) -> None:
        logging.getLogger("pysshfs").removeHandler(self._problem)
        os.close(self._memory)

    def tell(self) -> dict[str, Any]:
        connection = self._connection
        problem = max(filter(None, (self._problem.last, connection.last_loss)), default=None)
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
            "last_error": problem and {"at": problem[0], "text": problem[1]},
            "round_trip_ms": rounded(connection.round_trip, 1000),
            "silent_seconds": rounded(connection.silence()),
            "server": connection.server_version,
            "cipher": connection.cipher,
            "extensions": sorted(name.decode("ascii", "replace") for name in connection.extensions),
            **self._transfers(),
            **self._requests(),
            "kernel": self._session.negotiated,
            "undelivered": self._undelivered(),
            "memory_bytes": self._resident(),
            "memory_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            "processor_seconds": rounded(time.process_time()),
            **self._filesystem.statistics(),
        }

    def _transfers(self) -> dict[str, Any]:
        sessions, traffic = self._connection.sessions, self._connection.traffic
        return {
            "sftp_sessions": len(sessions),
            "sftp_in_flight": sum(sftp.in_flight for sftp in sessions),
            "sftp_requests": traffic.requests_sent,
            "bytes_sent": traffic.bytes_sent,
            "bytes_received": traffic.bytes_received,
        }

    def _requests(self) -> dict[str, Any]:
        requests = self._session.requests
        active = requests.active
        now = time.monotonic()
        return {
            "requests_served": requests.served,
            "requests_answered_at_once": requests.answered_at_once,
            "requests_active": len(active),
            "stalled_seconds": rounded(min(requests.stalled(), self._connection.quiet())),
            "interrupts_seen": requests.interrupts_seen,
            "interrupts_honoured": requests.interrupts_honoured,
            "interrupted_in_flight": requests.interrupted_in_flight,
            "traced_by": requests.tracing.tracers,
            "requests": [self._told(each, now) for each in active[:_MOST_REQUESTS]],
        }

    def _told(self, request: Request, now: float) -> dict[str, Any]:
        path, new_path = self._session.requests.tracing.paths(request)
        return {
            "operation": request.operation,
            "inode": request.inode,
            "path": text_of(path),
            "new_path": text_of(new_path),
            "pid": request.tid,
            "uid": request.uid,
            "seconds": round(now - request.started, 3),
        }

    def _resident(self) -> int:
        """proc_pid_statm(5): its second number, in pages."""
        return int(os.pread(self._memory, 256, 0).split()[1]) * os.sysconf("SC_PAGESIZE")


def text_of(path: bytes | None) -> str | None:
    """For JSON; what is not UTF-8 becomes surrogates, as os.fsdecode has it."""
    return None if path is None else os.fsdecode(path)


def rounded(seconds: float | None, scale: float = 1) -> float | None:
    """For JSON, which knows no infinity: None for what is not known."""
    if seconds is None or not math.isfinite(seconds):
        return None
    return round(seconds * scale, 3)
