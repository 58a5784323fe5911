"""What the unacknowledged data of all files shares: its bound, and the task that sends it in time.

All files together hold at most `write_buffer` unacknowledged bytes; who would exceed that waits,
first come first served, and can be interrupted there: nothing of its data is taken yet.

Touched by `vfs/writeback.py`, in the tasks of requests. Suspends only in `reserve`, `drain_all` and
`run`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.errors import ConnectionLostError, FilesystemError
    from pysshfs.vfs.budget import Share
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.server import Server
    from pysshfs.vfs.writeback import Writeback


class WriteRecord(NamedTuple):
    """One WRITE that was sent and not acknowledged."""

    handle: OpenFileHandle
    offset: int
    data: bytes | bytearray


class WritebackPool:
    """What all files share: the budget and the task that sends half-full tails in time."""

    def __init__(self, server: Server, budget: Share, delay: float) -> None:
        self.server = server
        # Data that cannot be delivered: whose it is, where it belongs, and why not.
        self.on_undelivered: Callable[[Inode, WriteRecord, FilesystemError], None] = (
            lambda _inode, _record, _error: None
        )
        self.dirty: dict[Writeback, None] = {}  # those that hold data
        self._budget = budget
        self._delay = delay
        self._waiters: deque[tuple[trio.lowlevel.Task, int]] = deque()
        self._tails: dict[Writeback, float] = {}  # when each tail was begun, oldest first
        self._has_tails = trio.Event()

    @property
    def unacknowledged(self) -> int:
        """Bytes accepted from programs and not yet acknowledged by the server."""
        return self._budget.held

    @property
    def is_contended(self) -> bool:
        """Whether somebody waits for room, which only acknowledgements make."""
        return bool(self._waiters)

    async def reserve(self, count: int) -> None:
        """Wait until `count` bytes fit into the budget, and take them."""
        if self.reserve_at_hand(count):
            return
        self.push_all()  # what fills the budget must be on its way
        task = trio.lowlevel.current_task()
        entry = (task, count)
        self._waiters.append(entry)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiters.remove(entry)
            self._admit()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def reserve_at_hand(self, count: int) -> bool:
        """Take `count` bytes of the budget if they fit now and nobody waits before us."""
        if self._waiters or not self._fits(count):
            return False
        self._budget.take(count)
        return True

    def given_up(self, error: ConnectionLostError) -> None:
        """Whoever waits for the server waits in vain."""
        waiters, self._waiters = self._waiters, deque()
        for task, _ in waiters:
            trio.lowlevel.reschedule(task, outcome.Error(error))
        for writeback in list(self.dirty):
            writeback.wake_all()

    async def drain_all(self) -> None:
        """Wait until all that was written until now is acknowledged, or failed."""
        for writeback in list(self.dirty):
            await writeback.drain()

    def _fits(self, count: int) -> bool:
        # A write larger than the whole budget passes alone.
        return self._budget.has_room(count) or self._budget.held == 0

    def release(self, count: int) -> None:
        self._budget.give_back(count)
        self._admit()

    def _admit(self) -> None:
        while self._waiters and self._fits(self._waiters[0][1]):
            task, count = self._waiters.popleft()
            self._budget.take(count)
            trio.lowlevel.reschedule(task)

    def tail_begun(self, writeback: Writeback) -> None:
        self._tails[writeback] = trio.current_time()
        self._has_tails.set()

    def tail_sent(self, writeback: Writeback) -> None:
        self._tails.pop(writeback, None)

    def push_all(self) -> None:
        for writeback in list(self._tails):
            writeback.push()

    async def run(self) -> None:
        """Send every tail that has waited for `delay` seconds. Ends by cancellation."""
        while True:
            if not self._tails:
                self._has_tails = trio.Event()
                await self._has_tails.wait()
                continue
            oldest, begun = next(iter(self._tails.items()))
            due = begun + self._delay
            if trio.current_time() < due:
                await trio.sleep_until(due)
            # It may have been sent, and begun anew, while we slept.
            if self._tails.get(oldest) == begun:
                oldest.push()
