"""The operations as they happen: for the log (`-o debug`), and for whoever traces a mount.

`Tracing` is told by the guard of `fuse/requests.py` of each request that it is handed and answers.
While it is on, nothing is answered on the spot (`fuse/quick.py`), since only the guard knows of
requests. `on_switched` is called when that changes.

A `Tracer` is somebody who reads along, in a task of its own (`cli/control_server.py`). The
operations never wait for it: what it has not taken is kept up to a bound, what goes beyond is
counted as dropped. Plain synchronous code but for `Tracer.take`; one thread.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.fuse.requests import Request
    from pysshfs.vfs.caller import Caller

log = logging.getLogger("pysshfs.trace")

_MOST_KEPT: Final = 1 << 20  # bytes, of what one tracer has not taken
_RECORD_BYTES: Final = 400  # of a record without its paths
_MOST_SHOWN: Final = 64  # bytes of an argument in the log

# Their first arguments are a directory and a name in it.
_NAMED: Final = frozenset([
    "lookup", "mknod", "mkdir", "unlink", "rmdir", "create", "symlink", "rename",
])  # fmt: skip


class Traced(NamedTuple):
    """One operation that is over."""

    at: float  # the time of day at which it began
    number: int  # counts the requests of this mount
    operation: str
    inode: int
    path: bytes | None  # None: the file has no name any more
    new_path: bytes | None  # of a rename or a link
    offset: int | None  # of a read or a write
    length: int | None  # of a read or a write: what was asked for
    tid: int
    uid: int
    seconds: float
    error: int  # errno; 0 for none

    @property
    def outcome(self) -> str:
        """`ok`, or the name of the error as errno(3) has it."""
        return errno.errorcode.get(self.error, str(self.error)) if self.error else "ok"


class Filter(NamedTuple):
    """What somebody wants to see; the default is everything."""

    operations: frozenset[str] = frozenset()  # none: all
    pid: int | None = None
    path: bytes = b""  # this one, and what is below it
    least_seconds: float = 0.0
    errors_only: bool = False

    def admits_call(self, request: Request, seconds: float, error: int) -> bool:
        """Whether it is of interest, as far as that is known without its path."""
        if self.errors_only and not error:
            return False
        if seconds < self.least_seconds:
            return False
        if self.operations and request.operation not in self.operations:
            return False
        return self.pid is None or _is_of(request.tid, self.pid)

    def admits_path(self, path: bytes | None) -> bool:
        if not self.path:
            return True
        return path is not None and (path == self.path or path.startswith(self.path + b"/"))


def _is_of(tid: int, pid: int) -> bool:
    """Whether a thread is one of this process."""
    return tid == pid or (tid > 0 and os.path.exists(f"/proc/{pid}/task/{tid}"))


class Tracer:
    """Somebody who reads along, no faster than it can."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self._kept: deque[Traced] = deque()
        self._size = 0  # of these, in bytes
        self._dropped = 0
        self._has_some = trio.Event()

    def put(self, traced: Traced) -> None:
        size = _size_of(traced)
        if self._size + size > _MOST_KEPT:
            self._dropped += 1
        else:
            self._kept.append(traced)
            self._size += size
        self._has_some.set()

    async def take(self, most: int) -> tuple[list[Traced], int]:
        """Wait for more. At most so many, in the order in which they were answered; and when that
        is all there is, how many were dropped after them."""
        await self._has_some.wait()
        taken = [self._kept.popleft() for _ in range(min(most, len(self._kept)))]
        self._size -= sum(map(_size_of, taken))
        dropped = 0
        if not self._kept:
            dropped, self._dropped = self._dropped, 0
            self._has_some = trio.Event()
        return taken, dropped


def _size_of(traced: Traced) -> int:
    return _RECORD_BYTES + len(traced.path or b"") + len(traced.new_path or b"")


class Tracing:
    """All who read along, the log among them."""

    def __init__(self) -> None:
        self.is_logged = log.isEnabledFor(logging.DEBUG)
        self.is_on = self.is_logged
        self.path_of: Callable[[int], bytes | None] = lambda _: None
        self.on_switched: Callable[[], None] = lambda: None
        self._tracers: list[Tracer] = []

    @property
    def tracers(self) -> int:
        return len(self._tracers)

    def add(self, tracer: Tracer) -> None:
        self._tracers.append(tracer)
        self._switch()

    def remove(self, tracer: Tracer) -> None:
        self._tracers.remove(tracer)
        self._switch()

    def _switch(self) -> None:
        was_on, self.is_on = self.is_on, self.is_logged or bool(self._tracers)
        if self.is_on is not was_on:
            self.on_switched()

    # --- paths ----------------------------------------------------------------------------------

    def paths(self, request: Request) -> tuple[bytes | None, bytes | None]:
        """What the request is about, now; and what that is to be called, or linked to."""
        args = request.args
        if request.operation in _NAMED:
            path = self._child(*args[:2])
            return path, self._child(*args[2:4]) if request.operation == "rename" else None
        if request.operation == "link":
            return self.path_of(args[0]), self._child(*args[1:3])
        return self.path_of(request.inode), None

    def _child(self, parent: int, name: bytes) -> bytes | None:
        directory = self.path_of(parent)
        if directory is None:
            return None
        return directory + b"/" + name if directory else name

    # --- what happens ---------------------------------------------------------------------------

    def read(self, request: Request) -> None:
        """The request was read from the kernel."""
        if self.is_logged:
            path, _ = self.paths(request)
            log.debug(
                "%d read %s pid=%d path=%s",
                request.serial,
                request.operation,
                request.tid,
                _shown(path),
            )

    def sent(self, caller: Caller | None, method: str) -> None:
        """Something was sent to the server, on behalf of a request or of nobody."""
        serial = getattr(caller, "serial", 0)
        log.debug("%d sent %s", serial, method)

    def answered(self, request: Request, error: int) -> None:
        """The request is answered, with this error (errno) or none."""
        seconds = time.monotonic() - request.started
        wanted = [
            each for each in self._tracers if each.wanted.admits_call(request, seconds, error)
        ]
        if not (wanted or self.is_logged):
            return
        traced = self._traced(request, seconds, error)
        for tracer in wanted:
            if tracer.wanted.admits_path(traced.path) or (
                traced.new_path is not None and tracer.wanted.admits_path(traced.new_path)
            ):
                tracer.put(traced)
        if self.is_logged:
            log.debug(
                "%d answered %s inode=%d pid=%d path=%s (%s) %.2f ms %s",
                traced.number,
                traced.operation,
                traced.inode,
                traced.tid,
                _shown(traced.path),
                ", ".join(map(_shown, request.args)),
                seconds * 1000,
                traced.outcome,
            )

    def _traced(self, request: Request, seconds: float, error: int) -> Traced:
        path, new_path = self.paths(request)
        offset = length = None
        if request.operation in ("read", "write"):
            _, offset, what = request.args
            length = what if isinstance(what, int) else len(what)
        return Traced(
            time.time() - seconds,
            request.serial,
            request.operation,
            request.inode,
            path,
            new_path,
            offset,
            length,
            request.tid,
            request.uid,
            seconds,
            error,
        )


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return repr(value)[1:] if len(value) <= _MOST_SHOWN else f"<{len(value)} bytes>"
    return str(value) if isinstance(value, int) or value is None else type(value).__name__
