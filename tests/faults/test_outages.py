"""What a network does besides breaking: it falls silent, comes back late, or lies.

`tests/faults/job.py` runs through each of these and may not notice.
"""

from __future__ import annotations

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.faults import undone
from tests.faults.effects import BlackHole, DeliverLate, Drip, HalfOpen, Reset
from tests.faults.proxy import Newcomers
from tests.faults.rig import JOB_LIMIT, REST_LIMIT, Rig, Tree, difference
from tests.faults.spots import AFTER, Spot, Way
from tests.mount.places import read_a_line, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.proxy import Fault
    from tests.support.sshd import Sshd

#: Silence is noticed, and an attempt to connect given up, within seconds.
IMPATIENT = ("ServerAliveInterval=1", "ServerAliveCountMax=1", "ConnectTimeout=1")

#: While the job writes, and while it reads.
MIDDLE = Spot(Way.TO_SERVER, packet=150, inside=7)


@pytest.fixture(scope="module")
def wanted(server: Sshd) -> Tree:
    """What the job leaves when nothing happens."""
    with Rig(server) as rig:
        assert rig.run_job("job") == ""
        return rig.tree("job")


@contextlib.contextmanager
def job_running(rig: Rig, wanted: Tree) -> Iterator[None]:
    """Run a job beside the block, which must end well and leave what it should."""
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(rig.run_job, "job")
        yield
        assert job.result(2 * JOB_LIMIT) == ""
    assert difference(rig.tree("job"), wanted) == ""


def wait_reconnected(rig: Rig) -> None:
    wait_until("the reconnect", lambda: rig.reconnects() >= 1, REST_LIMIT)


def wait_noticed(rig: Rig) -> None:
    wait_until("the loss is noticed", lambda: rig.status()["state"] != "up", REST_LIMIT)


@pytest.mark.parametrize("way", Way)
def test_a_short_silence_is_waited_for(server: Sshd, wanted: Tree, way: Way) -> None:
    with Rig(server) as rig:
        rig.rest()
        fault = rig.proxy.arm_ahead(BlackHole([way]), MIDDLE)
        with job_running(rig, wanted):
            fault.wait()
            before = rig.proxy.newest()
            wait_until("everything waits", lambda: _stands_still(rig), REST_LIMIT)
            fault.undo()
        assert rig.proxy.accepted == before.number == 1
        assert rig.proxy.newest().open


def _stands_still(rig: Rig) -> bool:
    """Whether programs wait, and nothing comes by any more."""
    before = rig.proxy.newest()
    return (
        rig.mount.waiting() > 0 and rig.status()["state"] == "up" and (rig.proxy.newest() == before)
    )


def test_a_slow_network_is_no_lost_one(server: Sshd, wanted: Tree) -> None:
    with Rig(server) as rig:
        rig.rest()
        fault = rig.proxy.arm_ahead(Drip(20_011, 0.005), Spot(Way.TO_SERVER, packet=30))
        with job_running(rig, wanted):
            fault.wait()
        assert rig.proxy.accepted == 1


def test_a_connection_gone_silent_is_replaced(server: Sshd, wanted: Tree) -> None:
    with Rig(server, *IMPATIENT) as rig:
        rig.rest()
        fault = rig.proxy.arm_ahead(BlackHole(), MIDDLE)
        with job_running(rig, wanted):
            fault.wait()
            wait_reconnected(rig)


@pytest.mark.parametrize("fate", [Newcomers.REFUSE, Newcomers.RESET, Newcomers.HOLE])
def test_a_server_that_cannot_be_reached_for_a_while(
    server: Sshd, wanted: Tree, fate: Newcomers
) -> None:
    with Rig(server, *IMPATIENT) as rig:
        rig.rest()
        rig.proxy.newcomers(fate)
        fault = rig.proxy.arm_ahead(Reset(), MIDDLE)
        with job_running(rig, wanted):
            fault.wait()
            wait_noticed(rig)
            if fate is Newcomers.HOLE:
                wait_until("an attempt", lambda: rig.proxy.unanswered > 0, REST_LIMIT)
            assert rig.reconnects() == 0 and rig.proxy.accepted == 1
            rig.proxy.newcomers(Newcomers.PASS)
            wait_reconnected(rig)


# Over all of the job, which sends 228 packets.
@pytest.mark.parametrize("packet", range(5, 225, 48))
def test_a_job_survives_what_the_old_session_gets_late(
    server: Sshd, wanted: Tree, packet: int
) -> None:
    with Rig(server, without_pauses=True) as rig:
        login = packets_of_a_login(rig)
        lost, late = arm_late(rig, Spot(Way.TO_SERVER, packet=packet, inside=AFTER), login)
        assert rig.run_job("job") == ""
        late.wait()
        assert difference(rig.tree("job"), wanted) == ""
        lost.undo()
        rig.rest()
        assert difference(rig.tree("job"), wanted) == ""


@pytest.mark.parametrize("pair", undone.PAIRS)
def test_what_the_old_session_gets_late_undoes_nothing(server: Sshd, pair: str) -> None:
    with Rig(server, without_pauses=True) as rig:
        login = packets_of_a_login(rig)
        directory = rig.directory("pair")
        argv = [sys.executable, "-I", "-S", undone.__file__, pair]
        program = rig.mount.start(argv, cwd="pair")
        assert read_a_line(program) == b"ready\n"
        rig.rest(open_files=1)
        lost, late = arm_late(rig, Spot(Way.TO_SERVER, packet=1), login)
        _, complaints = program.communicate(b"go\n", timeout=JOB_LIMIT)
        assert (program.returncode, complaints) == (0, b"")
        late.wait()
        assert isinstance(late.effect, DeliverLate) and late.effect.delivered > 0
        lost.undo()
        rig.rest()
        with contextlib.chdir(directory):
            assert undone.PAIRS[pair].found() == undone.PAIRS[pair].wanted


def arm_late(rig: Rig, spot: Spot, login: int) -> tuple[Fault, Fault]:
    """The connection is half open from there on, and what the client still sends is held back. The
    server gets it shortly after the client has logged in anew, with as many packets as last time.
    By then a mount that gives the old session no time has long gone on."""
    effect = HalfOpen(hold=8)
    lost = rig.proxy.arm_ahead(effect, spot)
    ready = Spot(Way.TO_SERVER, packet=login, inside=AFTER)
    late = rig.proxy.arm(DeliverLate(effect, delay=0.1), ready, connection=3)
    return lost, late


def packets_of_a_login(rig: Rig) -> int:
    """What a mount with nothing to do sends over a new connection until it is ready."""
    rig.rest()
    rig.proxy.strike(Reset()).wait()
    wait_reconnected(rig)
    rig.rest()
    count = rig.proxy.newest()
    assert count.number == 2 and count.to_server.packets is not None
    return count.to_server.packets
