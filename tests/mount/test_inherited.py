"""/dev/fd/N as the mountpoint: a mount that another process has made; no privilege is left."""

from __future__ import annotations

import json
import os
import pwd
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.control_client import socket_path
from pysshfs.cli.exitcodes import ExitCode
from tests.support import procs
from tests.support.commands import (
    ORDINARY,
    Workspace,
    command_for_everybody,
    refused,
    user_options,
    wait_ended,
)
from tests.support.rights import Rights, rights_of_all

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from tests.support.sshd import Sshd

#: Opens /dev/fuse as descriptor 9, mounts it for a user, and becomes a command; for root without
#: any privilege, and for others that is up to the command.
_HAND_DOWN = """
import ctypes, os, sys
place, flags, more, user = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
os.dup2(fd, 9)
os.close(fd)
options = f"fd=9,rootmode=40000,user_id={user},group_id={user}{more}"
if libc.mount(b"src", place.encode(), b"fuse.pysshfs", flags, options.encode()) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
bare = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all",
        "--securebits", "+noroot,+noroot_locked"]
argv = [*([] if user else bare), *sys.argv[5:]]
os.execvp(argv[0], argv)
"""
_NOSUID_NODEV = 0x2 | 0x4

NOTHING = Rights(0, 0, 0, 0, 0, no_new_privs=True)


def hand_down(
    work: Workspace,
    command: Sequence[str],
    flags: int = _NOSUID_NODEV,
    more: str = "",
    user: int = 0,
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-I", "-c", _HAND_DOWN, str(work.mountpoint), str(flags), more]
    return work.run([*argv, str(user), *command])


def argv(work: Workspace, source: str, *options: str, place: str = "/dev/fd/9") -> list[str]:
    words = work.argv(source, *options)
    words[words.index(str(work.mountpoint))] = place
    return words


def wait_dead(work: Workspace) -> None:
    """The mount is still there, and nobody serves it."""
    failed = work.run(["ls", str(work.mountpoint)])
    assert failed.returncode != 0 and "not connected" in failed.stderr
    assert work.entry() is not None


def test_it_works_with_no_privilege_left(work: Workspace, server: Sshd, remote: Path) -> None:
    log = work.directory / "log"
    command = argv(work, server.source(remote), *server.options(), f"log_file={log}")
    result = hand_down(work, command)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    daemon = work.daemon()
    assert rights_of_all(daemon) == {NOTHING}
    assert work.listing() == ["file"]
    work.run(["sh", "-c", f"echo new >{work.mountpoint}/new"], check=True)
    # It has the mount's own place, and pysshfsctl finds it there.
    (state,) = json.loads(work.ctl("status", "--json", str(work.mountpoint)).stdout)
    assert (state["pid"], state["mountpoint"]) == (daemon, str(work.mountpoint))
    entry = work.entry()
    assert entry is not None
    socket = Path(socket_path(entry.minor, 0))
    assert socket.exists()
    os.kill(daemon, signal.SIGTERM)
    wait_ended(daemon)
    assert (remote / "new").read_text() == "new\n"
    wait_dead(work)
    assert f"{work.mountpoint} stays mounted" in log.read_text()
    assert not socket.exists()


@pytest.mark.parametrize("way", ["umount", "umount -l", "ctl", "abort"])
def test_whoever_mounted_it_may_end_it(
    work: Workspace, server: Sshd, remote: Path, way: str
) -> None:
    log = work.directory / "log"
    command = argv(work, server.source(remote), *server.options(), f"log_file={log}")
    assert hand_down(work, command).returncode == 0
    daemon = work.daemon()
    if way == "ctl":
        assert work.ctl("umount", str(work.mountpoint)).returncode == ExitCode.OK
    elif way == "abort":
        work.abort()
    else:
        work.run([*way.split(), str(work.mountpoint)], check=True)
    wait_ended(daemon)
    assert (work.entry() is not None) == (way == "abort")
    if way == "abort":
        assert "was aborted" in log.read_text()
    else:
        assert log.read_text() == ""


def test_a_mount_that_belongs_to_an_ordinary_user(
    work: Workspace, server: Sshd, remote: Path, user: list[str]
) -> None:
    """As with mount.fuse3's setuid=: who serves it is the mount's owner, and finds its socket."""
    command = [*user, *argv(work, server.source(remote), *user_options(server))]
    result = hand_down(work, command, user=ORDINARY)
    assert (result.returncode, result.stderr) == (0, "")
    daemon = work.daemon()
    # Its bounding set is not the user's to change, and of no use without new privileges.
    (has,) = rights_of_all(daemon)
    assert has._replace(bounding=0) == NOTHING
    assert work.run([*user, "ls", str(work.mountpoint)], check=True).stdout == "file\n"
    assert f"pid {daemon}" in work.ctl("status", str(work.mountpoint), prefix=user).stdout
    os.kill(daemon, signal.SIGTERM)
    wait_ended(daemon)
    # What was mounted for a user, that user may unmount: fusermount3 runs set-user-id.
    assert work.ctl("umount", str(work.mountpoint), prefix=user).returncode == ExitCode.OK
    assert work.entry() is None


def test_set_user_id_bits_are_inert_without_nosuid(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    (remote / "file").chmod(0o6755)
    (remote / "sub").mkdir()
    (remote / "sub").chmod(0o2755)
    command = argv(work, server.source(remote), *server.options())
    result = hand_down(work, command, flags=0)
    assert result.returncode == 0 and "nosuid" in result.stderr
    work.daemon()
    asked = ["stat", "-c", "%a", f"{work.mountpoint}/file", f"{work.mountpoint}/sub"]
    assert work.run(asked, check=True).stdout.split() == ["755", "2755"]
    work.unmount()
    result = hand_down(work, command)
    assert (result.returncode, result.stderr) == (0, "")
    work.daemon()
    assert work.run(asked, check=True).stdout.split() == ["6755", "2755"]


def test_the_walk_into_ones_own_mount_ends_there_too(work: Workspace, server: Sshd) -> None:
    served = work.directory / "served"
    work.mountpoint = served / "mnt"
    work.mountpoint.mkdir(parents=True)
    (served / "file").touch()
    command = argv(work, server.source(served), *server.options(), "dir_cache=no")
    assert hand_down(work, command).returncode == 0
    work.daemon()
    began = time.monotonic()
    assert work.run(["ls", f"{work.mountpoint}/mnt"]).returncode != 0
    assert time.monotonic() - began < 15
    assert "file" in work.listing()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/dev/fd/x", "not the number"),
        ("/dev/fd/", "not the number"),
        ("/dev/fd/-1", "not the number"),
        ("/dev/fd/9 ", "not the number"),
        ("/dev/fd/99999999999", "not the number"),
        ("/dev/fd/77", "no such descriptor"),
        ("/dev/fd/0", "not /dev/fuse"),
    ],
)
def test_what_is_no_descriptor_of_a_mount(
    work: Workspace, server: Sshd, place: str, said: str
) -> None:
    result = work.run(argv(work, server.source("/"), *server.options(), place=place))
    refused(result, ExitCode.MOUNTPOINT, place, said)


def test_a_device_that_is_not_mounted(work: Workspace, server: Sshd) -> None:
    command = argv(work, server.source("/"), *server.options())
    result = work.run(["sh", "-c", 'exec 9<>/dev/fuse; exec "$@"', "sh", *command])
    refused(result, ExitCode.MOUNTPOINT, "/dev/fd/9", "not mounted")


def test_a_device_that_is_served_already(work: Workspace, server: Sshd, remote: Path) -> None:
    command = argv(work, server.source(remote), *server.options())
    both = ["sh", "-c", '"$@" || exit 9; exec "$@"', "sh", *command]
    result = hand_down(work, both)
    refused(result, ExitCode.MOUNTPOINT, "/dev/fd/9", "another process serves it")
    work.daemon()
    assert work.listing() == ["file"]


# --- mount.fuse3 itself ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["mount", "mount.fuse3"])
def test_drop_privileges_of_mount_fuse3(
    work: Workspace, server: Sshd, remote: Path, way: str
) -> None:
    source, place = server.source(remote), str(work.mountpoint)
    options = ",".join(["drop_privileges", "nosuid", "nodev", "fsname=here", *server.options()])
    directory, _ = command_for_everybody(work)
    # mount(8) has a PATH of its own for its helpers.
    kind = f"{directory}/pysshfs" if way == "mount" else "pysshfs"
    command = {
        "mount": ["mount", "-t", f"fuse.{kind}", "-o", options, "--", source, place],
        "mount.fuse3": ["mount.fuse3", f"{kind}#{source}", place, "-o", options],
    }[way]
    result = work.run(command, env={"PATH": f"{directory}:{work.env['PATH']}"})
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    daemon = work.daemon()
    assert rights_of_all(daemon) == {NOTHING}
    assert work.listing() == ["file"]
    entry = work.entry()
    assert entry is not None
    assert (entry.fstype, os.fsdecode(entry.source)) == (f"fuse.{kind}", "here")
    assert {"nosuid", "nodev"} <= set(entry.options.split(","))
    assert work.ctl("umount", place).returncode == ExitCode.OK
    assert work.entry() is None and not procs.is_alive(daemon)


def test_drop_privileges_and_setuid(
    work: Workspace, server: Sshd, remote: Path, user: list[str]
) -> None:
    """The daemon of another user, for a mount that root made for it."""
    directory, name = command_for_everybody(work)
    number = pwd.getpwnam(name).pw_uid
    options = ["drop_privileges", f"setuid={name}", *server.options()]
    if number == ORDINARY:
        options[2:] = user_options(server)
    command = ["mount.fuse3", f"pysshfs#{server.source(remote)}", str(work.mountpoint)]
    path = f"{directory}:{work.env['PATH']}"
    result = work.run([*command, "-o", ",".join(options)], env={"PATH": path})
    assert result.returncode == 0, result.stderr
    entry = work.entry()
    assert entry is not None and f"user_id={number}" in entry.super_options.split(",")
    daemon = work.daemon()
    assert rights_of_all(daemon) == {NOTHING}
    assert os.stat(f"/proc/{daemon}").st_uid == number
    prefix = user if number == ORDINARY else []
    assert work.run([*prefix, "ls", str(work.mountpoint)], check=True).stdout == "file\n"
    # mount.fuse3 has asked for suid and dev, as nobody had asked for nosuid.
    assert "nosuid" not in entry.options.split(",") and "nosuid" in result.stderr
