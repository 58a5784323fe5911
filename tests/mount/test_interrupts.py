"""Programs that wait for a silent server can be stopped, and other signals disturb nobody."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.mount.places import Place, read_a_line, status, wait_until
from tests.support import procs

if TYPE_CHECKING:
    import subprocess

#: Seconds after which a program has to be gone that was told to stop.
_PROMPTLY = 1.0


class Step(NamedTuple):
    """What a program does before the server falls silent and after, and what it then waits for."""

    before: str
    after: str
    operation: str


STEPS = {
    "open": Step("os.stat('file')", "os.open('file', os.O_RDONLY)", "open"),
    "create": Step("", "os.open('made', os.O_CREAT | os.O_WRONLY)", "lookup"),
    "stat": Step("", "os.stat('file')", "lookup"),
    "fstat": Step("fd = os.open('file', os.O_RDWR)", "os.write(fd, b'x'); os.fstat(fd)", "getattr"),
    "read": Step("fd = os.open('large', os.O_RDONLY)", "os.pread(fd, 4096, 9 << 20)", "read"),
    "write": Step(
        "fd = os.open('new', os.O_CREAT | os.O_WRONLY)",
        "while True: os.write(fd, bytes(1 << 20))",
        "write",
    ),
    "close": Step(
        "fd = os.open('new', os.O_CREAT | os.O_WRONLY)", "os.write(fd, b'x'); os.close(fd)", "flush"
    ),
    "fsync": Step(
        "fd = os.open('new', os.O_CREAT | os.O_WRONLY)", "os.write(fd, b'x'); os.fsync(fd)", "fsync"
    ),
    "mkdir": Step("os.path.exists('made')", "os.mkdir('made')", "mkdir"),
    "readdir": Step("os.stat('directory')", "os.listdir('directory')", "opendir"),
    "unlink": Step("os.stat('file')", "os.unlink('file')", "unlink"),
    "rename": Step("os.stat('file'); os.stat('other')", "os.rename('file', 'other')", "rename"),
    "chmod": Step("os.stat('file')", "os.chmod('file', 0o600)", "setattr"),
    "statfs": Step("", "os.statvfs('.')", "statfs"),
}


def fill(place: Place) -> None:
    (place.server / "directory").mkdir()
    (place.server / "file").write_text("content")
    (place.server / "other").write_text("other")
    (place.server / "large").write_bytes(bytes(10 << 20))


def start(place: Place, step: Step, handling: str = "") -> subprocess.Popen[bytes]:
    """A program that has done what comes before and waits for a line to do the rest."""
    default = "signal.signal(signal.SIGINT, signal.SIG_DFL)"
    code = (
        f"import os, signal, sys\n{handling or default}\n{step.before}\n"
        f"print('ready', flush=True); sys.stdin.readline()\n"
    )
    code += step.after if not handling else f"act(lambda: {step.after})"
    program = place.start([sys.executable, "-I", "-c", code])
    assert read_a_line(program) == b"ready\n"
    return program


def let_go(program: subprocess.Popen[bytes]) -> None:
    assert program.stdin is not None
    program.stdin.write(b"\n")
    program.stdin.flush()


def assert_it_serves(place: Place) -> None:
    """After all that: names, content, and everything given back."""
    place.sh("cat large > copy; cmp large copy; ls -l directory > /dev/null")
    place.close()


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
@pytest.mark.parametrize("name", STEPS)
def test_a_program_that_waits_for_a_silent_server_can_be_stopped(
    place: Place, name: str, which: signal.Signals
) -> None:
    fill(place)
    program = start(place, STEPS[name])
    seen = status(place.mount)["interrupts_seen"]
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, STEPS[name].operation)
        os.kill(program.pid, which)
        assert procs.wait_gone(program, _PROMPTLY), f"still there: {place.requests()}"
        assert program.returncode == -which
        if name != "read":  # where the kernel waits for the page, not for the request
            assert status(place.mount)["interrupts_seen"] > seen
    assert_it_serves(place)


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_other_signals_that_stop_programs_do_so(place: Place, which: signal.Signals) -> None:
    fill(place)
    program = start(place, STEPS["open"])
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, "open")
        os.kill(program.pid, which)
        assert procs.wait_gone(program, _PROMPTLY)
    assert_it_serves(place)


_REPORTING = """
def act(what):
    try:
        what()
    except KeyboardInterrupt:
        print('KeyboardInterrupt', flush=True)
        sys.stdin.readline()
        print(open('file').read(), flush=True)
"""


@pytest.mark.parametrize("name", ["open", "stat", "mkdir", "readdir", "unlink", "statfs"])
def test_a_program_with_a_handler_gets_its_exception_and_goes_on(place: Place, name: str) -> None:
    fill(place)
    program = start(place, STEPS[name], _REPORTING)
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, STEPS[name].operation)
        os.kill(program.pid, signal.SIGINT)
        assert read_a_line(program, _PROMPTLY) == b"KeyboardInterrupt\n"
    out, err = program.communicate(b"\n", timeout=10)
    if name != "unlink":  # which was on its way, and may have happened
        assert (out, err) == (b"content\n", b"")
    assert_it_serves(place)


def test_a_signal_of_no_consequence_does_not_hide_a_later_one(place: Place) -> None:
    """The kernel announces the first signal only; SIGWINCH is not worth giving a call up for."""
    fill(place)
    handling = "signal.signal(signal.SIGWINCH, lambda *_: None)\n" + _REPORTING
    program = start(place, STEPS["open"], handling)
    seen = status(place.mount)["interrupts_seen"]
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, "open")
        os.kill(program.pid, signal.SIGWINCH)
        wait_until("the signal is seen", lambda: status(place.mount)["interrupts_seen"] > seen, 5)
        place.wait_blocked(program.pid, "open")
        os.kill(program.pid, signal.SIGINT)
        assert read_a_line(program, _PROMPTLY) == b"KeyboardInterrupt\n"
    program.communicate(b"\n", timeout=10)
    assert_it_serves(place)


def test_a_killed_writer_loses_nothing_that_was_taken(place: Place) -> None:
    """What write(2) had accepted arrives, once the server answers again."""
    fill(place)
    after = "os.write(fd, b'accepted'); os.stat('directory')"
    program = start(place, Step("fd = os.open('new', os.O_CREAT | os.O_WRONLY)", after, "lookup"))
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, "lookup")
        os.kill(program.pid, signal.SIGKILL)
        assert procs.wait_gone(program, _PROMPTLY)
    assert place.sh("cat new") == "accepted"
    assert (place.server / "new").read_text() == "accepted"
    assert_it_serves(place)


@pytest.fixture(scope="module")
def signals_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """signals.c, compiled."""
    program = tmp_path_factory.mktemp("signals") / "signals"
    source = Path(__file__).with_name("signals.c")
    argv = ["gcc", "-Wall", "-Werror", "-o", str(program), str(source)]
    procs.run_limited(argv, timeout=60)
    return str(program)


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


def test_a_crowd_in_one_directory_can_be_stopped(place: Place, signals_program: str) -> None:
    fill(place)
    size = 400
    seen = status(place.mount)["interrupts_seen"]
    crowd = place.start([signals_program, "crowd", str(size)])
    assert read_a_line(crowd) == b"ready\n"
    with place.silent_server():
        let_go(crowd)
        assert read_a_line(crowd) == b"started\n"
        wait_until("all are blocked", lambda: len(place.requests()) == size, 20)
        os.killpg(crowd.pid, signal.SIGINT)
        began = time.monotonic()
        assert read_a_line(crowd, 10) == b"%d\n" % size
        assert time.monotonic() - began < 2 * _PROMPTLY
        assert status(place.mount)["interrupts_seen"] >= seen + size
        assert place.requests() == []
    crowd.communicate(timeout=10)
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
