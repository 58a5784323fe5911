"""Every way for a mount to end, with the network up and down: how long it takes, the exit code,
what is left behind (nothing), and what of the data arrives (all that was accepted, or it is saved).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli import mount as cli_mount
from pysshfs.cli.exitcodes import ExitCode
from tests.mount.places import read_a_line, wait_until
from tests.mount.trouble import (
    DOWN,
    Belongings,
    Network,
    go,
    python,
    status,
    wait_requests,
    wait_up,
)
from tests.support import procs
from tests.support.mounts import MountError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mounts import Mount

#: Seconds in which a daemon ends that has nothing to wait for: two of them for a good-bye that no
#: server answers, and some for a busy machine.
_AT_ONCE = 8.0

#: Writes and reads without a pause, and says what is certain: "closed NAME" or "synced NAME SIZE".
_LOAD = """
import os, sys
name = sys.argv[1]
print("ready", flush=True)
if name.startswith("reader"):
    while True:
        for other in os.listdir("."):
            try:
                open(other, "rb").read()
            except FileNotFoundError:
                pass
number = 0
while True:
    number += 1
    fd = os.open(f"{name}.{number}", os.O_CREAT | os.O_WRONLY)
    for part in range(8):
        os.write(fd, b"%d" % (number % 10) * 50_000)
        if part == 4:
            os.fsync(fd)
            os.write(1, b"synced %s.%d 250000\\n" % (name.encode(), number))
    os.close(fd)
    os.write(1, b"closed %s.%d 400000\\n" % (name.encode(), number))
"""

#: Keeps a file open, writes what it is told to, reads it back, and closes it at the end.
_HOLDER = """
import os, sys
fd = os.open("held", os.O_CREAT | os.O_RDWR)
os.write(fd, b"first")
print("ready", flush=True)
for line in sys.stdin:
    os.write(fd, line.strip().encode())
    print(os.pread(fd, 100, 0).decode(), flush=True)
os.close(fd)
print("closed", flush=True)
"""

#: Writes a file in one piece and closes neither it nor itself.
_UNFINISHED = """
import os
fd = os.open("unfinished", os.O_CREAT | os.O_WRONLY)
os.fsync(fd)
print("ready", flush=True)
input()
os.write(fd, b"0123456789" * 100_000)
print("written", flush=True)
input()
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        (made.served / "file").write_text("content")
        yield made


def umount(mount: Mount, *flags: str) -> int:
    argv = ["umount", *flags, "--", str(mount.mountpoint)]
    return procs.run_limited(argv, timeout=_AT_ONCE, check=False).returncode


def end(mount: Mount, way: str) -> None:
    if way == "abort":
        mount.abort()
    elif way == "SIGTERM":
        os.kill(mount.pid, signal.SIGTERM)
    else:
        assert umount(mount, *way.split()[1:]) == 0


def ended(mount: Mount, code: ExitCode, limit: float = _AT_ONCE) -> float:
    """Wait for the daemon's end; how long it took."""
    began = time.monotonic()
    mount.expected_status = int(code)
    assert mount.wait_daemon(limit) == code, mount.log()
    return time.monotonic() - began


def assert_waits(mount: Mount, seconds: float) -> None:
    """The daemon does not end for so long."""
    with pytest.raises(MountError, match="still runs"):
        mount.wait_daemon(seconds)


def put_away(mount: Mount) -> None:
    """An aborted mount stays, dead, until somebody takes it away."""
    assert umount(mount) == 0


# --- nothing to deliver ---------------------------------------------------------------------------


@pytest.mark.parametrize("by_command", [False, True], ids=["direct", "command"])
@pytest.mark.parametrize("how", ["up", *DOWN])
@pytest.mark.parametrize("way", ["abort", "umount", "umount -f", "umount -l", "SIGTERM"])
def test_an_idle_mount_ends_at_once(network: Network, way: str, how: str, by_command: bool) -> None:
    aborts = way == "abort"
    with network.mount(by_command=by_command) as mount:
        mount.allow_log_errors = True
        assert mount.run(["cat", "file"]).stdout == "content"
        belongings = Belongings(mount)
        assert len(belongings.pids) == (2 if by_command else 1)
        if how != "up":
            network.down(how)
        try:
            end(mount, way)
            ended(mount, ExitCode.ABORTED if aborts else ExitCode.OK)
            belongings.assert_gone(still_mounted=aborts)
        finally:
            if how != "up":
                network.up(how)
        if aborts:
            put_away(mount)
    assert not network.saved()


@pytest.mark.parametrize("how", DOWN)
@pytest.mark.parametrize("way", ["abort", "umount -f", "SIGTERM"])
def test_what_waits_for_the_server_does_not_delay_the_end(
    network: Network, way: str, how: str
) -> None:
    look = "import os; print('ready', flush=True); input(); os.listdir('.')"
    with network.mount() as mount:
        mount.allow_log_errors = True
        belongings = Belongings(mount)
        waiting = python(mount, look)
        with network.is_down(how):
            go(waiting)
            wait_requests(mount, waiting.pid)
            if way == "umount -f":
                # In use, so it cannot be unmounted; but the kernel has aborted it by then.
                assert umount(mount, "-f") != 0
            else:
                end(mount, way)
            code = ExitCode.OK if way == "SIGTERM" else ExitCode.ABORTED
            ended(mount, code)
            assert procs.wait_gone(waiting, 2) and waiting.returncode != 0
            belongings.assert_gone(still_mounted=code is ExitCode.ABORTED)
        if code is ExitCode.ABORTED:
            put_away(mount)


# --- lazily ---------------------------------------------------------------------------------------


def test_after_a_lazy_unmount_the_open_file_goes_on_to_its_end(network: Network) -> None:
    with network.mount() as mount:
        belongings = Belongings(mount)
        holder = python(mount, _HOLDER)
        assert umount(mount, "-l") == 0
        assert not mount.is_mounted()
        go_on(holder, b"second", b"firstsecond")
        network.sshd.restart()  # it even reconnects for it
        go_on(holder, b"third", b"firstsecondthird")
        assert mount.status is None
        said, _ = holder.communicate(timeout=10)
        assert said == b"closed\n" and holder.returncode == 0
        ended(mount, ExitCode.OK)
        assert (network.served / "held").read_bytes() == b"firstsecondthird"
        belongings.assert_gone()


def go_on(holder: subprocess.Popen[bytes], text: bytes, whole: bytes) -> None:
    assert holder.stdin is not None
    holder.stdin.write(text + b"\n")
    holder.stdin.flush()
    assert read_a_line(holder) == whole + b"\n"


@pytest.mark.parametrize("how", DOWN)
def test_a_lazy_unmount_while_the_network_is_down(network: Network, how: str) -> None:
    """The last close waits for the server, and when it is there again all is delivered."""
    with network.mount() as mount:
        mount.allow_log_errors = True
        belongings = Belongings(mount)
        holder = python(mount, _HOLDER)
        go_on(holder, b"second", b"firstsecond")
        with network.is_down(how):
            assert umount(mount, "-l") == 0
            assert holder.stdin is not None
            holder.stdin.write(b"third\n")
            holder.stdin.flush()
            wait_requests(mount, holder.pid)  # its reading back
            assert mount.status is None
        assert read_a_line(holder, 30) == b"firstsecondthird\n"
        holder.communicate(timeout=10)
        ended(mount, ExitCode.OK)
        assert (network.served / "held").read_bytes() == b"firstsecondthird"
        belongings.assert_gone()


# --- under load -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["SIGTERM", "abort", "umount -l"])
@pytest.mark.parametrize("by_command", [False, True], ids=["direct", "command"])
def test_under_load_what_was_acknowledged_is_there(
    network: Network, way: str, by_command: bool
) -> None:
    names = ["reader1", "reader2", "writer1", "writer2", "writer3"]
    with network.mount(by_command=by_command) as mount:
        mount.allow_log_errors = True
        belongings = Belongings(mount)
        logs = {name: network.directory / f"{name}.log" for name in names}
        load = [load_on(mount, name, logs[name]) for name in names]
        wait_until(
            "it is under way",
            lambda: all(acknowledgements(logs[n]) > 4 for n in names[2:]), 30,
        )  # fmt: skip
        end(mount, way)
        if way == "umount -l":
            assert mount.status is None
            for program in load:
                program.send_signal(signal.SIGTERM)
        code = ExitCode.ABORTED if way == "abort" else ExitCode.OK
        ended(mount, code, 20)
        for program in load:
            assert procs.wait_gone(program, 5)
        belongings.assert_gone(still_mounted=way == "abort")
        if way == "abort":
            put_away(mount)
    for name in names[2:]:
        assert_acknowledged(network, logs[name].read_text())
    if way == "SIGTERM":
        assert not network.saved()


def load_on(mount: Mount, name: str, log: os.PathLike[str]) -> subprocess.Popen[bytes]:
    argv = ["sh", "-c", 'exec "$@" >"$0"', os.fspath(log), sys.executable, "-I", "-c", _LOAD, name]
    return mount.start(argv)


def acknowledgements(log: Path) -> int:
    return log.read_bytes().count(b"closed") if log.exists() else 0


def assert_acknowledged(network: Network, log: str) -> None:
    """Whole, whatever came after it."""
    lines = [line.split() for line in log.splitlines(keepends=True) if line.endswith("\n")]
    acknowledged = {words[1]: int(words[2]) for words in lines if len(words) == 3}
    assert len(acknowledged) > 1
    for name, size in acknowledged.items():
        digit = int(name.rpartition(".")[2]) % 10
        expected = b"%d" % digit * size
        assert (network.served / name).read_bytes()[:size] == expected, name


# --- with data that cannot be delivered -----------------------------------------------------------


def write_unfinished(network: Network, mount: Mount, how: str) -> subprocess.Popen[bytes]:
    """Take the network away, then have a program write what cannot be delivered."""
    program = python(mount, _UNFINISHED)
    network.down(how)
    go(program)
    assert read_a_line(program) == b"written\n"
    assert status(mount)["unacknowledged_bytes"] == 1_000_000
    return program


@pytest.mark.parametrize("how", DOWN)
def test_a_second_sigterm_saves_what_is_undelivered_at_once(network: Network, how: str) -> None:
    with network.mount() as mount:
        mount.allow_log_errors = True
        belongings = Belongings(mount)
        write_unfinished(network, mount, how)
        os.kill(mount.pid, signal.SIGTERM)
        assert_waits(mount, 1.5)
        os.kill(mount.pid, signal.SIGTERM)
        assert ended(mount, ExitCode.UNDELIVERED) < _AT_ONCE
        belongings.assert_gone()
        assert network.saved() == {"unfinished": b"0123456789" * 100_000}
        assert "did not reach the server" in mount.log()
        network.up(how)


def test_one_sigterm_delivers_when_the_network_comes_back(network: Network) -> None:
    with network.mount() as mount:
        mount.allow_log_errors = True
        write_unfinished(network, mount, "stopped")
        os.kill(mount.pid, signal.SIGTERM)
        assert_waits(mount, 1.5)
        network.up("stopped")
        ended(mount, ExitCode.OK, 30)
        assert (network.served / "unfinished").read_bytes() == b"0123456789" * 100_000
        assert not network.saved()


def test_one_sigterm_waits_for_a_minute_and_no_longer(network: Network) -> None:
    """The minute is a few seconds here: the program is told so, since nothing else can."""
    patched = (
        "import sys, pysshfs.cli.mount as m; m._FLUSH_SECONDS = 3\n"
        "from pysshfs.cli.main import main; sys.exit(main())"
    )
    with network.mount(program=(sys.executable, "-c", patched, "-f")) as mount:
        mount.allow_log_errors = True
        write_unfinished(network, mount, "stopped")
        os.kill(mount.pid, signal.SIGTERM)
        assert ended(mount, ExitCode.UNDELIVERED, 3 + _AT_ONCE) > 2.5
        assert network.saved() == {"unfinished": b"0123456789" * 100_000}
        network.up("stopped")
    assert cli_mount._FLUSH_SECONDS == 60


@pytest.mark.parametrize("way", ["abort", "umount -f"])
def test_an_abort_saves_what_is_undelivered(network: Network, way: str) -> None:
    with network.mount() as mount:
        mount.allow_log_errors = True
        program = write_unfinished(network, mount, "stopped")
        mount.abort() if way == "abort" else umount(mount, "-f")
        ended(mount, ExitCode.ABORTED, cli_mount._ABORT_SECONDS + _AT_ONCE)
        assert network.saved() == {"unfinished": b"0123456789" * 100_000}
        program.kill()
        assert procs.wait_gone(program, 5)
        put_away(mount)
        network.up("stopped")


def test_a_release_that_waits_is_delivered_after_the_unmount(network: Network) -> None:
    """The writer was killed, the network is down, and somebody unmounts: when the server is there
    again within the minute, it gets everything."""
    with network.mount() as mount:
        mount.allow_log_errors = True
        program = write_unfinished(network, mount, "stopped")
        program.kill()
        assert procs.wait_gone(program, 5)
        wait_until("it is closed", lambda: umount(mount) == 0, 10)
        assert_waits(mount, 1)
        network.up("stopped")
        ended(mount, ExitCode.OK, 30)
    assert (network.served / "unfinished").read_bytes() == b"0123456789" * 100_000


def test_the_end_while_it_is_reconnecting(network: Network) -> None:
    """At any moment of it: a SIGTERM finds it waiting, connecting, or just up again."""
    for delay in (0.0, 0.05, 0.1, 0.2, 0.4):
        with network.mount() as mount:
            mount.allow_log_errors = True
            belongings = Belongings(mount)
            network.sshd.restart()
            time.sleep(delay)  # the moment is what this is about
            os.kill(mount.pid, signal.SIGTERM)
            ended(mount, ExitCode.OK)
            belongings.assert_gone()


def test_it_reconnects_by_the_command_and_the_old_one_is_gone(network: Network) -> None:
    with network.mount(by_command=True) as mount:
        before = Belongings(mount).pids[1:]
        network.sshd.restart()
        wait_up(mount)
        after = procs.descendants(mount.pid)
        assert len(after) == 1 and after != before
        assert not any(map(procs.is_alive, before))
