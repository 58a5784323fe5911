"""Calls that change the server and whose callers were interrupted: they go on, as orphans.

A program whose call failed with EINTR often makes it again at once (Python's own library does). If
the first one is still under way, or was carried out meanwhile, a second mkdir or unlink would fail
falsely; so the same call of the same thread is joined with its orphan. The kernel looks the name up
before it repeats a call: until the outcome is known, that thread is shown the state from before.

State: the table of orphans, owned by `Calls`, which adds a call when it is abandoned. Synchronous.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeAlias

from pysshfs.vfs.repeat import MOVES

if TYPE_CHECKING:
    from pysshfs.vfs.call import Change

_MOST: Final = 4096
# How long after its end an orphan still answers the repeated call of a thread that was told that
# it has not happened (seconds).
_REMEMBERED: Final = 5.0

_Key: TypeAlias = tuple[int, str, tuple[object, ...]]  # thread, method, what makes it the same


class Orphans:
    """Orphans by thread and call."""

    def __init__(self) -> None:
        self._calls: dict[_Key, Change] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def _drop_old(self) -> None:
        oldest = time.monotonic() - _REMEMBERED
        for key in [k for k, c in self._calls.items() if (c.finished_at or oldest) < oldest]:
            del self._calls[key]

    def add(self, tid: int, call: Change) -> None:
        self._drop_old()
        if len(self._calls) < _MOST:
            self._calls[tid, call.method, call.words] = call

    def finished(self, call: Change) -> None:
        """Its outcome is known: nobody needs it any more, unless a thread was told otherwise."""
        if call.told or call.caller is None:
            return
        key = (call.caller.tid, call.method, call.words)
        if self._calls.get(key) is call:
            del self._calls[key]

    def take(self, tid: int, method: str, words: tuple[object, ...]) -> Change | None:
        """The orphan that this repeats, under way or done with success."""
        self._drop_old()
        call = self._calls.pop((tid, method, words), None)
        if call is None or call.finished_at is None:
            return call
        return None if call.error is not None else call

    def undecided(self, tid: int, path: bytes) -> Change | None:
        """A call of this thread on this path whose outcome is not known."""
        for (thread, _, words), call in self._calls.items():
            changed = words[:2] if call.method in MOVES else words[:1]
            if thread == tid and path in changed and call.finished_at is None:
                call.told = True
                return call
        return None
