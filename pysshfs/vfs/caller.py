"""Who asks: the thread of a program on whose behalf something is asked of the server.

`fuse/requests.py` makes one for every request of the kernel and sets it as the `current` one of
the task that serves the request. What runs on nobody's behalf has none. A `Caller` is written by
its own task and by `vfs/server.py`, which marks it when it sends what changes the server: from
then on, whoever interrupts the call cannot take it back any more.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final


class Caller:
    """One call of one thread (`tid`; 0 when the kernel acts for nobody)."""

    __slots__ = ("committed", "tid")

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self.committed = False  # something that changes the server was sent


current: Final[ContextVar[Caller | None]] = ContextVar("caller", default=None)
