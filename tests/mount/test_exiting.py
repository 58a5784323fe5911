"""Programs that end with written data while the server is silent: they go, the data arrives.

A process that exits closes its files, waits there for the server as any close does, and receives
no signal any more. So it is the daemon that lets it go.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.mount.blocked import GRACE, OPTIONS, Step, let_go, start
from tests.mount.places import Place, own_mount, read_a_line, wait_until
from tests.support import procs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.sshd import Sshd

FILES = 10

#: Writes to its files, all of them still open, and then...
_WRITE = "[os.write(fd, name.encode()) for name, fd in files.items()]"
_OPEN = (
    f"files = {{f'new-{{n}}': os.open(f'new-{{n}}', os.O_CREAT | os.O_WRONLY) for n in "
    f"range({FILES})}}"
)

EXITS = {
    "exits": "os._exit(0)",
    "is-killed": "print('written', flush=True); signal.pause()",
    "ends-while-others-run": (
        "print('written', flush=True)\n"
        "import threading\n"
        "threading.Thread(target=signal.pause, daemon=True).start()\n"
        "os._exit(0)"
    ),
}


@pytest.fixture
def place(openssh: Sshd) -> Iterator[Place]:
    with own_mount(openssh, *OPTIONS) as made:
        yield made


@pytest.mark.parametrize("way", EXITS)
def test_a_program_with_written_data_is_gone_soon_and_the_data_is_there(
    place: Place, way: str
) -> None:
    program = start(place, Step(_OPEN, _WRITE, "flush"), f"after()\n{EXITS[way]}\n")
    with place.silent_server():
        let_go(program)
        if "written" in EXITS[way]:
            assert read_a_line(program) == b"written\n"
        if way == "is-killed":
            os.kill(program.pid, signal.SIGKILL)
        began = time.monotonic()
        assert procs.wait_gone(program, GRACE + 0.5), f"still there: {place.requests()}"
        print(f"{way}: gone after {(time.monotonic() - began) * 1000:.0f} ms")
        assert [path.read_bytes() for path in place.server.iterdir()] == [b""] * FILES

    def arrived() -> bool:
        return all((place.server / f"new-{n}").read_text() == f"new-{n}" for n in range(FILES))

    wait_until("the data is on the server", arrived, 10)
    assert place.sh("cat new-*") == "".join(f"new-{n}" for n in range(FILES))


def test_a_killed_writer_loses_nothing_that_was_taken(place: Place) -> None:
    """What write(2) had accepted arrives, once the server answers again."""
    (place.server / "directory").mkdir()
    after = "os.write(fd, b'accepted'); os.stat('directory')"
    program = start(place, Step("fd = os.open('new', os.O_CREAT | os.O_WRONLY)", after, "lookup"))
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, "lookup")
        os.kill(program.pid, signal.SIGKILL)
        assert procs.wait_gone(program, GRACE + 0.5)
    assert place.sh("cat new") == "accepted"
    assert (place.server / "new").read_text() == "accepted"


def test_a_close_that_takes_long_is_waited_for(place: Place) -> None:
    """Only who exits is let go: who closes a file hears whether its data arrived."""
    after = "os.write(fd, b'x'); os.close(fd); print('closed', flush=True)"
    program = start(place, Step("fd = os.open('new', os.O_CREAT | os.O_WRONLY)", after, "flush"))
    with place.silent_server():
        let_go(program)
        place.wait_blocked(program.pid, "flush")
        time.sleep(3 * GRACE)  # nothing is to happen
        place.wait_blocked(program.pid, "flush")
    assert program.communicate(timeout=10) == (b"closed\n", b"")
