"""The connection is cut at every place of a job, and the job does not notice.

Each run of `tests/faults/job.py` is cut at one SSH packet: before it, after it, within it, or after
the server has carried it out and before its answers arrive. The job must end well, the mount must
have connected anew, and the server must hold exactly what an undisturbed job leaves. The suite
takes a couple of hundred places, evenly spread; `make sweep` takes every packet in every manner.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.faults.effects import Reset
from tests.faults.rig import REST_LIMIT, Rig, difference
from tests.faults.spots import AFTER, Spot, Way
from tests.faults.sweep import MANNERS, Sweep, points
from tests.mount.places import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.sshd import Sshd

#: For each direction and manner: 7 times as many in all.
_POINTS = None if os.environ.get("PYSSHFS_SWEEP") == "all" else 30

_CASES = [(way, name) for way in Way for name in MANNERS[way]]


@pytest.fixture(scope="module")
def sweep(server: Sshd) -> Iterator[Sweep]:
    with Sweep(server, 2) as ready:
        yield ready


@pytest.mark.parametrize(
    ("way", "manner"), _CASES, ids=[f"{way.name.lower()}-{name}" for way, name in _CASES]
)
def test_a_job_survives_every_cut(sweep: Sweep, way: Way, manner: str) -> None:
    which = points(way, manner, sweep.totals[way], _POINTS)
    assert len({point.spot.packet for point in which}) == len(which) >= 30
    sweep.run(which)


#: In the connection that replaces the one that was cut: in the versions, in the key exchange, in
#: the login, in SFTP's first messages.
_LOGIN = [
    Spot(Way.TO_CLIENT, byte=1),
    Spot(Way.TO_SERVER, byte=7),
    Spot(Way.TO_CLIENT, packet=1, inside=0),
    Spot(Way.TO_CLIENT, packet=2, inside=33),
    Spot(Way.TO_SERVER, packet=3, inside=AFTER),
    Spot(Way.TO_SERVER, packet=5, inside=-1),
    Spot(Way.TO_CLIENT, packet=6, inside=AFTER),
    Spot(Way.TO_SERVER, packet=9, inside=0),
    Spot(Way.TO_SERVER, packet=11, inside=5),
    Spot(Way.TO_CLIENT, packet=12, inside=3),
]


@pytest.mark.parametrize("spot", _LOGIN, ids=str)
def test_a_job_survives_a_cut_of_the_new_login(sweep: Sweep, server: Sshd, spot: Spot) -> None:
    with Rig(server) as rig:
        rig.rest()
        first = rig.proxy.arm_ahead(Reset(), Spot(Way.TO_SERVER, packet=150, inside=AFTER))
        second = rig.proxy.arm(Reset(), spot, connection=2)
        assert rig.run_job("job") == ""
        first.wait()
        second.wait()
        assert rig.proxy.accepted >= 3
        wait_until("the reconnect", lambda: rig.reconnects() >= 1, REST_LIMIT)
        assert difference(rig.tree("job"), sweep.wanted) == ""
