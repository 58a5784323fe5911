"""One call to the server, and what it may yield: an open file, whatever session is up.

A `Call` is the reply to itself, for whoever made it. Its fields belong to `vfs/calls.py`, which
sends it as often as it must.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pysshfs.errors import ConnectionLostError, StaleHandleError
from pysshfs.remotefs import OpenMode, RemoteHandle
from pysshfs.reply import Reply
from pysshfs.vfs import caller

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.errors import FilesystemError
    from pysshfs.remotefs import RemoteFS
    from pysshfs.vfs.calls import Calls
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.lane import Lane
    from pysshfs.vfs.repeat import Doubt

log = logging.getLogger(__name__)


class OpenFileHandle:
    """A file that is open on the server, whatever session is up.

    `remote` is its handle there, None while there is no session. `inode` says where it lies now,
    renames included; until it is bound, it lies where it was opened. `stale` is why it cannot be
    used any more. `waiting` holds the calls on a file that is not open yet, None when it is.
    `twin` is the same file on the session for copies (`vfs/copying.py`).
    """

    __slots__ = (
        "closed",
        "inode",
        "is_own",
        "mode",
        "opened_path",
        "remote",
        "stale",
        "twin",
        "waiting",
    )

    def __init__(self, remote: RemoteHandle | None, mode: OpenMode, path: bytes) -> None:
        self.is_own = OpenMode.EXCLUSIVE in mode  # it was created by being opened
        self.remote: RemoteHandle | None = remote
        # Calls that wait until the file is open for the first time; None when it is, or was.
        self.waiting: list[Call] | None = [] if remote is None else None
        self.mode = mode & ~(OpenMode.CREATE | OpenMode.EXCLUSIVE | OpenMode.TRUNCATE)
        self.opened_path = path
        self.inode: Inode | None = None
        self.stale: FilesystemError | None = None
        self.closed = False
        self.twin: tuple[RemoteFS, RemoteHandle] | None = None

    def path(self) -> bytes:
        """Raises ESTALE for a file that has no name any more."""
        return self.opened_path if self.inode is None else self.inode.path()


class Call(Reply[Any]):
    """One call until it is answered, on however many sessions it is sent: the reply to it."""

    __slots__ = (
        "calls",
        "handle",
        "inner",
        "is_abandoned",
        "is_unhurried",
        "lost",
        "method",
        "send",
        "sent",
        "serial",
        "violations",
    )

    # What programs were told is done: kept also when no session is hoped for any more.
    is_kept = False
    # Of a `Change`, and of what opens a file.
    caller: caller.Caller | None = None
    doubt: Doubt | None = None
    opens: tuple[OpenMode, bytes] | None = None
    fills: OpenFileHandle | None = None  # the handle that programs use already

    def __init__(
        self,
        calls: Calls,
        method: str,
        send: Callable[..., Reply[Any]],
        handle: OpenFileHandle | None = None,
    ) -> None:
        super().__init__()
        self.calls = calls
        self.serial = -1  # where it stands in the order of calls; given by `Calls.start`
        self.method = method
        self.send = send
        self.handle = handle
        self.inner: Reply[Any] | None = None  # on the session that is up
        self.sent = False  # on a session that was, or is, up
        self.lost = False  # and that session was lost before the reply came
        self.is_abandoned = False
        self.is_unhurried = False  # nobody waits for it (`RemoteFS.unhurried`)
        self.violations = 0  # sessions that broke the protocol over it

    def send_on(self, remote: RemoteFS) -> Reply[Any]:
        return self.send(remote)

    def abandon(self) -> None:
        if not self.done:
            self.calls.abandoned(self)

    def answered(self, inner: Reply[Any]) -> None:
        self.calls.answered(self, inner)


class Opening(Call):
    """A call whose result is a handle of `mode` on `path`."""

    __slots__ = ("opens",)

    def __init__(
        self,
        calls: Calls,
        send: Callable[[RemoteFS], Reply[Any]],
        path: bytes,
        mode: OpenMode,
    ) -> None:
        super().__init__(calls, "open", send)
        self.opens = mode, path


class Transfer(Call):
    """A READ or WRITE of `length` bytes at `offset`: `send` sends it on a session where the file
    is open under the given handle."""

    __slots__ = ("is_counted", "is_kept", "lane", "length", "offset", "reads", "sent_at")

    handle: OpenFileHandle

    def __init__(
        self,
        calls: Calls,
        method: str,
        handle: OpenFileHandle,
        offset: int,
        length: int,
        send: Callable[[RemoteFS, RemoteHandle], Reply[Any]],
    ) -> None:
        super().__init__(calls, method, send, handle)
        self.reads = method == "read"
        self.is_kept = not self.reads
        self.offset = offset
        self.length = length
        # These belong to `vfs/lanes.py`.
        self.lane: Lane | None = None  # on which it is on its way
        self.is_counted = False
        self.sent_at = 0.0  # of a WRITE; seconds of trio's clock

    def send_on(self, remote: RemoteFS) -> Reply[Any]:
        opened = self.handle.remote
        if self.lane is not None and self.handle in self.lane.handles:
            assert self.lane.remote is not None
            remote, opened = self.lane.remote, self.lane.handles[self.handle]
        # On the session that is up all files that are not stale were opened again.
        assert opened is not None
        return self.send(remote, opened)


class Change(Call):
    """A call that changes the server.

    `words` are what makes a repeated call the same. `late` is called when it succeeds after its
    caller has left.
    """

    __slots__ = (
        "caller",
        "doubt",
        "fills",
        "finished_at",
        "is_kept",
        "late",
        "opens",
        "told",
        "violations",
        "words",
    )

    def __init__(
        self,
        calls: Calls,
        method: str,
        send: Callable[[RemoteFS], Reply[Any]],
        words: tuple[object, ...],
        handle: OpenFileHandle | None = None,
        doubt: Doubt | None = None,
        late: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(calls, method, send, handle)
        self.words = words
        self.doubt = doubt
        self.late = late
        self.caller = caller.current.get()
        self.opens: tuple[OpenMode, bytes] | None = None
        self.fills: OpenFileHandle | None = None
        self.is_kept = False
        self.told = False  # a lookup of the same thread was told that it has not happened
        self.finished_at: float | None = None

    def tell_unless_waited_for(self) -> None:
        """It happened, or may have, and the kernel was told that it has not."""
        if self.is_abandoned and self.late is not None:
            self.late()


def close_on(remote: RemoteFS, handle: RemoteHandle, *, lazily: bool = False) -> Reply[None]:
    """Nobody waits for this."""
    closing = remote.close(handle, lazily=lazily)
    closing.add_callback(_log_close)
    return closing


def _log_close(reply: Reply[None]) -> None:
    """A lost session closes all that was open on it."""
    if reply.error is not None and not isinstance(
        reply.error, ConnectionLostError | StaleHandleError
    ):
        log.info("closing a handle: %s", reply.error)


def shown(call: Call) -> str:
    words = call.words if isinstance(call, Change) else ()
    return " ".join(repr(word) for word in words if isinstance(word, bytes))
