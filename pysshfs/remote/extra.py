"""Sessions beside a link's first: for bulk transfers, which others must not wait behind.

Each is another channel, with an SFTP server of its own behind it. It costs no login: it lies on the
link's connection, or, with `max_conns` above 1, on further connections that carry nothing else.
Those are made when they are wanted, and only if their login asks nobody anything; where they cannot
be made, the first connection carries everything. All of it ends with the link.

State: the sessions that are open, the further links, and those that were lost and are not yet
reaped. Touched by the tasks that call `open`, and by callbacks of asyncssh's; suspends in `open`,
`gone` and `close`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from pysshfs.errors import PysshfsError, SftpRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.remote.client import SftpRemote
    from pysshfs.remote.link import Link
    from pysshfs.remote.session import SftpSession

log = logging.getLogger(__name__)

_OPEN_SECONDS: Final = 30  # for a login; for a channel and its handshake


class ExtraSessions:
    """Those of one link. `further` makes a link to the same server; `connections` is how many
    there may be in all."""

    def __init__(self, first: Link, further: Callable[[], Link], connections: int) -> None:
        self.sessions: dict[SftpSession, Link] = {}
        self._first = first
        self._new_link = further
        self._connections = connections
        self._further: list[Link] = []
        self._lost: list[Link] = []
        self._starting: list[Link] = []  # for each session that is being opened
        self._connecting = trio.Lock()
        self._is_over = False

    async def open(self, beside: SftpRemote) -> SftpRemote:
        """One more session, for the directory of `beside`. Raises `PysshfsError`s."""
        carrier = await self._carrier()
        self._starting.append(carrier)
        try:
            with trio.fail_after(_OPEN_SECONDS):
                session = await carrier.start_session(
                    lambda error: self._session_lost(session, error)
                )
                return await self._shake_hands(carrier, session, beside)
        except trio.TooSlowError:
            raise SftpRefusedError("the server does not answer") from None
        finally:
            self._starting.remove(carrier)

    async def _shake_hands(
        self, carrier: Link, session: SftpSession, beside: SftpRemote
    ) -> SftpRemote:
        try:
            await session.handshake()
        except BaseException:
            session.close()
            raise
        self.sessions[session] = carrier
        return beside.beside(session)

    async def _carrier(self) -> Link:
        """The connection for the next session: the one with the fewest, not the first if there
        are others."""
        async with self._connecting:
            self._drop_closed()
            if 1 + len(self._further) < self._connections:
                await self._connect()
        if self._is_over:
            raise SftpRefusedError("the connection is being closed")
        carried = [*self.sessions.values(), *self._starting]
        return min(self._further, key=carried.count, default=self._first)

    async def _connect(self) -> None:
        if not self._first.can_log_in_again():
            log.info("no further connection: its login could ask for something")
            self._connections = 1
            return
        link = self._new_link()
        try:
            with trio.fail_after(_OPEN_SECONDS):
                await link.log_in()
        except (PysshfsError, trio.TooSlowError) as error:
            log.info("no further connection: %s", error)
            self._connections = 1 + len(self._further)
            self._give_up(link)
        except BaseException:
            self._give_up(link)
            raise
        else:
            self._further.append(link)
            if self._is_over:  # meanwhile
                self.abort()

    def _give_up(self, link: Link) -> None:
        link.abort()
        self._lost.append(link)

    def _drop_closed(self) -> None:
        for link in [link for link in self._further if link.is_closed()]:
            self._further.remove(link)
            self._give_up(link)

    def _session_lost(self, session: SftpSession, error: Exception) -> None:
        if self.sessions.pop(session, None) is not None and not self._is_over:
            log.info("a session beside the first ended: %s", error)

    # --- ending -----------------------------------------------------------------------------

    def abort(self) -> None:
        """End the further connections at once. What lies on the first ends with it."""
        self._is_over = True
        further, self._further = self._further, []
        for link in further:
            self._give_up(link)

    async def gone(self) -> None:
        """Wait until what was aborted is closed and reaped, but not for long."""
        lost, self._lost = self._lost, []
        async with trio.open_nursery() as nursery:
            for link in lost:
                nursery.start_soon(link.gone)

    async def close(self) -> None:
        """End all of it in good order."""
        self._is_over = True
        for session in list(self.sessions):
            session.close()
        further, self._further = self._further, []
        async with trio.open_nursery() as nursery:
            for link in further:
                nursery.start_soon(link.close)
        await self.gone()
