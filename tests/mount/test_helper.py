"""mount(8), with lines of /etc/fstab, as root and as an ordinary user; and the helper by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.control_client import socket_path
from pysshfs.fuse import mountinfo
from tests.support.commands import (
    ORDINARY,
    Workspace,
    fuse_for_everybody,
    user_options,
    wait_ended,
)
from tests.support.machine import NAME, Machine
from tests.support.rights import Rights, rights_of_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.sshd import Sshd

NOTHING = Rights(0, 0, 0, 0, 0, no_new_privs=True)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        made.install_helpers()
        yield made


@pytest.fixture
def user(machine: Machine, server: Sshd) -> Iterator[list[str]]:
    """What to put before a command for it to be the ordinary user's, whose mountpoint it is."""
    with fuse_for_everybody():
        yield machine.make_users(server)
    with contextlib.suppress(OSError):  # another run of the tests may have sockets there
        Path(f"/tmp/pysshfs-{ORDINARY}").rmdir()


def silent(result: subprocess.CompletedProcess[str]) -> None:
    assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result


def failed(result: subprocess.CompletedProcess[str], code: int, *words: str) -> str:
    """One line on stderr says why, and mount(8) adds nothing to it."""
    assert (result.returncode, result.stdout) == (code, ""), result
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n"), result.stderr
    for word in words:
        assert word in result.stderr, f"{word!r} is not in {result.stderr!r}"
    return result.stderr


def kill(work: Workspace, daemon: int) -> None:
    """Without a chance to remove its socket, either."""
    entry = work.entry()
    assert entry is not None
    os.kill(daemon, signal.SIGKILL)
    wait_ended(daemon)
    os.unlink(socket_path(entry.minor, mountinfo.owner(entry)))


def places_of(pid: str) -> dict[bytes, mountinfo.MountEntry]:
    """What is mounted where, as a process sees it."""
    table = Path(f"/proc/{pid}/mountinfo").read_bytes()
    return {entry.mountpoint: entry for entry in mountinfo.parse_mountinfo(table)}


def options_of(machine: Machine) -> set[str]:
    entry = machine.entry()
    assert entry is not None
    return set(entry.options.split(",")) | set(entry.super_options.split(","))


# --- as root ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fuse.pysshfs", "pysshfs"])
def test_mount_with_a_type(machine: Machine, server: Sshd, remote: Path, kind: str) -> None:
    source, place = server.source(remote), str(machine.mountpoint)
    argv = ["mount", "-t", kind, source, place, "-o", ",".join(server.options())]
    silent(machine.run(argv))
    machine.daemon()
    assert machine.listing() == ["file"]
    entry = machine.entry()
    assert entry is not None
    assert (entry.fstype, os.fsdecode(entry.source)) == ("fuse.pysshfs", source)
    # Nobody had asked for it, and mount.fuse3 would have asked for the opposite.
    assert {"nosuid", "nodev"} <= options_of(machine)
    silent(machine.run(["umount", place]))
    machine.ended()


def test_every_word_that_a_line_may_have(machine: Machine, server: Sshd, tmp_path: Path) -> None:
    """Options for others are no one's business here; blanks are escaped; a comma is, too."""
    directory = tmp_path / "a b,c"
    directory.mkdir()
    (directory / "file").touch()
    source = server.source(directory)
    words = (
        "defaults,noauto,user,group,owner,nofail,_netdev,comment=a,x-systemd.automount,x-gvfs-hide,"
        "x-systemd.idle-timeout=60,X-other,async,relatime,nodiratime,strictatime,lazytime,silent"
    )
    options = [words, *server.options(), "allow_other", "default_permissions", "noatime", "exec",
               r"Ciphers=aes128-gcm@openssh.com\,aes256-ctr", "uid=12,gid=34",
               "max_read=65536,kernel_cache,others_timeout=9"]  # fmt: skip
    machine.fstab(machine.line(source, "fuse.pysshfs", *options))
    silent(machine.run(["mount", str(machine.mountpoint)]))
    daemon = machine.daemon()
    assert machine.listing() == ["file"]
    entry = machine.entry()
    assert entry is not None and os.fsdecode(entry.source) == source
    # What is the kernel's is there, and nothing else; `user` has noexec, which `exec` takes back.
    assert entry.options == "rw,nosuid,nodev,noatime"
    ours = "user_id=0,group_id=0,default_permissions,allow_other,max_read=65536"
    assert set(entry.super_options.split(",")) == {"rw", *ours.split(",")}
    owner = machine.run(["stat", "-c", "%u %g", f"{machine.mountpoint}/file"], check=True).stdout
    assert owner == "12 34\n"
    assert machine.status()["cipher"] == "aes128-gcm@openssh.com"
    silent(machine.run(["umount", str(machine.mountpoint)]))
    wait_ended(daemon)


def test_suid_and_dev_are_there_for_the_asking(
    machine: Machine, server: Sshd, remote: Path
) -> None:
    """mount(8) itself keeps them from its helpers, or not, depending on its version."""
    helper = [str(machine.bin / "mount.pysshfs"), server.source(remote), str(machine.mountpoint)]
    silent(machine.run([*helper, "-o", ",".join(["suid,dev,ro", *server.options()])]))
    machine.daemon()
    assert "ro" in options_of(machine) and not {"nosuid", "nodev"} & options_of(machine)
    silent(machine.run(["umount", str(machine.mountpoint)]))


def test_mount_all(machine: Machine, server: Sshd, remote: Path, tmp_path: Path) -> None:
    """What is mounted is left alone the second time; `noauto` always; one failure is not all."""
    second, third = (machine.directory / name for name in ("two", "three"))
    for place in (second, third):
        place.mkdir()
    options = server.options()
    source = server.source(remote)
    machine.fstab(
        machine.line(source, "fuse.pysshfs", "_netdev", *options),
        machine.line(f"pysshfs#{source}", "fuse.pysshfs", *options, place=second),
        machine.line(source, "pysshfs", "noauto", *options, place=third),
    )
    silent(machine.run(["mount", "-a"]))
    daemons = {machine.daemon(), machine.daemon(second)}
    assert len(daemons) == 2 and machine.entry(third) is None
    silent(machine.run(["mount", "-a"]))
    assert len(machine.entries()) == 2
    absent = machine.line(server.source(tmp_path / "absent"), "pysshfs", *options, place=third)
    machine.fstab(absent, absent.replace("pysshfs ", "pysshfs nofail,", 1))
    result = machine.run(["mount", "-a"])
    assert result.returncode == 32 and "No such file" in result.stderr
    for place in (machine.mountpoint, second):
        silent(machine.run(["umount", str(place)]))
    for daemon in daemons:
        wait_ended(daemon)


def test_as_autofs_calls_it(machine: Machine, server: Sshd, remote: Path) -> None:
    """Sloppy, so that what is not known is passed over; the note is for its log."""
    argv = ["mount", "-t", "fuse.pysshfs", "-n", "-s", "-o",
            ",".join(["rw", "intr", "vers=3", "soft", *server.options()]),
            server.source(remote), str(machine.mountpoint)]  # fmt: skip
    result = machine.run(argv)
    assert result.returncode == 0
    failed(subprocess.CompletedProcess(argv, 1, "", result.stderr), 1, "'vers'", "ignored")
    machine.daemon()
    assert machine.listing() == ["file"]
    argv.remove("-s")
    machine.run(["umount", str(machine.mountpoint)], check=True)
    failed(machine.run(argv), 1, "unknown option 'vers'")


def test_the_flags_of_helpers(machine: Machine, server: Sshd, remote: Path) -> None:
    source, place = server.source(remote), str(machine.mountpoint)
    options = ["-o", ",".join(server.options())]
    silent(machine.run(["mount", "-f", "-t", "pysshfs", source, place, *options]))
    assert machine.entry() is None
    failed(machine.run(["mount", "-f", "-t", "pysshfs", source, place, "-o", "bad"]), 1, "'bad'")
    helper = str(machine.bin / "mount.pysshfs")
    result = machine.run([helper, source, place, "-nrv", *options, "-t", "fuse.pysshfs"])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"mount.pysshfs: {source} mounted on {place}.\n"
    machine.daemon()
    assert "ro" in options_of(machine)
    machine.run(["umount", place], check=True)
    for words, said in (
        ([source], "a source and a directory"),
        ([source, place, "-q"], "-q"),
        ([source, place, "-t", "nfs"], "'nfs'"),
        ([source, place, "-N", "/absent"], "/absent"),
        ([source, place, "-o", "setuid=no-such-user"], "'no-such-user'"),
        ([source, place, "-o", "remount,ro"], "unmount and mount again"),
        ([source, place, "-o", "nosymfollow"], "do not know it"),
        (["nocolon", place], "':'"),
    ):
        failed(machine.run([helper, *words]), 1, said)


def test_remount_has_a_clear_answer(machine: Machine, server: Sshd, remote: Path) -> None:
    """The helper refuses; what the kernel can change it changes without the helper."""
    place = str(machine.mountpoint)
    machine.fstab(machine.line(server.source(remote), "fuse.pysshfs", *server.options()))
    silent(machine.run(["mount", place]))
    machine.daemon()
    failed(machine.run(["mount", "-o", "remount,ro", place]), 1, "remount", "mount -i")
    assert "rw" in options_of(machine)
    silent(machine.run(["mount", "-i", "-o", "remount,ro", place]))
    assert "ro" in options_of(machine)
    assert machine.run(["touch", f"{place}/new"]).returncode != 0


def test_exit_codes_are_those_of_mount(machine: Machine, server: Sshd, remote: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = listening.getsockname()[1]
    place = str(machine.mountpoint)
    right, options = server.source(remote), server.options()
    missing = str(machine.directory / "missing")
    for code, source, where, given, said in (
        (32, right, missing, options, "missing"),  # mount(8) itself says so
        (32, server.source(remote / "absent"), place, options, "No such file"),
        (32, right, place, server.options(closed), "Connection refused"),
        (32, right, place, [options[0], "UserKnownHostsFile=/dev/null"], "not known"),
        (32, right, place, [options[0], options[2], "IdentityFile=/absent"], "Permission denied"),
        (32, right, place, [*options, "sftp_server=nonsense"], "SFTP"),
        (1, right, place, [*options, "Port=x"], "Port"),
    ):
        argv = ["mount", "-t", "pysshfs", source, where, "-o", ",".join(given)]
        result = machine.run(argv)
        assert (result.returncode, result.stdout) == (code, ""), result
        assert said in result.stderr and "Traceback" not in result.stderr
    helper = [str(machine.bin / "mount.pysshfs"), right, place, "-o", ",".join(options)]
    script = 'mount --bind /dev/null /dev/fuse && exec "$@"'
    hidden = ["unshare", "--mount", "sh", "-c", script, "sh", *helper]
    result = machine.run(hidden)
    assert result.returncode == 2 and "fuse" in result.stderr


def test_nothing_but_the_arguments(machine: Machine, server: Sshd, remote: Path) -> None:
    """As at boot: no HOME, no PATH, no terminal, and what is standard is closed."""
    options = ",".join(server.options())
    helper = [str(machine.bin / "mount.pysshfs"), server.source(remote), str(machine.mountpoint)]
    bare = ["env", "-i", "setsid", "--wait", "sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *helper]
    silent(machine.run([*bare, "-o", options]))
    daemon = machine.daemon()
    assert machine.listing() == ["file"]
    assert {os.readlink(f"/proc/{daemon}/fd/{number}") for number in range(3)} == {"/dev/null"}
    machine.run(["umount", str(machine.mountpoint)], check=True)
    # What there is to ask is an error at once, and says what to give.
    bare = ["env", "-i", "setsid", "--wait", *helper]
    port, key, known_hosts = server.options()
    result = machine.run([*bare, "-o", f"{port},{key},UserKnownHostsFile=/dev/null"])
    failed(result, 32, "not known", "no terminal", "UserKnownHostsFile=")
    result = machine.run([*bare, "-o", f"{port},{known_hosts},IdentityFile=/absent"])
    failed(result, 32, "Permission denied", "/absent", "IdentityFile=")


def test_debug_is_for_the_log(machine: Machine, server: Sshd, remote: Path) -> None:
    """mount(8) waits for its helper: that goes into the background, debug or not."""
    log = machine.directory / "log"
    options = ["debug", f"log_file={log}", *server.options()]
    machine.fstab(machine.line(server.source(remote), "pysshfs", *options))
    assert machine.run(["mount", str(machine.mountpoint)]).returncode == 0
    machine.daemon()
    assert machine.listing() == ["file"]
    assert "opendir" in log.read_text().lower()


# --- other rights -------------------------------------------------------------------------------


def test_drop_privileges(machine: Machine, server: Sshd, remote: Path) -> None:
    options = ["drop_privileges", *server.options()]
    machine.fstab(machine.line(server.source(remote), "fuse.pysshfs", *options))
    silent(machine.run(["mount", str(machine.mountpoint)]))
    daemon = machine.daemon()
    assert rights_of_all(daemon) == {NOTHING}
    assert {"nosuid", "nodev"} <= options_of(machine)
    assert machine.listing() == ["file"]
    assert machine.status()["mountpoint"] == str(machine.mountpoint)
    silent(machine.run(["umount", str(machine.mountpoint)]))
    machine.ended()


def test_privileges_are_dropped_before_the_server_is_asked(
    machine: Machine, server: Sshd, remote: Path
) -> None:
    """A program of the configuration's has none either, not even on the way to the server."""
    seen = machine.directory / "seen"
    command = f"ProxyCommand=grep -E 'Cap|NoNew' /proc/self/status >{seen}"
    options = ["drop_privileges", command, *server.options()]
    machine.fstab(machine.line(server.source(remote), "fuse.pysshfs", *options))
    assert machine.run(["mount", str(machine.mountpoint)]).returncode == 32
    has = dict(line.split(":\t") for line in seen.read_text().splitlines())
    assert {int(has[name], 16) for name in has if name.startswith("Cap")} == {0}
    assert has["NoNewPrivs"] == "1"
    assert machine.entry() is None


def test_a_mount_that_is_handed_down_in_vain_is_taken_back(
    machine: Machine, server: Sshd, remote: Path
) -> None:
    options = ["drop_privileges", *server.options()]
    machine.fstab(machine.line(server.source(remote / "absent"), "fuse.pysshfs", *options))
    failed(machine.run(["mount", str(machine.mountpoint)]), 32, "No such file")
    assert machine.entry() is None


@pytest.mark.parametrize("more", [[], ["drop_privileges"]], ids=["alone", "drop_privileges"])
def test_setuid(
    machine: Machine, server: Sshd, remote: Path, user: list[str], more: list[str]
) -> None:
    """Root mounts for a user, whose home has the key, and whose groups count."""
    options = [f"setuid={NAME}", *more, *user_options(server)]
    machine.fstab(machine.line(server.source(remote), "fuse.pysshfs", *options))
    silent(machine.run(["mount", str(machine.mountpoint)]))
    assert f"user_id={ORDINARY}" in options_of(machine)
    daemon = machine.daemon()
    status = Path(f"/proc/{daemon}/status").read_text()
    assert f"Uid:\t{ORDINARY}\t{ORDINARY}\t{ORDINARY}\t{ORDINARY}" in status
    assert "Groups:\t4242 65534" in status
    if more:
        assert rights_of_all(daemon) == {NOTHING}
    assert machine.run([*user, "ls", str(machine.mountpoint)], check=True).stdout == "file\n"
    kill(machine, daemon)
    # Dead, it is another user's, whom the kernel lets in alone; mounting again works all the same.
    result = machine.run(["mount", str(machine.mountpoint)])
    assert result.returncode == 0 and "dead mount" in result.stderr, result
    machine.daemon()
    silent(machine.run([*user, "umount", str(machine.mountpoint)]))
    machine.ended()


def test_another_namespace(machine: Machine, server: Sshd, remote: Path) -> None:
    """-N: mount(8) and the helper are in one namespace, the mount in another, where there is
    neither an interpreter nor a key."""
    holder = machine.directory / "holder"
    script = (
        f"mount -t tmpfs none {machine.directory}/python && echo $$ >{holder} && exec sleep 100"
    )
    with subprocess.Popen(machine.inside(["unshare", "--mount", "sh", "-c", script])) as other:
        try:
            while not holder.exists() or not holder.read_text().endswith("\n"):
                assert other.poll() is None
            pid = holder.read_text().strip()
            command = ["mount", "-N", pid, "-t", "pysshfs", server.source(remote)]
            options = ",".join(server.options())
            silent(machine.run([*command, str(machine.mountpoint), "-o", options]))
            assert machine.entry() is None
            entry = places_of(pid)[os.fsencode(machine.mountpoint)]
            assert "nosuid" in entry.options.split(",")
            there = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--"]
            listed = machine.run([*there, "ls", str(machine.mountpoint)], check=True)
            assert listed.stdout == "file\n"
            failed(
                machine.run([*command, str(machine.mountpoint), "-o", options]),
                32, "mounted there already",
            )  # fmt: skip
            silent(machine.run([*there, "umount", str(machine.mountpoint)]))
            command[-1] = server.source(remote / "absent")
            absent = [*command, str(machine.mountpoint), "-o", options]
            failed(machine.run(absent), 32, "No such file")
            assert os.fsencode(machine.mountpoint) not in places_of(pid)
        finally:
            other.kill()


# --- ordinary users -----------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["user", "users"])
def test_a_user_mounts_a_line(
    machine: Machine, server: Sshd, remote: Path, user: list[str], word: str
) -> None:
    place = str(machine.mountpoint)
    line = machine.line(
        server.source(remote), "fuse.pysshfs", word, "noauto", *user_options(server)
    )
    machine.fstab(line)
    silent(machine.run([*user, "mount", place]))
    daemon = machine.daemon()
    assert os.stat(f"/proc/{daemon}").st_uid == ORDINARY
    assert {f"user_id={ORDINARY}", "nosuid", "nodev", "noexec"} <= options_of(machine)
    assert machine.run([*user, "ls", place], check=True).stdout == "file\n"
    silent(machine.run([*user, "umount", place]))
    machine.ended()


def test_what_a_user_may_not(machine: Machine, server: Sshd, remote: Path, user: list[str]) -> None:
    """What is root's, whatever the line says."""
    place = str(machine.mountpoint)
    source, options = server.source(remote), user_options(server)
    for words, said in (
        (["user", "suid"], "'suid'"),
        (["user", "drop_privileges"], "root only"),
        (["user", "setuid=root"], "only root"),
    ):
        machine.fstab(machine.line(source, "fuse.pysshfs", *words, *options))
        failed(machine.run([*user, "mount", place]), 1, said)
    assert machine.entry() is None


# --- installing ---------------------------------------------------------------------------------


def test_install_helpers_and_remove_them(machine: Machine, server: Sshd, remote: Path) -> None:
    links = [Path("/sbin/mount.pysshfs"), Path("/sbin/mount.fuse.pysshfs")]
    ctl = [str(machine.bin / "pysshfsctl"), "install-helpers"]
    argv = ["mount", "-t", "fuse.pysshfs", server.source(remote), str(machine.mountpoint)]
    argv += ["-o", ",".join(server.options())]
    removed = machine.run([*ctl, "--remove"])
    assert (removed.returncode, removed.stderr) == (0, "")
    assert sorted(removed.stdout.splitlines()) == sorted(f"removed: {link}" for link in links)
    assert machine.run(argv, check=False).returncode != 0
    for _ in range(2):
        made = machine.run(ctl)
        assert (made.returncode, made.stderr) == (0, "")
        assert made.stdout == "".join(f"installed: {link}\n" for link in links)
    silent(machine.run(argv))
    machine.daemon()
    assert machine.run(["ls", "-A", "/sbin"], check=True).stdout.count("pysshfs") == 2
    machine.run(["umount", str(machine.mountpoint)], check=True)


def test_what_is_anothers_is_left_alone(machine: Machine) -> None:
    ctl = [str(machine.bin / "pysshfsctl"), "install-helpers"]
    directory = machine.directory / "sbin"
    directory.mkdir()
    other = directory / "mount.pysshfs"
    other.write_text("another package's")
    for words in ([], ["--remove"]):
        result = machine.run([*ctl, *words, str(directory)])
        failed(result, 1, str(other), "something else")
        assert os.listdir(directory) == [other.name]
    other.unlink()
    # What root is to run may be nobody's but root's.
    os.chown(machine.bin, ORDINARY, ORDINARY)
    failed(machine.run([*ctl, str(directory)]), 1, str(machine.bin), "make install")
    assert os.listdir(directory) == []
