"""Requests whose answer is at hand: `vfs/athand.py` in the terms of `_quick.c`, which asks here.

These functions run while libfuse hands the request over, in the task of one of pyfuse3's workers,
and never suspend: there is nothing to interrupt, so no guard, no cancel scope and no entry in the
table of requests being served. What they decline, with None, goes the way of every other request.
With the trace of operations switched on nothing is answered here: the guard writes it.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from pysshfs.errors import FilesystemError
from pysshfs.fuse.binding import _session
from pysshfs.fuse.requests import trace
from pysshfs.remotefs import AttributeChange

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.fuse.operations import Operations
    from pysshfs.fuse.requests import Requests
    from pysshfs.vfs.athand import AtHand
    from pysshfs.vfs.directories import ListReply
    from pysshfs.vfs.kernelcache import Entry

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

# struct fuse_direntplus of linux/fuse.h: what comes before the name, and to what all is rounded up.
_DIRENTPLUS: Final = 128 + 24
_ALIGNMENT: Final = 8
_BARE: Final = -1.0  # no timeout is


def answer(at_hand: AtHand, operations: Operations, requests: Requests) -> None:
    """Have requests of this mount answered at once where that is possible."""

    def asked(function: Callable[P, T | None]) -> Callable[P, T | None]:
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

    def lookup(parent: int, name: bytes) -> tuple[float, ...] | None:
        return _told(at_hand.lookup(parent, name))

    def getattr(number: int) -> tuple[float, ...] | None:
        return _told(at_hand.getattr(number))

    def setattr(
        number: int, mode: int | None, uid: int | None, gid: int | None, atime: int | None,
        mtime: int | None, fh: int | None,
    ) -> tuple[float, ...] | None:  # fmt: skip
        change = AttributeChange(mode, None, uid, gid, atime, mtime)
        if change == AttributeChange():
            return _told(at_hand.getattr(number))
        return _told(at_hand.setattr(number, change, fh))

    def create(
        parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[int, bool, bool, tuple[float, ...] | None] | None:
        made = at_hand.create(parent, name, mode, flags)
        if made is None:
            return None
        opened, entry = made
        return opened.fh, opened.direct_io, opened.keep_cache, _told(entry)

    def open(number: int, flags: int) -> tuple[int, bool, bool] | None:
        opened = at_hand.open(number, flags)
        if opened is None:
            return None
        stored = operations.tell_of_content(number, opened)
        return opened.fh, opened.direct_io, opened.keep_cache or stored

    def write(fh: int, offset: int, data: bytes, from_page_cache: bool) -> int | None:
        return at_hand.write(fh, offset, data)

    def readdir(fh: int, offset: int, size: int) -> list[tuple[object, ...]] | None:
        replies = at_hand.readdir(fh, offset, _Room(size).has_one_for)
        return None if replies is None else [_listed(reply) for reply in replies]

    handlers = (
        lookup, getattr, setattr, create, open, write, readdir, at_hand.unlink, at_hand.read,
        at_hand.flush, at_hand.release, at_hand.opendir, at_hand.releasedir,
    )  # fmt: skip
    is_traced = trace.isEnabledFor(logging.DEBUG)
    _session.answer_quickly(
        {} if is_traced else {handler.__name__: asked(handler) for handler in handlers}
    )


def _told(entry: Entry | None) -> tuple[float, ...] | None:
    """As `_quick.c` takes it."""
    if entry is None:
        return None
    known = entry.attributes
    return (
        entry.number, known.mode, known.uid, known.gid, known.size, known.atime, known.mtime,
        entry.entry_timeout, entry.attribute_timeout,
    )  # fmt: skip


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
