"""Requests whose answer is at hand: `vfs/athand.py` in the terms of `_quick.c`, which asks here.

These functions run while libfuse hands the request over, in the task of one of pyfuse3's workers,
and never suspend: there is nothing to interrupt, so no guard, no cancel scope and no entry in the
table of requests being served. What they decline, with None, goes the way of every other request.
While operations are traced (`fuse/tracing.py`) nothing is answered here: the guard knows of them.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from pysshfs.errors import FilesystemError
from pysshfs.fuse.binding import _session
from pysshfs.remotefs import AttributeChange

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.fuse.operations import Operations
    from pysshfs.fuse.requests import Requests
    from pysshfs.vfs.athand import AtHand
    from pysshfs.vfs.directories import ListReply
    from pysshfs.vfs.kernelcache import Entry
    from pysshfs.vfs.openfile import OpenReply

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

# struct fuse_direntplus of linux/fuse.h: what comes before the name, and to what all is rounded up.
_DIRENTPLUS: Final = 128 + 24
_ALIGNMENT: Final = 8
_BARE: Final = -1.0  # no timeout is

_ANSWERED: Final = (
    "lookup", "getattr", "setattr", "create", "unlink", "open", "read", "write", "flush", "release",
    "opendir", "readdir", "releasedir",
)  # fmt: skip


def answer(at_hand: AtHand, operations: Operations, requests: Requests) -> None:
    """Have requests of this mount answered at once where that is possible, unless it is traced."""
    handlers = _Handlers(at_hand, operations)
    asked = {name: _asked(getattr(handlers, name), requests) for name in _ANSWERED}

    def switch() -> None:
        _session.answer_quickly({} if requests.tracing.is_on else asked)

    requests.tracing.on_switched = switch
    switch()


def _asked(function: Callable[P, T | None], requests: Requests) -> Callable[P, T | None]:
    """The function, whose failure means that it has no answer."""

    @functools.wraps(function)
    def ask(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            told = function(*args, **kwargs)
        except FilesystemError:
            return None  # the operation will fail in the same way, and say so
        except Exception:
            log.exception("%s failed unexpectedly", function.__name__)
            return None
        if told is not None:
            requests.served += 1
            requests.answered_at_once += 1
        return told

    return ask


class _Handlers:
    """What `_quick.c` asks, as it has the arguments, and the answers as it takes them."""

    def __init__(self, at_hand: AtHand, operations: Operations) -> None:
        self._at_hand = at_hand
        self._operations = operations
        self.unlink = at_hand.unlink
        self.read = at_hand.read
        self.write = at_hand.write
        self.flush = at_hand.flush
        self.release = at_hand.release
        self.opendir = at_hand.opendir
        self.releasedir = at_hand.releasedir

    def lookup(self, parent: int, name: bytes) -> tuple[float, ...] | None:
        return _told(self._at_hand.lookup(parent, name))

    def getattr(self, number: int) -> tuple[float, ...] | None:
        return _told(self._at_hand.getattr(number))

    def setattr(
        self, number: int, mode: int | None, uid: int | None, gid: int | None,
        atime: int | None, mtime: int | None, fh: int | None,
    ) -> tuple[float, ...] | None:  # fmt: skip
        change = AttributeChange(mode, None, uid, gid, atime, mtime)
        if change == AttributeChange():
            return _told(self._at_hand.getattr(number))
        return _told(self._at_hand.setattr(number, change, fh))

    def create(
        self, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[tuple[int, bool, bool], tuple[float, ...] | None] | None:
        made = self._at_hand.create(parent, name, mode, flags)
        if made is None:
            return None
        opened, entry = made
        return _opened(opened), _told(entry)

    def open(self, number: int, flags: int) -> tuple[int, bool, bool] | None:
        opened = self._at_hand.open(number, flags)
        if opened is None:
            return None
        return _opened(opened, stored=self._operations.tell_of_content(number, opened))

    def readdir(self, fh: int, offset: int, size: int) -> list[tuple[object, ...]] | None:
        replies = self._at_hand.readdir(fh, offset, _Room(size).has_one_for)
        return None if replies is None else [_listed(reply) for reply in replies]


def _told(entry: Entry | None) -> tuple[float, ...] | None:
    """As `_quick.c` takes it."""
    if entry is None:
        return None
    known = entry.attributes
    return (
        entry.number, known.mode, known.uid, known.gid, known.size, known.atime, known.mtime,
        entry.entry_timeout, entry.attribute_timeout,
    )  # fmt: skip


def _opened(opened: OpenReply, *, stored: bool = False) -> tuple[int, bool, bool]:
    """`stored`: what its pages hold now is the file."""
    return opened.fh, opened.direct_io, opened.keep_cache or stored


class _Room:
    """What is left of a readdirplus reply of `size` bytes."""

    def __init__(self, size: int) -> None:
        self._left = size

    def has_one_for(self, name: bytes) -> bool:
        self._left -= -(-(_DIRENTPLUS + len(name)) // _ALIGNMENT) * _ALIGNMENT
        return self._left >= 0


def _listed(reply: ListReply) -> tuple[object, ...]:
    """A name, where the next one is, and its entry. Without attributes it is for readdir only,
    which `_quick.c` is told by the last number."""
    told = _told(reply.entry) or (reply.number, reply.kind, 0, 0, 0, 0, 0, 0.0, _BARE)
    return reply.name, reply.next_offset, told
