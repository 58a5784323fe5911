"""What the log says of single directories, each thing once: a program may ask again and again.

Owned by the `Tree`; synchronous.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

from pysshfs.errors import FilesystemError

if TYPE_CHECKING:
    from pysshfs.vfs.inodes import Inode

log = logging.getLogger(__name__)

# Directories and things said of them that are remembered; of more, one may be said again.
_MOST: Final = 4096


class Notices:
    """What was said already."""

    def __init__(self) -> None:
        self._said: LRUCache[tuple[int, str], bool] = LRUCache(_MOST)

    def say(self, directory: Inode, topic: str, what: str) -> None:
        """Log `what` of this directory as a warning, unless something of this topic was."""
        key = directory.number, topic
        if key not in self._said:
            self._said[key] = True
            log.warning("directory %s: %s", _shown(directory), what)


def _shown(directory: Inode) -> str:
    try:
        return repr(directory.path() or b"/")
    except FilesystemError:  # it has no name any more
        return repr(directory.name)
