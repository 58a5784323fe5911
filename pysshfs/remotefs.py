"""What the filesystem (`vfs/`) asks of a server (`remote/`, or the tests' fake): `RemoteFS`.

Paths are bytes, relative to the served directory (``b""`` is the directory itself) and never begin
or end with a slash. Handles are opaque. Each method sends its request when called and returns a
`Reply`; the server carries requests out in the order in which they were sent
(draft-ietf-secsh-filexfer-02, section 6). Nothing is checked here for plausibility:
`vfs/sanity.py` does that.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.errors import ConnectionLostError
    from pysshfs.reply import Reply

T = TypeVar("T")

#: Bytes, as Linux counts, with the NUL at the end: no longer path is sent, nor target believed.
PATH_MAX: Final = 4096


class Attributes(NamedTuple):
    """What SFTP says of a file. Times are whole seconds since 1970 UTC, size is in bytes.

    `mode` includes the type bits. None stands for what the server did not send.
    """

    mode: int | None
    size: int | None
    uid: int | None
    gid: int | None
    atime: int | None
    mtime: int | None


class AttributeChange(NamedTuple):
    """What a SETSTAT changes; None leaves a field alone. SFTP can set owner and group, and the
    two times, only in pairs: whoever fills this in gives both of a pair or neither."""

    mode: int | None = None
    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime: int | None = None
    mtime: int | None = None


class DirectoryEntry(NamedTuple):
    """One name of a listing, as the server sent it."""

    name: bytes
    attributes: Attributes


class FilesystemStatistics(NamedTuple):
    """statvfs(3)'s numbers; block counts are in units of `fragment_size` bytes."""

    block_size: int
    fragment_size: int
    blocks: int
    blocks_free: int
    blocks_available: int
    files: int
    files_free: int
    files_available: int
    name_max: int


class OpenMode(Flag):
    """How a file is opened on the server. There is no APPEND: see `vfs/writeback.py`."""

    READ = auto()
    WRITE = auto()
    CREATE = auto()
    EXCLUSIVE = auto()
    TRUNCATE = auto()


class RemoteHandle(NamedTuple):
    """An open file or directory on the server.

    `generation` counts sessions, extra ones downwards from -1: a handle is worth nothing on any
    but its own.
    """

    token: bytes
    generation: int


class Capabilities(NamedTuple):
    """What this server can do beyond protocol 3, and how much it takes at once (bytes)."""

    max_read: int
    max_write: int
    posix_rename: bool
    hardlink: bool
    fsync: bool
    lsetstat: bool
    statvfs: bool
    max_handles: int = 0  # that one session may have open; 0: the server does not say
    copy_data: bool = False


class RemoteFS(Protocol):
    """The server as the filesystem sees it. Every reply may fail with a `FilesystemError`."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def served(self) -> bytes:
        """The server's own absolute path of the served directory: b"/" or b"/with/names"."""
        ...

    @property
    def round_trip(self) -> float:
        """The least that an answer has taken (seconds); 0 when that is not known."""
        ...

    async def open_extra(self) -> ExtraSession:
        """Another session with the same server, for the same directory. Its handles are its own,
        and nothing orders its requests with those of other sessions. It ends with this one.

        Nobody is asked anything for it. Raises a `PysshfsError` when there is none to be had.
        """
        ...

    def unhurried(self, send: Callable[[Self], Reply[T]]) -> Reply[T]:
        """What `send` sends goes with whatever is sent next, in its turn, or a few milliseconds
        later: nobody waits for it. Who does after all calls `hurry`."""
        ...

    def hurry(self) -> None:
        """What was `unhurried` is sent now."""
        ...

    def lstat(self, path: bytes) -> Reply[Attributes]: ...

    def stat(self, path: bytes) -> Reply[Attributes]: ...

    def fstat(self, handle: RemoteHandle) -> Reply[Attributes]: ...

    def setstat(self, path: bytes, change: AttributeChange) -> Reply[None]:
        """Follows a symlink."""
        ...

    def lsetstat(self, path: bytes, change: AttributeChange) -> Reply[None]:
        """Changes a symlink itself; `UnsupportedError` without the extension."""
        ...

    def fsetstat(self, handle: RemoteHandle, change: AttributeChange) -> Reply[None]: ...

    def open(self, path: bytes, mode: OpenMode, permissions: int = 0o666) -> Reply[RemoteHandle]:
        """An abandoned open whose handle arrives after all is closed on the server."""
        ...

    def close(self, handle: RemoteHandle, *, lazily: bool = False) -> Reply[None]:
        """`lazily`: with whatever is sent next on this session, or a few milliseconds later. Not on
        a session on which nothing else is sent: a removed file takes room on the disk until then.
        """
        ...

    def read(self, handle: RemoteHandle, offset: int, length: int) -> Reply[bytes]:
        """At most `length` bytes (itself at most `capabilities.max_read`); b"" at the end."""
        ...

    def write(
        self, handle: RemoteHandle, offset: int, data: bytes | bytearray | memoryview
    ) -> Reply[None]:
        """All of `data` (at most `capabilities.max_write` bytes); it is copied before return."""
        ...

    def fsync(self, handle: RemoteHandle) -> Reply[None]: ...

    def copy_data(
        self,
        source: RemoteHandle,
        offset: int,
        length: int,
        target: RemoteHandle,
        target_offset: int,
    ) -> Reply[None]:
        """The server copies by itself, from one file to another. What success means depends on
        the server: see `vfs/copying.py`. `UnsupportedError` without the extension."""
        ...

    def opendir(self, path: bytes) -> Reply[RemoteHandle]: ...

    def readdir(self, handle: RemoteHandle) -> Reply[list[DirectoryEntry] | None]:
        """The next entries, None at the end. Several may be in flight; they are one sequence."""
        ...

    def readlink(self, path: bytes) -> Reply[bytes]: ...

    def realpath(self, path: bytes) -> Reply[bytes]:
        """The server's canonical form of a path that is absolute on the server, links resolved. Of
        what is missing it may have one or not."""
        ...

    def symlink(self, target: bytes, path: bytes) -> Reply[None]: ...

    def link(self, existing: bytes, path: bytes) -> Reply[None]: ...

    def mkdir(self, path: bytes, permissions: int) -> Reply[None]: ...

    def rmdir(self, path: bytes) -> Reply[None]: ...

    def remove(self, path: bytes) -> Reply[None]: ...

    def rename(self, old: bytes, new: bytes) -> Reply[None]:
        """Fails when `new` exists (protocol 3's own RENAME)."""
        ...

    def posix_rename(self, old: bytes, new: bytes) -> Reply[None]:
        """Replaces `new`; `UnsupportedError` without the extension."""
        ...

    def statvfs(self, path: bytes) -> Reply[FilesystemStatistics]:
        """`UnsupportedError` without the extension."""
        ...


class ExtraSession(RemoteFS, Protocol):
    """A session beside the first (`RemoteFS.open_extra`). Once it is lost, which may be before the
    first, every request on it fails with `ConnectionLostError`."""

    def end(self) -> None:
        """Close it, with what is still open on it. Waits for nothing."""
        ...


class Recovering(Protocol):
    """Who uses a connection across its losses (`vfs/server.py`), as `remote/connection.py` sees it.

    The order of calls is: `lost`, then any number of `resume` that fail because the new session is
    lost, too, then one that returns; or `given_up`, after which `resume` may still come.
    """

    @property
    def in_doubt(self) -> bool:
        """Whether something that changes the server was sent and never answered: the old session
        may still carry it out, so the new one must wait for a moment before it goes on."""
        ...

    def lost(self, error: ConnectionLostError) -> None:
        """The session is gone: from now on everything waits. Called once for each loss."""
        ...

    async def resume(self, remote: RemoteFS) -> None:
        """Go on with this session: settle what is in doubt, open again what was open, send what
        waited. Raises `ConnectionLostError` when the session is lost before that is done."""
        ...

    def given_up(self, error: ConnectionLostError) -> None:
        """There will be no session unless somebody asks for one: what waits fails."""
        ...
