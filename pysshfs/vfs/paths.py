"""Paths as they may be sent: no longer, and no deeper, than is allowed.

A server can invent a directory in every directory; what is deeper than `max_depth` is neither
looked up nor listed, so that nobody who walks goes on without end. Pure but for the log.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pysshfs.errors import FilesystemError
from pysshfs.vfs.sanity import PATH_MAX, is_too_deep

if TYPE_CHECKING:
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.notices import Notices


class Paths:
    """Of one mount. Relative to the served directory, as the inodes' own; that none is too long
    together with it, `remote/client.py` sees to."""

    def __init__(self, max_depth: int, notices: Notices) -> None:
        self._max_depth = max_depth
        self._notices = notices

    def child(self, parent: Inode, name: bytes) -> bytes:
        """Raises ESTALE below a directory that is gone, ENAMETOOLONG past 4,096 bytes and for what
        is deeper than `max_depth`."""
        directory = parent.path()
        path = directory + b"/" + name if directory else name
        if len(path) >= PATH_MAX:
            raise FilesystemError(errno.ENAMETOOLONG)
        if is_too_deep(path, self._max_depth):
            raise self._too_deep(parent)
        return path

    def to_list(self, directory: Inode) -> bytes:
        """Raises ESTALE for a directory that is gone, ENAMETOOLONG where every name in it would be
        too deep."""
        path = directory.path()
        if path and is_too_deep(path + b"/", self._max_depth):
            raise self._too_deep(directory)
        return path

    def may_list_below(self, directory: Inode) -> bool:
        """Whether the directories in this one are not too deep to be listed."""
        try:
            path = directory.path()
        except FilesystemError:
            return False
        return not is_too_deep(path + b"//" if path else b"/", self._max_depth)

    def _too_deep(self, directory: Inode) -> FilesystemError:
        most = self._max_depth
        what = f"what is in it is deeper than max_depth={most}, and refused (ENAMETOOLONG)"
        self._notices.say(directory, "depth", what)
        return FilesystemError(errno.ENAMETOOLONG, f"deeper than max_depth={most}")
