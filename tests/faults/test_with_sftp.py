"""The fault proxy before a real server, with OpenSSH's own client: no mount is involved."""

from __future__ import annotations

import contextlib
import select
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.faults.effects import DeliverLate, Effect, HalfOpen, LoseReplies, Reset
from tests.faults.framing import CIPHER
from tests.faults.proxy import FaultProxy
from tests.faults.spots import AFTER, Spot, Way
from tests.mount.places import wait_until
from tests.support import procs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.sshd import Sshd

LIMIT = 20.0


class Sftp:
    """An sftp that takes one command at a time."""

    def __init__(self, server: Sshd, proxy: FaultProxy) -> None:
        options = [f"-o{each}" for each in (*server.options(proxy.port), CIPHER)]
        argv = ["sftp", "-q", "-F", "none", *options, "-b", "-", f"{server.user}@{server.host}"]
        # Without buffers: select() knows of nothing that waits in one.
        self.process = subprocess.Popen(
            argv,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def say(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())

    def ready(self) -> None:
        """Wait until it has logged in and has nothing to do."""
        assert self.process.stdout is not None
        self.say("pwd")
        line = b""
        while b"working directory:" not in line:
            assert select.select([self.process.stdout], [], [], LIMIT)[0], "sftp says nothing"
            line = self.process.stdout.readline()
            assert line, "sftp has ended"

    def end(self) -> int:
        """The status with which it ends when there are no more commands."""
        self.process.communicate(timeout=LIMIT)
        return self.process.returncode

    def put_down(self) -> None:
        self.process.kill()
        with contextlib.suppress(ValueError):  # the pipes are closed already
            self.process.communicate(timeout=LIMIT)


@pytest.fixture
def proxy(server: Sshd) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as running:
        server.trust(running.port)
        yield running


@contextlib.contextmanager
def sftp(server: Sshd, proxy: FaultProxy) -> Iterator[Sftp]:
    client = Sftp(server, proxy)
    try:
        client.ready()
        yield client
    finally:
        client.put_down()


def command(server: Sshd, proxy: FaultProxy) -> list[str]:
    """A remote command that does nothing."""
    *ssh, host = server.ssh(proxy.port)
    return [*ssh, "-o", CIPHER, host, "true"]


def test_each_request_is_a_packet(server: Sshd, proxy: FaultProxy, tmp_path: Path) -> None:
    with sftp(server, proxy) as client:
        for number in range(5):
            before = proxy.newest()
            client.say(f"mkdir {tmp_path}/{number}")
            client.ready()
            after = proxy.newest()
            assert before.to_server.packets is not None and before.to_client.packets is not None
            assert after.to_server.packets == before.to_server.packets + 1
            assert after.to_client.packets == before.to_client.packets + 1
        assert client.end() == 0


@pytest.mark.parametrize(
    ("effect", "inside", "made"),
    [(Reset(), 0, False), (Reset(), -1, False), (LoseReplies(), AFTER, True)],
    ids=["before", "incomplete", "without a reply"],
)
def test_a_request_is_carried_out_when_it_arrived_in_full(
    server: Sshd, proxy: FaultProxy, tmp_path: Path, effect: Effect, inside: int | None, made: bool
) -> None:
    with sftp(server, proxy) as client:
        fault = proxy.arm_ahead(effect, Spot(Way.TO_SERVER, packet=1, inside=inside))
        client.say(f"mkdir {tmp_path}/made")
        assert client.end() == 255
        fault.wait()
    server.kill_sessions()
    assert (tmp_path / "made").exists() is made


def test_a_request_arrives_late(server: Sshd, proxy: FaultProxy, tmp_path: Path) -> None:
    """The session that its client has given up carries it out after another client's request."""
    with sftp(server, proxy) as client:
        effect = HalfOpen(hold=1)
        fault = proxy.arm_ahead(effect, Spot(Way.TO_SERVER, packet=1))
        late = proxy.arm(DeliverLate(effect), Spot(Way.TO_SERVER, packet=8), connection=2)
        client.say(f"mkdir {tmp_path}/late")
        assert client.end() == 255
        fault.wait()
        assert effect.held > 0 and not (tmp_path / "late").exists()
        procs.run_limited(command(server, proxy), timeout=LIMIT)
        late.wait()
        wait_until("it is carried out", (tmp_path / "late").exists, LIMIT)


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("packet", (1, 3, 5, 7))
def test_the_login_can_be_cut_at_each_packet(
    server: Sshd, proxy: FaultProxy, way: Way, packet: int
) -> None:
    fault = proxy.arm(Reset(), Spot(way, packet=packet, inside=5), connection=1)
    assert procs.run_limited(command(server, proxy), timeout=LIMIT, check=False).returncode == 255
    fault.wait()
    assert procs.run_limited(command(server, proxy), timeout=LIMIT, check=False).returncode == 0
