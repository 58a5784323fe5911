"""The states of a connection and the pace of its tries, on links that only pretend."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from pysshfs.errors import (
    AuthenticationError,
    ConnectionLostError,
    HostKeyError,
    RemoteDirectoryError,
    RemoteStatusError,
    SftpRefusedError,
    UnreachableError,
)
from pysshfs.remote import wire
from pysshfs.remote.client import SftpRemote, capabilities
from pysshfs.remote.connection import (
    Hop,
    ServerConnection,
    State,
    Target,
    fence,
    pause,
    shortest_pause,
)
from pysshfs.remote.extra import ExtraSessions
from pysshfs.remote.link import Link
from pysshfs.remote.network import Change, NetworkWatch
from pysshfs.remote.session import SftpSession
from pysshfs.remote.sshconfig import SshConfiguration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import asyncssh

    from pysshfs.remotefs import RemoteFS
    from pysshfs.reply import Reply

ROUND_TRIP = 0.05


class Channel:
    """Takes what a session sends, and answers nothing by itself."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


class Pretence(Link):
    """A link that opens as `outcome` says, and notes what is asked of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.events: list[str] = []
        self.channel = Channel()
        self.backlog = 0
        self.taken: int | None = 0
        self.session = None
        self.extra = ExtraSessions(self, lambda: self, connections=1)
        self.server_version, self.cipher, self.extensions = "OpenSSH", "none", {}

    async def open(self, generation: int) -> SftpRemote:
        world = self.world
        world.tries.append(trio.current_time())
        outcome = world.outcomes.pop(0) if world.outcomes else None
        await trio.sleep(world.opening_takes)
        if outcome is not None:
            raise outcome
        self.session = SftpSession(
            lambda error: world.connection._session_lost(self, error), clock=trio.current_time
        )
        self.session.connection_made(cast("asyncssh.SSHClientChannel[bytes]", self.channel))
        self.session.round_trip = ROUND_TRIP
        return SftpRemote(self.session, b"/", capabilities({}, None, False), generation)

    def answer(self) -> None:
        """The reply to the request sent last."""
        assert self.session is not None
        request = int.from_bytes(self.channel.sent[-1][5:9], "big")
        body = bytes([wire.FXP_STATUS]) + wire.u32(request) + wire.u32(4) + wire.string(b"") * 2
        self.session.data_received(wire.string(body), None)

    def suspect(self, seconds: float) -> None:
        self.events.append(f"suspect {seconds:g}")

    def trust(self) -> None:
        self.events.append("trust")

    def unsent(self) -> int:
        return self.backlog

    def acknowledged(self) -> int | None:
        return self.taken

    def abort(self) -> None:
        self.events.append("abort")
        self.world.order.append("abort")

    async def gone(self) -> None:
        self.world.order.append("gone")

    async def close(self) -> None:
        self.events.append("close")


class Connection(ServerConnection):
    """On pretended links and a network that changes when the test says so."""

    def __init__(self, world: World) -> None:
        configuration = SshConfiguration([], "none")
        target = Target(Hop("far", None, None), b"", "sftp")
        super().__init__(cast("Any", None), target, configuration, cast("Any", None), None)
        self._world = world
        self.changed = trio.Event()
        self._route.settle = lambda: None  # type: ignore[method-assign]  # nothing was read

    def _set_state(self, state: State, reason: str, level: int = logging.INFO) -> None:
        super()._set_state(state, reason, level)
        self.changed.set()
        self.changed = trio.Event()

    def _new_link(self) -> Link:
        link = Pretence(self._world)
        self._world.links.append(link)
        return link

    def _new_watch(self) -> NetworkWatch:
        return NetworkWatch(self._world.heard, lambda: self._world.asleep)


class World:
    """What happens to one connection, and its user."""

    def __init__(self) -> None:
        self.tries: list[float] = []
        self.outcomes: list[Exception | None] = []
        self.links: list[Pretence] = []
        self.order: list[str] = []
        self.opening_takes = 0.0
        self.asleep = 0.0
        self.heard, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard.setblocking(False)
        self.connection = Connection(self)
        # The user.
        self.in_doubt = False
        self.calls: list[tuple[str, str]] = []
        self.resumed_at: list[float] = []
        self.resume_fails: list[Callable[[], None]] = []
        self.resume_takes = 0.0

    def lost(self, error: ConnectionLostError) -> None:
        self.calls.append(("lost", str(error)))

    async def resume(self, remote: RemoteFS) -> None:
        self.calls.append(("resume", ""))
        if self.resume_fails:
            self.resume_fails.pop(0)()
        await trio.sleep(self.resume_takes)
        session = self.links[-1].session
        assert session is not None
        if session.lost is not None:
            raise session.lost
        self.resumed_at.append(trio.current_time())

    def given_up(self, error: ConnectionLostError) -> None:
        self.calls.append(("given up", str(error)))

    # -- what the test does --------------------------------------------------------------------

    @property
    def link(self) -> Pretence:
        return self.links[-1]

    @property
    def session(self) -> SftpSession:
        """The latest that there was."""
        made = [link.session for link in self.links if link.session is not None]
        return made[-1]

    def lose(self, reason: str = "reset") -> None:
        self.session.fail(ConnectionLostError(reason))

    async def until(self, state: State) -> None:
        with trio.fail_after(400):
            while self.connection.state is not state:
                await self.connection.changed.wait()

    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.tries, self.tries[1:], strict=False)]


@contextlib.asynccontextmanager
async def up(world: World) -> AsyncIterator[None]:
    """Connected, kept up; ended afterwards."""
    await world.connection.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: world.connection.keep_up(world, reconnect=True))
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()
    await world.connection.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.heard.close()
    made.kernel.close()


@pytest.fixture(autouse=True)
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)


def refused() -> UnreachableError:
    return UnreachableError("far: Connection refused")


# --- the pace -----------------------------------------------------------------------------------


def test_the_pauses_grow_to_a_limit() -> None:
    assert [pause(failures, 1.0) for failures in range(1, 8)] == [2, 4, 8, 16, 30, 30, 30]
    assert [pause(failures, 0.0) for failures in range(1, 8)] == [1, 2, 4, 8, 15, 15, 15]
    assert pause(100_000, 1.0) == 30
    assert [shortest_pause(failures) for failures in range(1, 6)] == [1, 2, 4, 5, 5]
    for failures in range(1, 20):
        assert 1 <= shortest_pause(failures) <= pause(failures, 0.0)


def test_the_fence_is_a_few_round_trips_and_never_nothing() -> None:
    assert fence(0.0) == fence(0.01) == 0.25
    assert fence(0.2) == 0.8


async def test_the_first_try_comes_at_once_and_the_others_ever_later(world: World) -> None:
    async with up(world):
        await trio.sleep(60)
        world.outcomes = [refused() for _ in range(7)]
        world.lose()
        lost_at = trio.current_time()
        await world.until(State.UP)
        assert world.tries[1] == lost_at
        assert world.gaps()[1:] == [2, 4, 8, 16, 30, 30, 30]


async def test_tries_that_take_long_are_no_further_apart(world: World) -> None:
    async with up(world):
        world.opening_takes = 20
        world.outcomes = [refused() for _ in range(7)]
        world.lose()
        await world.until(State.UP)
        assert world.gaps()[1:] == [21, 22, 24, 25, 30, 30, 30]


async def test_a_success_begins_anew(world: World) -> None:
    async with up(world):
        world.outcomes = [refused(), refused()]
        world.lose()
        await world.until(State.UP)
        await trio.sleep(6)
        lost_at = trio.current_time()
        world.lose()
        await world.until(State.UP)
        assert world.tries[-1] == lost_at


async def test_a_server_that_drops_each_session_is_not_hammered(world: World) -> None:
    async with up(world):
        world.lose()
        for _ in range(6):
            await world.until(State.UP)
            world.lose()
        await world.until(State.UP)
        assert [round(gap) for gap in world.gaps()[1:]] == [2, 4, 8, 16, 30, 30]


async def test_a_server_that_dies_at_each_resume_is_not_hammered(world: World) -> None:
    async with up(world):
        world.resume_fails = [world.lose] * 5
        world.lose()
        await world.until(State.UP)
        assert world.gaps()[1:] == [2, 4, 8, 16, 30]
        # One loss for whoever uses it, however often a session dies in his hands.
        assert [call for call, _ in world.calls] == ["lost", *["resume"] * 6]
        assert world.connection.reconnects == 1


async def test_a_session_that_stops_answering_while_it_is_made_ready_is_left(
    world: World,
) -> None:
    """Everything waits for it, so it must not be for ever; as long as something comes it is."""
    resume = world.resume
    asked: list[bool] = []

    async def asks(remote: RemoteFS) -> None:
        answers = len(asked) > 0
        asked.append(answers)
        for _ in range(20):
            reply = remote.lstat(b"")
            if answers:
                await trio.sleep(15)
                world.link.answer()
                with contextlib.suppress(RemoteStatusError):
                    await reply
            else:
                await reply
        await resume(remote)

    world.resume = asks  # type: ignore[method-assign]  # another user
    async with up(world):
        world.lose()
        await world.until(State.UP)
        assert asked == [False, True]
        assert 30 < world.tries[2] - world.tries[1] <= 40
        assert trio.current_time() - world.tries[2] >= 20 * 15


async def test_a_resume_that_went_well_for_a_while_is_followed_by_another_at_once(
    world: World,
) -> None:
    async with up(world):
        world.resume_takes = 7
        world.resume_fails = [world.lose] * 2
        world.lose()
        await world.until(State.UP)
        assert world.gaps()[1:] == [7, 7]


# --- wanted -------------------------------------------------------------------------------------


async def test_a_request_cuts_the_wait_short(world: World) -> None:
    async with up(world):
        world.outcomes = [refused() for _ in range(5)]
        world.lose()
        await world.until(State.WAITING)
        await trio.sleep(1.5)
        wanted_at = trio.current_time()
        world.connection.wanted()
        await trio.testing.wait_all_tasks_blocked()
        assert world.tries[-1] == wanted_at


async def test_a_stream_of_requests_is_not_a_stream_of_logins(world: World) -> None:
    async with up(world):
        world.outcomes = [refused() for _ in range(7)]
        world.lose()
        async with trio.open_nursery() as nursery:

            async def requests() -> None:
                while True:
                    world.connection.wanted()
                    await trio.sleep(0.01)

            nursery.start_soon(requests)
            await world.until(State.UP)
            nursery.cancel_scope.cancel()
        assert [round(gap, 1) for gap in world.gaps()[1:]] == [1, 2, 4, 5, 5, 5, 5]


async def test_a_request_during_a_try_shortens_the_wait_after_it(world: World) -> None:
    async with up(world):
        world.opening_takes = 0.5
        world.outcomes = [refused(), refused()]
        world.lose()
        await trio.sleep(0.1)
        world.connection.wanted()
        await world.until(State.UP)
        assert world.gaps()[1:] == [1.5, 4]


async def test_wanted_means_nothing_while_up(world: World) -> None:
    async with up(world):
        world.connection.wanted()
        world.outcomes = [refused()]
        world.lose()
        await world.until(State.UP)
        assert world.gaps()[1:] == [2]


# --- states -------------------------------------------------------------------------------------


async def test_the_states_and_what_the_user_hears(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pysshfs.remote.connection")
    connection = world.connection
    assert (connection.state, connection.silence()) == (State.NEW, 0)
    async with up(world):
        assert (connection.state, connection.reason) == (State.UP, "")
        assert (connection.generation, connection.reconnects) == (1, 0)
        world.outcomes = [refused()]
        world.lose("reset by peer")
        assert (connection.state, connection.reason) == (State.LOST, "reset by peer")
        assert world.calls == [("lost", "reset by peer")]  # in the same call
        await world.until(State.WAITING)
        assert connection.reason == "far: Connection refused"
        await world.until(State.UP)
        assert world.calls == [("lost", "reset by peer"), ("resume", "")]
        assert (connection.generation, connection.reconnects) == (2, 1)
        assert connection.reason == "connected again after 2 s"
    assert connection.state is State.CLOSED
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [line for line in said if "connecting" not in line[1]] == [
        ("INFO", "connection up"),
        ("WARNING", "connection lost: reset by peer"),
        ("INFO", "connection waiting: far: Connection refused"),
        ("WARNING", "connection up: connected again after 2 s"),
        ("INFO", "connection closed"),
    ]


async def test_the_old_link_is_aborted_before_another_is_made(world: World) -> None:
    async with up(world):
        world.lose()
        assert world.order == ["abort"]  # in the same call
        await world.until(State.UP)
        assert world.order == ["abort", "gone"]
        assert len(world.links) == 2


async def test_a_link_that_failed_is_ended_before_the_next(world: World) -> None:
    async with up(world):
        world.outcomes = [refused()]
        world.lose()
        await world.until(State.UP)
        assert [link.events for link in world.links] == [["abort"], ["abort"], []]


async def test_without_reconnecting_the_first_loss_ends_it(world: World) -> None:
    async with trio.open_nursery() as nursery:
        await world.connection.connect()
        nursery.start_soon(lambda: world.connection.keep_up(world, reconnect=False))
        await trio.testing.wait_all_tasks_blocked()
        world.lose()
    assert world.calls == [("lost", "reset")]
    assert world.connection.state is State.LOST
    await world.connection.close()


async def test_a_loss_before_anybody_keeps_it_up_is_told_of(world: World) -> None:
    await world.connection.connect()
    world.lose("early")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: world.connection.keep_up(world, reconnect=True))
        await world.until(State.UP)
        nursery.cancel_scope.cancel()
    assert world.calls == [("lost", "early"), ("resume", "")]
    await world.connection.close()


async def test_a_session_lost_at_the_very_end_of_resume_is_lost(world: World) -> None:
    async with up(world):

        async def resume(remote: RemoteFS) -> None:
            if world.connection.reconnects == 0:
                world.lose("at the end")  # and returns as if nothing had happened

        world.resume = resume  # type: ignore[method-assign]  # for this one test
        world.lose()
        await trio.testing.wait_all_tasks_blocked()
        assert [call for call in world.calls if call[0] == "lost"] == [
            ("lost", "reset"), ("lost", "at the end")
        ]  # fmt: skip
        await world.until(State.UP)


@pytest.mark.parametrize("error", [SftpRefusedError, RemoteDirectoryError, UnreachableError])
async def test_what_may_get_better_is_tried_again(world: World, error: type[Exception]) -> None:
    async with up(world):
        world.outcomes = [error("not now")]
        world.lose()
        await world.until(State.UP)
        assert "given up" not in [call for call, _ in world.calls]


@pytest.mark.parametrize("error", [AuthenticationError, HostKeyError])
async def test_a_server_that_says_no_is_asked_once(
    world: World, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async with up(world):
        world.outcomes = [error("not you")]
        world.lose()
        await world.until(State.FAILED)
        assert world.calls == [("lost", "reset"), ("given up", "not you")]
        (line,) = [each for each in caplog.records if each.levelname == "ERROR"]
        assert "not you" in line.getMessage() and "pysshfsctl reconnect" in line.getMessage()
        for _ in range(5):
            world.connection.wanted()
            await world.connection._network_changed(Change("", slept=True))
            await trio.sleep(100)
        assert len(world.tries) == 2
        now = trio.current_time()
        world.connection.reconnect_now("asked for")
        await world.until(State.UP)
        assert world.tries[2:] == [now] and world.calls[-1] == ("resume", "")


# --- reconnect_now ------------------------------------------------------------------------------


async def test_reconnect_now_drops_a_session(world: World) -> None:
    async with up(world):
        now = trio.current_time()
        world.connection.reconnect_now("asked for")
        assert world.calls == [("lost", "asked for")]
        await world.until(State.UP)
        assert world.tries[-1] == now


async def test_reconnect_now_does_not_wait(world: World) -> None:
    async with up(world):
        world.outcomes = [refused() for _ in range(4)]
        world.lose()
        await trio.sleep(7)
        assert world.connection.state is State.WAITING
        now = trio.current_time()
        world.connection.reconnect_now("asked for")
        await world.until(State.WAITING)
        await trio.testing.wait_all_tasks_blocked()
        assert world.tries[-1] == now
        await world.until(State.UP)
        assert world.gaps()[-1] == 2  # and the pace begins anew


async def test_reconnect_now_breaks_off_a_try_that_hangs(world: World) -> None:
    async with up(world):
        world.opening_takes = 25
        world.lose()
        await trio.sleep(10)
        world.opening_takes = 0
        world.connection.reconnect_now("asked for")
        await trio.testing.wait_all_tasks_blocked()
        assert world.connection.state is State.UP and world.gaps()[-1] == 10
        assert world.links[1].events == ["abort"]


async def test_reconnect_now_while_resuming_is_a_loss_to_the_user(world: World) -> None:
    async with up(world):
        world.resume_takes = 3
        world.lose()
        await trio.sleep(1)
        assert world.connection.state is State.CONNECTING
        world.connection.reconnect_now("asked for")
        await world.until(State.UP)
        assert world.gaps()[-1] == 3  # when `resume` noticed, at once
        assert [call for call, _ in world.calls] == ["lost", "resume", "resume"]


async def test_reconnect_now_means_nothing_before_and_after(world: World) -> None:
    world.connection.reconnect_now("too early")
    states = [world.connection.state]
    async with up(world):
        pass
    world.connection.reconnect_now("too late")
    states.append(world.connection.state)
    assert states == [State.NEW, State.CLOSED] and len(world.tries) == 1


# --- the fence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("in_doubt", [True, False])
async def test_the_fence_stands_only_when_something_is_in_doubt(
    world: World, in_doubt: bool
) -> None:
    async with up(world):
        world.in_doubt = in_doubt
        now = trio.current_time()
        world.lose()
        await world.until(State.UP)
        waited = 0.25 if in_doubt else 0  # 4 round trips are less
        assert world.resumed_at == [pytest.approx(now + waited)]


# --- silence ------------------------------------------------------------------------------------


async def test_silence_while_up(world: World) -> None:
    async with up(world):
        connection = world.connection
        assert connection.round_trip == ROUND_TRIP
        await trio.sleep(100)
        assert connection.silence() == 0  # nothing was asked
        world.session.request(wire.FXP_REMOVE)
        await trio.sleep(1.9)
        assert connection.silence() == 0
        await trio.sleep(0.2)
        assert connection.silence() == pytest.approx(2.1)
        world.session.request(wire.FXP_REMOVE)
        await trio.sleep(1)
        assert connection.silence() == pytest.approx(3.1)  # of the oldest
        world.link.answer()
        assert connection.silence() == 0
        await trio.sleep(3)
        assert connection.silence() == pytest.approx(3)  # since the last byte
        world.session.round_trip = 1.0
        assert connection.silence() == 0  # 4 round trips


async def test_silence_while_down(world: World) -> None:
    async with up(world):
        world.outcomes = [refused() for _ in range(3)]
        await trio.sleep(50)
        world.lose()
        assert world.connection.silence() == 0
        await trio.sleep(5)
        assert world.connection.silence() == pytest.approx(5)
        await world.until(State.UP)
        assert world.connection.silence() == 0


# --- changes of the network ---------------------------------------------------------------------


async def suspended(world: World, seconds: float = 3600) -> None:
    """The machine sleeps; what it does after waking."""
    world.asleep += seconds
    await trio.sleep(3.01)


async def test_after_a_suspend_the_server_is_asked_for_a_sign(world: World) -> None:
    async with up(world):
        await suspended(world)
        assert world.link.events == ["suspect 5"]
        assert len(world.link.channel.sent) == 1  # a question of our own
        world.link.answer()
        await trio.sleep(0.01)
        assert world.link.events == ["suspect 5", "trust"]
        assert world.calls == [] and world.connection.state is State.UP


async def test_no_answer_after_a_suspend_is_a_loss_and_its_reason(world: World) -> None:
    async with up(world):
        await suspended(world)
        world.lose("Server not responding to keepalive")  # what asyncssh makes of it
        assert world.calls == [
            ("lost", "no answer since this machine slept for 3600 s: "
                     "Server not responding to keepalive")
        ]  # fmt: skip
        await world.until(State.UP)
        assert world.links[0].events == ["suspect 5", "abort"]  # no timer on what is dead
        world.lose("again")
        assert world.calls[-1] == ("lost", "again")


async def test_a_slow_disk_on_the_server_is_no_reason(world: World) -> None:
    """The SSH server answers; only the SFTP server does not."""
    async with up(world):
        await suspended(world)
        await trio.sleep(60)
        assert world.connection.state is State.UP
        assert world.link.events == ["suspect 5", "trust"]


async def test_a_long_way_gets_more_time(world: World) -> None:
    async with up(world):
        world.session.round_trip = 2.0
        await suspended(world)
        assert world.link.events == ["suspect 16"]


@pytest.mark.parametrize("moves", [True, False])
async def test_a_large_backlog_is_judged_by_whether_it_moves(world: World, moves: bool) -> None:
    async with up(world):
        world.link.backlog = 1_000_000
        await suspended(world)
        if moves:
            world.link.taken = 5000
        await trio.sleep(5)
        if moves:
            assert world.calls == []
        else:
            assert "what was sent is not taken" in world.calls[0][1]
        assert "suspect 5" not in world.links[0].events


async def test_after_waking_there_is_no_wait(world: World) -> None:
    async with up(world):
        world.outcomes = [refused() for _ in range(6)]
        world.lose()
        await trio.sleep(40)
        assert world.connection.state is State.WAITING and len(world.tries) == 6
        world.asleep += 100
        world.outcomes = []
        await world.until(State.UP)
        assert world.gaps()[-1] < 16


async def test_after_waking_a_try_from_before_is_not_waited_for(world: World) -> None:
    async with up(world):
        world.opening_takes = 29
        world.lose()
        await trio.sleep(1)
        world.opening_takes = 0
        world.asleep += 100
        await world.until(State.UP)
        assert world.gaps()[-1] <= 3


async def test_an_address_that_changes_is_a_reason_to_ask(world: World) -> None:
    async with up(world):
        for _ in range(20):  # one event, several messages
            world.kernel.send(b"RTM_NEWADDR")
        await trio.sleep(1)
        assert world.link.events == ["suspect 5"]
        world.link.answer()
        await trio.sleep(30)
        assert world.link.events == ["suspect 5", "trust"]
        world.kernel.send(b"RTM_DELADDR")
        await trio.sleep(1)
        assert world.link.events[2:] == ["suspect 5"]


async def test_an_address_that_changes_cuts_the_wait_short(world: World) -> None:
    async with up(world):
        world.outcomes = [refused() for _ in range(5)]
        world.lose()
        await trio.sleep(35)
        assert len(world.tries) == 6 and world.connection.state is State.WAITING
        world.kernel.send(b"RTM_NEWADDR")
        await trio.sleep(6)
        assert len(world.tries) == 7


# --- the end ------------------------------------------------------------------------------------


async def test_what_was_dropped_stays_so(world: World) -> None:
    async with up(world):

        async def resume(remote: RemoteFS) -> None:
            world.connection.drop()  # and goes on as if nothing had happened

        world.resume = resume  # type: ignore[method-assign]  # for this one test
        world.lose()
        await trio.sleep(100)
        assert world.connection.state is State.CLOSED


@pytest.mark.parametrize("when", ["up", "waiting", "connecting", "resuming", "failed"])
async def test_dropping_ends_all_that_waits(world: World, when: str) -> None:
    async with up(world):
        if when == "waiting":
            world.outcomes = [refused()]
        elif when == "connecting":
            world.opening_takes = 20
        elif when == "resuming":
            world.resume_takes = 20
        elif when == "failed":
            world.outcomes = [AuthenticationError("no")]
        if when != "up":
            world.lose()
            await trio.sleep(0.5)
        reply: Reply[None] = world.session.request(wire.FXP_REMOVE)
        world.connection.drop()
        assert isinstance(reply.error, ConnectionLostError)
        assert world.calls[-1] == ("given up", "unmounting")
        tries = len(world.tries)
        await trio.sleep(100)
        assert world.connection.state is State.CLOSED and len(world.tries) == tries
