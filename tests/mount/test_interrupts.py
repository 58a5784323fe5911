"""Programs that wait for a silent server can be stopped, and other signals disturb nobody."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.mount.blocked import (
    OPTIONS,
    PROMPTLY,
    REPORT,
    STEPS,
    Step,
    assert_it_serves,
    fill,
    fill_with_many,
    let_go,
    start,
)
from tests.mount.places import (
    Place,
    ServerUnderTest,
    SharedMount,
    own_mount,
    read_a_line,
    sharing,
    status,
    wait_until,
)
from tests.support import procs

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.support.sshd import Sshd

#: Seconds for the daemon to notice that it is an exiting program that closes its files.
_EXIT_MARGIN = 0.5


@pytest.fixture(scope="module")
def shared_mount(openssh: Sshd) -> Iterator[SharedMount]:
    """A mount where changes have a short grace."""
    with sharing(ServerUnderTest("openssh", openssh), *OPTIONS) as shared:
        yield shared


def prepare(place: Place, name: str) -> Step:
    fill(place)
    if name == "readdir":
        fill_with_many(place)
    return STEPS[name]


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
@pytest.mark.parametrize("name", STEPS)
def test_a_program_that_waits_for_a_silent_server_can_be_stopped(
    place: Place, name: str, which: signal.Signals
) -> None:
    """No call has a grace then; what the program wrote has, when it exits."""
    step = prepare(place, name)
    program = start(place, step)
    seen = status(place.mount)["interrupts_seen"]
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, step.operation)
        sent = time.monotonic()
        os.kill(program.pid, which)
        limit = step.limit + _EXIT_MARGIN * step.changes
        assert procs.wait_gone(program, limit), f"still there: {place.requests()}"
        print(f"{name}: gone after {(time.monotonic() - sent) * 1000:.1f} ms")
        assert program.returncode == -which
        assert status(place.mount)["interrupts_seen"] > seen
    assert_it_serves(place)


@pytest.mark.parametrize("name", STEPS)
def test_a_program_with_a_handler_gets_its_exception_and_goes_on(place: Place, name: str) -> None:
    step = prepare(place, name)
    program = start(place, step, REPORT)
    before = status(place.mount)
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, step.operation)
        sent = time.monotonic()
        os.kill(program.pid, signal.SIGINT)
        assert read_a_line(program, step.limit) == b"KeyboardInterrupt\n"
        print(f"{name}: freed after {(time.monotonic() - sent) * 1000:.1f} ms")
        after = status(place.mount)
    for counter in ("interrupts_seen", "interrupts_honoured", "interrupted_in_flight"):
        assert after[counter] > before[counter]
    assert program.communicate(b"\n", timeout=10) == (b"untouched\n", b"")
    assert_it_serves(place)


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_other_signals_that_stop_programs_do_so(place: Place, which: signal.Signals) -> None:
    fill(place)
    program = start(place, STEPS["open"])
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, "open")
        os.kill(program.pid, which)
        assert procs.wait_gone(program, PROMPTLY)
    assert_it_serves(place)


def test_a_signal_of_no_consequence_does_not_hide_a_later_one(place: Place) -> None:
    """The kernel announces the first signal only; SIGWINCH is not worth giving a call up for."""
    fill(place)
    handling = "signal.signal(signal.SIGWINCH, lambda *_: None)\n" + REPORT
    program = start(place, STEPS["open"], handling)
    seen = status(place.mount)["interrupts_seen"]
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, "open")
        os.kill(program.pid, signal.SIGWINCH)
        wait_until("the signal is seen", lambda: status(place.mount)["interrupts_seen"] > seen, 5)
        place.wait_blocked(program.pid, "open")
        os.kill(program.pid, signal.SIGINT)
        assert read_a_line(program, PROMPTLY) == b"KeyboardInterrupt\n"
    program.communicate(b"\n", timeout=10)
    assert_it_serves(place)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGALRM], ids=["SIGINT", "SIGALRM"])
def test_a_mapped_page_is_waited_for(place: Place, which: signal.Signals) -> None:
    """The handler runs and the page is asked for again; a page that fails would be SIGBUS."""
    fill(place)
    (place.server / "large").write_bytes(b"a" * (10 << 20))
    handling = f"""
import time
arrived = []
signal.signal({int(which)}, lambda *_: arrived.append(1))
after()
while not arrived:
    time.sleep(0.01)
print(mapped[9 << 20: (9 << 20) + 3], flush=True)
"""
    before = "mapped = mmap.mmap(os.open('large', os.O_RDONLY), 0, prot=mmap.PROT_READ)"
    program = start(place, Step(before, "mapped[9 << 20]", "read"), handling)
    seen = status(place.mount)["interrupts_seen"]
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, "read")
        os.kill(program.pid, which)
        wait_until("it is seen", lambda: status(place.mount)["interrupts_seen"] > seen, 5)
        os.kill(program.pid, which)
        place.wait_blocked(program.pid, "read")
    assert program.communicate(timeout=10) == (b"b'aaa'\n", b"")
    assert program.returncode == 0
    assert_it_serves(place)


def test_a_program_that_the_daemon_has_not_heard_of_can_be_killed(place: Place) -> None:
    """The kernel takes a request back that nobody has read."""
    fill(place)
    program = start(place, STEPS["lookup"])
    wait_until("nothing else waits", lambda: place.mount.waiting() == 0, 5)
    os.kill(place.mount.pid, signal.SIGSTOP)
    try:
        let_go(program)
        wait_until("the request waits", lambda: place.mount.waiting() == 1, 5)
        os.kill(program.pid, signal.SIGKILL)
        assert procs.wait_gone(program, PROMPTLY)
        assert place.mount.waiting() == 0
    finally:
        os.kill(place.mount.pid, signal.SIGCONT)
    assert_it_serves(place)


# --- those behind one that waits ----------------------------------------------------------------


def wait_for_lock(program: subprocess.Popen[bytes]) -> None:
    """Wait until a program sleeps in the kernel, beyond the reach of signals."""

    def sleeps() -> bool:
        with open(f"/proc/{program.pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "D"

    wait_until(f"process {program.pid} waits for a lock", sleeps, 10)


@pytest.mark.parametrize(
    ("before", "after", "operation"),
    [
        ("os.path.exists('{n}')", "os.open('{n}', os.O_CREAT | os.O_WRONLY)", "create"),
        ("os.path.exists('{n}')", "os.mkdir('{n}')", "mkdir"),
        (
            "fd = os.open('file', os.O_WRONLY)",
            "while True: os.pwrite(fd, bytes(1 << 20), 1 << 24)",
            "write",
        ),
        ("fd = os.open('file', os.O_WRONLY)", "os.write(fd, b'x'); os.fsync(fd)", "fsync"),
    ],
    ids=["create", "mkdir", "write", "fsync"],
)
def test_those_who_wait_for_the_kernels_lock_follow(
    place: Place, before: str, after: str, operation: str
) -> None:
    """They sleep until the first one, which has the lock, is free. None has a grace of its own."""
    fill(place)
    programs = [
        start(place, Step(before.format(n=n), after.format(n=n), operation), REPORT)
        for n in ("n1", "n2", "n3", "n4")
    ]
    with place.silent_server():
        for program in programs:
            let_go(program)
        wait_until("one has the lock", lambda: len(place.requests()) == 1, 10)
        holder = place.requests()[0]
        assert holder["operation"] == operation
        for program in programs:
            if program.pid != holder["pid"]:
                wait_for_lock(program)
        for program in programs:
            os.kill(program.pid, signal.SIGINT)
        first = next(program for program in programs if program.pid == holder["pid"])
        assert read_a_line(first, STEPS["create"].limit) == b"KeyboardInterrupt\n"
        freed = time.monotonic()
        for program in programs:
            if program is not first:
                assert read_a_line(program, PROMPTLY) == b"KeyboardInterrupt\n"
        print(f"{operation}: the others after {(time.monotonic() - freed) * 1000:.1f} ms")
        assert time.monotonic() - freed < PROMPTLY
    for program in programs:
        assert program.communicate(b"\n", timeout=10) == (b"untouched\n", b"")
    assert_it_serves(place)


# --- other users --------------------------------------------------------------------------------


def test_others_are_not_kept_waiting_for_ever(openssh: Sshd) -> None:
    """The owner of the mount is, unless he wants it otherwise."""
    with own_mount(openssh, "allow_other", "others_timeout=1") as place:
        fill(place)
        ask = 'echo ready; read line; exec "$@"'
        others = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        command = ["sh", "-c", ask, "sh", "env", "LC_ALL=C"]
        place.mount.mountpoint.parent.chmod(0o711)
        theirs = place.start([*command, *others, "stat", "file"])
        ours = place.start([*command, "stat", "other"])
        for program in (theirs, ours):
            assert read_a_line(program) == b"ready\n"
        with place.silent_server():
            for program in (theirs, ours):
                let_go(program)
            began = time.monotonic()
            _, err = theirs.communicate(timeout=5)
            assert 0.9 < time.monotonic() - began < 2
            assert err.endswith(b"Connection timed out\n")
            place.wait_blocked(ours.pid, "lookup")
        out, _ = ours.communicate(timeout=10)
        assert b"File: other" in out
        place.sh("cat file")
