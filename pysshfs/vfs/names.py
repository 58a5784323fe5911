"""Directories of which every name is known: those listed a moment ago, and those made here.

Unlike a cached listing, which holds attributes and is dropped with the first change, this is kept
up to date by what is made and removed here. It ends `directory_timeout` seconds after the listing,
or the making, however much is changed here meanwhile: until then what others make is not seen.

So a name is not simply absent because it `lacks`: who was told so would miss what another client
makes a moment later. Only in a directory that was made here, and while names are made in it (at
most `pause` seconds apart), as when an archive is unpacked, it need not be looked up. With
`async_ops`, where names are made without asking anyway, that holds of every known directory in
which names are being made (`any_fills`).

Part of the `MetadataCache`; synchronous.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachetools import TLRUCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class _Names:
    """`counted` is how many there were when the cache last measured it. `filling_until`: until
    then, names are being made in it by nobody but us."""

    __slots__ = ("counted", "expires", "filling_until", "names")

    def __init__(self, names: set[bytes], expires: float, filling_until: float) -> None:
        self.names = names
        self.expires = expires
        self.filling_until = filling_until
        self.counted = len(names)


class KnownNames:
    """At most `entries` names in all; times are on `clock`, in seconds."""

    def __init__(
        self,
        entries: int,
        timeout: float,
        pause: float,
        clock: Callable[[], float],
        *,
        any_fills: bool = False,
    ) -> None:
        self._clock = clock
        self._any_fills = any_fills
        self._timeout = timeout
        self._pause = pause
        self._directories: TLRUCache[int, _Names] = TLRUCache(
            entries,
            lambda _number, known, _now: known.expires,
            clock,
            getsizeof=lambda known: known.counted + 1,
        )

    @property
    def count(self) -> int:
        """How many names, and directories, are held."""
        return int(self._directories.currsize)

    def begin(self, number: int, names: Iterable[bytes]) -> None:
        """These are all the names in this directory now."""
        if self._timeout:
            self._store(number, _Names(set(names), self._clock() + self._timeout, 0.0))

    def made(self, number: int) -> None:
        """This directory was made here a moment ago: there are none."""
        if self._timeout:
            now = self._clock()
            self._store(number, _Names(set(), now + self._timeout, now + self._pause))

    def _store(self, number: int, known: _Names) -> None:
        known.counted = len(known.names)
        self._directories.pop(number, None)
        if known.counted < self._directories.maxsize:
            self._directories[number] = known

    def drop(self, number: int) -> None:
        """They are not known any more."""
        self._directories.pop(number, None)

    def lacks(self, number: int, name: bytes) -> bool:
        """Whether every name is known, and this one is not among them."""
        known = self._directories.get(number)
        return known is not None and name not in known.names

    def is_filled(self, number: int, name: bytes) -> bool:
        """The same, while names are made in a directory that was made here."""
        known = self._directories.get(number)
        if known is None or self._clock() >= known.filling_until:
            return False
        return name not in known.names

    def all_of(self, number: int) -> set[bytes] | None:
        """Every name in it, None when they are not known. Not to be changed."""
        known = self._directories.get(number)
        return None if known is None else known.names

    def add(self, number: int, name: bytes) -> None:
        """The name may be there from now on."""
        known = self._directories.get(number)
        if known is not None:
            known.names.add(name)
            now = self._clock()
            if self._any_fills or now < known.filling_until:
                known.filling_until = now + self._pause
            if len(known.names) > 2 * known.counted:
                self._store(number, known)

    def discard(self, number: int, name: bytes) -> None:
        """The name is gone."""
        known = self._directories.get(number)
        if known is not None:
            known.names.discard(name)

    def clear(self) -> None:
        self._directories.clear()
