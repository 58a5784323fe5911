"""Opening and reading files ahead of a program that reads one after the other (tar, grep, cp -r).

Each small file costs two round trips, OPEN and READ, and such a program pays them file by file. So
once it is seen to go through a directory in order, the next files are opened, looked at and their
first bytes read before it comes to them; its open(2) then takes over the very handle.

The pattern. Three opens in a row that each lie a little further on than the one before, in an order
of `vfs/readingorder.py`; two are enough if a walk is seen and they are the first two of a
directory. From then on what lies on the program's way, in directories that it lists or that were
listed ahead of it (`vfs/walk.py`), is read ahead. An open for which nothing is there shows that the
way was another: it is taken up there, and where there is no room, what is held of other directories
is given up.

Bounds. At most `window` files are held that nobody has opened yet, and as many again of the
directory that a program is in: it grows with each that is used, up to `_most_files`, and is halved
when some were not used within `prefetch_ttl`; when more are wasted than used, the pattern is not
trusted any more. Of one file at most `_PER_FILE` bytes, of all
a quarter of what may be read ahead in all (`vfs/budget.py`).

Freshness. A file serves an open(2) only while the reply to its FSTAT is at most `prefetch_ttl` old,
what it said is what the listing said, and nothing was changed through this mount since. Otherwise
the open asks the server as always.

Owned by the `Tree`, which tells it of opens and listings; nothing here waits but `FileAhead.wait`
and `run`. The inode of a file that is held is held, too. When the connection is lost all is given
up.
"""

from __future__ import annotations

import math
import stat
from typing import TYPE_CHECKING, Final

import trio

from pysshfs.errors import FilesystemError
from pysshfs.remotefs import OpenMode
from pysshfs.vfs.readingorder import Directories, Route, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysshfs.remotefs import Attributes
    from pysshfs.reply import Reply
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.listing import ListedEntry
    from pysshfs.vfs.readahead import FileReader
    from pysshfs.vfs.sanity import FileAttributes
    from pysshfs.vfs.tree import Tree

_FEWEST_FILES: Final = 4
_FIRST_FILES: Final = 8
# Handles at the server, which has a limit of its own: so many if it does not say which, otherwise
# a part of them, and no more than fill a long link.
_MOST_FILES: Final = 100
_MOST_FILES_STATED: Final = 256
_SHARE_OF_HANDLES: Final = 4
_PER_FILE: Final = 256 * 1024  # bytes
_SHARE_AT_ONCE: Final = 4  # of what may be held; the rest lasts for the round trips meanwhile


class FileAhead:
    """One file that is opened, looked at and read for whoever opens it next."""

    __slots__ = (
        "_dropped", "_ended", "_listed", "_opening", "_sent_at", "_tree",
        "attributes", "fresh_until", "handle", "held", "inode", "reader", "settled",
        "taken",
    )  # fmt: skip

    def __init__(
        self, tree: Tree, inode: Inode, listed: FileAttributes, ended: Callable[[FileAhead], None]
    ) -> None:
        self.inode = inode
        self.handle: OpenFileHandle | None = None
        self.reader: FileReader | None = None
        self.attributes: FileAttributes | None = None  # when it can be used
        self.fresh_until = -math.inf  # on the cache's clock
        self.settled: trio.Event | bool = False  # an event once somebody waits
        self.held = min(listed.size, _PER_FILE)  # bytes, once they are here
        self._tree = tree
        self._listed = listed
        self._ended = ended
        self.taken = False  # by an open file
        self._dropped = False
        self._sent_at = tree.mutations
        self._opening = tree.server.open(inode.path(), OpenMode.READ)
        self._opening.add_callback(self._opened)

    def _opened(self, reply: Reply[OpenFileHandle]) -> None:
        if self._dropped:
            return  # its handle is closed by whoever abandons a call
        if reply.error is not None:
            self._settle()
            return
        tree, inode = self._tree, self.inode
        handle = self.handle = reply.result()
        handle.inode = inode
        self._sent_at = tree.mutations
        looking = tree.server.fstat(handle)
        self.reader = tree.reader_for(inode, handle)
        # What the kernel has in its page cache it will not ask for.
        if inode.data_version != (self._listed.mtime, self._listed.size):
            self.reader.begin(_PER_FILE)
        looking.add_callback(self._looked)

    def _looked(self, reply: Reply[Attributes]) -> None:
        if not self._dropped and reply.error is None:
            try:
                found = self._tree.remember(self.inode, reply.result(), self._sent_at)
            except FilesystemError:
                pass  # who opens it will ask, and be told
            else:
                if (found.mtime, found.size) == (self._listed.mtime, self._listed.size):
                    self.attributes = found
                    config, clock = self._tree.config, self._tree.cache.clock
                    self.fresh_until = clock() + config.prefetch_ttl
        self._settle()

    def _settle(self) -> None:
        if isinstance(self.settled, trio.Event):
            self.settled.set()
        self.settled = True
        if self.attributes is None and not self._dropped:
            self._ended(self)

    async def wait(self) -> FileAttributes | None:
        """What the file is now, for who opens it, if it can be used for that."""
        if self.settled is not True:
            if self.settled is False:
                self.settled = trio.Event()
            await self.settled.wait()
        return self.attributes if self.is_usable else None

    @property
    def is_usable(self) -> bool:
        inode = self.inode
        return (
            self.attributes is not None
            and self._tree.cache.clock() <= self.fresh_until
            and inode.mutated_at <= self._sent_at
            and inode.writeback is None
            and self.handle is not None
            and self.handle.stale is None
        )

    @property
    def is_expired(self) -> bool:
        return self.settled is True and self._tree.cache.clock() > self.fresh_until

    def drop(self) -> None:
        """Give back what it holds, here and, unless an open file has taken it, at the server."""
        self._dropped = True
        if not self.taken:
            if self.reader is not None:
                self.reader.discard()
            if self.handle is not None:
                self._tree.close(self.handle)
            else:
                self._opening.abandon()
        self._tree.inodes.let_go(self.inode)


class FilesAhead:
    """The files that are held for who may open them, and the pattern that says so."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._ahead: dict[int, FileAhead] = {}  # by inode number, oldest first
        self._directories = Directories(tree)
        self._route = Route(tree, self._directories)
        self._entered: Inode | None = None  # the directory that a program has opened last
        self._trusted, self._way = False, Way.LISTING
        self._window = self._threshold = _FIRST_FILES
        self._held = 0  # bytes
        self._used_lately = 0
        self._has_some = trio.Event()
        self.fetched = self.used = self.wasted = 0
        config = tree.config
        self._most_held = tree.read_budget.most // 4
        self._is_on = bool(config.prefetch_ttl and config.readahead and config.directory_timeout)

    # --- what the operations tell ---------------------------------------------------------------

    def take(self, inode: Inode) -> FileAhead | None:
        """For an open(2) that only reads. Whoever takes it uses or drops it."""
        if not self._is_on:
            return None
        is_seen = self._sees(inode)
        ahead = self._ahead.pop(inode.number, None)
        if ahead is not None:
            self._held -= ahead.held
            self.used += 1
            self._used_lately += 1
            grown = self._window * 2 if self._window < self._threshold else self._window + 1
            self._window = min(grown, self._most_files)
        elif is_seen and inode.parent is not None:
            self._go_back_to(inode.parent, inode.name)
        if ahead is None or self._is_low():
            self._fill()
        return ahead

    def is_at_hand(self, inode: Inode) -> bool:
        """Whether `take` has something for this inode that can be used without waiting for it."""
        ahead = self._ahead.get(inode.number)
        return ahead is not None and ahead.settled is True and ahead.is_usable

    def entered(self, inode: Inode) -> None:
        """A program opens this directory."""
        if self._is_on:
            self._entered = inode
            self._directories.begin(inode)
            if self._trusted and not self._route.leads_through(inode):
                self._route.begin(inode, self._way)
            if self._is_low():
                self._fill()

    def listed(self, inode: Inode) -> None:
        """A whole listing is known now, the program's or one fetched ahead."""
        if self._trusted:
            if inode is self._entered and not self._route.leads_through(inode):
                self._route.begin(inode, self._way)
            self._fill()

    def clear(self) -> None:
        """Give up all that is held: the connection is lost."""
        self._distrust()
        ahead, self._ahead = self._ahead, {}
        self._held = 0
        for file in ahead.values():
            file.drop()

    # --- the pattern ------------------------------------------------------------------------------

    def _sees(self, inode: Inode) -> bool:
        """Whether the program that opens this file reads in an order that can be told."""
        parent = inode.parent
        directory = self._directories.get(parent) if parent is not None else None
        if directory is None or parent is None:
            return False
        way = directory.opened(inode.name, self._way, is_walk=self._tree.walk.is_seen)
        if way is None:
            return False
        if not self._trusted or way is not self._way:
            self._trusted, self._way = True, way
            self._route.begin(parent, way, inode.name)
        return True

    def _distrust(self) -> None:
        self._trusted = False
        self._entered = None
        self._route.clear()

    # --- fetching ---------------------------------------------------------------------------------

    def _most(self) -> int:
        is_here = self._entered is not None and self._route.directory is self._entered
        return min(self._window, self._most_files) * (1 + is_here)

    @property
    def _most_files(self) -> int:
        stated = self._tree.server.capabilities.max_handles
        if not stated:
            return _MOST_FILES
        return max(min(stated // _SHARE_OF_HANDLES, _MOST_FILES_STATED), 1)

    def _is_low(self) -> bool:
        """Several are asked for at once: that costs the processors, here and there, much less."""
        most = self._most()
        return len(self._ahead) <= most - max(most // _SHARE_AT_ONCE, 1)

    def _has_room(self) -> bool:
        return (
            len(self._ahead) < self._most()
            and self._held + _PER_FILE <= self._most_held
            and self._tree.read_budget.has_room(_PER_FILE)
            and self._tree.server.is_up
        )

    def _fill(self) -> None:
        while self._trusted and self._has_room():
            found = self._route.next()
            if found is None:
                return
            self._begin(*found)

    def _begin(self, directory: Inode, entry: ListedEntry) -> None:
        inodes, listed = self._tree.inodes, entry.attributes
        if listed is None or inodes.number_for(directory, entry.name) in self._ahead:
            return
        inode = inodes.intern(directory, entry.name)
        if inode.kind is None:
            inode.kind, inode.known_size = stat.S_IFMT(listed.mode), listed.size
        inodes.hold(inode)
        if inode.open_files or inode.writeback is not None or inode.known_size != listed.size:
            inodes.let_go(inode)
            return
        self.fetched += 1
        file = FileAhead(self._tree, inode, listed, self._failed)
        self._ahead[inode.number] = file
        self._held += file.held
        self._has_some.set()

    # --- giving up --------------------------------------------------------------------------------

    def _go_back_to(self, here: Inode, name: bytes) -> None:
        """The program reads here, behind this name, and that was not foreseen. If there is no room,
        what is held of directories where it is not is given up."""
        if len(self._ahead) >= self._window:
            for file in [f for f in self._ahead.values() if f.inode.parent is not here]:
                if file.inode.parent is not None:
                    self._directories.begin(file.inode.parent)  # it may come to it yet
                self._give_up([file])
        self._route.begin(here, self._way, name)

    def _failed(self, file: FileAhead) -> None:
        """It could not be opened, or is not what was listed."""
        if self._ahead.get(file.inode.number) is file:
            self._give_up([file])
            self._fill()

    def _give_up(self, files: Sequence[FileAhead]) -> None:
        for file in files:
            del self._ahead[file.inode.number]
            self._held -= file.held
            self.wasted += 1
            file.drop()

    async def run(self) -> None:
        """Give up what is not used in time. Ends by cancellation."""
        while True:
            if not self._ahead:
                self._has_some = trio.Event()
                await self._has_some.wait()
            await trio.sleep(max(self._tree.config.prefetch_ttl, 0.1))
            self._sweep()

    def _sweep(self) -> None:
        expired = [file for file in self._ahead.values() if file.is_expired]
        if expired:
            self._give_up(expired)
            self._threshold = self._window = max(self._window // 2, _FEWEST_FILES)
            if len(expired) > self._used_lately:
                self._distrust()
        self._used_lately = 0
        self._fill()
