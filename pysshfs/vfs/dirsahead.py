"""Directories opened at the server before a program opens them.

Whoever comes to a directory for the first time waits for its LSTAT, its OPENDIR and its READDIR,
one after the other. So on a long link an OPENDIR goes out right behind the LSTAT of a name that
nothing is known of: if it is a directory, its handle is there when the program, or a listing ahead
(`vfs/walk.py`), opens it; if it is none, the server says so, and that was all. Nothing is read.

Bounds: for one name of each directory within `_LATELY`, so that whoever asks for one name after the
other has at most one question in vain; `_MOST` handles, each for `_KEPT`, then it is closed and
counts as `wasted`, like a name that was no directory. Nearer than `FAR` a question in vain costs
more than it may save, and nothing is opened.

Owned by the `Tree`. `looked_up` is called by the requests and never waits, `take` by
`DirectoryStream`; `run` closes what nobody took. A handle of a session that was lost is taken like
any other: reading it fails, and the stream begins anew.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from cachetools import TTLCache

if TYPE_CHECKING:
    from pysshfs.remotefs import RemoteHandle
    from pysshfs.reply import Reply
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.tree import Tree

FAR: Final = 0.005  # seconds for a round trip, from which on a question in vain is the lesser evil
_LATELY: Final = 2.0  # seconds
_KEPT: Final = 1.0  # seconds
_MOST: Final = 8
_MOST_LATELY: Final = 256  # directories of which it is remembered that a name was asked for


class OpenedAhead(NamedTuple):
    """An OPENDIR that is out, or its outcome. `begun_at` is the tree's mutation counter when it was
    sent, `asked_at` the time on the cache's clock: what the handle lists is no older."""

    opening: Reply[RemoteHandle]
    begun_at: int
    asked_at: float
    until: float  # on trio's clock


class DirectoriesAhead:
    """The handles that are kept for whoever comes."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._opened: dict[int, OpenedAhead] = {}  # by inode number, oldest first
        self._lately: TTLCache[int, bool] = TTLCache(_MOST_LATELY, _LATELY, tree.cache.clock)
        self._wake = trio.Event()
        self.fetched = 0
        self.wasted = 0

    def looked_up(self, parent: Inode, name: bytes) -> None:
        """The server is being asked for this name, of which nothing is known."""
        tree = self._tree
        if tree.server.round_trip < FAR or parent.number in self._lately:
            return
        self._lately[parent.number] = True
        number = tree.inodes.number_for(parent, name)
        if (
            len(self._opened) >= _MOST
            or tree.cache.listing(number) is not None
            or not tree.paths.may_list_below(parent)
        ):
            return
        ahead = self._opened[number] = OpenedAhead(
            tree.server.opendir(tree.child_path(parent, name)),
            tree.mutations,
            tree.cache.clock(),
            trio.current_time() + _KEPT,
        )
        ahead.opening.add_callback(partial(self._answered, number, ahead))
        self._wake.set()

    def _answered(self, number: int, ahead: OpenedAhead, opening: Reply[RemoteHandle]) -> None:
        """What is no directory is not kept."""
        if opening.error is not None and self._opened.get(number) is ahead:
            self._discard(self._opened.pop(number))

    def take(self, directory: Inode) -> OpenedAhead | None:
        """What was opened for this directory, unless it was changed since: then the handle may be
        that of another one that had the name, or have the names from before."""
        ahead = self._opened.pop(directory.number, None)
        if ahead is None:
            return None
        changed_at = directory.mutated_at
        if directory.parent is not None:
            changed_at = max(changed_at, directory.parent.mutated_at)
        if changed_at > ahead.begun_at:
            self._discard(ahead)
            return None
        self.fetched += 1
        return ahead

    def forget(self) -> None:
        """What was opened until now is not to be relied on any more."""
        while self._opened:
            self._discard(self._opened.pop(next(iter(self._opened))))

    def _discard(self, ahead: OpenedAhead) -> None:
        self.wasted += 1
        ahead.opening.add_callback(self._close)

    def _close(self, opening: Reply[RemoteHandle]) -> None:
        if opening.error is None:
            self._tree.server.closedir(opening.result())

    async def run(self) -> None:
        """Close what nobody took in time. Ends by cancellation."""
        while True:
            if not self._opened:
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            await trio.sleep_until(next(iter(self._opened.values())).until)
            now = trio.current_time()
            late = [number for number, ahead in self._opened.items() if ahead.until <= now]
            for number in late:
                self._discard(self._opened.pop(number))
