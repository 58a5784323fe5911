"""What the kernel is told, and what it must be told to forget."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from pysshfs.vfs.sanity import FileAttributes


class Entry(NamedTuple):
    """An inode as the kernel is told of it; for how many seconds it may believe it."""

    number: int
    attributes: FileAttributes
    entry_timeout: float
    attribute_timeout: float


class KernelCache(Protocol):
    """What the kernel remembers, and must be told to forget. The calls return at once."""

    def entry_changed(self, parent: int, name: bytes) -> None:
        """What it believes of this name is out of date."""
        ...

    def inode_changed(self, number: int) -> None:
        """So are the attributes and cached pages of this inode."""
        ...


class NoKernel:
    """Until there is a mount."""

    def entry_changed(self, parent: int, name: bytes) -> None:
        pass

    def inode_changed(self, number: int) -> None:
        pass
