"""The order in which a program reads its way through directories, as far as it can be told.

In a directory it goes by the listing, by inode numbers as coreutils sort, or by name as shells and
git do (`Way`, `Order`). From one directory to the next it goes depth first, in the same order
(`Route`). Both are guesses that are corrected by what the program does; `vfs/prefetch.py` acts on
them. Only remembered listings are consulted, and nothing waits here.
"""

from __future__ import annotations

import enum
import itertools
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysshfs.vfs.cache import CachedListing
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.listing import ListedEntry
    from pysshfs.vfs.tree import Tree

_TRUSTED: Final = 2  # steps in the same order
_GAP: Final = 8  # how many files a program may leave out, as grep --include does
_LONGEST: Final = 20_000  # names; an order costs memory for each
_MOST_DIRECTORIES: Final = 256


class Way(enum.IntEnum):
    """By what the entries of a directory are ordered."""

    LISTING = 0
    NUMBER = 1
    NAME = 2


class Order:
    """Files in an order in which a program may read them, and how far it has come."""

    def __init__(self, directory: Inode, entries: Sequence[ListedEntry]) -> None:
        self.directory = directory
        self._entries = entries
        self._places = {entry.name: place for place, entry in enumerate(entries)}
        self._next = 0  # the first that was neither opened nor taken
        self._last = -1
        self.steps = 0  # in a row
        self.exact = 0  # of these, to the very next one

    def opened(self, name: bytes) -> None:
        """A program opens this file."""
        place = self._places.get(name)
        if place is None:
            return
        is_step = 0 <= self._last < place <= self._last + 1 + _GAP
        self.steps = self.steps + 1 if is_step else 0
        self.exact = self.exact + (place == self._last + 1) if is_step else 0
        self._last = place
        self._next = max(self._next, place + 1)

    @property
    def is_done(self) -> bool:
        return self._next >= len(self._entries)

    def take(self) -> ListedEntry:
        """The next file that nobody has come to yet."""
        self._next += 1
        return self._entries[self._next - 1]


class Directory:
    """What a program may do with a directory: its files and what lies below, in each order."""

    def __init__(self, tree: Tree, inode: Inode, listing: CachedListing) -> None:
        known = [entry for entry in listing.entries if entry.attributes is not None]
        self.inode = inode
        self._tree = tree
        self._files = [entry for entry in known if _kind(entry) == stat.S_IFREG]
        self._subdirectories = [entry for entry in known if _kind(entry) == stat.S_IFDIR]
        # Made when they are asked for: most directories of a walk need one of each.
        self._orders: dict[Way, Order] = {}
        self._below: dict[Way, Sequence[ListedEntry]] = {}
        self._places: dict[bytes, int] | None = None

    def _ordered(self, entries: list[ListedEntry], way: Way) -> Sequence[ListedEntry]:
        match way:
            case Way.LISTING:
                return entries
            case Way.NUMBER:
                numbers, inode = self._tree.inodes, self.inode
                return sorted(entries, key=lambda entry: numbers.number_for(inode, entry.name))
            case Way.NAME:
                return sorted(entries, key=lambda entry: entry.name)

    def opened(self, name: bytes, likely: Way) -> tuple[Order, Way] | None:
        """The order that is kept to, once it shows. In a short directory several may: the one that
        leaves out least, and of equal ones the `likely` one."""
        for way in Way:
            self.files(way).opened(name)
        kept = [way for way in Way if self._orders[way].steps >= _TRUSTED]
        if not kept:
            return None
        way = max(kept, key=lambda way: (self._orders[way].exact, way is likely, -way))
        return self._orders[way], way

    def files(self, way: Way) -> Order:
        order = self._orders.get(way)
        if order is None:
            order = self._orders[way] = Order(self.inode, self._ordered(self._files, way))
        return order

    def below(self, way: Way) -> Sequence[ListedEntry]:
        below = self._below.get(way)
        if below is None:
            below = self._below[way] = self._ordered(self._subdirectories, way)
        return below

    def after(self, name: bytes, way: Way) -> int:
        """Where in `below` the program is that has come to this directory there."""
        if self._places is None:
            self._places = {entry.name: place for place, entry in enumerate(self.below(way))}
        return self._places.get(name, -1) + 1


def _kind(entry: ListedEntry) -> int:
    return stat.S_IFMT(entry.attributes.mode) if entry.attributes is not None else 0


class Directories:
    """The directories that programs have come to lately, or may come to."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._known: LRUCache[int, Directory] = LRUCache(_MOST_DIRECTORIES)

    def get(self, inode: Inode) -> Directory | None:
        """None where no listing is remembered, or one that is too long."""
        known = self._known.get(inode.number)
        if known is not None and known.inode is inode:
            return known
        listing = self._tree.cache.listing(inode.number)
        if listing is None or len(listing.entries) > _LONGEST:
            return None
        known = self._known[inode.number] = Directory(self._tree, inode, listing)
        return known

    def begin(self, inode: Inode) -> None:
        """A program begins to read this directory: whatever was read in it before is read again."""
        self._known.pop(inode.number, None)


class _Level(NamedTuple):
    below: Sequence[ListedEntry]
    inode: Inode


class Route:
    """Depth first from where the program is. The inodes that it leads through are held."""

    def __init__(self, tree: Tree, directories: Directories) -> None:
        self._tree = tree
        self._directories = directories
        self._levels: list[_Level] = []
        self._at: list[int] = []
        self._way = Way.LISTING

    def begin(self, inode: Inode, way: Way) -> None:
        """The program is in this directory."""
        self.clear()
        self._way = way
        path = list(inode.ancestors())[::-1]
        for above, child in itertools.pairwise(path):
            directory = self._directories.get(above)
            if directory is not None:
                self._push(directory, directory.after(child.name, way))
        directory = self._directories.get(inode)
        if directory is not None:
            self._push(directory, 0)

    def _push(self, directory: Directory, at: int) -> None:
        self._tree.inodes.hold(directory.inode)
        self._levels.append(_Level(directory.below(self._way), directory.inode))
        self._at.append(at)

    def _pop(self) -> None:
        self._at.pop()
        self._tree.inodes.let_go(self._levels.pop().inode)

    def next(self) -> Directory | None:
        """The directory that comes next; None at the end, or where it is not listed yet: the same
        one is tried again then."""
        inodes = self._tree.inodes
        while self._levels:
            level, at = self._levels[-1], self._at[-1]
            if at >= len(level.below) or not level.inode.is_linked:
                self._pop()
                continue
            inode = inodes.intern(level.inode, level.below[at].name)
            inodes.hold(inode)
            directory = self._directories.get(inode)
            if directory is not None:
                self._at[-1] += 1
                self._push(directory, 0)
            inodes.let_go(inode)
            return directory
        return None

    def clear(self) -> None:
        while self._levels:
            self._pop()
