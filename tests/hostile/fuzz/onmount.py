"""A conversation with the whole filesystem: programs run on it, then all must be well again.

Everything but SSH and the kernel is real: `remote/connection.py` reconnects as it does, on a clock
that jumps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from pysshfs.errors import FilesystemError, StartupError
from pysshfs.remote import wire
from pysshfs.vfs.config import VfsConfig
from tests.hostile.fuzz.findings import Finding
from tests.hostile.fuzz.hostile import End, Hostile
from tests.hostile.fuzz.programs import GOOD, PROGRAMS, SYSTEM, Kernel, Told
from tests.hostile.fuzz.recording import BASE
from tests.hostile.fuzz.wires import World
from tests.support.fake_mount import AskedAtHand

if TYPE_CHECKING:
    from random import Random

    from pysshfs.remote.client import SftpRemote

_SETTINGS: Final = (
    *[VfsConfig(max_dir_entries=300, max_dir_bytes=40_000)] * 5,
    VfsConfig(symlinks="contain+system", hide_special=True),
    VfsConfig(symlinks="strict", async_ops=True, transform_symlinks=True),
    VfsConfig(symlinks="none", max_depth=2, direct_io=True, readahead=0),
    VfsConfig(symlinks="follow", hardlinks=False),
    VfsConfig(async_ops=True, fsync_on_close=True, prefetch_ttl=0.0),
)
_LEAST_REPLIES: Final = 10  # in a conversation, after the handshake
_MOST_SESSIONS: Final = 12  # then the server has had its fun
_OLD: Final = 120.0  # seconds after which nothing is believed that was said before
_PATIENCE: Final = 40.0
_MOST_HELD: Final = 4  # directories on the way that a walk takes (`vfs/readingorder.py`)
_QUIET: Final = 150.0  # seconds in which it must have come back from whatever happened


class Doubts(Told):
    """What may be wrong, as the server of this conversation knows."""

    def __init__(self, server: Hostile) -> None:
        self._server = server

    @property
    def of_data(self) -> bool:  # type: ignore[override]  # of the true server it is a constant
        return self._server.of_data or bool(self._server.replay.invented)

    @property
    def of_sizes(self) -> bool:  # type: ignore[override]  # likewise
        return self._server.of_sizes or bool(self._server.replay.invented)

    def check_owed(self) -> None:
        ends = [end for end in self._server.ends if not end.is_closed]
        if any(end.owes or end.is_out_of_step for end in ends):
            return
        quiet = trio.current_time() - self._server.last_lie
        if quiet > _QUIET:
            raise Finding(f"a step did not end, and the server was good for {quiet:.0f} s")


class FedEnd(End):
    """Replies go through the world's carrier."""

    def __init__(self, server: Hostile, world: World) -> None:
        super().__init__(server)
        self._world = world
        self._is_due = False

    def sent(self, data: bytes) -> None:
        super().sent(data)
        self._have_delivered()

    def _have_delivered(self) -> None:
        if self.has_more and not self._is_due:
            self._is_due = True
            self._world.carrier.soon(self._deliver)

    def _deliver(self) -> None:
        self._is_due = False
        if not self.is_closed:
            self.deliver()
            self._have_delivered()


async def converse(rng: Random, server: Hostile, programs: list[str]) -> int:
    """One conversation; how many sessions it took. Raises `Finding`, or whatever is wrong."""

    def new_end(world: World) -> End:
        if len(server.ends) >= _MOST_SESSIONS:
            server.is_over = True
        return FedEnd(server, world)

    server.clock = trio.current_time
    async with trio.open_nursery() as nursery:
        world = World(BASE, new_end)
        nursery.start_soon(world.carrier.run)
        remote = await _connected(world, server)
        fs = AskedAtHand(
            remote, rng.choice(_SETTINGS), clock=trio.current_time, is_system_file=SYSTEM.__eq__
        )
        fs.server.on_demand = world.connection.wanted
        nursery.start_soon(fs.run)
        nursery.start_soon(_kept_up, world, fs)
        kernel = Kernel(fs, Doubts(server))
        for program in programs:
            await PROGRAMS[program](kernel)
        while server.replies < _LEAST_REPLIES:
            await PROGRAMS[rng.choice(list(PROGRAMS))](kernel)
            await trio.sleep(_OLD)
        await _all_is_well(kernel, server, world)
        await _ended(kernel, world)
        nursery.cancel_scope.cancel()
    check_sessions(server)
    return len(server.ends)


async def _kept_up(world: World, fs: AskedAtHand) -> None:
    await world.connection.keep_up(fs.server, reconnect=True)


async def _connected(world: World, server: Hostile) -> SftpRemote:
    """What the command does; where it is refused, the user tries again."""
    while True:
        try:
            return await world.connection.connect()
        except StartupError:
            world.connect_anew()
            server.ends[-1].closed()


async def _all_is_well(kernel: Kernel, server: Hostile, world: World) -> None:
    """The server misbehaves no more: what is read is right, on the session that is up unless
    nobody can know any more what is said on that."""
    server.is_over = True
    await trio.sleep(_OLD)
    for end in server.ends:
        if not end.is_closed and (end.is_out_of_step or end.has_lied_at_start):
            assert end.session is not None
            end.session.connection_lost(None)
    path, content = GOOD
    with trio.move_on_after(_PATIENCE) as scope:
        try:
            data = await kernel.read_all(path, 1 << 17)
        except FilesystemError as error:
            raise Finding(f"the good file, when all is over: {error!r}") from error
        if data != content:
            raise Finding(f"the good file, when all is over: {data!r:.60}")
    if scope.cancelled_caught:
        raise Finding("the good file, when all is over: no answer")


async def _ended(kernel: Kernel, world: World) -> None:
    """Nothing is left over."""
    fs = kernel.fs
    await kernel.end_all()
    with trio.move_on_after(_PATIENCE):
        await fs.flush_all()
    fs.tree.files_ahead.clear()
    fs.end("the mount ends")
    await world.connection.close()
    figures = fs.statistics()
    left = {
        name: figures[name]
        for name in ("open_files", "open_directories", "unacknowledged_bytes")
        if figures[name]
    }
    left |= {"calls": fs.server.waiting} if fs.server.waiting else {}
    left |= {"inodes": figures["inodes"]} if figures["inodes"] > 1 + _MOST_HELD else {}
    left |= {"read ahead": fs.tree.budget.read_ahead.held} if fs.tree.budget.read_ahead.held else {}
    if left:
        raise Finding(f"left over: {left}")


def check_sessions(server: Hostile) -> None:
    """What is over holds nothing, and what was received no more than one reply."""
    for end in server.ends:
        session = end.session
        if session is None:
            continue
        end.check_broken()
        if session.lost is not None and session.in_flight:
            raise Finding(f"{session.in_flight} requests are waiting on a session that is lost")
        if len(session._buffer) > wire.MAX_REPLY + 4:
            raise Finding(f"{len(session._buffer)} bytes are kept of one reply")
        if not 0 <= session.round_trip <= math.inf:
            raise Finding(f"a round trip of {session.round_trip} s")
