"""Asking for an absent name in the directories to come (git's `.gitignore`, a compiler's headers).

A program that looks for one name in directory after directory, and does not find it, waits a round
trip for each. A listing answers for what is not in it only to a search, and only while it is fresh
(`Tree.is_not_listed`). When it no longer is, the question for the directory at hand takes along the
same question for those that programs know and a walk would come to next, unless their listings have
the name: the answers are here when the program comes there, and are believed as long as any other
absence.

The pattern is trusted after `_MISSES` directories that did not have the name. How many are asked
ahead doubles as long as the answers are used, all but a few for each, and begins anew otherwise.
What the search has passed, or has not asked for while its answer may be believed, counts as
`wasted`.

Owned by the `Tree`, touched by the requests and the callbacks of what is asked. Nothing suspends.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from cachetools import TTLCache

from pysshfs.errors import FilesystemError
from pysshfs.vfs.repeat import is_missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pysshfs.remotefs import Attributes
    from pysshfs.reply import Reply
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.tree import Tree

# Absences of one name, or in one directory, each at most so many seconds after the one before.
_MISSES: Final = 3
_MISSES_SECONDS: Final = 2.0
_MOST_MISSED: Final = 256  # names, and directories, of which absences are counted
_FIRST_AHEAD: Final = 4  # questions at once, at first
_MOST_AHEAD: Final = 32
_WORTH: Final = 4  # questions in vain for one that is used
_MOST_LOOKED_AT: Final = 1024  # directories, whether to ask there


class SearchAhead:
    """The names that are looked for in vain, and what is asked ahead for them."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        clock = tree.cache.clock
        self._absences: TTLCache[int, int] = TTLCache(_MOST_MISSED, _MISSES_SECONDS, clock)
        # By name, the first directories that did not have it: a search goes through several, and
        # who waits for a name to be made asks in one.
        self._lacking: TTLCache[bytes, frozenset[int]] = TTLCache(
            _MOST_MISSED, _MISSES_SECONDS, clock
        )
        # Asked ahead and not asked for yet, by directory and name: until when it may be believed.
        self._unused: dict[tuple[int, bytes], float] = {}
        self._ahead = _FIRST_AHEAD
        self._used = 0  # of what was asked ahead, since that was judged
        self.fetched = 0
        self.wasted = 0

    # --- seeing a search ----------------------------------------------------------------------

    def absent(self, directory: Inode, name: bytes) -> None:
        """A program was told that there is no such name."""
        number = directory.number
        self._absences[number] = self._absences.get(number, 0) + 1
        lacking = self._lacking.get(name, frozenset())
        self._lacking[name] = lacking if len(lacking) >= _MISSES else lacking | {number}

    def is_search(self, directory: Inode, name: bytes) -> bool:
        """Whether programs look for what is absent here, or for this name elsewhere."""
        return self._absences.get(directory.number, 0) >= _MISSES or self._is_elsewhere(name)

    def _is_elsewhere(self, name: bytes) -> bool:
        return len(self._lacking.get(name, ())) >= _MISSES

    # --- asking ahead -------------------------------------------------------------------------

    def asked_for(self, directory: int, name: bytes) -> None:
        """A program was told that a name is absent which was known to be."""
        if self._unused and self._unused.pop((directory, name), None) is not None:
            self.fetched += 1
            self._used += 1

    def looked_up(self, directory: Inode, name: bytes) -> None:
        """The server is being asked for this name, of which nothing is known."""
        tree = self._tree
        if not (self._is_elsewhere(name) and tree.config.negative_timeout):
            return
        behind = list(islice(self._behind(directory), _MOST_LOOKED_AT))
        self._judge(name, {other.number for other in behind})
        expires = tree.cache.clock() + tree.config.negative_timeout
        lacking = (other for other in behind if self._may_lack(other, name))
        for other in islice(lacking, max(self._ahead - len(self._unused), 0)):
            if self._ask(other, name):
                self._unused[other.number, name] = expires

    def _judge(self, name: bytes, behind: set[int]) -> None:
        """See what has become of what was asked ahead: what this search has passed, or is too old
        to be believed, was asked in vain."""
        now = self._tree.cache.clock()
        in_vain = [
            key
            for key, expires in self._unused.items()
            if expires <= now or (key[1] == name and key[0] not in behind)
        ]
        for key in in_vain:
            del self._unused[key]
        self.wasted += len(in_vain)
        used, self._used = self._used, 0
        if len(in_vain) > _WORTH * used:
            self._ahead = _FIRST_AHEAD
        elif used:
            self._ahead = min(2 * self._ahead, _MOST_AHEAD)

    def _may_lack(self, directory: Inode, name: bytes) -> bool:
        """Whether that is not known, nor being asked for."""
        number = directory.number
        listing = self._tree.cache.listing(number)
        is_asked = (number, name) in self._unused
        return not is_asked and (listing is None or listing.find(name) is None)

    def _behind(self, directory: Inode) -> Iterator[Inode]:
        """The directories that programs know, in the order of a walk: below this one, then behind
        it, then behind those above it."""
        yield from self._below(directory)
        for above in directory.ancestors():
            if above.parent is None:
                return
            beside = self._in_order(above.parent)
            for name in beside[beside.index(above.name) + 1 :] if above.name in beside else ():
                yield from self._and_below(above.parent, name)

    def _below(self, directory: Inode) -> Iterator[Inode]:
        for name in self._in_order(directory):
            yield from self._and_below(directory, name)

    def _and_below(self, parent: Inode, name: bytes) -> Iterator[Inode]:
        directory = self._tree.inodes.child(parent, name)
        if directory is not None:
            yield directory
            yield from self._below(directory)

    def _in_order(self, directory: Inode) -> list[bytes]:
        listing = self._tree.cache.listing(directory.number)
        return [] if listing is None else self._tree.walk.in_order(listing.entries.directories())

    def _ask(self, directory: Inode, name: bytes) -> bool:
        tree = self._tree
        try:
            path = tree.child_path(directory, name)
        except FilesystemError:
            return False  # too deep: a program will be refused, too
        tree.inodes.hold(directory)
        asking = tree.server.lstat(path)
        asking.add_callback(partial(self._answered, directory, name, tree.mutations))
        return True

    def _answered(
        self, directory: Inode, name: bytes, sent_at: int, reply: Reply[Attributes]
    ) -> None:
        """Only an absence is remembered: what is there now is asked for when it is wanted."""
        if reply.error is not None and is_missing(reply.error) and directory.mutated_at <= sent_at:
            self._tree.cache.store_absent(directory.number, name)
        self._tree.inodes.let_go(directory)
