"""Opening files again on a new session, by the path that they have now.

Never with CREATE, TRUNC or EXCL. SFTP (protocol 3) knows no inode, so whether it still is the same
file can only be told from its type and, where data of ours is under way, from its size
(`reopened`). What is not becomes stale, for good: ESTALE for whoever uses that handle, and one
line in the log that names the file. Stateless; called by `Calls.resume` only.
"""

from __future__ import annotations

import errno
import logging
import stat
from typing import TYPE_CHECKING, Final, TypeAlias

from pysshfs.errors import ConnectionLostError, FilesystemError, RemoteStatusError
from pysshfs.vfs.repeat import open_own
from pysshfs.vfs.sanity import checked_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysshfs.remotefs import Attributes, RemoteFS, RemoteHandle
    from pysshfs.reply import Reply
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.tree import Tree

log = logging.getLogger(__name__)

# Raises a `FilesystemError` that says why, if it is another file.
Check: TypeAlias = "Callable[[Inode, Attributes], None]"
_AT_ONCE: Final = 64  # how many files are on their way together


class _Attempt:
    """One file that is being opened again."""

    def __init__(self, file: OpenFileHandle, remote: RemoteFS) -> None:
        self.file = file
        self._remote = remote
        path = file.path()
        # OPEN follows a symlink that was put in the file's place: LSTAT shows it.
        self._looking = remote.lstat(path)
        self._opening = remote.open(path, file.mode)
        self.handle: RemoteHandle | None = None
        self._fstat: Reply[Attributes] | None = None

    async def opened(self) -> None:
        try:
            self.handle = await self._opening
        except RemoteStatusError as error:
            if error.errno != errno.EACCES or not self.file.is_own:
                raise
            mode = (await self._looking).mode
            if mode is None or not stat.S_ISREG(mode):
                raise
            self.handle = await open_own(
                self._remote, self.file.path(), self.file.mode, stat.S_IMODE(mode)
            )
        self._fstat = self._remote.fstat(self.handle)

    async def finish(self, check: Check) -> None:
        assert self._fstat is not None and self.handle is not None
        there, found = await self._looking, await self._fstat
        for mode in (there.mode, found.mode):
            if mode is None or not stat.S_ISREG(mode):
                raise FilesystemError(errno.ESTALE, "something else has its name")
        if self.file.inode is not None:
            check(self.file.inode, found)
        if self.file.closed:
            self._remote.close(self.handle)
        else:
            self.file.remote = self.handle


async def reopen_all(files: Sequence[OpenFileHandle], remote: RemoteFS, check: Check) -> None:
    """Open each file that has no handle on this session. Those that cannot be are marked stale.

    Raises `ConnectionLostError` when this session is lost, too.
    """
    wanted = [file for file in files if file.remote is None and file.stale is None]
    for first in range(0, len(wanted), _AT_ONCE):
        attempts = [_begin(file, remote) for file in wanted[first : first + _AT_ONCE]]
        under_way = [attempt for attempt in attempts if attempt is not None]
        for attempt in under_way:
            try:
                await attempt.opened()
            except ConnectionLostError:
                raise
            except FilesystemError as error:
                _lost(attempt.file, error)
        for attempt in under_way:
            if attempt.handle is None:
                continue
            try:
                await attempt.finish(check)
            except ConnectionLostError:
                raise
            except FilesystemError as error:
                remote.close(attempt.handle)
                _lost(attempt.file, error)


def _begin(file: OpenFileHandle, remote: RemoteFS) -> _Attempt | None:
    try:
        return _Attempt(file, remote)
    except FilesystemError as error:  # it has no name any more
        _lost(file, error)
        return None


def _lost(file: OpenFileHandle, error: FilesystemError) -> None:
    name = file.opened_path if file.inode is None else file.inode.name
    log.error(
        "%r was open and cannot be opened again after reconnecting: %s; the programs that have it "
        "open get ESTALE and must open it anew",
        name,
        error,
    )
    file.stale = FilesystemError(errno.ESTALE, str(error))


def reopened(tree: Tree, inode: Inode, found: Attributes) -> None:
    """A file of this inode was opened again on a new session. Raises ESTALE when it cannot be
    the same one; when it was changed meanwhile, what was read of it is dropped."""
    inode.expected = None  # who knows what others did meanwhile
    known = checked_attributes(found)
    if inode.kind not in (None, stat.S_IFMT(known.mode)):
        raise FilesystemError(errno.ESTALE, "something else has its name")
    writeback = inode.writeback
    if writeback is not None and not writeback.is_clean:
        if not inode.resizing and not writeback.explains(known.size):
            raise FilesystemError(
                errno.ESTALE, f"what was written does not explain its size of {known.size}"
            )
        return
    if writeback is not None and writeback.unsynced and known.size < inode.known_size:
        log.warning(
            "%r has %d bytes, the server had acknowledged %d: it lost some, or another client"
            " cut the file; what is to survive a crash of the server needs fsync",
            inode.name,
            known.size,
            inode.known_size,
        )
    if inode.read_version not in (None, (known.mtime, known.size)):
        tree.changed(inode)
        inode.found(known)
        tree.kernel.inode_changed(inode.number)
