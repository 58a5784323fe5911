"""Listing directories: one open directory is one `DirectoryStream`.

A stream is a snapshot that fills while it is read: READDIRs are kept in flight ahead of the
kernel's reading (a listing of 100,000 names would otherwise cost a round trip for each hundred),
the first names go out before the last have come in. A listing that came whole and undisturbed is
cached and serves the next opendir. Names removed through this mount while the stream is open are
left out of what is still to be delivered; names added may be missing: POSIX allows either.

Each name that is told with its attributes has the kernel remember an inode, and so have we. So of
a long listing only the first `PLAIN_FROM` come that way; the others come as bare names, until
somebody looks one up: whoever lists that way wants the attributes of all (`find`).

Offsets count entries from 1 and stay valid while the stream lives; going back to 0 (rewinddir)
takes a new snapshot. When the connection is lost under it, the directory is read anew, and names
that were had before are left out, so that none is missing and none comes twice.

What a server says of a directory is checked by `sanity.ListingCheck`. A listing that is past one of
its bounds fails, for this stream for good: what was had is given back, and so is the handle. The
call that comes to the bound fails with EOVERFLOW, later ones with EIO: GNU ls takes EOVERFLOW for
the trouble of one name, and asks for the next one, as long as it is told so.

Touched by the opendir, readdir and releasedir requests of its directory and by the calls that
remove names. Suspends in `open`, `rewind`, `read_ahead` and `entry_at`.
"""

from __future__ import annotations

import errno
import stat
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from pysshfs.errors import (
    FilesystemError,
    StaleHandleError,
    UnmappedOwnerError,
    UnsafeReplyError,
)
from pysshfs.vfs.budget import NAME_BYTES
from pysshfs.vfs.cache import CachedListing
from pysshfs.vfs.listing import Listing
from pysshfs.vfs.sanity import ListingCheck, checked_attributes, is_special

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pysshfs.remotefs import Attributes, DirectoryEntry, RemoteHandle
    from pysshfs.reply import Reply
    from pysshfs.vfs.dirsahead import OpenedAhead
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.kernelcache import Entry
    from pysshfs.vfs.listing import ListedEntry
    from pysshfs.vfs.sanity import FileAttributes
    from pysshfs.vfs.tree import Tree

# A short directory is one reply with its names and one that says that there are no more.
_FIRST_IN_FLIGHT: Final = 2
_MOST_IN_FLIGHT: Final = 16
_FEW: Final = 50  # names; OpenSSH sends up to 100 in one reply
# Of a server that sends many at once fewer replies are asked for in advance.
_MOST_AHEAD: Final = 16_384  # names
# Names past this one are told without their attributes, unless somebody asks for those.
PLAIN_FROM: Final = 100_000


class ListReply(NamedTuple):
    """One name for readdir. `entry` is None for `.`, `..`, what has no valid attributes, and most
    names of a long listing; `kind` holds the type bits, 0 when they are not known."""

    name: bytes
    number: int
    kind: int
    next_offset: int
    entry: Entry | None


class DirectoryStream:
    """One opendir, up to its releasedir."""

    def __init__(self, tree: Tree, inode: Inode) -> None:
        self.inode = inode
        self.removed: set[bytes] = set()
        self.was_read = False
        self._tree = tree
        self._entries = Listing()
        self._check = ListingCheck(tree.config)
        self._failure: FilesystemError | None = None  # it is past a bound
        self._handle: RemoteHandle | None = None
        self._in_flight: deque[Reply[list[DirectoryEntry] | None]] = deque()
        self._sent_at: deque[float] = deque()  # of each of these, on the cache's clock
        # The last reply's names, and until when their attributes may be believed: the first ones of
        # a long listing are old when its last ones come.
        self._newest = 0
        self._newest_expires = 0.0
        self._depth = _FIRST_IN_FLIGHT
        self._complete = False
        self.begun_at = 0  # the tree's mutation counter when the snapshot was begun
        # Where the names are that were told without attributes lately; which is the next of them.
        self._index: dict[bytes, int] = {}
        self._indexed = 0
        self._reached = 0  # the number of the last name that was told
        self._is_looked_up = False
        # On the cache's clock: when it was asked for, until when its attributes may be believed.
        self._asked_at = self.expires = 0.0

    # --- beginning --------------------------------------------------------------------------

    async def open(self) -> None:
        """Take the cached listing, or one that is being fetched, or ask the server."""
        walk = self._tree.walk
        fetching = walk.under_way(self.inode)
        walk.opened(self.inode)
        self._tree.files_ahead.entered(self.inode)
        if fetching is not None:
            await fetching.wait()
        await self._open()

    def open_at_hand(self) -> bool:
        """The same, where the listing is here, or with `async_ops` was lately: then only whoever
        reads it needs the server (sync(1) opens a directory for syncfs(2)). Whether it was."""
        walk = self._tree.walk
        cached = self._tree.cache.listing(self.inode.number)
        is_known = cached is not None or self._tree.promises.knows_names(self.inode)
        if not is_known or walk.under_way(self.inode) is not None:
            return False
        walk.opened(self.inode)
        self._tree.files_ahead.entered(self.inode)
        if cached is not None:
            self._take(cached)
        return True

    async def read_ahead(self, most: int) -> int | None:
        """Read all of it for the listing cache, for no program yet; how many names there are. None
        when there are more than `most`: a server may have names without end."""
        await self._open()
        while not self._complete:
            if len(self._entries) > most:
                return None
            await self._receive()
        return len(self._entries)

    async def _open(self) -> None:
        tree = self._tree
        cached = tree.cache.listing(self.inode.number)
        if cached is not None:
            self._take(cached)
            return
        path = tree.paths.to_list(self.inode)
        ahead = tree.directories_ahead.take(self.inode)
        if ahead is None or not await self._open_with(ahead):
            self._asked_at, self.begun_at = tree.cache.clock(), tree.mutations
            self._handle = await tree.server.opendir(path)
        self.expires = self._asked_at + tree.config.stat_timeout
        self._ask()

    async def _open_with(self, ahead: OpenedAhead) -> bool:
        """With what was asked for already, unless that is refused."""
        self._asked_at, self.begun_at = ahead.asked_at, ahead.begun_at
        try:
            self._handle = await ahead.opening
        except FilesystemError:
            return False
        return True

    def _take(self, cached: CachedListing) -> None:
        self._entries = cached.entries
        self._newest = len(self._entries)
        self.expires = cached.expires
        self.begun_at = cached.begun_at
        self._complete = True

    async def rewind(self) -> None:
        """A new snapshot for rewinddir."""
        self.release()
        self._is_looked_up = False
        self._forget()
        self._failure = None
        self.removed.clear()
        await self.open()

    def _forget(self) -> None:
        self._entries, self._complete = Listing(), False
        self._check = ListingCheck(self._tree.config)
        self._index, self._indexed, self._reached = {}, 0, 0

    # --- reading ----------------------------------------------------------------------------

    def _ask(self) -> None:
        """Keep `_depth` READDIRs out; it grows with each reply, so that short directories cost
        few and long ones few round trips."""
        if self._handle is None:
            return
        while len(self._in_flight) < self._depth:
            self._in_flight.append(self._tree.server.readdir(self._handle))
            self._sent_at.append(self._tree.cache.clock())

    def entries_at_hand(self, offset: int) -> Iterator[ListReply] | None:
        """What `Filesystem.readdir` gives from `offset` on, if all of it is here."""
        if not self._complete or (offset == 0 and self.was_read):
            return None
        self.was_read = True
        return self._replies(offset)

    def _replies(self, offset: int) -> Iterator[ListReply]:
        yield from self.dots(offset)
        for index in range(max(offset - 2, 0), len(self._entries)):
            entry = self._entries[index]
            if entry.name not in self.removed:
                yield self.describe(entry, index + 3)

    def dots(self, offset: int) -> Iterator[ListReply]:
        """`.` and `..`, as far as they come at `offset` or later."""
        above = self.inode.parent or self.inode
        for place, (name, inode) in enumerate(((b".", self.inode), (b"..", above)), 1):
            if offset < place:
                yield ListReply(name, inode.number, stat.S_IFDIR, place, None)

    async def entry_at(self, index: int) -> ListedEntry | None:
        """The entry with this number, None past the end."""
        while index >= len(self._entries) and not self._complete:
            await self._receive()
        return self._entries[index] if index < len(self._entries) else None

    async def _receive(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if not self._in_flight:
            # A rewind, or a new beginning, did not get this far: it was interrupted, or it failed.
            await (self._restart() if self._entries else self._open())
            return
        reply, began = self._in_flight[0], trio.current_time()
        try:
            entries = await reply.wait()
        except StaleHandleError:
            if self._in_flight and self._in_flight[0] is reply:
                await self._restart()
            return
        # Two readers of one stream may have waited for the same reply.
        if not self._in_flight or self._in_flight[0] is not reply:
            return
        self._in_flight.popleft()
        self._newest = len(self._entries)
        self._newest_expires = self._sent_at.popleft() + self._tree.config.stat_timeout
        if entries is None:
            self._finish()
            return
        is_short = not self._entries and len(entries) < _FEW
        had = self._check.names
        self._accept(entries)
        bound = self._check.over(self._check.names - had, trio.current_time() - began)
        if bound is not None:
            raise self._failed(bound)
        if is_short and self._in_flight:
            return  # most likely the next reply says that there are no more
        most = min(_MOST_IN_FLIGHT, max(_MOST_AHEAD // (len(entries) or 1), 1))
        self._depth = min(self._depth * 2, most)
        self._ask()

    def _failed(self, bound: str) -> FilesystemError:
        """The listing is past this bound."""
        oddities = self._check.oddities()
        what = f"{bound}: its listing fails (EOVERFLOW)"
        if oddities:
            what += f"; names that cannot be: {oddities}"
        self._tree.notices.say(self.inode, "bounds", what)
        self._failure = FilesystemError(errno.EIO, bound)
        self._forget()
        self.close()
        return FilesystemError(errno.EOVERFLOW, bound)

    async def _restart(self) -> None:
        """The connection under this listing was lost: read on in a new one."""
        self.begun_at = -1  # what came before may be long past: it is not to be remembered
        self._in_flight.clear()
        self._sent_at.clear()
        self._handle = None
        self._depth = _FIRST_IN_FLIGHT
        handle = await self._tree.server.opendir(self._tree.paths.to_list(self.inode))
        if self._handle is None and not self._complete:
            self._handle = handle
            self._check.begin_again()
            self._ask()
        else:  # another reader of this stream was faster
            self._tree.server.closedir(handle)

    def _accept(self, entries: list[DirectoryEntry]) -> None:
        admits, append = self._check.admits, self._entries.append
        hides_special = self._tree.config.hide_special
        for name, attributes in entries:
            if admits(name):
                checked = self._checked(attributes)
                if not (hides_special and checked is not None and is_special(checked.mode)):
                    append(name, checked)

    def _checked(self, attributes: Attributes) -> FileAttributes | None:
        if self._tree.config.follows and stat.S_ISLNK(attributes.mode or 0):
            return None  # a listing does not say what links lead to; who looks them up is told
        try:
            return self._tree.owners.to_local(checked_attributes(attributes))
        except UnsafeReplyError:
            if attributes.mode is not None:  # without is allowed: they are asked for, then
                self._check.impossible()
        except UnmappedOwnerError:
            pass  # who asks for the name by itself is told
        return None

    def _finish(self) -> None:
        self._complete = True
        self.close()
        self._check = ListingCheck(self._tree.config)  # it has a set of all names
        if self._is_current and self.inode.is_linked:
            listing = CachedListing(
                self._entries,
                self.expires,
                self.begun_at,
                absent_until=self._asked_at + self._tree.config.negative_timeout,
            )
            self._tree.cache.store_listing(
                self.inode.number, listing, is_long=len(self._entries) > PLAIN_FROM
            )
            self._tree.walk.listed(self.inode, listing.entries)
            self._tree.files_ahead.listed(self.inode)

    @property
    def _is_current(self) -> bool:
        """Whether the directory was left alone through this mount since the snapshot."""
        return self.inode.mutated_at <= self.begun_at

    def _is_certain(self, known: Inode | None) -> bool:
        """Whether an entry, and the inode that is `known` under its name, if any, was left alone
        as well. Of a name without an inode it is not known who changed it and was forgotten."""
        changed_at = self.inode.child_mutated_at if known is None else known.last_change
        return changed_at <= self.begun_at and self._is_current

    # --- delivering -------------------------------------------------------------------------

    def describe(self, entry: ListedEntry, next_offset: int) -> ListReply:
        """The entry as the kernel is told of it. What was changed through this mount since the
        snapshot is told with attributes that it must not keep."""
        inodes = self._tree.inodes
        number = inodes.number_for(self.inode, entry.name)
        attributes = entry.attributes
        if attributes is None:
            return ListReply(entry.name, number, 0, next_offset, None)
        self._reached = max(self._reached, next_offset - 2)
        if self._reached > PLAIN_FROM and not self._is_looked_up:
            self._tree.cache.long_streams[self.inode.number] = self
            return ListReply(entry.name, number, stat.S_IFMT(attributes.mode), next_offset, None)
        expires = self.expires if next_offset - 3 < self._newest else self._newest_expires
        known = inodes.child(self.inode, entry.name)
        newer = self._tree.cache.peek_attributes(number)
        if newer is not None and newer.expires > expires:
            # Asked for since: time must not run backwards.
            attributes, expires = newer
        timeout = max(expires - self._tree.cache.clock(), 0.0)
        if known is not None and known.kind not in (None, stat.S_IFMT(attributes.mode)):
            # Another type than the inode that has the name: a lookup must sort that out.
            return ListReply(entry.name, number, 0, next_offset, None)
        if known is not None and (known.last_change > self.begun_at or known.writeback):
            size = max(attributes.size, known.known_size) if known.writeback else attributes.size
            attributes, timeout = attributes._replace(size=size), 0.0
        elif not self._is_certain(known):
            timeout = 0.0
        kind = stat.S_IFMT(attributes.mode)
        told = self._tree.timeouts(number, attributes, timeout)
        return ListReply(entry.name, number, kind, next_offset, told)

    def delivered(self, reply: ListReply) -> None:
        """The kernel took the name with its attributes: that is a lookup, and it knows them."""
        entry = reply.entry
        if entry is None:
            return
        is_certain = self._is_certain(self._tree.inodes.child(self.inode, reply.name))
        inode = self._tree.inodes.intern(self.inode, reply.name)
        inode.lookups += 1
        attributes = entry.attributes
        inode.kind = reply.kind
        inode.told = attributes
        if is_certain:
            inode.found(attributes)
            newer = self._tree.cache.peek_attributes(inode.number)
            if newer is not None and newer.expires > self.expires:
                return
            if len(self._entries) * 2 <= self._tree.cache.capacity:
                self._tree.cache.store_attributes(inode.number, attributes, self.expires)

    def find(self, name: bytes) -> ListedEntry | None:
        """The entry of a name that was told without attributes, of those told last. Somebody asks
        for it (`ls -l`): from now on they come with the names."""
        self._is_looked_up = True
        most = max(self._tree.budget.listings.most // NAME_BYTES, 1)
        if len(self._index) >= most:
            self._index.clear()
        first = max(self._indexed, self._reached - most)
        for index in range(first, self._reached):
            self._index[self._entries.names[index]] = index
        self._indexed = self._reached
        found = self._index.get(name)
        return None if found is None else self._entries[found]

    # --- ending -----------------------------------------------------------------------------

    def release(self) -> None:
        """The kernel is through with it."""
        self.close()
        if self._tree.cache.long_streams.get(self.inode.number) is self:
            del self._tree.cache.long_streams[self.inode.number]

    def close(self) -> None:
        """Give the server its handle back; nobody waits for that."""
        oddities = self._check.oddities()
        if oddities:
            self._tree.notices.say(self.inode, "oddities", f"names that cannot be: {oddities}")
        handle, self._handle = self._handle, None
        self._in_flight.clear()
        self._sent_at.clear()
        if handle is not None:
            self._tree.server.closedir(handle)
