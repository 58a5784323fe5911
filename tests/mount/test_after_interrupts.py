"""What comes after an interrupted call: it is repeated, its answer comes late, or never."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.mount.blocked import GRACE, PROMPTLY, fill, let_go
from tests.mount.places import Place, own_mount, read_a_line, status, wait_until
from tests.mount.test_interrupt_races import resident
from tests.support import procs

if TYPE_CHECKING:
    import subprocess

    from tests.support.sshd import Sshd

# What would fail falsely if it were carried out twice: the call, and what is there afterwards.
REPEATED: Final = {
    "mkdir": ("os.mkdir('made')", "os.path.isdir('made')"),
    "create": ("os.open('made', os.O_CREAT | os.O_EXCL | os.O_WRONLY)", "os.path.isfile('made')"),
    "symlink": ("os.symlink('file', 'made')", "os.readlink('made') == 'file'"),
    "link": ("os.link('file', 'made')", "os.path.getsize('made') == 7"),
    "unlink": ("os.unlink('file')", "not os.path.exists('file')"),
    "rmdir": ("os.rmdir('directory')", "not os.path.exists('directory')"),
    "rename": ("os.rename('file', 'made')", "os.path.exists('made')"),
}


def start(place: Place, handling: str, call: str) -> subprocess.Popen[bytes]:
    """A program that looks around and then waits for a line to make the call."""
    code = f"""
import os, signal, sys
{handling}
os.listdir('.'); os.path.exists('made')
print('ready', flush=True); sys.stdin.readline()
{call}
"""
    program = place.start([sys.executable, "-I", "-c", code])
    assert read_a_line(program) == b"ready\n"
    return program


@pytest.mark.parametrize("caching", ["yes", "no"])
@pytest.mark.parametrize("name", REPEATED)
def test_a_call_that_is_repeated_after_eintr_is_joined_with_the_first(
    openssh: Sshd, name: str, caching: str
) -> None:
    """Without a cache the kernel looks the name up first."""
    call, outcome = REPEATED[name]
    with own_mount(openssh, f"interrupt_grace={GRACE}", f"dir_cache={caching}") as place:
        fill(place)
        program = start(
            place,
            "signal.signal(signal.SIGINT, lambda *_: print('again', flush=True))",
            f"""
while True:
    try: {call}
    except InterruptedError: continue
    break
print({outcome}, flush=True)""",
        )
        with place.silent_server():
            let_go(program)
            # Without a cache the server falls silent before the call itself is sent.
            place.wait_blocked(program.pid, "lookup" if caching == "no" else name)
            for _ in range(2):
                os.kill(program.pid, signal.SIGINT)
                assert read_a_line(program) == b"again\n"
                wait_until("it is repeated", lambda: len(place.requests()) == 1, 10)
        assert program.communicate(timeout=20) == (b"True\n", b"")
        assert program.returncode == 0


@pytest.mark.parametrize("which", [signal.SIGALRM, signal.SIGUSR1], ids=lambda s: s.name)
def test_other_signals_end_a_call_once_the_server_does_not_answer(
    place: Place, which: signal.Signals
) -> None:
    fill(place)
    handling = f"""
def handler(*_): raise TimeoutError
signal.signal({int(which)}, handler)
"""
    call = """
try: open('file')
except TimeoutError: print('out', flush=True)
"""
    program = start(place, handling, call)
    seen = status(place.mount)["interrupts_seen"]
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, "open")
        assert not status(place.mount)["silent_seconds"]
        os.kill(program.pid, which)
        wait_until("it is seen", lambda: status(place.mount)["interrupts_seen"] > seen, 5)
        place.wait_blocked(program.pid, "open")  # it may answer yet
        assert read_a_line(program, 10) == b"out\n"
        assert status(place.mount)["silent_seconds"] > 2
    program.communicate(timeout=10)


_OPENS = """
import os, sys, threading
os.stat('file')
ready = threading.Barrier(int(sys.argv[1]) + 1)
def work():
    ready.wait()
    os.open('file', os.O_RDONLY)
for _ in range(int(sys.argv[1])):
    threading.Thread(target=work, daemon=True).start()
print('ready', flush=True)
sys.stdin.readline()
ready.wait()
threading.Event().wait()
"""


def interrupt_opens(place: Place, count: int) -> None:
    program = place.start([sys.executable, "-I", "-c", _OPENS, str(count)])
    assert read_a_line(program) == b"ready\n"
    before = status(place.mount)["interrupted_in_flight"]
    with place.silent_server():
        let_go(program)

        wait_until("all wait", lambda: status(place.mount)["requests_active"] == count, 20)
        assert {request["operation"] for request in place.requests()} == {"open"}
        os.kill(program.pid, signal.SIGINT)
        assert procs.wait_gone(program, PROMPTLY + 2)
        assert status(place.mount)["interrupted_in_flight"] >= before + count
    place.close()  # every handle that came late was given back


def test_a_thousand_interrupted_opens_leave_nothing(openssh: Sshd) -> None:
    with own_mount(openssh) as place:
        fill(place)
        for _ in range(2):  # then there is all the memory that it takes
            interrupt_opens(place, 1000)
        tables = ("inodes", "open_files", "open_directories", "sftp_in_flight")
        known, memory = status(place.mount), resident(place.mount.pid)
        interrupt_opens(place, 1000)
        after = status(place.mount)
        assert [after[name] for name in tables] == [known[name] for name in tables]
        assert resident(place.mount.pid) - memory <= 2


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        ("os.mkdir('made')", "os.path.isdir('made')"),
        ("os.open('made', os.O_CREAT | os.O_WRONLY)", "os.path.isfile('made')"),
        ("os.rename('file', 'made')", "os.path.isfile('made') and not os.path.exists('file')"),
        ("os.unlink('file')", "not os.path.exists('file')"),
        ("os.chmod('file', 0o611)", "os.stat('file').st_mode & 0o777 == 0o611"),
    ],
    ids=["mkdir", "create", "rename", "unlink", "chmod"],
)
def test_what_happens_after_its_caller_was_killed_is_seen_at_once(
    openssh: Sshd, call: str, outcome: str
) -> None:
    """Whatever the kernel remembers: for a minute, here, that there is no such name."""
    with own_mount(openssh, "negative_timeout=60", "dcache_timeout=60") as place:
        fill(place)
        handling = "signal.signal(signal.SIGINT, signal.SIG_DFL); os.stat('file')"
        program = start(place, handling, call)
        with place.silent_server():
            let_go(program)
            wait_until("it is blocked", lambda: len(place.requests()) == 1, 10)
            os.kill(program.pid, signal.SIGINT)
            assert procs.wait_gone(program, PROMPTLY)
        place.close()  # the late answers are there
        look = f"import os; print({outcome})"
        assert place.run([sys.executable, "-I", "-c", look]).stdout == "True\n"
