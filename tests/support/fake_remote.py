"""`FakeRemote`: a server without a network, with the answers that OpenSSH's sftp-server gives.

A request is carried out the moment it is sent, in order, on a `MemoryTree`; what can be delayed is
the reply. Replies come in order out of one task, `latency` seconds of trio's time after their
request, and never at once: whoever waits is suspended, as with a real server. All replies that are
due arrive together, before any task that waited for one of them runs on.

It has any number of further sessions on the same tree (`open_extra`), each a `FakeRemote` with an
order and replies of its own, in `extras`; they end with the first.

A server that lies: `strange_entries`, `invented`, `overridden`, `ends`.

For tests: `hold` and `release` make a silent server of it, `go_deaf` one that gets nothing more,
`drop_connection` a dead one, `connect_anew` the next session on the same tree; `fail_next` has one
request refused; `stall` and `go_on` keep a session from carrying out what it is sent. `calls` is
the log of requests, `in_flight` counts those without a reply, `open_handles` the handles that were
not closed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import trio

from pysshfs.errors import (
    FX_BAD_MESSAGE,
    FX_EOF,
    FX_FAILURE,
    FX_NO_SUCH_FILE,
    FX_OP_UNSUPPORTED,
    FX_PERMISSION_DENIED,
    ConnectionLostError,
    FilesystemError,
    RemoteStatusError,
    SftpRefusedError,
    StaleHandleError,
    UnsupportedError,
)
from pysshfs.remotefs import (
    AttributeChange,
    Attributes,
    Capabilities,
    DirectoryEntry,
    FilesystemStatistics,
    OpenMode,
    RemoteHandle,
)
from pysshfs.reply import Reply
from tests.support.memory_tree import MemoryTree, Node, fail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")

# How sftp-server words an errno (sftp-server.c, errno_to_portable); all others are FAILURE.
_STATUS: Final = {
    errno.ENOENT: FX_NO_SUCH_FILE,
    errno.ENOTDIR: FX_NO_SUCH_FILE,
    errno.EBADF: FX_NO_SUCH_FILE,
    errno.ELOOP: FX_NO_SUCH_FILE,
    errno.EPERM: FX_PERMISSION_DENIED,
    errno.EACCES: FX_PERMISSION_DENIED,
    errno.EINVAL: FX_BAD_MESSAGE,
    errno.ENAMETOOLONG: FX_BAD_MESSAGE,
    errno.ENOSYS: FX_OP_UNSUPPORTED,
}

OPENSSH: Final = Capabilities(
    max_read=261_120,
    max_write=261_120,
    posix_rename=True,
    hardlink=True,
    fsync=True,
    lsetstat=True,
    statvfs=True,
    copy_data=True,
)
COPIED_AT_ONCE: Final = 64 * 1024
ROOMY: Final = FilesystemStatistics(4096, 4096, 1000, 500, 500, 1000, 500, 500, 255)


class _Handle:
    """An open file, or an open directory with what is left of its listing."""

    def __init__(self, path: bytes, node: Node, mode: OpenMode) -> None:
        self.path = path
        self.node = node
        self.mode = mode
        self.listing: list[DirectoryEntry] = []
        self.listed = 0
        self.replies = 0


class _Answer(NamedTuple):
    """A reply that is on its way: when it arrives, and what makes it arrive."""

    due: float
    deliver: Callable[[], None]
    lose: Callable[[ConnectionLostError], None]


def attributes_of(node: Node) -> Attributes:
    return Attributes(node.mode, node.size, node.uid, node.gid, node.atime, node.mtime)


class FakeRemote:
    """The server; made by `serve`, which runs the task that delivers replies."""

    def __init__(self, tree: MemoryTree, capabilities: Capabilities, latency: float) -> None:
        self.tree = tree
        self.capabilities = capabilities
        self.latency = latency
        self.short_reads: int | None = None  # the most bytes that a READ gives
        self.refuse_unwritable = False  # as a server does for who is not root
        self.room = 1 << 62  # the longest that a copy makes a file
        self.batch = 100  # the most names that a READDIR gives
        self.served = b"/"  # the tree's root is the server's, unless a test says otherwise
        self.realpaths: dict[bytes, bytes] = {}  # what it says of paths; NO_SUCH_FILE of others
        self.statistics = ROOMY
        self.strange_entries: list[DirectoryEntry] = []  # put into every listing, unchecked
        # What the n-th READDIR (from 0 on) of a directory says, whatever is true.
        self.invented: Callable[[bytes, int], list[DirectoryEntry] | None] | None = None
        self.ends: dict[bytes, int] = {}  # where READs of a file end, whatever its size is
        self.overridden: dict[bytes, Attributes] = {}  # what lstat says of a path, whatever is true
        self.calls: list[tuple[str, ...]] = []
        self.closed_lazily: list[bool] = []  # of each CLOSE
        self.unhurried_calls = self.hurried = 0
        self.most_in_flight = 0
        self.most_handles = 0
        self._handles: dict[bytes, _Handle] = {}
        self._next_token = 0
        self._failures: defaultdict[str, deque[FilesystemError]] = defaultdict(deque)
        self.failures_of_extras: defaultdict[str, deque[FilesystemError]] = defaultdict(deque)
        self._answers: deque[_Answer] = deque()
        self._activity = trio.Event()
        self._held = False
        self._lost: ConnectionLostError | None = None
        self._deaf = False
        self._unheard: list[Callable[[ConnectionLostError], None]] = []
        self._generation = 1
        self.on_lost: Callable[[ConnectionLostError], None] = lambda _error: None
        self.on_request: Callable[[], None] = lambda: None  # before each is carried out
        self.round_trip = latency
        self.extras: list[FakeRemote] = []
        self.most_extras = 9
        self._stalled: list[tuple[Callable[[], None], Callable[[ConnectionLostError], None]]] = []
        self._stalls = False
        self._nursery: trio.Nursery | None = None

    @classmethod
    @asynccontextmanager
    async def serve(
        cls,
        tree: MemoryTree | None = None,
        capabilities: Capabilities = OPENSSH,
        latency: float = 0.0,
    ) -> AsyncIterator[FakeRemote]:
        remote = cls(tree or MemoryTree(), capabilities, latency)
        async with trio.open_nursery() as nursery:
            remote._nursery = nursery
            nursery.start_soon(remote._deliver)
            yield remote
            nursery.cancel_scope.cancel()

    # --- further sessions -------------------------------------------------------------------

    async def open_extra(self) -> FakeRemote:
        self.calls.append(("open_extra",))
        await trio.sleep(self.latency)
        if self._lost is not None:
            raise self._lost
        if sum(extra.is_up for extra in self.extras) >= self.most_extras:
            raise SftpRefusedError("no more sessions")
        extra = FakeRemote(self.tree, self.capabilities, self.latency)
        extra._generation = -1 - len(self.extras)
        extra._failures = self.failures_of_extras
        extra.room, extra.refuse_unwritable = self.room, self.refuse_unwritable
        self.extras.append(extra)
        assert self._nursery is not None
        self._nursery.start_soon(extra._deliver)
        return extra

    @property
    def is_up(self) -> bool:
        return self._lost is None

    def end(self) -> None:
        self.drop_connection()

    def stall(self) -> None:
        """From now on what is sent waits on the server."""
        self._stalls = True

    def go_on(self, most: int | None = None) -> None:
        """Carry out what waits, in order; `most`: only so many, and go on stalling."""
        waiting, self._stalled = self._stalled[:most], self._stalled[len(self._stalled[:most]) :]
        self._stalls = most is not None
        for carry_out, _ in waiting:
            carry_out()

    # --- what tests turn and look at ----------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._answers)

    @property
    def open_handles(self) -> list[str]:
        """The paths of what is open on the server."""
        own = [os.fsdecode(handle.path) for handle in self._handles.values()]
        return own + [path for extra in self.extras for path in extra.open_handles]

    def count(self, method: str) -> int:
        return sum(call[0] == method for call in self.calls)

    def hold(self) -> None:
        """Keep all replies back."""
        self._held = True

    def release(self) -> None:
        """Deliver what was held, and from now on everything in its time."""
        self._held = False
        self._activity.set()

    def fail_next(self, method: str, error: FilesystemError, times: int = 1) -> None:
        """Refuse the next request (or `times` of them) of this method; it changes nothing."""
        self._failures[method].extend([error] * times)

    def go_deaf(self) -> None:
        """From now on requests get lost on their way: nothing is carried out or answered."""
        self._deaf = True

    def deliver_one(self) -> None:
        """Deliver the oldest of what is held."""
        if self._answers:
            self._answers.popleft().deliver()

    def deliver_now(self) -> None:
        """Deliver what is held so far; nobody who waits for it runs before this returns."""
        answers, self._answers = self._answers, deque()
        for answer in answers:
            answer.deliver()

    def drop_connection(self, error: ConnectionLostError | None = None) -> None:
        """Everything pending and everything later fails; the server closes what was open."""
        self._lost = error or ConnectionLostError()
        self._handles.clear()
        answers, self._answers = self._answers, deque()
        unheard, self._unheard = self._unheard, []
        stalled, self._stalled = self._stalled, []
        for answer in answers:
            answer.lose(self._lost)
        for lose in (*unheard, *(lose for _, lose in stalled)):
            lose(self._lost)
        self.on_lost(self._lost)
        for extra in self.extras:
            if extra.is_up:
                extra.drop_connection(self._lost)

    def connect_anew(self) -> None:
        """A new session: handles of the earlier ones mean nothing on it."""
        self._lost, self._deaf, self._held = None, False, False
        self._generation += 1

    # --- requests and replies -----------------------------------------------------------------

    async def _deliver(self) -> None:
        while True:
            if self._held or not self._answers:
                self._activity = trio.Event()
                await self._activity.wait()
                continue
            # The checkpoint keeps a reply from arriving in the turn of the task that asked.
            await trio.sleep_until(self._answers[0].due if self._answers else 0)
            while not self._held and self._answers:
                if self._answers[0].due > trio.current_time():
                    break
                self._answers.popleft().deliver()

    def _request(
        self,
        work: Callable[[], T],
        method: str,
        *fields: str,
        unless_wanted: Callable[[T], None] | None = None,
    ) -> Reply[T]:
        """Carry out `work` now and answer in time. `unless_wanted` undoes it when the reply was
        abandoned."""
        self.calls.append((method, *fields))
        if self._lost is not None:
            return Reply.failed(self._lost)
        self.on_request()
        abandoned = False

        def abandon() -> None:
            nonlocal abandoned
            abandoned = True

        reply: Reply[T] = Reply(abandon)
        if self._deaf:
            self._unheard.append(reply.set_error)
            return reply
        failures = self._failures[method]

        def carry_out() -> None:
            try:
                if failures:
                    raise failures.popleft()
                result = work()
            except OSError as error:
                number = error.errno or errno.EIO
                failure = RemoteStatusError(_STATUS.get(number, FX_FAILURE), str(error))
                self._answer(lambda: reply.set_error(failure), reply)
            except FilesystemError as error:
                refused = error
                self._answer(lambda: reply.set_error(refused), reply)
            else:

                def deliver() -> None:
                    if abandoned and unless_wanted is not None:
                        unless_wanted(result)
                    reply.set_result(result)

                self._answer(deliver, reply)

        if self._stalls:
            self._stalled.append((carry_out, reply.set_error))
        else:
            carry_out()
        return reply

    def _answer(self, deliver: Callable[[], None], reply: Reply[T]) -> None:
        due = trio.current_time() + self.latency
        self._answers.append(_Answer(due, deliver, reply.set_error))
        self.most_in_flight = max(self.most_in_flight, len(self._answers))
        self._activity.set()

    def _on_path(self, work: Callable[[], T], method: str, *paths: bytes) -> Reply[T]:
        for path in paths:
            if path.startswith(b"/") or path.endswith(b"/"):
                raise AssertionError(f"{path!r} is not a path of RemoteFS")
        return self._request(work, method, *map(os.fsdecode, paths))

    def _on_handle(
        self, work: Callable[[_Handle], T], method: str, handle: RemoteHandle, *fields: int
    ) -> Reply[T]:
        if handle.generation != self._generation:
            return Reply.failed(StaleHandleError())
        known = self._handles.get(handle.token)
        path = os.fsdecode(known.path) if known is not None else "?"

        def on_known() -> T:
            if known is None:
                raise fail(errno.EIO)  # sftp-server answers FAILURE for a handle it does not have
            return work(known)

        return self._request(on_known, method, path, *map(str, fields))

    # --- attributes -------------------------------------------------------------------------

    def unhurried(self, send: Callable[[FakeRemote], Reply[T]]) -> Reply[T]:
        self.unhurried_calls += 1
        return send(self)

    def hurry(self) -> None:
        self.hurried += 1

    def lstat(self, path: bytes) -> Reply[Attributes]:
        return self._on_path(
            lambda: self.overridden.get(path) or attributes_of(self.tree.find(path)),
            "lstat",
            path,
        )

    def stat(self, path: bytes) -> Reply[Attributes]:
        return self._on_path(lambda: attributes_of(self.tree.find(path, True)), "stat", path)

    def fstat(self, handle: RemoteHandle) -> Reply[Attributes]:
        return self._on_handle(lambda known: attributes_of(known.node), "fstat", handle)

    def setstat(self, path: bytes, change: AttributeChange) -> Reply[None]:
        self._check_pairs(change)
        return self._on_path(
            lambda: self._change(self.tree.find(path, True), change), "setstat", path
        )

    def lsetstat(self, path: bytes, change: AttributeChange) -> Reply[None]:
        if not self.capabilities.lsetstat:
            return Reply.failed(UnsupportedError("no lsetstat"))
        self._check_pairs(change)
        return self._on_path(lambda: self._change(self.tree.find(path), change), "lsetstat", path)

    def fsetstat(self, handle: RemoteHandle, change: AttributeChange) -> Reply[None]:
        self._check_pairs(change)

        def work(known: _Handle) -> None:
            if change.size is not None and OpenMode.WRITE not in known.mode:
                raise fail(errno.EINVAL)
            self._change(known.node, change)

        return self._on_handle(work, "fsetstat", handle)

    @staticmethod
    def _check_pairs(change: AttributeChange) -> None:
        """The wire has no room for half a pair."""
        if (change.uid is None) != (change.gid is None):
            raise ValueError("owner and group travel together")
        if (change.atime is None) != (change.mtime is None):
            raise ValueError("the two times travel together")

    def _change(self, node: Node, change: AttributeChange) -> None:
        if change.size is not None:
            self.tree.truncate(node, change.size)
        if change.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | change.mode & 0o7777
        if change.atime is not None and change.mtime is not None:
            node.atime, node.mtime = change.atime, change.mtime
        if change.uid is not None and change.gid is not None:
            node.uid, node.gid = change.uid, change.gid

    def statvfs(self, path: bytes) -> Reply[FilesystemStatistics]:
        if not self.capabilities.statvfs:
            return Reply.failed(UnsupportedError("no statvfs"))

        def work() -> FilesystemStatistics:
            self.tree.find(path, True)
            return self.statistics

        return self._on_path(work, "statvfs", path)

    # --- files ------------------------------------------------------------------------------

    def open(self, path: bytes, mode: OpenMode, permissions: int = 0o666) -> Reply[RemoteHandle]:
        def work() -> RemoteHandle:
            if OpenMode.CREATE in mode:
                node = self.tree.create(path, permissions, OpenMode.EXCLUSIVE in mode)
            else:
                node = self.tree.find(path, True)
            if node.is_directory and OpenMode.WRITE in mode:
                raise fail(errno.EISDIR)
            if self.refuse_unwritable and OpenMode.WRITE in mode and not node.mode & stat.S_IWUSR:
                raise fail(errno.EACCES)
            if OpenMode.TRUNCATE in mode:
                self.tree.truncate(node, 0)
            return self._new_handle(_Handle(path, node, mode))

        flags = "|".join(flag.name or "" for flag in mode)
        return self._request(
            work, "open", os.fsdecode(path), flags, unless_wanted=self._close_unwanted
        )

    def _new_handle(self, handle: _Handle) -> RemoteHandle:
        token = b"%08d" % self._next_token
        self._next_token += 1
        self._handles[token] = handle
        self.most_handles = max(self.most_handles, len(self._handles))
        return RemoteHandle(token, self._generation)

    def _close_unwanted(self, handle: RemoteHandle) -> None:
        del self._handles[handle.token]

    def close(self, handle: RemoteHandle, *, lazily: bool = False) -> Reply[None]:
        def work(_: _Handle) -> None:
            del self._handles[handle.token]

        self.closed_lazily.append(lazily)
        return self._on_handle(work, "close", handle)

    def read(self, handle: RemoteHandle, offset: int, length: int) -> Reply[bytes]:
        if not 0 < length <= self.capabilities.max_read:
            raise AssertionError(f"a READ of {length} bytes")

        def work(known: _Handle) -> bytes:
            if known.node.is_directory:
                raise fail(errno.EISDIR)
            if OpenMode.READ not in known.mode:
                raise fail(errno.EBADF)
            most = length if self.short_reads is None else min(length, self.short_reads)
            end = min(offset + most, self.ends.get(known.path, 1 << 63))
            return bytes(known.node.data[offset:end])

        return self._on_handle(work, "read", handle, offset, length)

    def write(
        self, handle: RemoteHandle, offset: int, data: bytes | bytearray | memoryview
    ) -> Reply[None]:
        if not 0 < len(data) <= self.capabilities.max_write:
            raise AssertionError(f"a WRITE of {len(data)} bytes")
        copy = bytes(data)

        def work(known: _Handle) -> None:
            if OpenMode.WRITE not in known.mode:
                raise fail(errno.EBADF)
            self.tree.write(known.node, offset, copy)

        return self._on_handle(work, "write", handle, offset, len(copy))

    def fsync(self, handle: RemoteHandle) -> Reply[None]:
        if not self.capabilities.fsync:
            return Reply.failed(UnsupportedError("no fsync"))
        return self._on_handle(lambda _: None, "fsync", handle)

    # --- copying ------------------------------------------------------------------------------

    def copy_data(
        self,
        source: RemoteHandle,
        offset: int,
        length: int,
        target: RemoteHandle,
        target_offset: int,
    ) -> Reply[None]:
        if not self.capabilities.copy_data:
            return Reply.failed(UnsupportedError("no copy-data"))
        if source.generation != self._generation:
            return Reply.failed(StaleHandleError())
        reading = self._handles.get(source.token)

        def work(writing: _Handle) -> None:
            if reading is None or reading.node is writing.node:
                raise fail(errno.EIO)
            self._copy(reading.node, offset, length, writing.node, target_offset)

        return self._on_handle(work, "copy_data", target, offset, length, target_offset)

    def _copy(
        self, source: Node, offset: int, length: int, target: Node, target_offset: int
    ) -> None:
        """As sftp-server does (process_extended_copy_data): in pieces, and with no word of what
        went wrong with the last one."""
        for at in range(0, length, COPIED_AT_ONCE):
            size = min(COPIED_AT_ONCE, length - at)
            is_last = at + size == length
            data = bytes(source.data[offset + at : offset + at + size])
            if not data and not is_last:
                raise RemoteStatusError(FX_EOF)
            if target_offset + at + len(data) > self.room:
                if is_last:
                    return
                raise fail(errno.ENOSPC)
            if data:
                self.tree.write(target, target_offset + at, data)

    # --- directories and names ----------------------------------------------------------------

    def opendir(self, path: bytes) -> Reply[RemoteHandle]:
        def work() -> RemoteHandle:
            node = self.tree.find(path, True)
            if not node.is_directory:
                raise fail(errno.ENOTDIR)
            handle = _Handle(path, node, OpenMode.READ)
            dots = [DirectoryEntry(name, attributes_of(node)) for name in (b".", b"..")]
            found = [DirectoryEntry(n, attributes_of(c)) for n, c in node.children.items()]
            handle.listing = dots + self.strange_entries + found
            return self._new_handle(handle)

        return self._request(work, "opendir", os.fsdecode(path), unless_wanted=self._close_unwanted)

    def readdir(self, handle: RemoteHandle) -> Reply[list[DirectoryEntry] | None]:
        def work(known: _Handle) -> list[DirectoryEntry] | None:
            if self.invented is not None:
                known.replies += 1
                return self.invented(known.path, known.replies - 1)
            entries = known.listing[known.listed : known.listed + self.batch]
            known.listed += len(entries)
            return entries or None

        return self._on_handle(work, "readdir", handle)

    def readlink(self, path: bytes) -> Reply[bytes]:
        def work() -> bytes:
            node = self.tree.find(path)
            if not node.is_symlink:
                raise fail(errno.EINVAL)
            return node.target

        return self._on_path(work, "readlink", path)

    def realpath(self, path: bytes) -> Reply[bytes]:
        def work() -> bytes:
            if path not in self.realpaths:
                raise fail(errno.ENOENT)
            return self.realpaths[path]

        return self._request(work, "realpath", os.fsdecode(path))

    def symlink(self, target: bytes, path: bytes) -> Reply[None]:
        def work() -> None:
            self.tree.symlink(target, path)

        return self._on_path(work, "symlink", path)

    def link(self, existing: bytes, path: bytes) -> Reply[None]:
        if not self.capabilities.hardlink:
            return Reply.failed(UnsupportedError("no hardlink"))
        return self._on_path(lambda: self.tree.link(existing, path), "link", existing, path)

    def mkdir(self, path: bytes, permissions: int) -> Reply[None]:
        def work() -> None:
            self.tree.mkdir(path, permissions)

        return self._on_path(work, "mkdir", path)

    def rmdir(self, path: bytes) -> Reply[None]:
        return self._on_path(lambda: self.tree.rmdir(path), "rmdir", path)

    def remove(self, path: bytes) -> Reply[None]:
        return self._on_path(lambda: self.tree.remove(path), "remove", path)

    def rename(self, old: bytes, new: bytes) -> Reply[None]:
        def work() -> None:
            self.tree.find(old)
            if self.tree.exists(new):
                raise fail(errno.EEXIST)
            self.tree.rename(old, new)

        return self._on_path(work, "rename", old, new)

    def posix_rename(self, old: bytes, new: bytes) -> Reply[None]:
        if not self.capabilities.posix_rename:
            return Reply.failed(UnsupportedError("no posix-rename"))
        return self._on_path(lambda: self.tree.rename(old, new), "posix_rename", old, new)
