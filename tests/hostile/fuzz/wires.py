"""The real connection, without SSH: `remote/connection.py`, `link.py`, `session.py` and what lies
above are the program's own; a channel's bytes come from an `End`.

What sessions send gathers until tasks wait (as `Bridge.before_waiting` has it) and is carried out
by one task, so that replies come from outside, as they do from asyncssh.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import trio

from pysshfs.errors import ConnectionLostError
from pysshfs.remote.connection import Hop, ServerConnection, State, Target
from pysshfs.remote.extra import ExtraSessions
from pysshfs.remote.link import Link
from pysshfs.remote.session import SftpSession
from pysshfs.remote.sshconfig import SshConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncssh

    from pysshfs.remote.network import NetworkWatch

_IDLE: Final = 0.003  # seconds: what `Bridge.in_a_while` waits, about


class End(Protocol):
    """The server's end of one channel."""

    def opened(self, session: SftpSession) -> None: ...

    def sent(self, data: bytes) -> None: ...

    def closed(self) -> None: ...


class Carrier:
    """Carries out what sessions have to send, and what an `End` has to say."""

    def __init__(self) -> None:
        self._due: list[Callable[[], object]] = []
        self._later: list[Callable[[], object]] = []
        self._wake = trio.Event()

    def soon(self, act: Callable[[], object]) -> None:
        self._due.append(act)
        self._wake.set()

    def later(self, act: Callable[[], object]) -> None:
        self._later.append(act)
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            if not self._due:
                with trio.move_on_after(_IDLE):
                    await self._wake.wait()
                if not self._due:
                    self._due, self._later = self._later, []
            while self._due:
                due, self._due = self._due, []
                for act in due:
                    act()
                await trio.lowlevel.cancel_shielded_checkpoint()
            if self._later:
                self._wake.set()


class Channel:
    """What a session takes for asyncssh's."""

    def __init__(self, end: End) -> None:
        self._end = end

    def write(self, data: bytes) -> None:
        self._end.sent(data)

    def abort(self) -> None:
        self._end.closed()

    def close(self) -> None:
        self._end.closed()


class FedLink(Link):
    """A link whose sessions lead to ends that `world` makes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._route = world.connection._route
        self._on_lost = world.connection._session_lost
        self.session = None
        self.extra = ExtraSessions(self, lambda: FedLink(world), connections=1)
        self.server_version, self.cipher, self.extensions = "OpenSSH_9.2", "none", {}
        self.may_be_here = False
        self.opened: list[SftpSession] = []

    async def log_in(self) -> None:
        pass

    async def start_session(self, on_lost: Callable[[Exception], None]) -> SftpSession:
        carrier = self._world.carrier
        session = SftpSession(on_lost, carrier.soon, carrier.later, trio.current_time)
        end = self._world.new_end()
        session.connection_made(cast("asyncssh.SSHClientChannel[bytes]", Channel(end)))
        end.opened(session)
        self.opened.append(session)
        return session

    def abort(self) -> None:
        for session in self.opened:
            session.fail(ConnectionLostError("the link was ended"))

    def is_closed(self) -> bool:
        return False

    def unsent(self) -> int:
        return 0

    def acknowledged(self) -> int | None:
        return None

    def suspect(self, seconds: float) -> None:
        pass

    def trust(self) -> None:
        pass

    async def gone(self) -> None:
        pass

    async def close(self) -> None:
        self.abort()


@functools.cache
def _no_configuration() -> SshConfiguration:
    return SshConfiguration([], "none")  # it has a file, as long as the process lives


class Connection(ServerConnection):
    """One on `FedLink`s; no network changes."""

    def __init__(self, world: World, directory: bytes) -> None:
        target = Target(Hop("far", None, None), directory, "sftp")
        nothing = cast("Any", None)
        super().__init__(nothing, target, _no_configuration(), nothing, None)
        self._world = world
        self._route.settle = lambda: None  # type: ignore[method-assign]  # nothing was read

    def _new_link(self) -> Link:
        link = FedLink(self._world)
        self._world.links.append(link)
        return link

    def _new_watch(self) -> NetworkWatch:
        return cast("NetworkWatch", _Quiet())


class _Quiet:
    async def run(self, _changed: object) -> None:
        await trio.sleep_forever()

    def close(self) -> None:
        pass


class World:
    """One server as one mount sees it."""

    def __init__(self, directory: bytes, new_end: Callable[[World], End]) -> None:
        self.carrier = Carrier()
        self.links: list[FedLink] = []
        self._make = new_end
        self._directory = directory
        self.connect_anew()

    def connect_anew(self) -> None:
        """As a command does that is run once more."""
        self.connection = Connection(self, self._directory)

    def new_end(self) -> End:
        return self._make(self)

    @property
    def is_up(self) -> bool:
        return self.connection.state is State.UP
