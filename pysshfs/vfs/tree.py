"""The tree as it is known here: inodes, cached metadata, and the server behind them.

`Tree` is what the operations share. It answers "what are this inode's attributes" from the cache
or the server, and it is the only writer of the cache. The rule that keeps the cache true: every
change made through this mount advances `mutations` and stamps the inodes it touched; a reply is
remembered only if its request was sent after the last stamp of its inode. A reply that comes too
late for that is still a correct answer to whoever asked.
"""

from __future__ import annotations

import errno
import logging
import stat
from typing import TYPE_CHECKING, Any

import trio

from pysshfs.errors import FilesystemError, RemoteStatusError
from pysshfs.vfs import endings
from pysshfs.vfs.budget import Budget
from pysshfs.vfs.cache import MetadataCache
from pysshfs.vfs.dirsahead import DirectoriesAhead
from pysshfs.vfs.idmap import Owners
from pysshfs.vfs.inodes import InodeTable
from pysshfs.vfs.kernelcache import Entry, KernelCache, NoKernel
from pysshfs.vfs.moves import Moves
from pysshfs.vfs.notices import Notices
from pysshfs.vfs.ownernames import NamesAsked
from pysshfs.vfs.paths import Paths
from pysshfs.vfs.prefetch import FilesAhead
from pysshfs.vfs.promises import Promises
from pysshfs.vfs.readahead import FileReader
from pysshfs.vfs.repeat import Making, Marks, Version, is_missing
from pysshfs.vfs.sanity import FileAttributes, checked_attributes
from pysshfs.vfs.searchahead import SearchAhead
from pysshfs.vfs.walk import WalkAhead
from pysshfs.vfs.writeback import Writeback
from pysshfs.vfs.writebackpool import WritebackPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.remotefs import Attributes
    from pysshfs.reply import Reply
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.config import VfsConfig
    from pysshfs.vfs.expected import Expected
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.server import Server


log = logging.getLogger(__name__)


class _Fetch:
    """An LSTAT that is out: for which path, the mutation counter when it was sent, and how many
    wait for it."""

    def __init__(self, path: bytes, sent_at: int, reply: Reply[Attributes]) -> None:
        self.path = path
        self.sent_at = sent_at
        self.reply = reply
        self.waiting = 0


class Tree:
    """Shared state of all operations; see the modules that use it for who changes what."""

    def __init__(self, server: Server, config: VfsConfig, clock: Callable[[], float]) -> None:
        self.server = server
        self.config = config
        self.owners = Owners(config)
        if config.local_names is not None:
            assert self.owners.users is not None and self.owners.groups is not None
            server.names = NamesAsked(
                server.owner_names, self.owners.users, self.owners.groups, config.local_names
            )
        self.inodes = InodeTable()
        self.budget = Budget(config)
        self.read_budget = self.budget.read_ahead
        self.cache = MetadataCache(config, self.budget, clock)
        self.writebacks = WritebackPool(server, self.budget.written, config.write_delay)
        self.walk = WalkAhead(self)
        self.search = SearchAhead(self)
        self.directories_ahead = DirectoriesAhead(self)
        self.files_ahead = FilesAhead(self)
        self.marks = Marks()
        self.promises = Promises(self)
        self.notices = Notices()
        self.paths = Paths(config.max_depth, self.notices)
        self.child_path = self.paths.child
        self.kernel: KernelCache = NoKernel()
        self.mutations = 0
        self._fetching: dict[int, _Fetch] = {}
        self.moves = Moves()

    def forget_replies(self) -> None:
        """What the server said until now, or was asked, is not to be relied on any more."""
        self.cache.clear()
        self.directories_ahead.forget()
        self._fetching.clear()

    # --- changes ----------------------------------------------------------------------------

    def changed(self, inode: Inode) -> None:
        """This inode's attributes were changed through this mount, or are about to be."""
        self.mutations += 1
        inode.mutated_at = self.mutations
        inode.seen = inode.expected = None
        if inode.parent is not None:
            inode.parent.child_mutated_at = self.mutations
        self.cache.drop_attributes(inode.number)
        self._fetching.pop(inode.number, None)

    def changed_to(self, inode: Inode, expected: Expected | None) -> FileAttributes | None:
        """`changed`, and what the file is then, if that is known; whole attributes are remembered,
        and returned."""
        self.changed(inode)
        inode.expected = expected
        if expected is None or not expected.is_whole:
            return None
        known = self.in_local_terms(inode, expected)
        inode.found(known)
        expires = expected.since + self.config.stat_timeout
        self.cache.store_attributes(inode.number, known, expires)
        return known

    def in_local_terms(self, inode: Inode, expected: Expected) -> FileAttributes:
        return self._believed(expected.attributes._replace(size=inode.known_size))

    def foretold(self, inode: Inode) -> FileAttributes | None:
        """What the file will be when all that was sent is carried out, if that is certain."""
        expected = inode.expected
        if expected is None or not expected.is_whole:
            return None
        if self.cache.clock() >= expected.since + self.config.stat_timeout:
            return None
        cached = self.cache.peek_attributes(inode.number)
        return self.in_local_terms(inode, expected) if cached is None else cached.attributes

    def writeback_of(self, inode: Inode) -> Writeback:
        """Its unacknowledged data, of which there may be none yet."""
        if inode.writeback is None:
            inode.writeback = Writeback(
                self.writebacks, inode, lambda: self._all_acknowledged(inode)
            )
        return inode.writeback

    def _all_acknowledged(self, inode: Inode) -> None:
        """What was asked before is out of date."""
        self.changed_to(inode, inode.expected)

    def refused_behind(self, inode: Inode) -> None:
        """A change that was not waited for was refused: the kernel was told of it in vain."""
        self.changed(inode)
        self.kernel.inode_changed(inode.number)

    def names_changed(self, directory: Inode) -> None:
        """A name was added to or taken from this directory."""
        self.changed(directory)
        self.cache.drop_listing(directory.number)

    def made_directory(self, directory: Inode) -> None:
        """It is new: what is remembered of an earlier one of its name, which was removed on the
        server with all that was in it, is not true of this one."""
        listing = self.cache.listing(directory.number)
        for entry in listing.entries if listing is not None else ():
            self.cache.drop_attributes(self.inodes.number_for(directory, entry.name))
        self.cache.drop_listing(directory.number)
        self.cache.names.made(directory.number)

    def about_to_make(
        self, parent: Inode, name: bytes, kind: int, *, strict: bool = True
    ) -> Making:
        """Something is going to be made under this name: what is believed of it, and of the
        directory, is out of date from before the request is sent. `strict`: that it is new matters
        to the caller."""
        known_absent = self.cache.was_absent(parent.number, name)
        self.names_changed(parent)
        self.cache.drop_absent(parent.number, name)
        self.name_changed(parent, name)
        return Making(
            self.marks,
            self.child_path(parent, name),
            kind,
            known_absent=known_absent,
            strict=strict and self.config.strict_ambiguity,
        )

    def name_is_out_of_date(self, parent: Inode, name: bytes) -> Callable[[], None]:
        """To be called when the kernel has concluded of this name what turned out otherwise."""
        return lambda: self.kernel.entry_changed(parent.number, name)

    def as_told(self, *found: tuple[bytes, Inode | None]) -> dict[bytes, FileAttributes]:
        """What the kernel was told of these paths, as far as it knows them."""
        return {
            path: inode.told
            for path, inode in found
            if inode is not None and inode.told is not None
        }

    def last_version(self, inode: Inode) -> Version | None:
        """What the file was when it was last seen; None when it was changed here since."""
        if inode.seen is None:
            return None
        return Version(stat.S_IFMT(inode.seen.mode), inode.seen.mtime, inode.seen.size)

    def name_changed(self, parent: Inode, name: bytes) -> None:
        """What stands under this name is made, removed or replaced, or is about to be."""
        known = self.inodes.child(parent, name)
        if known is not None:
            self.changed(known)
        else:
            self.cache.drop_attributes(self.inodes.number_for(parent, name))

    def vanish(self, parent: Inode, name: bytes) -> None:
        """The name is gone: removed by us, or found missing on the server."""
        inode = self.inodes.child(parent, name)
        self.cache.names.drop(self.inodes.number_for(parent, name))
        if inode is not None:
            self.changed(inode)
            self.inodes.detach(inode)
        else:
            number = self.inodes.number_for(parent, name)
            self.cache.drop_attributes(number)
            self.inodes.forget_name(parent, name)
        self.cache.drop_listing(parent.number)

    # --- handles ----------------------------------------------------------------------------

    def reader_for(self, inode: Inode, handle: OpenFileHandle) -> FileReader:
        return FileReader(
            self.server,
            handle,
            self.read_budget,
            self.config.readahead,
            lambda: inode.known_size,
            lambda: endings.size_now(self, inode, handle),
        )

    def close(self, handle: OpenFileHandle) -> None:
        """Give the server a handle back. Nobody waits for that, nor could act on a failure."""
        self.server.close(handle)

    # --- attributes -------------------------------------------------------------------------

    def resizing(self, inode: Inode, size: int, reply: Reply[Any]) -> None:
        """A truncation was sent. What is written behind it is not measured by the size before."""
        inode.resizing += 1

        def answered(reply: Reply[Any]) -> None:
            inode.resizing -= 1
            inode.drop_read_ahead()  # READs on a lane may have overtaken the truncation
            writeback = inode.writeback
            if reply.error is None:
                inode.known_size = size if writeback is None else max(size, writeback.end)
            if writeback is not None:
                writeback.resized(size, is_certain=reply.error is None)

        reply.add_callback(answered)

    def remember(self, inode: Inode, attributes: Attributes, sent_at: int) -> FileAttributes:
        """Check and translate what the server said of `inode` in reply to a request sent when
        `mutations` was `sent_at`; cache it if that is still current.

        Raises ESTALE when it is of another type: that is another file, hence another inode, and
        this one has lost its name.
        """
        return self._remember(inode, self._believed(attributes), sent_at)

    def _believed(self, attributes: Attributes) -> FileAttributes:
        return self.owners.to_local(checked_attributes(attributes))

    def _remember(self, inode: Inode, known: FileAttributes, sent_at: int) -> FileAttributes:
        kind = stat.S_IFMT(known.mode)
        if inode.kind not in (None, kind):
            if inode.parent is not None:
                self.vanish(inode.parent, inode.name)
            raise FilesystemError(errno.ESTALE, f"{inode!r} became another type of file")
        inode.kind = kind
        if inode.mutated_at <= sent_at:
            inode.found(known)
            self.cache.store_attributes(inode.number, known)
        return known

    def adopt(
        self, parent: Inode, name: bytes, attributes: Attributes, sent_at: int
    ) -> tuple[Inode, FileAttributes]:
        """`remember` for what was found under a name, as the inode that is known there or, when
        that was of another type, as a new one. Leaves none behind when the attributes are bad."""
        found = self._believed(attributes)
        known = self.inodes.child(parent, name)
        if known is not None and known.kind not in (None, stat.S_IFMT(found.mode)):
            self.vanish(parent, name)
        inode = self.inodes.intern(parent, name)
        return inode, self._remember(inode, found, sent_at)

    def listed(self, parent: Inode, name: bytes) -> FileAttributes | None:
        """What a remembered listing says of a name, if that is current: from then on it is known,
        as if it had been asked for when the listing was."""
        listing = self.cache.long_or_cached(parent.number)
        entry = None if listing is None else listing.find(name)
        if listing is None or entry is None or entry.attributes is None:
            return None
        known = self.inodes.child(parent, name)
        # Of a name without an inode it is not known who changed it and was forgotten.
        changed_at = parent.child_mutated_at if known is None else known.last_change
        kind = stat.S_IFMT(entry.attributes.mode)
        if max(changed_at, parent.mutated_at) > listing.begun_at or (
            known is not None and known.kind not in (None, kind)
        ):
            return None
        if self.cache.clock() >= listing.expires:
            return None
        inode = self.inodes.intern(parent, name)
        inode.kind = kind
        inode.found(entry.attributes)
        self.cache.store_attributes(inode.number, entry.attributes, listing.expires)
        self.walk.answered(parent)
        return entry.attributes

    def is_not_listed(self, parent: Inode, name: bytes) -> bool:
        """Whether a listing from just now shows a program that searches that there is no such
        name."""
        listing = self.cache.listing(parent.number)
        if (
            listing is None
            or not self.search.is_search(parent, name)
            or parent.mutated_at > listing.begun_at
            or self.cache.clock() >= listing.absent_until
            or listing.find(name) is not None
        ):
            return False
        self.cache.seen_absent(parent.number, name)
        self.search.absent(parent, name)
        self.walk.answered(parent)
        return True

    def attributes_at_hand(self, inode: Inode) -> FileAttributes | None:
        """The same as `attributes`, if they are known without asking anybody."""
        if inode.writeback is not None and not inode.writeback.is_clean:
            return self.foretold(inode)
        cached = self.cache.attributes(inode.number)
        if cached is not None:
            return cached.attributes
        return None if inode.parent is None else self.listed(inode.parent, inode.name)

    async def attributes(self, inode: Inode) -> FileAttributes:
        """The attributes, at most the cache's lifetime old.

        A file with unacknowledged data is drained first: its size and mtime are then the ones it
        will have after close as well.
        """
        known = self.attributes_at_hand(inode)
        if known is not None:
            return known
        writeback = inode.writeback
        if writeback is not None and not writeback.is_clean:
            await writeback.drain()
            self.changed(inode)
            with writeback.watched() as reached:
                attributes = await self.fetch_attributes(inode)
            end = max(writeback.end, reached.end)
            if end > attributes.size:  # somebody went on writing
                attributes = attributes._replace(size=end)
            return attributes
        if inode.parent is not None:
            self.walk.missed(inode.parent, inode.name)
        return await self.fetch_attributes(inode)

    async def fetch_attributes(self, inode: Inode) -> FileAttributes:
        """Ask the server now; a request of the same kind that is already out is shared."""
        if not inode.is_linked:
            return await self._fetch_by_handle(inode)
        while True:
            fetch = self._fetching.get(inode.number)
            if fetch is None:
                path = inode.path()
                fetch = _Fetch(path, self.mutations, self.server.lstat(path))
                self._fetching[inode.number] = fetch
                fetch.reply.add_callback(lambda reply: self._fetched(inode.number, reply))
            try:
                attributes = await self._wait_for(inode.number, fetch)
            except RemoteStatusError as error:
                if not is_missing(error):
                    raise
                if await self.moves.has_moved(inode, fetch.path):
                    continue
                # Unless it was found missing, and even made anew, by others meanwhile.
                if inode.parent is not None and inode.mutated_at <= fetch.sent_at:
                    self.vanish(inode.parent, inode.name)
                raise
            return self.remember(inode, attributes, fetch.sent_at)

    async def _wait_for(self, number: int, fetch: _Fetch) -> Attributes:
        fetch.waiting += 1
        try:
            return await fetch.reply.wait()
        except trio.Cancelled:
            if fetch.waiting == 1 and not self.server.is_up:  # it need not be sent any more
                self._fetched(number, fetch.reply)
                fetch.reply.abandon()
            raise
        finally:
            fetch.waiting -= 1

    def _fetched(self, number: int, reply: Reply[Attributes]) -> None:
        fetch = self._fetching.get(number)
        if fetch is not None and fetch.reply is reply:
            del self._fetching[number]

    async def _fetch_by_handle(self, inode: Inode) -> FileAttributes:
        """An unlinked file lives on the server as long as it is open here."""
        if not inode.open_files:
            raise FilesystemError(errno.ESTALE, f"{inode!r} is gone")
        sent_at = self.mutations
        attributes = await self.server.fstat(inode.open_files[0].handle)
        return self.remember(inode, attributes, sent_at)

    # --- what the kernel is told --------------------------------------------------------------

    def entry(self, inode: Inode, attributes: FileAttributes) -> Entry:
        """The kernel may keep it as long as we would ourselves, or as configured."""
        cached = self.cache.attributes(inode.number)
        left = 0.0
        if cached is not None and cached.attributes is attributes:
            left = max(cached.expires - self.cache.clock(), 0.0)
        inode.told = attributes
        return self.timeouts(inode.number, attributes, left)

    def looked_up(self, inode: Inode, attributes: FileAttributes) -> Entry:
        """An entry for the kernel, which from now on has one more lookup to forget."""
        inode.lookups += 1
        inode.believed_depth = None  # it comes to know the place
        return self.entry(inode, attributes)

    def entry_of_change(self, inode: Inode, attributes: FileAttributes, is_certain: bool) -> Entry:
        """As `entry`; what is not certain the kernel asks for when it wants to know it."""
        if is_certain:
            return self.entry(inode, attributes)
        inode.told = attributes
        return Entry(inode.number, attributes, 0.0, 0.0)

    def timeouts(self, number: int, attributes: FileAttributes, left: float) -> Entry:
        """`left`: seconds for which our own cache would still believe them."""
        config = self.config
        entry, attribute = config.kernel_entry_timeout, config.kernel_attribute_timeout
        return Entry(
            number,
            attributes,
            left if entry is None else entry,
            left if attribute is None else attribute,
        )
