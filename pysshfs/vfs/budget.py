"""How much memory the buffers and caches of one mount may take, and how it is divided.

`Budget` is the one place where `cache_size` is divided into shares. Whoever keeps bytes takes them
from a `Share` and gives them back; caches that are bounded by themselves (`vfs/cache.py`) take
their bound from one. What is not in here: the inodes that the kernel refers to, of which it decides
itself, and what asyncssh and the kernel have on its way.

Plain synchronous code; the shares are touched by whoever keeps something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pysshfs.vfs.config import VfsConfig

# What an entry of the metadata cache takes in all its tables, and a name of a cached listing with
# the index by which it is found (bytes, measured).
ENTRY_BYTES: Final = 1500
NAME_BYTES: Final = 210


class Share:
    """Bytes that one kind of buffer or cache may hold, and holds; and, where somebody counts it,
    how often what a program asked for was there."""

    __slots__ = ("held", "hits", "misses", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self.hits = self.misses = 0

    def has_room(self, count: int) -> bool:
        return self.held + count <= self.most

    def take(self, count: int) -> None:
        """Also past the bound: what a program waits for is kept whatever else is."""
        self.held += count

    def give_back(self, count: int) -> None:
        self.held -= count


class Budget:
    """The shares. What was written and is not acknowledged comes first, as it is not to be had
    again; it has at most half."""

    def __init__(self, config: VfsConfig) -> None:
        total = config.cache_size
        self.written = Share(min(config.write_buffer, total // 2))
        rest = total - self.written.most
        self.metadata = Share(rest // 8)
        self.listings = Share(rest // 4)
        # Blocks of open files, and of those that are opened ahead of a program (`vfs/prefetch.py`).
        self.read_ahead = Share(min(config.total_readahead, rest * 5 // 8))

    @property
    def shares(self) -> dict[str, Share]:
        return {
            "written": self.written,
            "metadata": self.metadata,
            "listings": self.listings,
            "read_ahead": self.read_ahead,
        }

    @property
    def held(self) -> int:
        return sum(share.held for share in self.shares.values())
