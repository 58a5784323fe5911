"""A conversation with one session after the other: `remote/client.py` on `remote/session.py`, and
`vfs/sanity.py` behind. Nothing waits, so it costs little: most conversations are these.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from pysshfs.errors import ConnectionLostError, FilesystemError, UnsafeReplyError, errno_of
from pysshfs.remote.client import (
    MOST_LENGTH,
    Limits,
    SftpRemote,
    capabilities,
    request_limits,
    request_realpath,
)
from pysshfs.remote.session import SftpSession
from pysshfs.remotefs import (
    AttributeChange,
    Attributes,
    Capabilities,
    FilesystemStatistics,
    OpenMode,
    RemoteHandle,
)
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.sanity import (
    ListingCheck,
    checked_attributes,
    checked_link_target,
    checked_statistics,
    is_directory,
    is_special,
    is_too_deep,
)
from pysshfs.vfs.symlinks import is_contained
from tests.hostile import sftp
from tests.hostile.fuzz.findings import (
    Finding,
    check_attributes,
    check_link,
    check_name,
    check_statfs,
)
from tests.hostile.fuzz.hostile import End, Hostile
from tests.hostile.fuzz.onmount import check_sessions
from tests.hostile.fuzz.programs import CONTENT, GOOD, LINKS
from tests.hostile.fuzz.recording import BASE
from tests.hostile.fuzz.wires import Channel

if TYPE_CHECKING:
    from random import Random

    import asyncssh

    from pysshfs.reply import Reply

_LEAST_REPLIES: Final = 10
_MOST_REPLIES: Final = 24
_MOST_SESSIONS: Final = 12
_ROUNDS: Final = 50  # of replies to what is out
# Bounds that a few short listings come to, each in its turn.
_BOUNDS: Final = (
    VfsConfig(),
    VfsConfig(max_dir_entries=100),
    VfsConfig(max_dir_entries=2),
    VfsConfig(max_dir_bytes=300),
    VfsConfig(max_dir_time=50.0),
)
_RARELY: Final = 1 / 3000  # what costs a lot
_PATHS: Final = (b"", b"file", b"good", b"dir", b"dir/a", b"many", b"missing", b"fifo", *LINKS)

Result = tuple["Reply[Any]", "Callable[[Any], None]", bool]


class Conversation:
    """Calls on a session, in no order, several at once; another session when one is lost."""

    def __init__(self, rng: Random, server: Hostile) -> None:
        self.rng, self.server = rng, server
        self.now = 0.0
        self.told: list[Exception] = []
        self.files: list[RemoteHandle] = []
        self.directories: list[RemoteHandle] = []
        self.listings: dict[RemoteHandle, ListingCheck] = {}
        self.due: list[Callable[[], bool]] = []  # what sessions have to send
        self.session, self.remote, self.end = self._connected()

    # --- sessions -----------------------------------------------------------------------------

    def _open(self) -> tuple[SftpSession, End]:
        if len(self.server.ends) >= _MOST_SESSIONS:
            self.server.is_over = True
        end = End(self.server)
        due = self.due = list[Callable[[], bool]]()
        session = SftpSession(self.told.append, due.append, due.append, lambda: self.now)
        session.connection_made(cast("asyncssh.SSHClientChannel[bytes]", Channel(end)))
        end.opened(session)
        self.files, self.directories, self.listings = [], [], {}
        return session, end

    def _connected(self) -> tuple[SftpSession, SftpRemote, End]:
        while True:
            session, end = self._open()
            try:
                extensions = self._now(end, session.handshake())
                limits = None
                with suppress(FilesystemError):
                    limits = self._now(end, request_limits(session))
                abilities = capabilities(extensions, limits, self.rng.random() < 0.5)
                _check_limits(limits, abilities)
                base = self._now(end, request_realpath(session, BASE))
                remote = SftpRemote(session, base, abilities, len(self.server.ends))
                self._now(end, remote.stat(b""))
            except FilesystemError as error:
                _check_error(error)
                session.fail(ConnectionLostError("given up"))
                continue
            return session, remote, end

    def _now(self, end: End, reply: Reply[Any]) -> Any:
        self._until_quiet(end)
        end.check_broken()
        if not reply.done:
            self._check_owed(end)
            end.closed()
            raise ConnectionLostError("no answer")
        return reply.result()

    def _until_quiet(self, end: End) -> None:
        for _ in range(_ROUNDS):
            while self.due:
                self.due.pop(0)()
            if not end.has_more:
                return
            self.now += 0.5
            end.deliver()

    def _check_owed(self, end: End) -> None:
        session = end.session
        assert session is not None
        if session.lost is None and not (end.owes or end.is_out_of_step):
            raise Finding("a request has no answer, and the server owes none")

    # --- calls --------------------------------------------------------------------------------

    def run(self) -> None:
        while self.server.replies < _LEAST_REPLIES or (
            self.server.replies < _MOST_REPLIES and self.rng.random() < 0.75
        ):
            if self.session.lost is not None or self.end.is_out_of_step:
                self._leave()
                self.session, self.remote, self.end = self._connected()
            self._some(self.rng.randrange(1, 6))
            if self.rng.random() < _RARELY:
                self._leave_without_end()
        self._good()
        self._leave()
        check_sessions(self.server)

    def _some(self, count: int) -> None:
        calls = [self._call() for _ in range(count)]
        for reply, _, leaves in calls:
            if leaves:
                reply.abandon()
        age, silence = self.session.oldest_request_age(), self.session.silence()
        if not (age >= 0 and silence >= 0):
            raise Finding(f"a request of {age} s ago, a silence of {silence} s")
        self._until_quiet(self.end)
        for reply, check, _ in calls:
            if not reply.done:
                self._check_owed(self.end)
            elif reply.error is not None:
                _check_error(reply.error)
            else:
                check(reply.result())
        self._until_quiet(self.end)  # closing what came too late
        self.end.check_broken()
        if (
            self.session.in_flight
            and self.session.lost is None
            and not (self.end.owes or self.end.is_out_of_step)
        ):
            raise Finding(f"{self.session.in_flight} requests are out, and have their answers")

    def _leave_without_end(self) -> None:
        """A request that is made and given up again and again, and never answered."""
        session = self.session
        for _ in range(20_000):
            reply: Reply[Any] = session.request(sftp.LSTAT, sftp.string(b"/"))
            if reply.done:
                break
            reply.abandon()
        if session.lost is None:
            raise Finding(f"{session.in_flight} requests are waiting that nobody wants")

    def _call(self) -> Result:
        rng, remote = self.rng, self.remote
        path = rng.choice(_PATHS)
        leaves = rng.random() < 0.05
        draw = rng.randrange(12)
        if draw == 0:
            return remote.lstat(path), self._attributes, leaves
        if draw == 1:
            mode = rng.choice(
                (OpenMode.READ, OpenMode.WRITE | OpenMode.CREATE | OpenMode.EXCLUSIVE)
            )
            return remote.open(path, mode, 0o644), self._opened, leaves
        if draw == 2:
            return remote.opendir(rng.choice((b"", b"dir", b"many"))), self._listed, leaves
        if draw == 3:
            return remote.readlink(rng.choice(list(LINKS))), self._target, leaves
        if draw in (4, 5) and self.directories:
            handle = rng.choice(self.directories)
            check = self.listings[handle]
            return remote.readdir(handle), lambda entries: self._entries(check, entries), leaves
        if draw == 6:
            return remote.statvfs(path), self._statistics, leaves
        if draw == 7:
            return remote.stat(path), self._attributes, leaves
        if draw == 8:
            return remote.realpath(BASE + b"/" + path), self._bytes, leaves
        if draw == 9 or not self.files:
            return self._change(path), self._nothing, leaves
        return (*self._on_file(rng.choice(self.files)), leaves)

    def _on_file(self, handle: RemoteHandle) -> tuple[Reply[Any], Callable[[Any], None]]:
        rng, remote = self.rng, self.remote
        draw = rng.randrange(8)
        if draw == 0:
            data = CONTENT * 4 if rng.random() < 0.2 else CONTENT[:100]
            return remote.write(handle, 0, data), self._nothing
        if draw == 1:
            return remote.fsync(handle), self._nothing
        if draw == 2:
            return remote.fstat(handle), self._attributes
        if draw == 3:
            self.files.remove(handle)
            return remote.close(handle), self._nothing
        if draw == 4:
            return remote.fsetstat(handle, AttributeChange(size=5)), self._nothing
        if draw == 5:
            return remote.copy_data(handle, 0, rng.choice((0, 9)), handle, 100), self._nothing
        length = rng.choice((1, 100, 6000))
        offset = rng.choice((0, 100, 5999, 6000))

        def check(data: bytes) -> None:
            if len(data) > length:
                raise Finding(f"{len(data)} bytes for a READ of {length}")
            if b"\0" in data and not self.server.of_data:
                raise Finding("zeros that nobody sent")

        return remote.read(handle, offset, length), check

    def _change(self, path: bytes) -> Reply[Any]:
        rng, remote = self.rng, self.remote
        change = rng.choice((AttributeChange(mode=0o600), AttributeChange(atime=1, mtime=-1),
                             AttributeChange(uid=1, gid=2), AttributeChange(size=3)))  # fmt: skip
        calls: tuple[Callable[[], Reply[Any]], ...] = (
            lambda: remote.setstat(path, change),
            lambda: remote.lsetstat(path, change),
            lambda: remote.remove(path),
            lambda: remote.mkdir(path, 0o755),
            lambda: remote.rmdir(path),
            lambda: remote.rename(path, b"other"),
            lambda: remote.posix_rename(path, b"other"),
            lambda: remote.link(path, b"other"),
            lambda: remote.symlink(b"target", path),
            lambda: remote.lstat(b"x" * 4096),
            lambda: remote.unhurried(lambda remote: remote.lstat(path)),
            lambda: remote.close(RemoteHandle(b"old", -7)),
        )
        return rng.choice(calls)()

    # --- what comes back ----------------------------------------------------------------------

    def _nothing(self, _result: object) -> None:
        pass

    def _bytes(self, result: object) -> None:
        if not isinstance(result, bytes):
            raise Finding(f"{result!r:.80} for a path")

    def _attributes(self, result: object) -> None:
        if not isinstance(result, Attributes):
            raise Finding(f"{result!r:.80} for attributes")
        with suppress(UnsafeReplyError):
            checked = checked_attributes(result)
            check_attributes(checked)
            if is_directory(checked.mode) and is_special(checked.mode):
                raise Finding(f"{checked} is two things")

    def _target(self, result: bytes) -> None:
        with suppress(UnsafeReplyError):
            text = checked_link_target(result)
            if not 0 < len(text) < 4096 or b"\0" in text:
                raise Finding(f"a link to {text!r:.80}")
            depth = self.rng.randrange(3)
            if is_contained(text, depth):
                check_link(text, b"d/" * depth + b"link")
            is_too_deep(text, 200)

    def _statistics(self, result: FilesystemStatistics) -> None:
        check_statfs(checked_statistics(result))

    def _handle(self, handle: RemoteHandle) -> None:
        if not 0 < len(handle.token) <= 256:
            raise Finding(f"a handle of {len(handle.token)} bytes")

    def _opened(self, handle: RemoteHandle) -> None:
        self._handle(handle)
        if handle.generation == len(self.server.ends):
            self.files.append(handle)

    def _listed(self, handle: RemoteHandle) -> None:
        self._handle(handle)
        if handle.generation == len(self.server.ends):
            self.directories.append(handle)
            self.listings[handle] = ListingCheck(self.rng.choice(_BOUNDS))

    def _entries(self, check: ListingCheck, entries: list[Any] | None) -> None:
        if entries is None:
            return
        had, news = check.names, []
        for name, attributes in entries:
            if check.admits(name):
                news.append(name)
                check_name(name)
                try:
                    check_attributes(checked_attributes(attributes))
                except UnsafeReplyError:
                    check.impossible()
        if len(set(news)) != len(news):
            raise Finding("a name that is there twice")
        check.over(check.names - had, self.rng.choice((0.0, 30.0)))
        if self.rng.random() < 0.05:
            check.begin_again()
        if self.rng.random() < 0.01:
            self._repeated(check, entries)
        check.oddities()

    def _repeated(self, check: ListingCheck, entries: list[Any]) -> None:
        """The same reply again, without end."""
        for _ in range(5000):
            for name, _attributes in entries:
                check.admits(name)
            if check.over(0, 0.0) is not None:
                return
        raise Finding("a listing without end, of the same names")

    # --- the end ------------------------------------------------------------------------------

    def _good(self) -> None:
        """The server misbehaves no more: the session that is up works, or a new one does."""
        self.server.is_over = True
        bad = self.end.is_out_of_step or self.end.has_lied_at_start or self.end.is_deaf
        if self.session.lost is not None or bad:
            self._leave()
            self.session, self.remote, self.end = self._connected()
        handle = self._now(self.end, self.remote.open(GOOD[0], OpenMode.READ))
        data = self._now(self.end, self.remote.read(handle, 0, len(GOOD[1])))
        if data != GOOD[1]:
            raise Finding(f"the good file, when all is over: {data!r:.60}")

    def _leave(self) -> None:
        self.remote.end()
        self.session.connection_lost(None)


def _check_limits(limits: Limits | None, abilities: Capabilities) -> None:
    if not all(512 <= most <= MOST_LENGTH for most in (abilities.max_read, abilities.max_write)):
        raise Finding(f"{abilities} of {limits}")


def _check_error(error: BaseException) -> None:
    """A documented one, with an errno."""
    if not isinstance(error, FilesystemError) or not isinstance(errno_of(error), int):
        raise Finding(f"{error!r}") from error
