"""What the daemon gives up after the mount, and that all that is left to do still works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.exitcodes import ExitCode
from pysshfs.cli.privileges import DAC_OVERRIDE, DAC_READ_SEARCH, KILL, SYS_ADMIN
from tests.support import procs
from tests.support.commands import (
    ORDINARY,
    Workspace,
    user_options,
    wait_ended,
    wait_until,
)
from tests.support.outside import agent_of_ordinary_user, proxy_command
from tests.support.rights import Rights, rights, rights_of_all
from tests.support.sshd import Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator


def only(capabilities: int) -> Rights:
    """Nothing but what is given, and no way to more."""
    return Rights(capabilities, capabilities, 0, 0, 0, no_new_privs=True)


@pytest.fixture
def own_server() -> Iterator[Sshd]:
    """One to be killed."""
    with Sshd() as running:
        yield running


def reconnected(work: Workspace, server: Sshd) -> None:
    """Lose the connection and have it again."""
    before = work.status()["reconnects"]
    server.restart()
    wait_until("the reconnect", lambda: work.status()["reconnects"] > before)


# --- root -----------------------------------------------------------------------------------------


def test_roots_daemon_keeps_what_unmounting_takes(
    work: Workspace, own_server: Sshd, remote: Path
) -> None:
    log = work.directory / "log"
    options = [*own_server.options(), f"log_file={log}"]
    daemon = work.mounted(own_server.source(remote), *options)
    assert rights_of_all(daemon) == {only(SYS_ADMIN)}
    reconnected(work, own_server)
    # Threads that were started for the new connection have no more than the first one.
    assert rights_of_all(daemon) == {only(SYS_ADMIN)}
    assert work.listing() == ["file"]
    os.kill(daemon, signal.SIGTERM)
    wait_ended(daemon)
    assert work.entry() is None
    assert "connected again" in log.read_text()


@pytest.mark.parametrize("command", ["umount", "abort"])
def test_a_mount_of_root_ends_as_ever(
    work: Workspace, server: Sshd, remote: Path, command: str
) -> None:
    daemon = work.mounted(server.source(remote), *server.options())
    entry = work.entry()
    assert entry is not None
    socket = Path(f"/run/pysshfs/{entry.minor}.sock")
    assert socket.exists()
    if command == "umount":
        assert work.ctl("umount", str(work.mountpoint)).returncode == ExitCode.OK
        assert work.entry() is None
    else:
        work.abort()
    wait_ended(daemon)
    assert not socket.exists()


def told_to_end(daemon: int) -> bool:
    """Send another SIGTERM; whether there was anybody to get it."""
    if procs.is_alive(daemon):
        os.kill(daemon, signal.SIGTERM)
        return True
    return False


#: Opens a new file, and writes to it when told to.
_WRITER = """
import sys
file = open(sys.argv[1], "wb", buffering=0)
print("open", flush=True)
sys.stdin.readline()
file.write(b"x")
print("written", flush=True)
sys.stdin.read()
"""


def test_what_root_could_not_deliver_is_saved(
    work: Workspace, own_server: Sshd, remote: Path
) -> None:
    daemon = work.mounted(own_server.source(remote), *own_server.options())
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _WRITER, str(work.mountpoint / "new")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    sessions = own_server.session_pids()
    try:
        for pid in sessions:
            os.kill(pid, signal.SIGSTOP)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"written\n"
        wait_until("the end, without waiting for the server", lambda: not told_to_end(daemon))
        assert work.entry() is None
        (saved,) = undelivered(work).glob("*.data")
        assert saved.read_bytes() == b"x" and saved.stat().st_mode & 0o777 == 0o600
        assert saved.parent.stat().st_mode & 0o777 == 0o700
    finally:
        for pid in sessions:
            os.kill(pid, signal.SIGCONT)
        procs.kill_group(process.pid)
        process.communicate(timeout=10)


def undelivered(work: Workspace) -> Path:
    return work.home / ".local/state/pysshfs/undelivered"


@pytest.fixture
def anothers(work: Workspace) -> Path:
    """A directory that only another user may enter, with root's mountpoint in it."""
    directory = work.directory / "anothers"
    work.mountpoint = directory / "mnt"
    work.mountpoint.mkdir(parents=True)
    os.chown(directory, ORDINARY, ORDINARY)
    directory.chmod(0o700)
    work.directory.chmod(0o755)
    return directory


def test_a_mountpoint_in_a_directory_of_another_user(
    work: Workspace, server: Sshd, remote: Path, anothers: Path
) -> None:
    """Without one more capability its name could not be reached to unmount it."""
    daemon = work.mounted(server.source(remote), *server.options())
    assert rights_of_all(daemon) == {only(SYS_ADMIN | DAC_READ_SEARCH)}
    os.kill(daemon, signal.SIGTERM)
    wait_ended(daemon)
    assert work.entry() is None


def test_an_agent_of_another_user(
    work: Workspace, own_server: Sshd, remote: Path, anothers: Path
) -> None:
    """As after sudo -E: the agent answers on a reconnect, too."""
    with agent_of_ordinary_user(work, own_server, anothers / "agent") as env:
        port, _, known_hosts = own_server.options()
        work.mountpoint = work.directory / "mnt"
        daemon = work.mounted(own_server.source(remote), port, known_hosts, env=env)
        assert rights_of_all(daemon) == {only(SYS_ADMIN | DAC_OVERRIDE)}
        reconnected(work, own_server)
        assert work.listing() == ["file"]


def test_a_proxy_command_has_the_rights_that_it_had_at_first(
    work: Workspace, own_server: Sshd, remote: Path
) -> None:
    proxy, notes = proxy_command(work, own_server)
    daemon = work.mounted(own_server.source(remote), *own_server.options(), proxy)
    has = rights(daemon)
    assert rights_of_all(daemon) == {has}
    assert has.effective == has.permitted == SYS_ADMIN | KILL and not has.no_new_privs
    mine = rights(os.getpid())
    assert has.bounding == mine.bounding
    reconnected(work, own_server)
    first, second = notes.read_text().splitlines()
    assert first == second and f"{mine.effective:016x}" in first.split()
    os.kill(daemon, signal.SIGTERM)
    wait_ended(daemon)
    assert work.entry() is None


# --- an ordinary user -----------------------------------------------------------------------------


def test_an_ordinary_user_keeps_nothing_and_unmounts(
    work: Workspace, own_server: Sshd, remote: Path, user: list[str]
) -> None:
    own_server.directory.chmod(0o755)
    key = work.ssh / "id_ed25519"
    key.write_bytes(own_server.client_key.read_bytes())
    options = user_options(own_server)
    work.run([*user, *work.argv(own_server.source(remote), *options)], check=True)
    daemon = work.daemon()
    has = rights(daemon)
    assert rights_of_all(daemon) == {has}
    assert (has.effective, has.permitted, has.inheritable, has.ambient) == (0, 0, 0, 0)
    # fusermount3 -u runs set-user-id, and is to.
    assert not has.no_new_privs and has.bounding
    reconnected(work, own_server)
    listing = work.run([*user, "ls", str(work.mountpoint)], check=True).stdout
    assert listing == "file\n"
    os.kill(daemon, signal.SIGTERM)
    wait_ended(daemon)
    assert work.entry() is None


def test_a_users_proxy_command_has_the_rights_that_it_had_at_first(
    work: Workspace, own_server: Sshd, remote: Path, user: list[str]
) -> None:
    own_server.directory.chmod(0o755)
    (work.ssh / "id_ed25519").write_bytes(own_server.client_key.read_bytes())
    proxy, notes = proxy_command(work, own_server)
    options = [*user_options(own_server), proxy]
    work.run([*user, *work.argv(own_server.source(remote), *options)], check=True)
    daemon = work.daemon()
    assert rights(daemon).effective == 0 and not rights(daemon).no_new_privs
    reconnected(work, own_server)
    first, second = notes.read_text().splitlines()
    assert first == second


@pytest.mark.parametrize(("who", "number"), [("root", 0), ("user", ORDINARY)])
def test_the_mount_helper_fills_in_whose_mount_it_is(
    work: Workspace, server: Sshd, remote: Path, user: list[str], who: str, number: int
) -> None:
    prefix, options = ([], server.options()) if who == "root" else (user, user_options(server))
    work.run([*prefix, *work.argv(server.source(remote), *options)], check=True)
    work.daemon()
    entry = work.entry()
    assert entry is not None
    given = entry.super_options.split(",")
    assert {f"user_id={number}", f"group_id={number}"} <= set(given)
    # rootmode: what the kernel shows of the root before it has asked.
    kind = work.run([*prefix, "stat", "-c", "%F", str(work.mountpoint)], check=True).stdout
    assert kind == "directory\n"


# --- what may be seen -----------------------------------------------------------------------------

#: Tries to look into a process as a debugger would; prints the errno.
_LOOK = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
print(ctypes.get_errno() if libc.ptrace(16, int(sys.argv[1]), 0, 0) else 0)  # PTRACE_ATTACH
try:
    open(f"/proc/{sys.argv[1]}/mem").close()
    print("memory")
except OSError as error:
    print(error.errno)
"""


def test_nobody_but_root_looks_into_the_daemon(
    work: Workspace, server: Sshd, remote: Path, user: list[str]
) -> None:
    argv = [*user, *work.argv(server.source(remote), *user_options(server))]
    work.run(["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh", *argv], check=True)
    daemon = work.daemon()
    looked = work.run([*user, sys.executable, "-I", "-c", _LOOK, str(daemon)], check=True)
    assert looked.stdout.split() == ["1", "13"]  # EPERM, EACCES
    limits = Path(f"/proc/{daemon}/limits").read_text()
    (core,) = [line.split() for line in limits.splitlines() if line.startswith("Max core")]
    assert core[4:6] == ["0", "unlimited"]
    # The same user's pysshfsctl needs no look into it.
    assert f"pid {daemon}" in work.ctl("status", str(work.mountpoint), prefix=user).stdout


def test_no_core_file_is_written(work: Workspace, server: Sshd, remote: Path) -> None:
    """Where the limit alone would not keep it from being: it was raised again."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    daemon = work.mounted(server.source(remote), *server.options())
    work.run(["prlimit", f"--pid={daemon}", "--core=unlimited"], check=True)
    Path("/proc/sys/kernel/core_pattern").write_text(f"{work.directory}/core.%p")
    try:
        os.kill(daemon, signal.SIGABRT)
        wait_ended(daemon)
        assert not list(work.directory.glob("core*"))
        # What the pattern makes of a process that has not asked for this.
        other = subprocess.Popen(
            ["sh", "-c", "ulimit -c unlimited; kill -ABRT $$"], cwd=work.directory
        )
        other.wait(10)
        assert list(work.directory.glob("core*"))
    finally:
        Path("/proc/sys/kernel/core_pattern").write_text(pattern)


def test_what_the_daemon_makes_is_its_users_alone(
    work: Workspace, server: Sshd, remote: Path, user: list[str]
) -> None:
    log = work.home / "log"
    argv = [*user, *work.argv(server.source(remote), *user_options(server), f"log_file={log}")]
    work.run(["sh", "-c", 'umask 0; exec "$@"', "sh", *argv], check=True)
    work.daemon()
    entry = work.entry()
    assert entry is not None
    socket = Path(f"/tmp/pysshfs-{ORDINARY}/{entry.minor}.sock")
    for path, mode in (
        (log, 0o600),
        (socket, 0o600),
        (socket.parent, 0o700),
        (undelivered(work), 0o700),
        (undelivered(work).parent, 0o700),
    ):
        found = path.stat()
        assert (found.st_mode & 0o777, found.st_uid) == (mode, ORDINARY), path
