"""FAILURE, looked at: which errno did the server mean?

Protocol 3 has one code, FAILURE, for EEXIST, ENOTEMPTY, ENOSPC, EISDIR, EXDEV and much more.
Programs act on these, so after a FAILURE of a call for which it matters the server is asked one
cheap question more. Each answer is a guess about a moment that has passed, and says so.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

from pysshfs.errors import FX_FAILURE, FilesystemError, RemoteStatusError

if TYPE_CHECKING:
    from pysshfs.remotefs import Attributes
    from pysshfs.vfs.server import Server


def is_failure(error: BaseException | None) -> bool:
    return isinstance(error, RemoteStatusError) and error.code == FX_FAILURE


async def look(server: Server, path: bytes) -> Attributes | None:
    """What stands under `path`, None when nothing does or the server does not tell."""
    try:
        return await server.lstat(path)
    except RemoteStatusError:
        return None


async def exists(server: Server, path: bytes, error: FilesystemError) -> FilesystemError:
    """For mkdir, symlink, link, exclusive create and rename without replacing: what fails them
    most is that the name is taken."""
    if is_failure(error) and await look(server, path) is not None:
        return FilesystemError(errno.EEXIST)
    return await space(server, path, error)


async def linking(server: Server, path: bytes, error: FilesystemError) -> FilesystemError:
    """For link: the name is taken, or, likeliest otherwise, it lies on another filesystem of the
    server. Programs copy when they see EXDEV."""
    known = await exists(server, path, error)
    return FilesystemError(errno.EXDEV) if known is error and is_failure(error) else known


async def space(server: Server, path: bytes, error: FilesystemError) -> FilesystemError:
    """For calls that need room: a filesystem without a free block is full. Quotas cannot be told
    from other failures; they stay EIO."""
    if not is_failure(error) or not server.capabilities.statvfs:
        return error
    directory = path.rpartition(b"/")[0]
    try:
        statistics = await server.statvfs(directory)
    except FilesystemError:
        return error
    if statistics.blocks and not statistics.blocks_available:
        return FilesystemError(errno.ENOSPC)
    return error


async def removal(server: Server, path: bytes, error: FilesystemError) -> FilesystemError:
    """For rmdir: a directory with a name in it is not empty; a file is no directory."""
    if not is_failure(error):
        return error
    found = await look(server, path)
    if found is None or found.mode is None:
        return error
    if not stat.S_ISDIR(found.mode):
        return FilesystemError(errno.ENOTDIR)
    # rmdir of a directory that is neither missing nor another type fails for its contents, or
    # because it is in use (a mountpoint); the former is what `rm -r` and rmdir(1) expect.
    return FilesystemError(errno.ENOTEMPTY)


async def renaming(
    server: Server, old: bytes, new: bytes, error: FilesystemError
) -> FilesystemError:
    """For rename: the target is a directory with contents, of another type, or elsewhere."""
    if not is_failure(error):
        return error
    source, target = await look(server, old), await look(server, new)
    if source is None or source.mode is None:
        return FilesystemError(errno.ENOENT)
    if (new + b"/").startswith(old + b"/"):
        return FilesystemError(errno.EINVAL)  # into itself
    if target is None or target.mode is None:
        # mv and cp copy when they see EXDEV; another filesystem on the server is the likeliest
        # reason for a rename to a free name to fail.
        return FilesystemError(errno.EXDEV)
    if stat.S_ISDIR(target.mode) and not stat.S_ISDIR(source.mode):
        return FilesystemError(errno.EISDIR)
    if stat.S_ISDIR(source.mode) and not stat.S_ISDIR(target.mode):
        return FilesystemError(errno.ENOTDIR)
    if stat.S_ISDIR(target.mode):
        return FilesystemError(errno.ENOTEMPTY)
    return FilesystemError(errno.EXDEV)
