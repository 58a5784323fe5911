"""What fsync and close have promised is on the server, whatever happens to the daemon, and what
cannot be delivered is neither lost nor taken for delivered."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from pysshfs.cli.exitcodes import ExitCode
from tests.mount.places import read_a_line, wait_until
from tests.mount.trouble import (
    Network,
    go,
    python,
    state_of,
    status,
    wait_noticed,
    wait_requests,
    wait_up,
)
from tests.support import procs
from tests.support.commands import CTL, Workspace, wait_ended
from tests.support.sshd import SFTP_SERVER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mounts import Mount
    from tests.support.sshd import Sshd


#: Works in every way there is, and notes on a local file what was acknowledged. Slots are written
#: once each, so what comes after an acknowledgement does not change what it was given for.
_WORKER = """
import os, random, sys
journal, run = open(sys.argv[1], "ab", buffering=0), sys.argv[2]
choice = random.Random(run)
SLOT = 8192

def content(name, number, size):
    return (b"%s %d " % (name.encode(), number) * size)[:size]

def noted(*words):
    journal.write(" ".join(map(str, words)).encode() + b"\\n")

slots = os.open(f"slots.{run}", os.O_CREAT | os.O_RDWR)
log = os.open(f"log.{run}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
order = list(range(4000))
choice.shuffle(order)
taken = 0
for number in range(1, 1000):
    for slot in order[taken:taken + 4]:
        os.pwrite(slots, content("slot", slot, SLOT), slot * SLOT)
    taken += 4
    os.fsync(slots)
    for slot in order[:taken]:
        noted("slot", slot)
    os.write(log, content("line", number, 99) + b"\\n")
    if number % 3 == 0:
        os.fsync(log)
        noted("lines", number)
    size = choice.choice((0, 1, 5000, 300_000))
    fd = os.open("new.tmp", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.write(fd, content("file", number, size))
    os.close(fd)
    os.rename("new.tmp", f"file.{run}.{number}")
    noted("file", number, size)
    fd = os.open("new.tmp", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.write(fd, b"%d" % number)
    os.close(fd)
    os.rename("new.tmp", f"latest.{run}")
    noted("latest", number)
"""


def content(name: str, number: int, size: int) -> bytes:
    return (b"%s %d " % (name.encode(), number) * size)[:size]


def missing(served: Path, journal: Path, run: int) -> list[str]:
    """What was acknowledged and is not there."""
    lines = journal.read_text().splitlines(keepends=True)
    found: list[str] = []
    slots = (served / f"slots.{run}").read_bytes()
    log = (served / f"log.{run}").read_bytes()
    for line in {line for line in lines if line.endswith("\n")}:
        match line.split():
            case ["slot", slot]:
                at = int(slot) * 8192
                is_there = slots[at : at + 8192] == content("slot", int(slot), 8192)
            case ["lines", count]:
                numbers = range(1, int(count) + 1)
                is_there = log.startswith(b"".join(content("line", n, 99) + b"\n" for n in numbers))
            case ["file", number, size]:
                file = served / f"file.{run}.{number}"
                is_there = file.read_bytes() == content("file", int(number), int(size))
            case ["latest", number]:
                is_there = int((served / f"latest.{run}").read_bytes()) >= int(number)
            case _:
                raise AssertionError(line)
        if not is_there:
            found.append(line)
    return found


def test_what_was_acknowledged_survives_the_daemons_violent_end(
    work: Workspace, server: Sshd, tmp_path: Path
) -> None:
    """Killed at eight moments, each time in the middle of work; the next mount is made over the
    dead one, which it clears away."""
    served = tmp_path / "served"
    served.mkdir()
    choice = random.Random(7)
    for run in range(8):
        made = work.mount(server.source(served), *server.options())
        assert made.returncode == ExitCode.OK
        assert ("dead mount" in made.stderr) == (run > 0), made.stderr
        daemon = work.daemon()
        journal = tmp_path / f"journal.{run}"
        there = ["sh", "-c", 'cd -- "$0" && exec "$@"', str(work.mountpoint)]
        worker = subprocess.Popen(
            [*there, sys.executable, "-I", "-c", _WORKER, str(journal), str(run)],
            stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip
        try:
            wait_until("it works", lambda j=journal: acknowledged(j) > 5, 20)  # type: ignore[misc]  # a lambda's default
            time.sleep(choice.uniform(0, 0.3))  # the moment is what this is about
            os.kill(daemon, signal.SIGKILL)
            wait_ended(daemon)
            assert procs.wait_gone(worker, 5) and worker.returncode != 0
        finally:
            procs.kill_group(worker.pid)
        wait_until("the old session is over", lambda: not server.session_pids(), 10)
        assert missing(served, journal, run) == []
        assert acknowledged(journal) > 5
    assert work.mount(server.source(served), *server.options()).returncode == ExitCode.OK
    daemon = work.daemon()
    names = sorted(os.listdir(served))
    assert sorted(work.listing()) == names
    whole = ["sh", "-c", 'cd -- "$0" && cat -- *', str(work.mountpoint)]
    through_it = len(work.run(whole, check=True).stdout)
    assert through_it == sum((served / name).stat().st_size for name in names)
    work.unmount()


def acknowledged(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


# --- not let in any more --------------------------------------------------------------------------


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        (made.served / "file").write_text("content")
        yield made


def ctl(*words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(procs.ROOT)}
    return procs.run_limited([*CTL, *words], timeout=20, check=False, env=env)


def shown(mount: Mount) -> dict[str, Any]:
    (state,) = json.loads(ctl("status", str(mount.mountpoint), "--json").stdout)
    assert isinstance(state, dict)
    return state


_KEEPER = """
import os
fd = os.open("kept", os.O_CREAT | os.O_RDWR)
os.write(fd, b"before ")
os.fsync(fd)
print("ready", flush=True)
input()
os.write(fd, b"buffered ")
print("written", flush=True)
input()
numbers = []
for call in (lambda: os.stat("file"), lambda: os.fsync(fd), lambda: os.mkdir("made")):
    try:
        call()
        numbers.append(0)
    except OSError as error:
        numbers.append(error.errno)
print(*numbers, flush=True)
input()
os.fsync(fd)
os.write(fd, b"after")
os.close(fd)
print("closed", flush=True)
"""


def test_when_the_server_lets_nobody_in_any_more(network: Network) -> None:
    keys = network.sshd.directory / "authorized_keys"
    allowed = keys.read_text()
    with network.mount("dir_cache=no") as mount:
        mount.allow_log_errors = True
        keeper = python(mount, _KEEPER)
        network.sshd.kill()
        wait_noticed(mount)
        go(keeper)
        assert read_a_line(keeper) == b"written\n"
        go(keeper)
        wait_requests(mount, keeper.pid)  # it waits, and there is hope
        keys.write_text("")
        network.sshd.start()
        wait_until("it gives up", lambda: shown(mount)["state"] == "failed", 40)
        state = shown(mount)
        assert "pysshfsctl reconnect" in state["reason"]
        assert state["unacknowledged_bytes"] == len("buffered ")
        # What waited, and what comes now, fails at once.
        assert read_a_line(keeper, 3).split() == [b"%d" % errno.EIO] * 3
        began = time.monotonic()
        assert mount.run(["cat", "file"], check=False).returncode != 0
        assert time.monotonic() - began < 3
        tries = network.sshd.log().count("Failed publickey") + network.sshd.log().count(
            "Connection closed by authenticating user"
        )
        assert 1 <= tries <= 2 and state_of(mount) == "failed"
        assert not (network.served / "made").exists()
        keys.write_text(allowed)
        assert ctl("reconnect", str(mount.mountpoint)).returncode == ExitCode.OK
        wait_up(mount)
        go(keeper)
        assert read_a_line(keeper) == b"closed\n"
        assert (network.served / "kept").read_text() == "before buffered after"
        assert mount.run(["cat", "file"]).stdout == "content"
        assert status(mount)["unacknowledged_bytes"] == 0
    assert not network.saved()


def test_what_is_kept_while_nobody_is_let_in_is_saved_at_the_end(network: Network) -> None:
    with network.mount() as mount:
        mount.allow_log_errors = True
        keeper = python(mount, _KEEPER)
        network.sshd.kill()
        wait_noticed(mount)
        go(keeper)
        assert read_a_line(keeper) == b"written\n"
        (network.sshd.directory / "authorized_keys").write_text("")
        network.sshd.start()
        wait_until("it gives up", lambda: state_of(mount) == "failed", 40)
        began = time.monotonic()
        os.kill(mount.pid, signal.SIGTERM)
        mount.expected_status = ExitCode.UNDELIVERED
        assert mount.wait_daemon() == ExitCode.UNDELIVERED
        assert time.monotonic() - began < 5  # there is nothing to wait for
        assert network.saved() == {"kept": b"\0" * 7 + b"buffered "}


# --- to the disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["fsync_on_close"]], ids=["plain", "fsync_on_close"])
def test_close_syncs_when_told_to(options: list[str], tmp_path: Path) -> None:
    log = tmp_path / "sftp-server.log"
    with (
        Network(sftp=f"{SFTP_SERVER} -e -l VERBOSE 2>>{log}") as network,
        network.mount(*options) as mount,
    ):
        mount.run(["sh", "-c", "echo text >new; cat new"])
        said = log.read_text().splitlines()
        assert any("open" in line and "/new" in line for line in said), said
        assert len([line for line in said if "fsync" in line]) == len(options), said
        mount.run(["sh", "-c", "cat new >/dev/null"])  # nothing was written
        assert log.read_text().count("fsync") == len(options)
