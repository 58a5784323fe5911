"""The connection to the server across its losses: what state it is in, and how it comes back.

`ServerConnection` owns the current `Link`, the state and the pace of trying. The state changes
synchronously, in `_set_state` only; I/O happens outside of transitions.

    NEW -> CONNECTING -> UP -> LOST -> CONNECTING -> UP
                                       CONNECTING -> WAITING -> CONNECTING
                                       CONNECTING -> FAILED -> CONNECTING
    any -> CLOSED

`generation` counts the sessions that were up: every remote handle carries it, so one of an earlier
session is never used on a later.

**Trying.** The first try follows a loss at once, the next ones after a growing and random time, at
most 30 s after the one before began. A request that arrives meanwhile (`wanted`) makes
it shorter, never so short that a stream of requests becomes a stream of logins. A server that lets
nobody in, or is not the one that was known, is not asked again before somebody says so
(`reconnect_now`): it may count failed logins.

**The old session first.** Before another is made the old link is aborted with a reset, whatever is
left of it. The server carries out the requests of a session in the order in which they were sent,
and may go on with those that it had received. So when something that changes the server was in
flight (`Recovering.in_doubt`), the new session is handed over after a pause, in which the reset
arrives and the old SFTP server comes to its end. What the pause cannot exclude: a request that was
received and is still being carried out (a disk that hangs), and packets which something in between,
a jump host say, has kept and delivers later.

**Noticing.** The socket reports a loss, or asyncssh's keepalive does after a minute. After a
suspend, or when addresses changed (`remote/network.py`), a question of our own has a few seconds
to be answered.

Touched by: the task that connects, the one in `keep_up` and its children, `_session_lost`, called
by the session in the bridge's task, and whoever calls `wanted`, `reconnect_now`, `drop` or `close`.
"""

from __future__ import annotations

import enum
import logging
import math
import random
import time
from typing import TYPE_CHECKING, Final

import trio

from pysshfs.errors import (
    AuthenticationError,
    ConnectionLostError,
    FilesystemError,
    HostKeyError,
    SftpRefusedError,
    StartupError,
)
from pysshfs.remote import client
from pysshfs.remote.identity import identity
from pysshfs.remote.link import Link
from pysshfs.remote.network import NetworkWatch, open_netlink
from pysshfs.remote.pace import fence, pause, shortest_pause
from pysshfs.remote.route import Hop, Route, Target
from pysshfs.remote.session import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.remote.bridge import Bridge
    from pysshfs.remote.hostkeys import Prompter
    from pysshfs.remote.identity import Identity
    from pysshfs.remote.network import Change
    from pysshfs.remote.route import Outside
    from pysshfs.remote.session import SftpSession
    from pysshfs.remote.sshconfig import SshConfiguration
    from pysshfs.remotefs import Recovering

__all__ = ["Hop", "ServerConnection", "State", "Target", "fence", "pause", "shortest_pause"]

log = logging.getLogger(__name__)

_SHORT_LIFE_SECONDS: Final = 5.0  # a session that is lost sooner was no success
_SILENCE_SECONDS: Final = 2.0  # without any answer before the server counts as silent
_ANSWER_SECONDS: Final = 5.0  # for an answer when there is a reason for doubt
_RESUME_SECONDS: Final = 30.0  # without any answer, while a new session is made ready
_RESUME_LOOK: Final = 5.0  # seconds
_BACKLOG: Final = 64 * 1024  # bytes: what is queued behind more is not answered in a few seconds


class State(enum.Enum):
    NEW = "new"
    CONNECTING = "connecting"
    UP = "up"
    LOST = "lost"
    WAITING = "waiting"
    CLOSED = "closed"
    FAILED = "failed"


class ServerConnection:
    """The way to one served directory."""

    def __init__(
        self,
        bridge: Bridge,
        target: Target,
        configuration: SshConfiguration,
        prompter: Prompter,
        password: str | None,
        connections: int = 1,
    ) -> None:
        """`connections`: how many there may be to the server, for bulk transfers."""
        self.state = State.NEW
        self.since = time.time()  # of the last change of state
        self.reason = ""  # why the state is what it is
        self.generation = 0
        self.reconnects = 0
        self.on_state: Callable[[str, str], None] | None = None  # called with each, and why
        self._bridge = bridge
        self._route = Route(target, configuration, prompter, password)
        self._connections = connections
        self._link: Link | None = None  # the one that is up, or was the last to be
        self.traffic = Traffic()
        self.last_loss: tuple[float, str] | None = None  # the time of day, and why
        self._network: NetworkWatch | None = None
        self._user: Recovering | None = None
        self._loss: ConnectionLostError | None = None
        self._lost = trio.Event()
        self._up_at = self._down_at = -math.inf
        self._doubt = ""  # why the server is being asked for a sign of life
        # The pace of trying.
        self._failures = 0
        self._tried_at = self._not_before = -math.inf
        self._wanted = False
        self._at_once = False  # what is under way is to be followed by a try without any pause
        self._stage: trio.CancelScope | None = None  # of what is under way: a try, or a wait
        self._resuming = False
        self._said = ""  # the reason for waiting that was last logged

    def _set_state(self, state: State, reason: str, level: int = logging.INFO) -> None:
        if self.state is State.CLOSED:
            return  # for good
        self.state, self.reason, self.since = state, reason, time.time()
        log.log(level, "connection %s%s", state.value, f": {reason}" if reason else "")
        if self.on_state is not None:
            self.on_state(state.value, reason)

    # --- what there is ------------------------------------------------------------------------

    @property
    def session(self) -> SftpSession | None:
        return self._link.session if self._link is not None else None

    @property
    def sessions(self) -> list[SftpSession]:
        """The session, and those beside it."""
        link, first = self._link, self.session
        return [] if link is None or first is None else [first, *link.extra.sessions]

    @property
    def server_version(self) -> str:
        return self._link.server_version if self._link is not None else ""

    @property
    def cipher(self) -> str:
        return self._link.cipher if self._link is not None else ""

    @property
    def extensions(self) -> dict[bytes, bytes]:
        return self._link.extensions if self._link is not None else {}

    @property
    def round_trip(self) -> float:
        """The least that an answer has taken on this session (seconds); 0 when none has come."""
        session = self.session
        return session.round_trip if session and session.round_trip < math.inf else 0.0

    def silence(self) -> float:
        """Seconds since the server stopped answering; 0 while it does, or has nothing to."""
        if self.state is State.NEW:
            return 0.0
        if self.state is not State.UP or self.session is None:
            return trio.current_time() - self._down_at
        silent = max(session.silence() for session in self.sessions)
        return silent if silent > max(_SILENCE_SECONDS, 4 * self.round_trip) else 0.0

    def quiet(self) -> float:
        """Seconds since anything came from the server, whether anything is due or not."""
        return min((session.quiet() for session in self.sessions), default=math.inf)

    @property
    def outside(self) -> Outside:
        """What a reconnect uses beyond what is in memory."""
        return self._route.outside

    def may_be_here(self) -> bool:
        """Whether the server may be this very machine."""
        return self._link is not None and self._link.may_be_here

    async def login_identity(self) -> Identity | None:
        """Who we are there; None when that cannot be told."""
        link, session = self._link, self.session
        if link is None or session is None:
            raise SftpRefusedError("not connected")
        home = await client.request_realpath(session, b".")
        abilities = client.capabilities({}, None, large_messages=False)
        return await identity(
            client.SftpRemote(session, b"/", abilities, self.generation),
            client.SftpRemote(session, home, abilities, self.generation),
            link.login,
        )

    # --- connecting for the first time --------------------------------------------------------

    async def connect(self) -> client.SftpRemote:
        """Log in, start SFTP and check the directory. Raises `StartupError`s."""
        self._down_at = trio.current_time()
        self._set_state(State.CONNECTING, "")
        link = self._link = self._new_link()
        try:
            remote = await link.open(self.generation + 1)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.close()
            raise
        self._route.settle()
        self._network = self._new_watch()
        self.generation += 1
        self._is_up("")
        return remote

    def forget_passwords(self) -> None:
        """There will be no other login: neither a reconnect nor a further connection."""
        self._route.forget_passwords()

    def _new_link(self) -> Link:
        return Link(self._bridge, self._route, self._session_lost, self._connections, self.traffic)

    def _new_watch(self) -> NetworkWatch:
        return NetworkWatch(open_netlink())

    def _is_up(self, reason: str, level: int = logging.INFO) -> None:
        """The session is in use. One that was lost at the last moment is lost now."""
        self._loss, self._lost = None, trio.Event()
        self._up_at = trio.current_time()
        self._set_state(State.UP, reason, level)
        link = self._link
        if link is not None and link.session is not None and link.session.lost is not None:
            self._session_lost(link, link.session.lost)

    # --- losing it ----------------------------------------------------------------------------

    def _session_lost(self, link: Link, error: Exception) -> None:
        if self.state is State.CLOSED:  # on purpose, and in good order
            return
        link.abort()
        if link is not self._link or self.state is not State.UP:
            return  # it is being made: whoever makes it gets the error
        reason = f"{self._doubt}: {error}" if self._doubt else str(error)
        self._loss = ConnectionLostError(reason)
        self._down_at = trio.current_time()
        is_short = self.reconnects > 0 and self._down_at - self._up_at < _SHORT_LIFE_SECONDS
        self._failures = self._failures + 1 if is_short else 0
        self._wanted = False
        self._set_state(State.LOST, reason, logging.WARNING)
        self.last_loss = self.since, reason
        if self._user is not None:
            self._user.lost(self._loss)
        self._lost.set()

    async def keep_up(self, user: Recovering, *, reconnect: bool) -> None:
        """Tell `user` of each loss, and give it another session each time.

        Runs until cancelled. Without `reconnect` it returns after the first loss.
        """
        self._user = user
        try:
            if self._loss is not None:
                user.lost(self._loss)
            async with trio.open_nursery() as nursery:
                if self._network is not None:
                    nursery.start_soon(self._network.run, self._network_changed)
                while True:
                    await self._lost.wait()
                    if not reconnect:
                        break
                    await self._come_back(user)
                nursery.cancel_scope.cancel()
        finally:
            self._user = None

    # --- coming back --------------------------------------------------------------------------

    async def _come_back(self, user: Recovering) -> None:
        """From LOST to UP, however long it takes."""
        if self._link is not None:
            await self._link.gone()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_resuming)
            while self.state is not State.UP:
                if self._failures:
                    await self._wait()
                if self.state is State.CLOSED:
                    await trio.sleep_forever()
                with trio.CancelScope() as self._stage:
                    await self._try(user)
                self._stage = None
            nursery.cancel_scope.cancel()

    async def _watch_resuming(self) -> None:
        """Everything waits while a session is made ready: one that stops answering meanwhile is
        left. Later, an answer that never comes is the matter of whoever waits for it."""
        limit = self._route.target_timeout or _RESUME_SECONDS
        while True:
            await trio.sleep(min(_RESUME_LOOK, limit))
            if self._resuming and self.session is not None and self.session.silence() > limit:
                reason = f"no answer for {limit:g} s while the new session was made ready"
                log.warning("connection: %s: trying another", reason)
                self._break_off(ConnectionLostError(reason))

    async def _wait(self) -> None:
        now = trio.current_time()
        self._not_before = now + shortest_pause(self._failures)
        later = self._tried_at + pause(self._failures, random.random())
        until = self._not_before if self._wanted else max(self._not_before, later)
        # The same reason again and again is not worth a line each time.
        level = logging.DEBUG if self.reason == self._said else logging.INFO
        self._said = self.reason
        self._set_state(State.WAITING, self.reason, level)
        if self.state is State.WAITING:
            with trio.CancelScope(deadline=until) as self._stage:
                await trio.sleep_forever()
            self._stage = None

    async def _try(self, user: Recovering) -> None:
        """One try; its failure is an outcome like any other."""
        began = self._tried_at = trio.current_time()
        self._wanted = self._at_once = False
        self._set_state(
            State.CONNECTING, self.reason, logging.DEBUG if self._failures else logging.INFO
        )
        refusal: StartupError | None = None
        try:
            await self._make_session(user)
        except (AuthenticationError, HostKeyError) as error:
            refusal = error
        except StartupError as error:
            self._has_failed(error)
        except ConnectionLostError as error:
            # Lost again while it was being resumed. If that went well for a while, try at once.
            self._has_failed(error)
            if trio.current_time() - began >= _SHORT_LIFE_SECONDS:
                self._failures = 0
        if refusal is not None:
            await self._give_up(user, refusal)

    def _has_failed(self, error: Exception) -> None:
        self.reason = str(error)
        self._failures = 0 if self._at_once else self._failures + 1

    async def _make_session(self, user: Recovering) -> None:
        link = self._new_link()
        try:
            remote = await link.open(self.generation + 1)
            self._link = link
            self.generation += 1
            if user.in_doubt:
                await trio.sleep(fence(self.round_trip))
            self._resuming = True
            await user.resume(remote)
        except BaseException:
            link.abort()
            with trio.CancelScope(shield=True):
                await link.gone()
            raise
        finally:
            self._resuming = False
        # No other task has run since `resume` was through.
        self.reconnects += 1
        down = trio.current_time() - self._down_at
        self._said = ""
        self._is_up(f"connected again after {down:.0f} s", logging.WARNING)

    async def _give_up(self, user: Recovering, error: StartupError) -> None:
        """Until somebody asks for another try (`reconnect_now`)."""
        advice = "once that is put right: pysshfsctl reconnect MOUNTPOINT"
        if isinstance(error, HostKeyError):
            advice += "; known_hosts is read when mounting only"
        self._set_state(State.FAILED, f"{error} ({advice})", logging.ERROR)
        user.given_up(ConnectionLostError(str(error)))
        await trio.sleep_forever()

    # --- is it still there? -------------------------------------------------------------------

    async def _network_changed(self, change: Change) -> None:
        if self.state is State.UP:
            await self._ask_for_a_sign(change.reason)
        elif change.slept and self.state in (State.WAITING, State.CONNECTING):
            self._try_at_once(change.reason)
        else:
            self.wanted()

    async def _ask_for_a_sign(self, reason: str) -> None:
        """Drop the session unless the server says something within a few seconds."""
        link, session = self._link, self.session
        assert link is not None and session is not None
        limit = max(_ANSWER_SECONDS, 8 * self.round_trip)
        self._doubt = f"no answer since {reason}"
        try:
            if link.unsent() > _BACKLOG:
                await self._watch_backlog(link, session, limit)
                return
            link.suspect(limit)
            with trio.move_on_after(2 * limit):
                await client.request_realpath(session, b".").wait()
        except FilesystemError:
            pass  # an answer, too, unless it says that the session is lost
        finally:
            self._doubt = ""
            if session.lost is None:
                link.trust()

    async def _watch_backlog(self, link: Link, session: SftpSession, limit: float) -> None:
        """A lot is still on its way there, and a question would have to queue behind it: whether
        it moves says as much."""
        before = link.acknowledged()
        await trio.sleep(limit)
        if before is not None and link.acknowledged() == before:
            session.fail(ConnectionLostError("what was sent is not taken"))

    # --- from outside -------------------------------------------------------------------------

    def wanted(self) -> None:
        """A request arrived while there is no session: the next try comes sooner."""
        if self.state is State.WAITING and self._stage is not None:
            self._stage.deadline = min(self._stage.deadline, self._not_before)
        else:
            self._wanted = True  # should the try under way fail

    def reconnect_now(self, reason: str) -> None:
        """Drop whatever there is and try at once, also after it was given up."""
        if self.state is State.UP and self.session is not None:
            self.session.fail(ConnectionLostError(reason))
            self._failures = 0
        elif self.state not in (State.NEW, State.CLOSED):
            self._try_at_once(reason)

    def _try_at_once(self, reason: str) -> None:
        self.reason = reason
        self._failures = 0
        self._at_once = True
        self._break_off(ConnectionLostError(reason))

    def _break_off(self, error: ConnectionLostError) -> None:
        """End what is under way. Whoever resumes sees a loss, which is what he expects."""
        if self._resuming and self.session is not None:
            self.session.fail(error)
        elif self._stage is not None:
            self._stage.cancel()

    # --- ending -------------------------------------------------------------------------------

    def drop(self) -> None:
        """Fail whatever is still asked of the server, at once: the mount ends and does not wait."""
        error = ConnectionLostError("unmounting")
        self._end(error)
        if self._user is not None:
            self._user.given_up(error)
        if self.session is not None:
            self.session.fail(error)

    async def close(self) -> None:
        """End the session and all hops; nothing waits for a server that does not answer."""
        self._end(ConnectionLostError("unmounting"))
        if self._network is not None:
            self._network.close()
        if self._link is not None:
            await self._link.close()

    def _end(self, error: ConnectionLostError) -> None:
        if self.state is State.UP:
            self._down_at = trio.current_time()
        self._set_state(State.CLOSED, "")
        self._break_off(error)
