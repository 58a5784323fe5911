"""Signals that come in streams and in crowds: no result is wrong, nothing is lost or left over."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.mount.blocked import PROMPTLY, assert_it_serves, fill, let_go
from tests.mount.places import Place, own_mount, read_a_line, status, wait_until
from tests.support import procs

if TYPE_CHECKING:
    from tests.support.sshd import Sshd

CALLS: Final = 20_000
CROWD: Final = 2_000


def compiled(name: str, directory: Path) -> str:
    program = directory / name
    source = Path(__file__).with_name(f"{name}.c")
    argv = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)]
    procs.run_limited(argv, timeout=60)
    return str(program)


@pytest.fixture(scope="module")
def signals_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiled("signals", tmp_path_factory.mktemp("signals"))


@pytest.fixture(scope="module")
def race_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiled("race", tmp_path_factory.mktemp("race"))


@pytest.mark.parametrize(
    "which", [signal.SIGALRM, signal.SIGCHLD, signal.SIGWINCH, signal.SIGUSR1], ids=str
)
def test_signals_with_handlers_make_no_call_fail(
    place: Place, signals_program: str, which: signal.Signals
) -> None:
    """In C, where nobody repeats a call that failed with EINTR."""
    seen = status(place.mount)["interrupts_seen"]
    argv = [signals_program, "busy", str(int(which)), "150"]
    lines = place.run(argv, timeout=60).stdout.splitlines()
    assert lines[-1].split()[0] == "done" and int(lines[-1].split()[1]) > 50
    assert lines[:-1] == []
    assert status(place.mount)["interrupts_seen"] > seen + 20


# --- the results of interrupted calls -----------------------------------------------------------


def size_of(number: int) -> int:
    """How long race.c makes its files."""
    return 1 + number * 7919 % (300 * 1024) // (40 if number % 16 else 1)


def content(number: int) -> bytes:
    return bytes((number * 31 + i * 7 + (i >> 8)) & 0xFF for i in range(size_of(number)))


def test_interrupted_calls_have_happened_or_not(openssh: Sshd, race_program: str) -> None:
    """20,000 calls under a stream of SIGINTs, each repeated until it was not interrupted.

    What the kernel was not told of an interrupted change it may believe for negative_timeout.
    """
    with own_mount(openssh, "negative_timeout=0.05") as place:
        staying = [f"stays-{number}" for number in range(8)]
        for number, name in enumerate(staying):
            (place.server / name).write_bytes(content(number))
        outcome = place.run([race_program, str(CALLS), "1"], timeout=150, check=False)
        assert outcome.returncode == 0, outcome.stdout
        print("succeeded, interrupted, of those carried out, signals:", outcome.stdout)
        known = status(place.mount)
        print({name: number for name, number in known.items() if "interrupt" in name})
        assert known["interrupted_in_flight"] >= 1000
        left = {path.name: path.read_bytes() for path in place.server.iterdir()}
        kept = {name: data for name, data in left.items() if name.startswith("kept-")}
        assert set(left) == {*kept, *staying}
        assert len(kept) > 50
        for name, data in left.items():
            assert data == content(int(name.partition("-")[2])), name
        assert place.mount.log() == ""


# --- crowds -------------------------------------------------------------------------------------


def resident(pid: int) -> int:
    """Megabytes of memory that a process has."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    raise AssertionError("no VmRSS")


def seconds_to_die(pid: int, which: signal.Signals) -> float:
    """Send a signal and wait for the end, which another process is going to reap."""
    handle = os.pidfd_open(pid)
    try:
        began = time.monotonic()
        os.kill(pid, which)
        assert select.select([handle], [], [], 10)[0], f"process {pid} is still there"
        return time.monotonic() - began
    finally:
        os.close(handle)


def test_a_crowd_in_one_directory_can_be_stopped(place: Place, signals_program: str) -> None:
    """One of them alone, and then all at once."""
    fill(place)
    seen = status(place.mount)["interrupts_seen"]
    before = resident(place.mount.pid)
    crowd = place.start([signals_program, "crowd", str(CROWD)])
    assert read_a_line(crowd) == b"ready\n"
    with place.silent_server():
        let_go(crowd)
        assert read_a_line(crowd, 60) == b"started\n"
        wait_until("all are blocked", lambda: place.mount.waiting() == CROWD, 60)

        def active() -> bool:
            return bool(status(place.mount)["requests_active"] == CROWD)

        wait_until("the daemon has them", active, 20)
        grown = resident(place.mount.pid) - before
        alone = seconds_to_die(place.requests()[-1]["pid"], signal.SIGINT)
        assert alone < PROMPTLY
        os.killpg(crowd.pid, signal.SIGINT)
        began = time.monotonic()
        assert read_a_line(crowd, 20) == b"%d\n" % CROWD
        together = time.monotonic() - began
        print(f"one {alone * 1000:.1f} ms, all {together:.2f} s, {grown} MB")
        assert together < 2
        assert status(place.mount)["interrupts_seen"] >= seen + CROWD
        assert place.requests() == []
    crowd.communicate(timeout=10)
    assert grown < 200
    assert_it_serves(place)


def test_killing_programs_does_not_stop_the_daemon(place: Place, signals_program: str) -> None:
    """A killed program takes its requests with it, also from under the hands of who reads them."""
    for number in range(80):
        storm = place.start([signals_program, "storm", "12"])
        assert read_a_line(storm) == b"started\n"
        time.sleep(number % 10 / 1000)  # so as to hit all of their moments
        os.killpg(storm.pid, signal.SIGKILL)
        storm.communicate(timeout=10)
        assert status(place.mount)["state"] == "up"
    assert place.requests() == []
