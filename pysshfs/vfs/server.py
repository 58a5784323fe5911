"""The server as the filesystem uses it: the calls of `RemoteFS`, across losses of the connection.

Each call is put on `Calls` (`vfs/calls.py`), which sends it on the session that is up, or the next
one, until it is answered. Nothing here suspends, and there is no state of its own.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any, TypeVar

from pysshfs.errors import FilesystemError, StaleHandleError
from pysshfs.remotefs import OpenMode
from pysshfs.reply import Reply
from pysshfs.vfs.call import Call, Change, OpenFileHandle, Opening, Transfer, close_on
from pysshfs.vfs.calls import Calls
from pysshfs.vfs.following import following

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.remotefs import (
        AttributeChange,
        Attributes,
        DirectoryEntry,
        FilesystemStatistics,
        RemoteFS,
        RemoteHandle,
    )
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.repeat import Doubt, Making, Moving, Removing, Truncating

T = TypeVar("T")


class Server(Calls):
    """What `RemoteFS` offers, on the session that is up or the next one. `follows`: links are seen
    as what they lead to (`vfs/following.py`)."""

    def __init__(self, remote: RemoteFS, *, follows: bool = False) -> None:
        self._follows = follows
        super().__init__(self._shown(remote))

    async def resume(self, remote: RemoteFS) -> None:
        await super().resume(self._shown(remote))

    def _shown(self, remote: RemoteFS) -> RemoteFS:
        return following(remote) if self._follows else remote

    def _ask(
        self,
        method: str,
        send: Callable[[RemoteFS], Reply[T]],
        handle: OpenFileHandle | None = None,
    ) -> Reply[T]:
        """Something that only asks."""
        return self.start(Call(self, method, send, handle))

    def _change(
        self,
        method: str,
        send: Callable[[RemoteFS], Reply[T]],
        words: tuple[object, ...],
        *,
        handle: OpenFileHandle | None = None,
        doubt: Doubt | None = None,
        late: Callable[[], None] | None = None,
        answered: Callable[[Reply[T]], None] | None = None,
        ahead: bool = False,
    ) -> Reply[T]:
        """`ahead`: programs are told that it is done before it is, so nobody takes it back."""
        call = Change(self, method, send, words, handle, doubt, late)
        if not ahead:
            return self.start_change(call, answered)
        reply = self._behind(call)
        if answered is not None:
            reply.add_callback(answered)
        return reply

    # --- attributes -------------------------------------------------------------------------

    def lstat(self, path: bytes, *, is_unhurried: bool = False) -> Reply[Attributes]:
        call = Call(self, "lstat", lambda remote: remote.lstat(path))
        call.is_unhurried = is_unhurried
        return self.start(call)

    def fstat(self, handle: OpenFileHandle) -> Reply[Attributes]:
        return self._ask("fstat", lambda remote: remote.fstat(_on(handle)), handle)

    def statvfs(self, path: bytes) -> Reply[FilesystemStatistics]:
        return self._ask("statvfs", lambda remote: remote.statvfs(path))

    def readlink(self, path: bytes) -> Reply[bytes]:
        return self._ask("readlink", lambda remote: remote.readlink(path))

    def realpath(self, path: bytes) -> Reply[bytes]:
        return self._ask("realpath", lambda remote: remote.realpath(path))

    def setstat(
        self, path: bytes, change: AttributeChange, late: Callable[[], None] | None = None
    ) -> Reply[None]:
        """Follows a symlink."""
        return self._change(
            "setstat", lambda remote: remote.setstat(path, change), (path, change), late=late
        )

    def lsetstat(
        self, path: bytes, change: AttributeChange, late: Callable[[], None] | None = None
    ) -> Reply[None]:
        """Changes a symlink itself; `UnsupportedError` without the extension."""
        return self._change(
            "lsetstat", lambda remote: remote.lsetstat(path, change), (path, change), late=late
        )

    def fsetstat(
        self,
        handle: OpenFileHandle,
        change: AttributeChange,
        late: Callable[[], None] | None = None,
    ) -> Reply[None]:
        return self._change(
            "fsetstat",
            lambda remote: remote.fsetstat(_on(handle), change),
            (handle, change),
            handle=handle,
            late=late,
        )

    # What nobody waits for by itself is sent even by who is being cancelled.

    def setstat_behind(self, inode: Inode, change: AttributeChange) -> Reply[None]:
        """What was made under this inode's name, which may have been renamed by the time it is
        sent once more."""

        def send(remote: RemoteFS) -> Reply[None]:
            try:
                path = inode.path()
                is_link = inode.kind == stat.S_IFLNK
                return (remote.lsetstat if is_link else remote.setstat)(path, change)
            except FilesystemError as error:
                return Reply.failed(error)

        method = "lsetstat" if inode.kind == stat.S_IFLNK else "setstat"
        return self._behind(Change(self, method, send, (inode.number, change)))

    def fsetstat_behind(self, handle: OpenFileHandle, change: AttributeChange) -> Reply[None]:
        """Carried out after what was sent before, and awaited with it (`Writeback.follow`)."""

        def send(remote: RemoteFS) -> Reply[None]:
            return remote.fsetstat(_on(handle), change)

        return self._behind(Change(self, "fsetstat", send, (handle, change), handle))

    def _behind(self, call: Change) -> Reply[Any]:
        call.is_kept = call.is_unhurried = True
        return self.start(call)

    # --- files ------------------------------------------------------------------------------

    def open(self, path: bytes, mode: OpenMode) -> Reply[OpenFileHandle]:
        """Open what exists, without truncating it."""
        return self.start(Opening(self, lambda remote: remote.open(path, mode), path, mode))

    def open_truncating(
        self,
        path: bytes,
        mode: OpenMode,
        doubt: Truncating,
        late: Callable[[], None] | None = None,
    ) -> Reply[OpenFileHandle]:
        return self._open_changing("open, truncating", path, mode, 0o666, doubt, late)

    def open_exclusively(
        self,
        path: bytes,
        mode: OpenMode,
        permissions: int,
        doubt: Making,
        late: Callable[[], None] | None = None,
    ) -> Reply[OpenFileHandle]:
        """Create; EEXIST, in whatever words the server has for it, when the name is taken."""
        mode |= OpenMode.CREATE | OpenMode.EXCLUSIVE
        doubt.permissions, doubt.open_mode = permissions, mode
        return self._open_changing("open, exclusive", path, mode, permissions, doubt, late)

    def open_ahead(
        self, path: bytes, mode: OpenMode, permissions: int, doubt: Making
    ) -> tuple[OpenFileHandle, Reply[OpenFileHandle]]:
        """As `open_exclusively`, with a handle that can be used at once: what is called on it waits
        until the file is open."""
        mode |= OpenMode.CREATE | OpenMode.EXCLUSIVE
        doubt.permissions, doubt.open_mode = permissions, mode

        def send(remote: RemoteFS) -> Reply[RemoteHandle]:
            return remote.open(path, mode, permissions)

        call = Change(self, "open, exclusive", send, (path, mode, permissions), doubt=doubt)
        call.opens = mode, path
        call.fills = OpenFileHandle(None, mode, path)
        return call.fills, self._behind(call)

    def _open_changing(
        self,
        method: str,
        path: bytes,
        mode: OpenMode,
        permissions: int,
        doubt: Doubt,
        late: Callable[[], None] | None,
    ) -> Reply[OpenFileHandle]:
        call = Change(
            self,
            method,
            lambda remote: remote.open(path, mode, permissions),
            (path, mode, permissions),
            doubt=doubt,
            late=late,
        )
        call.opens = mode, path
        return self.start_change(call)

    def close(self, handle: OpenFileHandle) -> Reply[None]:
        """Nobody waits for this; without a session there is nothing to close."""
        handle.closed = True
        self._files.pop(handle, None)
        self.lanes.closed(handle)
        self.close_twin(handle)
        if handle.remote is None:
            return Reply.of(None)
        if self._remote is None:
            self._to_close.append(handle.remote)  # just opened, on a session that is not up yet
            return Reply.of(None)
        return close_on(self._remote, handle.remote, lazily=True)

    def close_twin(self, handle: OpenFileHandle) -> None:
        twin, handle.twin = handle.twin, None
        if twin is not None:
            close_on(*twin)

    def read(self, handle: OpenFileHandle, offset: int, length: int) -> Reply[bytes]:
        def send(remote: RemoteFS, opened: RemoteHandle) -> Reply[bytes]:
            # This session may give less at once than the one it was made for.
            return remote.read(opened, offset, min(length, remote.capabilities.max_read))

        return self.start(Transfer(self, "read", handle, offset, length, send))

    def write(self, handle: OpenFileHandle, offset: int, data: bytes | bytearray) -> Reply[None]:
        """All of `data`, which must not change until it is acknowledged."""

        def send(remote: RemoteFS, opened: RemoteHandle) -> Reply[None]:
            return _write(remote, opened, offset, data)

        return self.start(Transfer(self, "write", handle, offset, len(data), send))

    def fsync(self, handle: OpenFileHandle) -> Reply[None]:
        return self._change(
            "fsync", lambda remote: remote.fsync(_on(handle)), (handle,), handle=handle
        )

    # --- copying ------------------------------------------------------------------------------

    def copy(
        self,
        send: Callable[[], Reply[None]],
        target: OpenFileHandle,
        words: tuple[object, ...],
        late: Callable[[], None],
        answered: Callable[[Reply[None]], None],
    ) -> Reply[None]:
        """A copy to `target`, which `send` asks another session for. `StaleHandleError` when it
        is to be repeated on the next one."""
        return self._change(
            "copy", lambda _: send(), words, handle=target, late=late, answered=answered
        )

    # --- directories and names ----------------------------------------------------------------

    def opendir(self, path: bytes) -> Reply[RemoteHandle]:
        return self._ask("opendir", lambda remote: remote.opendir(path))

    def readdir(self, handle: RemoteHandle) -> Reply[list[DirectoryEntry] | None]:
        """`StaleHandleError` when the directory was opened on an earlier session."""
        if self._remote is None:
            return Reply.failed(StaleHandleError())
        return self._ask("readdir", lambda remote: remote.readdir(handle))

    def closedir(self, handle: RemoteHandle) -> Reply[None]:
        if self._remote is None:
            return Reply.of(None)
        return close_on(self._remote, handle, lazily=True)

    def symlink(
        self,
        target: bytes,
        path: bytes,
        doubt: Making,
        late: Callable[[], None],
        *,
        ahead: bool = False,
    ) -> Reply[None]:
        doubt.target = target
        return self._change(
            "symlink",
            lambda remote: remote.symlink(target, path),
            (path, target),
            doubt=doubt,
            late=late,
            ahead=ahead,
        )

    def link(
        self,
        existing: bytes,
        path: bytes,
        doubt: Making,
        late: Callable[[], None],
        *,
        ahead: bool = False,
    ) -> Reply[None]:
        doubt.source = existing
        return self._change(
            "link",
            lambda remote: remote.link(existing, path),
            (path, existing),
            doubt=doubt,
            late=late,
            ahead=ahead,
        )

    def mkdir(
        self,
        path: bytes,
        permissions: int,
        doubt: Making,
        late: Callable[[], None],
        *,
        ahead: bool = False,
    ) -> Reply[None]:
        doubt.permissions = permissions
        return self._change(
            "mkdir",
            lambda remote: remote.mkdir(path, permissions),
            (path, permissions),
            doubt=doubt,
            late=late,
            ahead=ahead,
        )

    def rmdir(
        self,
        path: bytes,
        doubt: Removing,
        late: Callable[[], None],
        answered: Callable[[Reply[None]], None] | None = None,
        *,
        ahead: bool = False,
    ) -> Reply[None]:
        return self._change(
            "rmdir",
            lambda remote: remote.rmdir(path),
            (path,),
            doubt=doubt,
            late=late,
            answered=answered,
            ahead=ahead,
        )

    def remove(
        self,
        path: bytes,
        doubt: Removing,
        late: Callable[[], None] | None = None,
        answered: Callable[[Reply[None]], None] | None = None,
        *,
        ahead: bool = False,
    ) -> Reply[None]:
        return self._change(
            "remove",
            lambda remote: remote.remove(path),
            (path,),
            doubt=doubt,
            late=late,
            answered=answered,
            ahead=ahead,
        )

    def rename(
        self,
        old: bytes,
        new: bytes,
        doubt: Moving,
        late: Callable[[], None] | None = None,
        answered: Callable[[Reply[None]], None] | None = None,
        *,
        ahead: bool = False,
    ) -> Reply[None]:
        """Fails when `new` exists (protocol 3's own RENAME)."""
        return self._change(
            "rename",
            lambda remote: remote.rename(old, new),
            (old, new),
            doubt=doubt,
            late=late,
            answered=answered,
            ahead=ahead,
        )

    def rename_back(self, old: bytes, new: bytes, doubt: Moving) -> Reply[None]:
        """Plain RENAME, sent even by who is being cancelled: it undoes a step of its own."""
        return self.start(
            Change(self, "rename", lambda remote: remote.rename(old, new), (old, new), doubt=doubt)
        )

    def posix_rename(
        self,
        old: bytes,
        new: bytes,
        doubt: Moving,
        late: Callable[[], None] | None = None,
        answered: Callable[[Reply[None]], None] | None = None,
        *,
        ahead: bool = False,
    ) -> Reply[None]:
        """Replaces `new`; `UnsupportedError` without the extension."""
        return self._change(
            "posix_rename",
            lambda remote: remote.posix_rename(old, new),
            (old, new),
            doubt=doubt,
            late=late,
            answered=answered,
            ahead=ahead,
        )


def _on(handle: OpenFileHandle) -> RemoteHandle:
    """The handle on the session that is up: all that are not stale were opened again there."""
    assert handle.remote is not None
    return handle.remote


def _write(
    remote: RemoteFS, handle: RemoteHandle, offset: int, data: bytes | bytearray
) -> Reply[None]:
    """One WRITE; several when this session takes less at once than the one it was made for."""
    largest = remote.capabilities.max_write
    if len(data) <= largest:
        return remote.write(handle, offset, data)
    whole: Reply[None] = Reply()
    parts = [
        remote.write(handle, offset + at, memoryview(data)[at : at + largest])
        for at in range(0, len(data), largest)
    ]
    left = len(parts)

    def arrived(part: Reply[None]) -> None:
        nonlocal left
        left -= 1
        if part.error is not None:
            whole.set_error(part.error)
        elif not left:
            whole.set_result(None)

    for part in parts:
        part.add_callback(arrived)
    return whole
