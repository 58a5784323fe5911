"""Listing ahead of a program that walks a tree (`ls -R`, find, tar, rm -r, git status).

Each directory costs two round trips, and a walk pays them one after the other. So once a walk is
seen, the listings of the directories that it will come to are fetched while it is busy with the
ones before, into the listing cache, where its opendir finds them.

The pattern is trusted after `_TRUSTED` directories in a row that were each a subdirectory of one
listed before, or one that was opened right after the listing in which it stands: someone who lists
a directory, and later one below it, has nothing fetched. How many directories are fetched ahead
doubles with each that is walked to. A program that asks
for one name after the other, and lists nothing (git, a compiler's search for a header), pays a
round trip for each: after `_MISSES` names of one directory within `_MISSES_SECONDS` that is listed
for it, and so is the directory above, since the next name is likely to lie beside; both count as
walked into, so that the first name of a second directory has the walk seen. Walks go as the
listing has the names, or, as `ls -R` does, by name: which it is, the first one opened of each
directory tells. With `async_ops`, on a long link, a directory is listed for the first of its names
that is asked for: what is going to be made in it can be promised only when all names are known.

Bounds: at most
`_IN_FLIGHT` directories at once, and at most a quarter of the listing cache in names that were
fetched and not asked for yet; a directory that has more by itself is left to the program. What
nobody asked for before it expired counts as `wasted`, once its room is needed.

Owned by the `Tree`. `opened` and `listed` are called by the requests and never wait; the fetching
tasks belong to `run`. An opendir that finds its listing under way waits for it (`under_way`), in
`DirectoryStream.open`. Without a listing cache nothing is fetched.
"""

from __future__ import annotations

import errno
import math
from collections import deque
from typing import TYPE_CHECKING, Final

import trio
from cachetools import TTLCache

from pysshfs.errors import FilesystemError
from pysshfs.vfs.directories import DirectoryStream
from pysshfs.vfs.dirsahead import FAR

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.listing import Listing
    from pysshfs.vfs.tree import Tree

_TRUSTED: Final = 2
_RIGHT_AFTER: Final = 0.1  # seconds; programs take less, people more
_FIRST_AHEAD: Final = 32  # directories, fetched and not asked for, after the first step
_MOST_DOUBLINGS: Final = 16
_IN_FLIGHT: Final = 32  # handles at the server, which has a limit of its own
# Names of one directory that were asked for one by one, and within how many seconds.
_MISSES: Final = 3
_MISSES_SECONDS: Final = 2.0
# A directory is not listed more often for that: programs that make names drop its listing.
_ASKED_SECONDS: Final = 1.0
# Directories of which it is remembered that names were asked for, or that they are too long.
_MOST_MISSED: Final = 256
# Directories of which it is remembered that a walk may come to them.
_MOST_EXPECTED: Final = 4096
# Directories whose subdirectories wait to be fetched.
_MOST_WAITING: Final = 256
# Seconds: a walk of a large tree asks for room at each of its steps.
_SEARCH_INTERVAL: Final = 0.25


class WalkAhead:
    """The walk that is seen, and what is fetched for it."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._expected: dict[int, None] = {}  # by inode number, oldest first
        self._streak = 0
        self._is_walk = False
        self._listed_at = -math.inf  # when the last listing came, on the cache's clock
        self._names_asked_at = -math.inf  # when a directory was listed for that, last
        # Directories, each with names below it that are to be fetched, the next one last. Each is
        # held: the kernel need not know it yet.
        self._waiting: deque[tuple[Inode, list[bytes]]] = deque()
        self._asked: deque[Inode] = deque()  # directories to fetch before those, held likewise
        clock = tree.cache.clock
        self._missed: TTLCache[int, set[bytes]] = TTLCache(_MOST_MISSED, _MISSES_SECONDS, clock)
        self._lately_asked: TTLCache[int, bool] = TTLCache(_MOST_MISSED, _ASKED_SECONDS, clock)
        self._too_long: TTLCache[int, bool] = TTLCache(
            _MOST_MISSED, max(tree.config.directory_timeout, 1.0), clock
        )
        self._followed: set[int] = set()  # directories whose subdirectories were put in `_waiting`
        self._judged: set[int] = set()  # those that have told in which order they are walked
        self._by_name = False  # that order
        self._under_way: dict[int, trio.Event] = {}
        # Fetched and not asked for: the room that each listing takes, by inode number, and in all.
        self._unused: dict[int, int] = {}
        self._unused_room = 0
        self._searched_at = -math.inf  # for those that the cache has dropped
        self._wake = trio.Event()
        self.fetched = 0
        self.wasted = 0

    # --- what the requests tell ---------------------------------------------------------------

    def opened(self, inode: Inode) -> None:
        """A program opens this directory."""
        number = inode.number
        if number in self._unused:
            self._not_unused(number)
            self._wake.set()  # there may be room again
        if number not in self._expected:
            self._streak, self._is_walk = 0, False
            self._give_up()
            return
        del self._expected[number]
        self._streak += 1
        is_at_once = self._tree.cache.clock() < self._listed_at + _RIGHT_AFTER
        self._is_walk |= is_at_once or self._streak >= _TRUSTED
        if self._is_walk:
            self._judge_order(inode)
            self._follow(inode)

    @property
    def is_seen(self) -> bool:
        """Whether programs are seen to walk."""
        return self._is_walk

    def missed(self, directory: Inode, name: bytes) -> None:
        """A program asks for a name of which nothing is known, and the server is about to be."""
        number = directory.number
        if (
            not self._tree.config.directory_timeout
            or not self._tree.server.is_up
            or self._was_tried(number)
        ):
            return
        if self._is_wanted_at_once(number):
            self._lately_asked[number] = True
            self._ask_for(directory)
            return
        names = self._missed.get(number, set()) | {name}
        is_seen = self._is_walk or (self._streak > 0 and self._is_asking)
        is_walked_to = number in self._expected and is_seen
        if len(names) < _MISSES and not is_walked_to:
            self._missed[number] = names
            return
        self._missed.pop(number, None)
        self._lately_asked[number] = True
        if number in self._expected:
            self.opened(directory)
        else:
            self._streak = max(self._streak, _TRUSTED - 1)
        self._names_asked_at = self._tree.cache.clock()
        self._ask_for(directory)
        above = directory.parent
        if (
            above is not None
            and not self._was_tried(above.number)
            and self._tree.cache.listing(above.number) is None
        ):
            self._lately_asked[above.number] = True
            self._ask_for(above)

    def _is_wanted_at_once(self, number: int) -> bool:
        tree = self._tree
        is_far = tree.server.round_trip >= FAR
        return is_far and tree.promises.enabled and tree.cache.names.all_of(number) is None

    @property
    def _is_asking(self) -> bool:
        """Whether a program was just seen to ask for names one by one: then one step of a walk is
        enough."""
        return self._tree.cache.clock() < self._names_asked_at + _MISSES_SECONDS

    def _was_tried(self, number: int) -> bool:
        """Whether this directory is being listed, or was lately, or is too long."""
        return number in self._under_way or number in self._lately_asked or number in self._too_long

    def _ask_for(self, directory: Inode) -> None:
        if directory not in self._asked and len(self._asked) < _MOST_WAITING:
            self._tree.inodes.hold(directory)
            self._asked.append(directory)
            self._wake.set()

    def answered(self, directory: Inode) -> None:
        """A listing answered a question for a name: it was not fetched in vain."""
        if directory.number in self._unused:
            self._not_unused(directory.number)
            self._wake.set()

    def listed(self, inode: Inode, entries: Listing) -> None:
        """The whole listing of this directory is known now."""
        if not self._tree.config.directory_timeout:
            return  # it is not remembered, and nothing that is fetched would be
        below = entries.directories()
        for name in below[:_MOST_EXPECTED]:
            self._expected[self._tree.inodes.number_for(inode, name)] = None
        while len(self._expected) > _MOST_EXPECTED:
            del self._expected[next(iter(self._expected))]
        self._listed_at = self._tree.cache.clock()
        if self._is_walk:
            # What lies below comes before what lies beside: walks go down first.
            self._enqueue(inode, below, self._waiting.appendleft)

    def under_way(self, inode: Inode) -> trio.Event | None:
        """Set when the listing that is being fetched for this directory is there, or failed."""
        return self._under_way.get(inode.number)

    # --- fetching ---------------------------------------------------------------------------

    def _follow(self, inode: Inode) -> None:
        """What lies beside this directory, and beside those above it, will be walked to, too."""
        for above in inode.ancestors():
            parent = above.parent
            if parent is None or parent.number in self._followed:
                continue
            listing = self._tree.cache.listing(parent.number)
            if listing is not None:
                self._enqueue(parent, listing.entries.directories(), self._waiting.append)

    def _judge_order(self, first: Inode) -> None:
        """See in which order a walk goes, by what it opens first of a directory."""
        parent = first.parent
        if parent is None or parent.number in self._judged:
            return
        if len(self._judged) >= _MOST_EXPECTED:
            self._judged.clear()
        self._judged.add(parent.number)
        listing = self._tree.cache.listing(parent.number)
        names = [] if listing is None else listing.entries.directories()
        if not names or min(names) == names[0] or first.name not in (min(names), names[0]):
            return
        self._by_name = first.name != names[0]
        if self._by_name:
            for _, waiting in self._waiting:
                waiting.sort(reverse=True)

    def in_order(self, names: list[bytes]) -> list[bytes]:
        """Directories, as a listing has them, in the order in which a walk comes to them."""
        return sorted(names) if self._by_name else names

    def _enqueue(
        self,
        parent: Inode,
        names: list[bytes],
        put: Callable[[tuple[Inode, list[bytes]]], None],
    ) -> None:
        if len(self._followed) >= _MOST_EXPECTED:
            self._followed.clear()  # it saves work only: what is not expected is not fetched again
        self._followed.add(parent.number)
        if names and self._tree.paths.may_list_below(parent) and len(self._waiting) < _MOST_WAITING:
            self._tree.inodes.hold(parent)
            put((parent, self.in_order(names)[::-1]))
            self._wake.set()

    def _give_up(self) -> None:
        self._followed.clear()
        self._judged.clear()
        while self._waiting:
            self._tree.inodes.let_go(self._waiting.pop()[0])

    def _has_next(self) -> bool:
        if self._asked:
            return True
        ahead = len(self._unused) + len(self._under_way)
        most = _FIRST_AHEAD << min(max(self._streak - 1, 0), _MOST_DOUBLINGS)
        return bool(self._waiting) and ahead < most and self._has_room()

    def _take_asked(self) -> Inode | None:
        """Likewise, of those whose names are asked for. What is remembered has not answered."""
        inode = self._asked.popleft()
        if not inode.is_linked or inode.number in self._under_way:
            self._tree.inodes.let_go(inode)
            return None
        self._tree.cache.drop_listing(inode.number)
        inode.holds -= 1
        return inode

    def _take_next(self) -> Inode | None:
        """The next directory to fetch, as an inode that lives until `drop_unused`."""
        parent, names = self._waiting[0]
        name = names.pop()
        wanted = parent.is_linked and self._is_wanted(parent, name)
        inode = self._tree.inodes.intern(parent, name) if wanted else None
        if not names:
            self._waiting.popleft()
            self._tree.inodes.let_go(parent)
        return inode

    @property
    def _most_unused(self) -> int:
        return self._tree.cache.capacity // 4

    def _not_unused(self, number: int) -> None:
        self._unused_room -= self._unused.pop(number, 0)

    def _has_room(self) -> bool:
        if self._unused_room <= self._most_unused:
            return True  # the usual case, for each directory of a walk: nothing is searched
        now = self._tree.cache.clock()
        if now < self._searched_at + _SEARCH_INTERVAL:
            return False
        self._searched_at = now
        for number in [n for n in self._unused if self._tree.cache.listing(n) is None]:
            self._not_unused(number)
            self.wasted += 1
        return self._unused_room <= self._most_unused

    async def run(self) -> None:
        """Fetch what waits, within the bounds. Ends by cancellation."""
        async with trio.open_nursery() as nursery:
            while True:
                while len(self._under_way) < _IN_FLIGHT and self._has_next():
                    inode = self._take_asked() if self._asked else self._take_next()
                    if inode is not None:
                        self._under_way[inode.number] = trio.Event()
                        nursery.start_soon(self._fetch, inode)
                self._wake = trio.Event()
                await self._wake.wait()

    def _is_wanted(self, parent: Inode, name: bytes) -> bool:
        number = self._tree.inodes.number_for(parent, name)
        return (
            number in self._expected
            and number not in self._under_way
            and self._tree.cache.listing(number) is None
        )

    async def _fetch(self, inode: Inode) -> None:
        inodes = self._tree.inodes
        stream = DirectoryStream(self._tree, inode)
        try:
            with inodes.kept(inode):
                names = await stream.read_ahead(self._most_unused)
            if names is None:
                self._too_long[inode.number] = True
                self.wasted += 1
            else:
                self.fetched += 1
                self._not_unused(inode.number)
                self._unused[inode.number] = names + 1  # as the cache counts it
                self._unused_room += names + 1
        except FilesystemError as error:
            self.wasted += 1  # the program will ask itself, and be told
            if error.errno == errno.EOVERFLOW:
                self._too_long[inode.number] = True
        finally:
            stream.close()
            inodes.drop_unused(inode)
            self._under_way.pop(inode.number).set()
            self._wake.set()
