"""copy_file_range(2) on a real mount: nothing goes over the wire, and it is right all the same."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.mount import copies
from tests.mount.blocked import GRACE
from tests.mount.places import Place, name_of, own_mount, read_a_line, run_call, status
from tests.mount.trouble import Network, go, python, wait_requests, wait_up
from tests.support import procs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.sshd import Sshd

MIB: Final = 1 << 20
CHECKS: Final = (copies.random_copies, copies.seen_by_others)
ARGUMENTS: Final[dict[Callable[..., None], tuple[Any, ...]]] = {copies.random_copies: (3, 60)}
on_both_servers = pytest.mark.parametrize("shared_mount", ["openssh", "asyncssh"], indirect=True)

# Copies `large` to `copy`, after a line of input; says when it is through.
COPY: Final = """
import os, sys
source = os.open("large", os.O_RDONLY)
target = os.open("copy", os.O_CREAT | os.O_WRONLY)
done = os.copy_file_range(source, target, 2 << 20, 0, 0)
print("ready", flush=True)
sys.stdin.readline()
try:
    while step := os.copy_file_range(source, target, 64 << 20, done, done):
        done += step
    print("copied", done, flush=True)
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
    os.pwrite(target, b"written afterwards", 2 << 20)
    sys.stdin.readline()
    os.close(target)
"""


def traffic(place: Place) -> int:
    known = status(place.mount)
    return int(known["bytes_sent"] + known["bytes_received"])


@on_both_servers
@pytest.mark.parametrize("check", CHECKS)
def test_copies(place: Place, check: Callable[..., None]) -> None:
    place.call(check, *ARGUMENTS.get(check, ()))


@pytest.mark.parametrize("check", CHECKS)
def test_copies_of_a_local_directory(tmp_path: Path, check: Callable[..., None]) -> None:
    there = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(tmp_path)]
    arguments = ARGUMENTS.get(check, ())
    run_call(lambda argv: procs.run_limited([*there, *argv], timeout=60), check, *arguments)


@on_both_servers
def test_cp_moves_nothing_over_the_wire(place: Place) -> None:
    content = random.Random(1).randbytes(64 * MIB + 12_345)
    (place.server / "a").write_bytes(content)
    place.sh("ls -l")
    before = traffic(place)
    place.sh("cp --reflink=auto a b")
    assert traffic(place) - before < 20_000
    assert (place.server / "b").read_bytes() == content
    place.sh("cmp a b")


def test_cp_of_a_read_only_file_moves_nothing_either(openssh: Sshd) -> None:
    with own_mount(openssh) as place:
        (place.server / "a").write_bytes(bytes(8 * MIB))
        (place.server / "a").chmod(0o400)
        place.sh("cp -p a b")
        assert traffic(place) < 100_000
        assert (place.server / "b").stat().st_mode & 0o777 == 0o400
        assert (place.server / "b").stat().st_size == 8 * MIB


def test_a_server_that_gives_one_session_only() -> None:
    """Then the kernel reads and writes."""
    with Network(extra_config=["MaxSessions 1"]) as network, network.mount() as mount:
        content = random.Random(1).randbytes(3 * MIB)
        (network.served / "a").write_bytes(content)
        mount.run(["cp", "a", "b"])
        assert (network.served / "b").read_bytes() == content


def test_a_full_disk(openssh: Sshd) -> None:
    with own_mount(openssh) as place:
        place.mount.allow_log_errors = True
        small = place.server / "small"
        small.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(small)]
        procs.run_limited(argv, timeout=10)
        try:
            (small / "a").write_bytes(bytes(4 * MIB))
            result = place.run(["cp", "small/a", "small/b"], check=False)
            assert result.returncode == 1 and "No space left" in result.stderr
            place.sh("rm small/b; head -c 1M small/a > small/c")
        finally:
            procs.run_limited(["umount", "-l", str(small)], timeout=10)


# --- in the middle --------------------------------------------------------------------------------


def sessions(network: Network) -> list[int]:
    """The server's processes, one for each SFTP session."""
    return [pid for pid in network.sshd.session_pids() if name_of(pid) == "sftp-server"]


def test_an_interrupted_copy_overtakes_nothing() -> None:
    """It has a grace, goes on at the server, and what is written after it stays."""
    with Network() as network, network.mount(f"interrupt_grace={GRACE}") as mount:
        content = random.Random(1).randbytes(16 * MIB)
        (network.served / "large").write_bytes(content)
        program = python(mount, COPY)
        pids = sessions(network)
        assert len(pids) == 2
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        go(program)
        wait_requests(mount, program.pid, "copy_file_range")
        time.sleep(0.1)  # what was asked is the copy itself; nothing shows that it was sent
        began = time.monotonic()
        os.kill(program.pid, signal.SIGINT)
        assert read_a_line(program, 5) == b"KeyboardInterrupt\n"
        assert GRACE * 0.9 < time.monotonic() - began < GRACE + 0.5
        wait_requests(mount, program.pid, "write")  # it waits for the copy
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        program.communicate(b"\n", timeout=10)
        written = b"written afterwards"
        found = (network.served / "copy").read_bytes()
        assert found[: 2 * MIB] == content[: 2 * MIB]
        assert found[2 * MIB : 2 * MIB + len(written)] == written
        assert found[2 * MIB + len(written) :] == content[2 * MIB + len(written) : len(found)]


@pytest.mark.parametrize("which", ["all", "second"])
def test_a_copy_goes_on_after_its_session_was_lost(which: str) -> None:
    """With the whole connection, or alone."""
    with Network() as network, network.mount() as mount:
        content = random.Random(1).randbytes(16 * MIB)
        (network.served / "large").write_bytes(content)
        program = python(mount, COPY)
        pids = sorted(sessions(network))
        os.kill(pids[1], signal.SIGSTOP)
        go(program)
        wait_requests(mount, program.pid, "copy_file_range")
        if which == "all":
            network.sshd.kill_sessions()
            wait_up(mount)
        else:
            os.kill(pids[1], signal.SIGKILL)
        assert program.communicate(timeout=20)[0] == b"copied %d\n" % len(content)
        assert (network.served / "copy").read_bytes() == content
