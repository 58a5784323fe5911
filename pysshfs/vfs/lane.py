"""What `vfs/lanes.py` keeps of each session, file and open file; opening a file on a lane.

The fields belong to `Lanes`. Only `open_alike` suspends, and it keeps nothing.
"""

from __future__ import annotations

import errno
import stat
from collections import deque
from typing import TYPE_CHECKING

import trio

from pysshfs.errors import FilesystemError
from pysshfs.remotefs import OpenMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.remotefs import Attributes, RemoteFS, RemoteHandle
    from pysshfs.vfs.call import OpenFileHandle, Transfer


class Lane:
    """One session, and what is on its way there. The first has no handles of its own."""

    def __init__(self, reads: bool, remote: RemoteFS | None = None) -> None:
        self.reads = reads
        self.remote = remote  # None until it is open
        self.end: Callable[[], None] = lambda: None
        self.ready = trio.Event()  # it is open, or will not be
        self.is_lost = False
        self.uses = 0  # how often a file was to be opened on it
        self.handles: dict[OpenFileHandle, RemoteHandle | None] = {}  # None: being opened
        self.in_flight = 0  # bytes of WRITEs
        self.unsettled: list[Transfer] = []  # WRITEs that wait for the fence


class Writes:
    """The WRITEs of one file that have no acknowledgement."""

    def __init__(self) -> None:
        self.waiting: deque[Transfer] = deque()
        self.sent: dict[Transfer, None] = {}
        self.end = 0  # nothing that was sent reaches past it
        self.elsewhere = 0  # how many were sent on lanes
        self.bytes = 0

    def lanes_of_overlapping(self, call: Transfer) -> set[Lane]:
        if call.offset >= self.end:
            return set()
        end = call.offset + call.length
        return {
            sent.lane
            for sent in self.sent
            if sent.lane is not None
            and sent.offset < end
            and call.offset < sent.offset + sent.length
        }


class Spread:
    """One open file, as it is read or as it is written."""

    def __init__(self, handle: OpenFileHandle, reads: bool) -> None:
        self.handle = handle
        self.reads = reads
        self.lanes: list[Lane] = []
        self.opening = 0
        self.refused = False  # it stays on the first session
        self.in_flight = 0  # bytes of READs


async def open_alike(remote: RemoteFS, first: Lane, spread: Spread) -> tuple[RemoteHandle, bool]:
    """The handle on the lane, and whether it is of the same file. When the first session has
    answered the last question, it has answered every rename sent before the file was opened
    here: had one of ours put another file in its place, the path would be another by now."""
    handle = spread.handle
    if first.remote is None or handle.remote is None:
        raise FilesystemError(errno.ESTALE, "the session is lost")
    path = handle.path()
    earlier = first.remote.fstat(handle.remote)
    opened = await remote.open(path, OpenMode.READ if spread.reads else OpenMode.WRITE)
    try:
        before = await earlier
        found = await remote.fstat(opened)
        after = await first.remote.fstat(handle.remote)
        return opened, handle.path() == path and _is_same(before, found, after)
    except FilesystemError:
        return opened, False


def _is_same(before: Attributes, found: Attributes, after: Attributes) -> bool:
    """Whether what a lane has open can be the file that the first session looked at before and
    after. Both its size and its mtime may have grown meanwhile: it may be written to."""
    alike = {each._replace(size=0, atime=0, mtime=0) for each in (before, found, after)}
    if len(alike) > 1 or found.mode is None or not stat.S_ISREG(found.mode):
        return False
    return _within(before.size, found.size, after.size) and _within(
        before.mtime, found.mtime, after.mtime
    )


def _within(least: int | None, value: int | None, most: int | None) -> bool:
    if least is None or value is None or most is None:
        return least is value is most
    return least <= value <= most
