"""Mounting where something is mounted already: for scripts that may run again, or side by side."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.control_client import socket_path
from pysshfs.cli.exitcodes import ExitCode
from pysshfs.cli.mountlock import lock_path
from pysshfs.fuse import mountinfo
from tests.support.commands import (
    LIMIT,
    ORDINARY,
    Workspace,
    one_line,
    refused,
    user_options,
    wait_ended,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.sshd import Sshd

SPELLINGS = pytest.mark.parametrize("spelling", ["--if-not-mounted", "-oif_not_mounted"])


@contextlib.contextmanager
def something_mounted(work: Workspace, *argv: str) -> Iterator[None]:
    work.run(["mount", *argv, str(work.mountpoint)], check=True)
    try:
        yield
    finally:
        work.run(["umount", "-l", str(work.mountpoint)], check=True)


def mounts_there(work: Workspace) -> list[mountinfo.MountEntry]:
    place = os.fsencode(work.mountpoint)
    return [entry for entry in mountinfo.mounts() if entry.mountpoint == place]


# --- the same source ----------------------------------------------------------------------------


@SPELLINGS
def test_the_same_source_is_good_enough_for_who_says_so(
    work: Workspace, server: Sshd, remote: Path, spelling: str
) -> None:
    source, options = server.source(remote), server.options()
    daemon = work.mounted(source, *options, flags=[spelling])
    # Again, under another name of the place, with other options, and in the foreground.
    (work.directory / "link").symlink_to(work.mountpoint)
    again = work.argv(source, *options, "ro", flags=[spelling, "-f"])
    again[again.index(str(work.mountpoint))] = str(work.directory / "link")
    result = work.run(again)
    assert result.returncode == ExitCode.OK
    assert f"{source} is mounted on" in one_line(result.stderr)
    assert work.daemon() == daemon and len(mounts_there(work)) == 1
    assert work.listing() == ["file"]


def test_the_same_source_is_an_error_otherwise(work: Workspace, server: Sshd, remote: Path) -> None:
    source = server.source(remote)
    work.mounted(source, *server.options())
    result = work.mount(source, *server.options())
    refused(result, ExitCode.MOUNTPOINT, source, "--if-not-mounted", "-o if_not_mounted")
    assert len(mounts_there(work)) == 1


def test_a_dead_mount_is_no_mount(work: Workspace, server: Sshd, remote: Path) -> None:
    source, options = server.source(remote), server.options()
    daemon = work.mounted(source, *options)
    os.kill(daemon, signal.SIGKILL)
    wait_ended(daemon)
    result = work.mount(source, *options, flags=["--if-not-mounted"])
    assert result.returncode == ExitCode.OK and "dead mount" in one_line(result.stderr)
    assert work.daemon() != daemon and len(mounts_there(work)) == 1


def test_a_mount_that_does_not_answer_is_neither(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    """And nobody waits for it for long."""
    source = server.source(remote)
    daemon = work.mounted(source, *server.options())
    code = (
        "import sys; from pysshfs.cli.main import main; from pysshfs.fuse import mountpoint\n"
        "mountpoint._ANSWER_SECONDS = 0.2\n"
        "sys.exit(main())\n"
    )
    argv = work.argv(source, *server.options(), flags=["--if-not-mounted"])
    argv = [sys.executable, "-c", code, *argv[argv.index("--if-not-mounted") :]]
    os.kill(daemon, signal.SIGSTOP)
    try:
        result = work.run(argv)
    finally:
        os.kill(daemon, signal.SIGCONT)
    refused(result, ExitCode.MOUNTPOINT, source, "does not answer")
    assert work.listing() == ["file"]


# --- something else -----------------------------------------------------------------------------


def test_another_source_is_an_error(work: Workspace, server: Sshd, remote: Path) -> None:
    work.mounted(server.source(remote), *server.options())
    for argv in (
        work.argv(server.source(f"{remote}/"), *server.options(), flags=["--if-not-mounted"]),
        work.argv(
            server.source(remote), *server.options(), "fsname=other", flags=["--if-not-mounted"]
        ),
    ):
        refused(work.run(argv), ExitCode.MOUNTPOINT, server.source(remote), "mounted there already")
    assert len(mounts_there(work)) == 1


@SPELLINGS
def test_another_filesystem_is_an_error(work: Workspace, server: Sshd, spelling: str) -> None:
    with something_mounted(work, "-t", "tmpfs", "something"):
        result = work.mount(server.source("/"), *server.options(), flags=[spelling])
        refused(result, ExitCode.MOUNTPOINT, "something", "tmpfs", "mounted there already")
        assert len(mounts_there(work)) == 1


def test_another_users_mount(work: Workspace, server: Sshd, remote: Path, user: list[str]) -> None:
    """Nobody but its owner may enter it; root finds out how it is all the same."""
    source, options = server.source(remote), user_options(server)
    silent = work.run([*user, *work.argv(source, *options)])
    assert (silent.returncode, silent.stderr) == (0, "")
    daemon = work.daemon()
    again = [*work.argv(source, *options, flags=["--if-not-mounted"])]
    result = work.run(again)
    assert result.returncode == ExitCode.OK and source in one_line(result.stderr)
    entry = work.entry()
    assert entry is not None
    os.kill(daemon, signal.SIGKILL)
    wait_ended(daemon)
    os.unlink(socket_path(entry.minor, ORDINARY))
    work.mounted(source, *server.options(), "log_level=error")  # cleans up, without a word here
    refused(work.run([*user, *again]), ExitCode.MOUNTPOINT, source, "Permission denied")
    assert len(mounts_there(work)) == 1


# --- at the same time ---------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [["--if-not-mounted"], []], ids=["if-not-mounted", "plain"])
def test_of_several_at_once_one_mounts(
    work: Workspace, server: Sshd, remote: Path, flags: list[str]
) -> None:
    source = server.source(remote)
    argv = work.argv(source, *server.options(), flags=flags)
    racing = [
        subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=work.env, cwd="/")
        for _ in range(4)
    ]
    said = [process.communicate(timeout=LIMIT)[1] for process in racing]
    work.daemon()
    assert len(mounts_there(work)) == 1
    codes = sorted(process.returncode for process in racing)
    assert codes == ([0] * 4 if flags else [0, *[ExitCode.MOUNTPOINT] * 3])
    assert said.count("") == 1
    notes = [text for text in said if text]
    assert all(source in one_line(note) and "already" in note for note in notes)
    assert not lock_path(str(work.mountpoint)).exists()


def test_whoever_dies_with_the_lock_does_not_keep_it(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    code = (
        "import os, sys; from pysshfs.cli.mountlock import MountLock\n"
        "MountLock(sys.argv[1]); os.kill(os.getpid(), 9)\n"
    )
    work.run([sys.executable, "-c", code, str(work.mountpoint)])
    assert lock_path(str(work.mountpoint)).exists()
    work.mounted(server.source(remote), *server.options())
    assert not lock_path(str(work.mountpoint)).exists()


# --- an automount point -------------------------------------------------------------------------


def test_an_automount_point_is_not_looked_into(work: Workspace, server: Sshd, remote: Path) -> None:
    """What mounts there on behalf of the automounter must not wake it: it would wait for itself."""
    events, packets = os.pipe()
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={packets},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
    place = os.fsencode(work.mountpoint)
    assert libc.mount(b"auto", place, b"autofs", ctypes.c_ulong(0), options.encode()) == 0
    try:
        result = work.mount(server.source(remote), *server.options(), flags=["--if-not-mounted"])
        assert (result.returncode, result.stderr) == (0, ""), result
        work.daemon()
        assert [entry.fstype for entry in mounts_there(work)] == ["autofs", "fuse.pysshfs"]
        assert work.listing() == ["file"]
        assert not select.select([events], [], [], 0)[0]
        work.unmount()
    finally:
        # Without its pipe it fails whoever waits.
        os.close(events)
        os.close(packets)
        work.run(["umount", "-l", str(work.mountpoint)], check=True)
