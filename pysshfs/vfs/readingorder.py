"""The order in which a program reads its way through directories, as far as it can be told.

In a directory it goes by the listing, by inode numbers as coreutils sort, or by name as shells and
git do (`Way`, `Order`), into each subdirectory where it comes to it, and then on in the one above
(`Route`). Both are guesses that are corrected by what the program does; `vfs/prefetch.py` acts on
them. Only remembered listings are consulted, and nothing waits here.
"""

from __future__ import annotations

import enum
import itertools
import stat
from typing import TYPE_CHECKING, Final

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
_MOST_PASSED: Final = 4096  # directories of a route


class Way(enum.IntEnum):
    """By what the entries of a directory are ordered."""

    LISTING = 0
    NUMBER = 1
    NAME = 2


class Order:
    """Files in an order in which a program may read them, and whether it does."""

    def __init__(self, entries: Sequence[ListedEntry]) -> None:
        files = (entry for entry in entries if _kind(entry) == stat.S_IFREG)
        self._places = {entry.name: place for place, entry in enumerate(files)}
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

    def is_kept(self, is_walk: bool) -> bool:
        """Whether it shows. Who walks a tree, and begins with the first file and the second of a
        directory, is believed at once."""
        is_beginning = self._last == 1 and self.exact == 1
        return self.steps >= _TRUSTED or (is_walk and is_beginning)


class Directory:
    """What a program may do with a directory: its files and subdirectories, in each order."""

    def __init__(self, tree: Tree, inode: Inode, listing: CachedListing) -> None:
        self.inode = inode
        self._tree = tree
        self._known = [
            entry for entry in listing.entries if _kind(entry) in (stat.S_IFREG, stat.S_IFDIR)
        ]
        # Made when they are asked for: most directories of a walk need one of each.
        self._sequences: dict[Way, list[ListedEntry]] = {Way.LISTING: self._known}
        self._orders: dict[Way, Order] = {}
        self._places: dict[Way, dict[bytes, int]] = {}

    def sequence(self, way: Way) -> list[ListedEntry]:
        """The files and subdirectories in this order."""
        sequence = self._sequences.get(way)
        if sequence is None:
            sequence = self._sequences[way] = self._sorted(way)
        return sequence

    def _sorted(self, way: Way) -> list[ListedEntry]:
        if way is Way.NAME:
            return sorted(self._known, key=lambda entry: entry.name)
        numbers, inode = self._tree.inodes, self.inode
        return sorted(self._known, key=lambda entry: numbers.number_for(inode, entry.name))

    def opened(self, name: bytes, likely: Way, *, is_walk: bool) -> Way | None:
        """A program opens this file: the order that is kept to, once it shows. In a short directory
        several may: the one that leaves out least, and of equal ones the `likely` one."""
        for way in Way:
            if way not in self._orders:
                self._orders[way] = Order(self.sequence(way))
            self._orders[way].opened(name)
        kept = [way for way in Way if self._orders[way].is_kept(is_walk)]
        if not kept:
            return None
        return max(kept, key=lambda way: (self._orders[way].exact, way is likely, -way))

    def behind(self, name: bytes, way: Way) -> int:
        """The place in the sequence behind this name; the first for one that is not there."""
        places = self._places.get(way)
        if places is None:
            sequence = self.sequence(way)
            places = self._places[way] = {entry.name: at for at, entry in enumerate(sequence)}
        return places.get(name, -1) + 1


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


class _Level:
    """A directory on the way, and the place in it that comes next."""

    def __init__(self, inode: Inode, sequence: Sequence[ListedEntry], at: int) -> None:
        self.inode = inode
        self.sequence = sequence
        self.at = at


class Route:
    """The files from where the program is on. The inodes that it leads through are held.

    At a directory that is not listed yet it waits, if programs walk: it is about to be. Otherwise
    that is left out; who goes into it after all begins another route."""

    def __init__(self, tree: Tree, directories: Directories) -> None:
        self._tree = tree
        self._directories = directories
        self._levels: list[_Level] = []
        self._way = Way.LISTING
        self._passed: set[int] = set()  # directories that it has led into

    @property
    def directory(self) -> Inode | None:
        """The one that it leads through at present."""
        return self._levels[-1].inode if self._levels else None

    def leads_through(self, inode: Inode) -> bool:
        """Whether what is in this directory has come, or is about to."""
        return inode.number in self._passed

    def begin(self, inode: Inode, way: Way, name: bytes | None = None) -> None:
        """The program is in this directory, at its beginning or behind the entry of this name."""
        self.clear()
        self._way = way
        path = list(inode.ancestors())[::-1]
        for above, child in itertools.pairwise(path):
            directory = self._directories.get(above)
            if directory is not None:
                self._push(directory, directory.behind(child.name, way))
        directory = self._directories.get(inode)
        if directory is not None:
            self._push(directory, 0 if name is None else directory.behind(name, way))

    def _push(self, directory: Directory, at: int) -> None:
        inode = directory.inode
        self._tree.inodes.hold(inode)
        self._levels.append(_Level(inode, directory.sequence(self._way), at))
        if len(self._passed) >= _MOST_PASSED:
            self._passed.clear()  # it saves work only
        self._passed.add(inode.number)

    def _pop(self) -> None:
        self._tree.inodes.let_go(self._levels.pop().inode)

    def next(self) -> tuple[Inode, ListedEntry] | None:
        """The next file and its directory; None at the end of what is known."""
        while self._levels:
            level = self._levels[-1]
            if level.at >= len(level.sequence) or not level.inode.is_linked:
                self._pop()
                continue
            entry = level.sequence[level.at]
            if _kind(entry) == stat.S_IFREG:
                level.at += 1
                return level.inode, entry
            if not self._goes_into(level.inode, entry.name):
                return None
            level.at += 1
        return None

    def _goes_into(self, parent: Inode, name: bytes) -> bool:
        """Go into this directory, or leave it out. False: wait for it."""
        inodes = self._tree.inodes
        inode = inodes.intern(parent, name)
        inodes.hold(inode)
        directory = self._directories.get(inode)
        if directory is not None:
            self._push(directory, 0)
        inodes.let_go(inode)
        return directory is not None or not self._tree.walk.is_seen

    def clear(self) -> None:
        while self._levels:
            self._pop()
        self._passed.clear()
