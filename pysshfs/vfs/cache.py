"""What is remembered of the server, for a while: attributes, link targets, listings, absences.

Everything is bounded and expires, in cachetools' caches, on a clock that runs through suspend.
Keys are inode numbers, which stay the same across renames and forgets. Only the `Tree` writes
here, and it decides whether a reply is still current (`Inode.mutated_at`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from cachetools import TLRUCache, TTLCache

from pysshfs.vfs.budget import ENTRY_BYTES, NAME_BYTES
from pysshfs.vfs.names import KnownNames

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.vfs.budget import Budget
    from pysshfs.vfs.config import VfsConfig
    from pysshfs.vfs.directories import DirectoryStream
    from pysshfs.vfs.listing import ListedEntry, Listing
    from pysshfs.vfs.sanity import FileAttributes


# A link's text that takes no more room than an entry does (bytes).
_SHORT_TEXT: Final = 64
# What a resolved link takes beside its texts (bytes), and which part of the room for metadata all
# of them may take: links that need it are few.
_RESOLVED_BYTES: Final = 400
_RESOLVED_SHARE: Final = 16


def boot_time() -> float:
    """Seconds on a clock that suspend does not stop: what was fresh before it is old after it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class CachedAttributes(NamedTuple):
    attributes: FileAttributes
    expires: float  # on the cache's clock


class ResolvedLink(NamedTuple):
    """Where a link leads whose text could not be passed on (`vfs/readlink.py`): a path in the
    served directory, None for elsewhere. True of a link with this path and this text."""

    path: bytes
    text: bytes
    place: bytes | None

    def is_of(self, path: bytes, text: bytes) -> bool:
        return (self.path, self.text) == (path, text)


class CachedListing:
    """A whole directory. On the cache's clock, `expires` is for the attributes in it and
    `absent_until` for what is not in it; `begun_at` is the tree's mutation counter when it was
    asked for."""

    __slots__ = ("_by_name", "absent_until", "begun_at", "entries", "expires")

    def __init__(
        self,
        entries: Listing,
        expires: float,
        begun_at: int,
        absent_until: float = 0.0,
    ) -> None:
        self.entries = entries
        self.expires = expires
        self.absent_until = absent_until
        self.begun_at = begun_at
        self._by_name: dict[bytes, int] | None = None

    def find(self, name: bytes) -> ListedEntry | None:
        """The entry of this name."""
        if self._by_name is None:  # most listings are never asked
            self._by_name = {name: index for index, name in enumerate(self.entries.names)}
        index = self._by_name.get(name)
        return None if index is None else self.entries[index]


class MetadataCache:
    """The caches and their counters."""

    def __init__(self, config: VfsConfig, budget: Budget, clock: Callable[[], float]) -> None:
        entries = max(min(config.cache_entries, budget.metadata.most // ENTRY_BYTES), 1)
        self.clock = clock
        self._stat_timeout = config.stat_timeout
        # Attributes from a listing are as old as the listing: each item has its own end.
        self._attributes: TLRUCache[int, CachedAttributes] = TLRUCache(
            entries, lambda _number, item, _now: item.expires, clock
        )
        self._links: TTLCache[int, bytes] = TTLCache(
            entries, config.link_timeout, clock, getsizeof=_room_of_text
        )
        self._resolved: TTLCache[int, ResolvedLink] = TTLCache(
            budget.metadata.most // _RESOLVED_SHARE,
            config.link_timeout,
            clock,
            getsizeof=_bytes_of_resolved,
        )
        self._absent: TTLCache[tuple[int, bytes], bool] = TTLCache(
            entries, config.negative_timeout, clock
        )
        # The same for a moment even where nothing is cached: what was seen to be absent right
        # before it was made can be told from what others made (`vfs/repeat.py`).
        self._lately_absent: TTLCache[tuple[int, bytes], bool] = TTLCache(
            entries, max(config.negative_timeout, 1.0), clock
        )
        # A listing counts by its names, so that one huge directory does not multiply the bound.
        names = max(budget.listings.most // NAME_BYTES, 1)
        self._listings: TTLCache[int, CachedListing] = TTLCache(
            min(entries, names), config.directory_timeout, clock, getsizeof=_room_of
        )
        self.names = KnownNames(
            entries,
            config.directory_timeout,
            config.negative_timeout,
            clock,
            any_fills=config.async_ops,
        )
        # Those of which the kernel is not told all attributes (`vfs/directories.py`) are kept apart
        # from the others, in the rest of the room: who asks for each name must find them.
        self._long_listings: TTLCache[int, CachedListing] = TTLCache(
            names - int(self._listings.maxsize), config.directory_timeout, clock, _room_of
        )
        # Open directories whose names were told without attributes (`DirectoryStream` sees to it).
        self.long_streams: dict[int, DirectoryStream] = {}
        self._budget = budget
        self.hits = 0
        self.misses = 0

    @property
    def capacity(self) -> int:
        return int(self._attributes.maxsize)

    # --- attributes -------------------------------------------------------------------------

    def attributes(self, number: int) -> CachedAttributes | None:
        found = self._attributes.get(number)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def peek_attributes(self, number: int) -> CachedAttributes | None:
        """The same for who could do without: not counted as a hit or a miss."""
        return self._attributes.get(number)

    def store_attributes(
        self, number: int, attributes: FileAttributes, expires: float | None = None
    ) -> None:
        """Keep them for `stat_timeout`, or until `expires` on the cache's clock."""
        if expires is None:
            expires = self.clock() + self._stat_timeout
        self._attributes[number] = CachedAttributes(attributes, expires)

    def drop_attributes(self, number: int) -> None:
        self._attributes.pop(number, None)

    # --- link targets -----------------------------------------------------------------------

    def link(self, number: int) -> bytes | None:
        return self._links.get(number)

    def store_link(self, number: int, target: bytes) -> None:
        if _room_of_text(target) <= self._links.maxsize:
            self._links[number] = target

    def drop_link(self, number: int) -> None:
        self._links.pop(number, None)
        self._resolved.pop(number, None)

    def resolved_link(self, number: int) -> ResolvedLink | None:
        return self._resolved.get(number)

    def store_resolved_link(self, number: int, resolved: ResolvedLink) -> None:
        if _bytes_of_resolved(resolved) <= self._resolved.maxsize:
            self._resolved[number] = resolved

    # --- names known to be absent -------------------------------------------------------------

    def is_absent(self, parent: int, name: bytes) -> bool:
        return (parent, name) in self._absent or self.names.is_filled(parent, name)

    def was_absent(self, parent: int, name: bytes) -> bool:
        """Whether the name was seen to be absent a moment ago."""
        return (parent, name) in self._lately_absent or self.names.lacks(parent, name)

    def store_absent(self, parent: int, name: bytes) -> None:
        self._absent[parent, name] = self._lately_absent[parent, name] = True
        self.names.discard(parent, name)

    def seen_absent(self, parent: int, name: bytes) -> None:
        """A listing without the name has answered for it; how long, the listing knows."""
        self._lately_absent[parent, name] = True

    def drop_absent(self, parent: int, name: bytes) -> None:
        self._absent.pop((parent, name), None)
        self._lately_absent.pop((parent, name), None)
        self.names.add(parent, name)

    def absent_names(self) -> list[tuple[int, bytes]]:
        """Directory and name of those that are known to be absent."""
        return list(self._absent)

    # --- listings ---------------------------------------------------------------------------

    def listing(self, number: int) -> CachedListing | None:
        return self._listings.get(number) or self._long_listings.get(number)

    def long_or_cached(self, number: int) -> DirectoryStream | CachedListing | None:
        """Where a name can be looked up. The stream first: it is to know that somebody does."""
        return self.long_streams.get(number) or self.listing(number)

    def store_listing(self, number: int, listing: CachedListing, *, is_long: bool = False) -> None:
        """`is_long`: the kernel is not told all of its attributes."""
        cache = self._long_listings if is_long else self._listings
        if _room_of(listing) <= cache.maxsize:
            cache[number] = listing
            if not is_long:
                self.names.begin(number, listing.entries.names)

    def drop_listing(self, number: int) -> None:
        self._listings.pop(number, None)
        self._long_listings.pop(number, None)

    # --- how much it is -----------------------------------------------------------------------

    def measure(self) -> None:
        """Note in the budget what is held, by the number of entries."""
        tables = (self._attributes, self._links, self._absent, self._lately_absent)
        entries = sum(cache.currsize for cache in tables) + self.names.count
        resolved = int(self._resolved.currsize)
        self._budget.metadata.held = int(entries * ENTRY_BYTES / (len(tables) + 1)) + resolved
        names = self._listings.currsize + self._long_listings.currsize
        self._budget.listings.held = int(names * NAME_BYTES)

    def clear(self) -> None:
        self._lately_absent.clear()
        self.names.clear()
        for cache in (self._attributes, self._links, self._resolved, self._absent):
            cache.clear()
        for listings in (self._listings, self._long_listings):
            listings.clear()


def _room_of_text(text: bytes) -> int:
    """In entries: a server can have texts of 4 KiB."""
    return 1 + len(text) // _SHORT_TEXT


def _bytes_of_resolved(resolved: ResolvedLink) -> int:
    texts = len(resolved.path) + len(resolved.text) + len(resolved.place or b"")
    return _RESOLVED_BYTES + texts


def _room_of(listing: CachedListing) -> int:
    """In names; long ones count for more."""
    return max(len(listing.entries), listing.entries.size // NAME_BYTES) + 1
