"""Renames that are under way: until they end, the paths below them are not certain.

Owned by the `Tree`. Suspends in `has_moved` only.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pysshfs.vfs.inodes import Inode


class Moves:
    """The inodes that are being moved."""

    def __init__(self) -> None:
        self._under_way: list[Inode] = []
        self._ended = trio.Event()

    def begin(self, inode: Inode | None) -> None:
        """From here on until `end` the path of this inode is not certain."""
        if inode is not None:
            self._under_way.append(inode)

    def end(self, inode: Inode | None) -> None:
        if inode is not None:
            self._under_way.remove(inode)
            self._ended.set()
            self._ended = trio.Event()

    @contextmanager
    def moving(self, inode: Inode | None) -> Iterator[None]:
        """While a rename of this inode is under way."""
        self.begin(inode)
        try:
            yield
        finally:
            self.end(inode)

    async def has_moved(self, inode: Inode, path: bytes) -> bool:
        """Whether what was not found under `path` is, or may be, somewhere else by now. Waits for
        the renames that decide it."""
        while any(above in self._under_way for above in inode.ancestors()):
            await self._ended.wait()
        return inode.is_linked and inode.path() != path
