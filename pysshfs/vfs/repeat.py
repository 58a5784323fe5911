"""What may be sent again when its reply was lost: the one table, and how doubts are settled.

A connection that is lost takes the replies of what was under way with it, and nobody knows whether
the server carried it out. `RULES` says for each request what happens then. Most are simply
repeated. What must not be (a second exclusive create fails, a second rename moves something else)
comes with a `Doubt`, which looks at the server once there is a new session and the old one is
fenced off (`remote/connection.py`). Requests that changed nothing yet because they were never sent
are in no doubt.

A look is a guess about what happened while nobody watched, so it claims success only when all that
is known speaks for it; docs/data-safety.md says what remains possible. Stateless but for `Marks`,
which is written when something was made, and read here.
"""

from __future__ import annotations

import enum
import errno
import stat
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pysshfs.errors import FX_NO_SUCH_FILE, FilesystemError, RemoteStatusError
from pysshfs.remotefs import AttributeChange, OpenMode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pysshfs.remotefs import Attributes, RemoteFS, RemoteHandle
    from pysshfs.reply import Reply
    from pysshfs.vfs.sanity import FileAttributes


class Rule(enum.Enum):
    """What becomes of a request whose reply was lost."""

    REPEAT = enum.auto()  # it only asks, or sets what it says: a second time does no harm
    LOOK = enum.auto()  # its `Doubt` looks what happened
    GONE = enum.auto()  # repeated; that nothing is there any more is then success
    RESTART = enum.auto()  # it fails, and whoever reads the directory begins to read it anew
    FORGET = enum.auto()  # the end of the session did it


RULES: Final[dict[str, Rule]] = {
    "lstat": Rule.REPEAT,
    "stat": Rule.REPEAT,
    "fstat": Rule.REPEAT,
    "statvfs": Rule.REPEAT,
    "readlink": Rule.REPEAT,
    "realpath": Rule.REPEAT,
    "opendir": Rule.REPEAT,
    "readdir": Rule.RESTART,
    "read": Rule.REPEAT,
    "write": Rule.REPEAT,  # at its offset: handles are never opened for appending
    "fsync": Rule.REPEAT,
    "copy": Rule.REPEAT,  # of a range, to its place; whoever waits for it opens the files anew
    "setstat": Rule.REPEAT,
    "lsetstat": Rule.REPEAT,
    "fsetstat": Rule.REPEAT,
    "open": Rule.REPEAT,  # of what exists; the two below have a Doubt and are looked at
    "open, exclusive": Rule.LOOK,
    "open, truncating": Rule.LOOK,
    "mkdir": Rule.LOOK,
    "symlink": Rule.LOOK,
    "link": Rule.LOOK,
    "remove": Rule.GONE,
    "rmdir": Rule.GONE,
    "rename": Rule.LOOK,
    "posix_rename": Rule.LOOK,
    "close": Rule.FORGET,
}

# What changes the server: whoever interrupts the call cannot take it back once it was sent.
CHANGES: Final = frozenset(
    {
        "open, exclusive", "open, truncating", "mkdir", "symlink", "link", "remove", "rmdir",
        "rename", "posix_rename", "setstat", "lsetstat", "fsetstat", "fsync", "copy",
    }
)  # fmt: skip
# Of these, what would fail falsely if the program repeated it and it was carried out after all.
NOT_TWICE: Final = CHANGES - {
    "open, truncating", "setstat", "lsetstat", "fsetstat", "fsync", "copy",
}  # fmt: skip
# These change two paths.
MOVES: Final = frozenset({"rename", "posix_rename"})

_NOTHING: Final[Mapping[bytes, FileAttributes]] = {}
# Seconds: times on the server are whole, and a request may lie in a queue for a moment.
_SLACK: Final = 2.0
# Until something was made, by how much the server's clock may differ.
_UNKNOWN_CLOCK: Final = 3600.0


def is_missing(error: BaseException | None) -> bool:
    return isinstance(error, RemoteStatusError) and error.code == FX_NO_SUCH_FILE


class Done(NamedTuple):
    """It was carried out; `handle` is what an open gives."""

    handle: RemoteHandle | None = None


class Doubt(Protocol):
    """How to find out whether a request was carried out."""

    since: float  # when it was sent (our time)
    # What the kernel had been told of the paths that it changes, before it was sent.
    before: Mapping[bytes, FileAttributes]

    async def settle(self, remote: RemoteFS) -> Done | None:
        """None: it was not, and may be sent again. Raises the error that the caller gets, or
        `ConnectionLostError` when this session is lost, too."""
        ...


class Version(NamedTuple):
    """What tells one file from another as far as SFTP goes."""

    kind: int  # the type bits
    mtime: int
    size: int


def version_of(found: Attributes) -> Version:
    return Version(stat.S_IFMT(found.mode or 0), found.mtime or 0, found.size or 0)


async def open_own(remote: RemoteFS, path: bytes, mode: OpenMode, permissions: int) -> RemoteHandle:
    """Open for writing what was created here, also when its `permissions` forbid that: who creates
    a file may write to it whatever its mode (git makes its objects 0444), who opens it may not. So
    its owner is lent the permission for a moment."""
    try:
        return await remote.open(path, mode)
    except RemoteStatusError as error:
        if error.errno != errno.EACCES or permissions & stat.S_IWUSR or OpenMode.WRITE not in mode:
            raise
    await remote.setstat(path, AttributeChange(mode=permissions | stat.S_IWUSR))
    try:
        handle = await remote.open(path, mode)
    finally:
        taking_back = remote.setstat(path, AttributeChange(mode=permissions))
    await taking_back
    return handle


class Marks:
    """What the things made through this mount have in common on the server."""

    def __init__(self) -> None:
        self.uid: int | None = None  # who owns them
        self.gid: int | None = None
        self.umask = 0  # permissions that the server takes away
        self.clock_ahead = 0.0  # the same as below, as near as whole seconds tell
        self._clock_ahead: float | None = None  # the server's clock minus ours, in seconds

    @property
    def is_known(self) -> bool:
        """Whether it can be told beforehand what the next thing will be."""
        return None not in (self.uid, self.gid, self._clock_ahead)

    def learn(self, made: Attributes, since: float, permissions: int | None = None) -> None:
        """Something was made between `since` (our time) and now, with these `permissions`."""
        self.uid, self.gid = made.uid, made.gid
        if permissions is not None and made.mode is not None:
            self.umask = permissions & 0o777 & ~made.mode
        now = time.time()
        if made.mtime is not None and now - since <= _SLACK:  # else it says little of the clock
            last, self._clock_ahead = self._clock_ahead, made.mtime - now
            # Its seconds are cut off, so the largest of what was seen lately is nearest.
            if last is None or abs(self._clock_ahead - self.clock_ahead) > _SLACK:
                self.clock_ahead = self._clock_ahead
            self.clock_ahead = max(self.clock_ahead, self._clock_ahead)

    def is_ours(self, found: Attributes, since: float) -> bool:
        """Whether this may have been made by us between `since` (our time) and now."""
        if self.uid is not None and found.uid is not None and found.uid != self.uid:
            return False
        earliest, latest = self._between(since, time.time())
        return found.mtime is not None and earliest <= found.mtime <= latest

    def is_older(self, found: Version, since: float) -> bool:
        """Whether this was changed before `since` (our time), for certain."""
        return found.mtime < self._between(since, since)[0]

    def _between(self, begin: float, end: float) -> tuple[float, float]:
        """What the server's clock can have said between two times of ours."""
        ahead, slack = self._clock_ahead, _SLACK
        if ahead is None:
            ahead, slack = 0.0, _UNKNOWN_CLOCK
        return begin + ahead - slack, end + ahead + slack


async def _found(looking: Reply[Attributes]) -> Attributes | None:
    """What the look found, None when there is nothing."""
    try:
        return await looking
    except RemoteStatusError as error:
        if is_missing(error):
            return None
        raise


class Making:
    """mkdir, symlink, link, exclusive create: is what stands there what we would have made?

    Only a name that was known to be absent before can have become ours. A lock file that another
    client made at the same moment, with the same owner and mode, still passes for ours: whoever
    takes locks that way over a network that fails chooses `strict` (EIO instead of a guess).
    """

    def __init__(
        self, marks: Marks, path: bytes, kind: int, *, known_absent: bool, strict: bool = False
    ) -> None:
        self.path = path
        self.known_absent = known_absent
        self.permissions: int | None = None  # what was asked for
        self.target: bytes | None = None  # a symlink's
        self.source: bytes | None = None  # a hard link's
        self.open_mode: OpenMode | None = None  # a file's, to be opened
        self._marks = marks
        self._kind = kind
        self._strict = strict
        self.since = time.time()
        self.before: Mapping[bytes, FileAttributes] = _NOTHING

    async def settle(self, remote: RemoteFS) -> Done | None:
        found = await _found(remote.lstat(self.path))
        if found is None:
            return None
        if self._strict:
            raise FilesystemError(errno.EIO, f"{self.path!r}: made by us or by another?")
        if not (self.known_absent and await self._is_ours(remote, found)):
            raise FilesystemError(errno.EEXIST)
        if self.open_mode is None:
            return Done()
        again = self.open_mode & ~(OpenMode.CREATE | OpenMode.EXCLUSIVE | OpenMode.TRUNCATE)
        return Done(await open_own(remote, self.path, again, (found.mode or 0) & 0o7777))

    def made(self, found: Attributes) -> None:
        """It was made, and looks like this."""
        self._marks.learn(found, self.since, self.permissions)

    async def _is_ours(self, remote: RemoteFS, found: Attributes) -> bool:
        if stat.S_IFMT(found.mode or 0) != self._kind:
            return False
        if self.source is not None:  # a link is as old as what it links to
            source = await _found(remote.lstat(self.source))
            return source is not None and version_of(source) == version_of(found)
        if self.target is not None and await remote.readlink(self.path) != self.target:
            return False
        if self._kind == stat.S_IFREG and found.size:
            return False
        if self.permissions is not None and (found.mode or 0) & 0o777 & ~self.permissions:
            return False  # the server's umask only takes bits away
        return self._marks.is_ours(found, self.since)


class Truncating:
    """OPEN with TRUNC: repeated without, since the file may hold new data by now. It is cut after
    all when it still is what it was `before` (None: not known), or is older than the request."""

    def __init__(self, marks: Marks, path: bytes, mode: OpenMode, before: Version | None) -> None:
        self._marks = marks
        self._path = path
        self._mode = mode & ~OpenMode.TRUNCATE
        self._version = before
        self.since = time.time()
        self.before: Mapping[bytes, FileAttributes] = _NOTHING

    async def settle(self, remote: RemoteFS) -> Done | None:
        handle = await remote.open(self._path, self._mode)
        try:
            now = version_of(await remote.fstat(handle))
            is_untouched = self._version in (None, now) or self._marks.is_older(now, self.since)
            if now.size and is_untouched:
                await remote.fsetstat(handle, AttributeChange(size=0))
        except RemoteStatusError:
            remote.close(handle)
            raise
        return Done(handle)


class Removing:
    """unlink, rmdir whose caller has left: not repeated, since who knows when that would be, but
    looked at, for who makes the same call again."""

    def __init__(self, path: bytes, before: Mapping[bytes, FileAttributes] = _NOTHING) -> None:
        self.since = 0.0
        self.before = before
        self._path = path

    async def settle(self, remote: RemoteFS) -> Done | None:
        return Done() if await _found(remote.lstat(self._path)) is None else None


class Moving:
    """rename: decided by what stands under both names. `source` and `target` are what was last
    seen there; None when that is not known. `aside`: nobody else knows the new name."""

    def __init__(
        self,
        old: bytes,
        new: bytes,
        source: Version | None,
        target: Version | None,
        *,
        target_absent: bool,
        aside: bool = False,
        before: Mapping[bytes, FileAttributes] = _NOTHING,
    ) -> None:
        self.since = 0.0
        self.before = before
        self._old = old
        self._new = new
        self._source = source
        self._target = target
        self._target_absent = target_absent
        self._aside = aside

    async def settle(self, remote: RemoteFS) -> Done | None:
        looking_old, looking_new = remote.lstat(self._old), remote.lstat(self._new)
        old, new = await _found(looking_old), await _found(looking_new)
        if self._aside and new is not None:
            return Done()  # whatever has the old name by now
        if old is None and new is not None and self._is_source(version_of(new)):
            return Done()
        if old is not None and self._is_source(version_of(old)) and self._is_untouched(new):
            return None
        if old is None and new is None:
            raise FilesystemError(errno.ENOENT)
        raise FilesystemError(errno.EIO, f"{self._old!r} to {self._new!r}: moved or not?")

    def _is_source(self, found: Version) -> bool:
        return self._source in (None, found)

    def _is_untouched(self, new: Attributes | None) -> bool:
        """Whether the new name is as it was before."""
        if new is None:
            return True  # nothing was moved there, at any rate
        return not self._target_absent and self._target in (None, version_of(new))
