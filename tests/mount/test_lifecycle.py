"""How a mount ends, in good order and otherwise, and what pysshfsctl makes of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli import ctl, ctl_umount, logs
from pysshfs.cli.ctl_codes import CtlCode
from pysshfs.cli.exitcodes import ExitCode
from pysshfs.fuse import mountinfo, mountpoint
from tests.mount import test_inherited
from tests.support import procs
from tests.support.commands import (
    ORDINARY,
    Workspace,
    as_ordinary_user,
    one_line,
    refused,
    user_options,
    wait_ended,
    wait_until,
)
from tests.support.sshd import Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Opens a file on the mount for writing, says so when it is written, and holds it open.
_WRITER = """
import sys
file = open(sys.argv[1], "wb", buffering=0)
file.write(b"x" * int(sys.argv[2]))
print("written", flush=True)
sys.stdin.read()
file.close()
"""


@pytest.fixture
def own_server() -> Iterator[Sshd]:
    """One to be killed."""
    with Sshd() as running:
        yield running


def hold_open(work: Workspace, name: str, size: int) -> subprocess.Popen[bytes]:
    """A program that has written to a file on the mount and keeps it open."""
    # The workspace aborts the connection first, so that its end is not waited for in vain.
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _WRITER, str(work.mountpoint / name), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    return process


def let_go(process: subprocess.Popen[bytes]) -> int:
    """Close the file that is held; the program's exit status."""
    process.communicate(timeout=10)
    return process.returncode


# --- in good order ------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_delivers_what_is_buffered_and_unmounts(
    work: Workspace, server: Sshd, remote: Path, which: signal.Signals
) -> None:
    size = 8 << 20
    log = work.directory / "log"
    daemon = work.foreground(server.source(remote), *server.options(), log=log)
    writer = hold_open(work, "new", size)
    try:
        daemon.send_signal(which)
        assert daemon.wait(20) == ExitCode.OK
        assert work.entry() is None
        assert (remote / "new").stat().st_size == size
        assert log.read_text() == ""
    finally:
        let_go(writer)


def test_a_second_signal_does_not_wait_for_a_silent_server(
    work: Workspace, own_server: Sshd, remote: Path
) -> None:
    """Nor does it for a file that was closed by a killed program, and whose release waits."""
    daemon = work.foreground(own_server.source(remote), *own_server.options())
    writer = hold_open(work, "new", 8 << 20)
    sessions = own_server.session_pids()
    try:
        for pid in sessions:
            os.kill(pid, signal.SIGSTOP)
        writer.kill()
        daemon.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.wait(1)
        daemon.terminate()
        assert daemon.wait(10) == ExitCode.UNDELIVERED
        assert work.entry() is None
        undelivered = work.home / ".local/state/pysshfs/undelivered"
        (saved,) = undelivered.glob("*.data")
        assert saved.stat().st_mode & 0o777 == 0o600
    finally:
        for pid in sessions:
            os.kill(pid, signal.SIGCONT)
        let_go(writer)


def test_a_signal_right_after_the_mount_leaves_nothing(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    for _ in range(3):
        daemon = work.foreground(server.source(remote), *server.options())
        daemon.terminate()
        assert daemon.wait(20) == ExitCode.OK
        assert work.entry() is None


@pytest.mark.parametrize("helper", ["umount", "fusermount3 -u"])
def test_unmounting_ends_the_daemon(
    work: Workspace, server: Sshd, remote: Path, helper: str
) -> None:
    daemon = work.foreground(server.source(remote), *server.options())
    work.run(["sh", "-c", f"echo new >{work.mountpoint}/new"], check=True)
    work.run([*helper.split(), str(work.mountpoint)], check=True)
    assert daemon.wait(20) == ExitCode.OK
    assert (remote / "new").read_text() == "new\n"


def test_a_lazy_unmount_leaves_the_open_file_alone(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    daemon = work.foreground(server.source(remote), *server.options())
    writer = hold_open(work, "new", 4096)
    try:
        work.run(["umount", "-l", str(work.mountpoint)], check=True)
        assert work.entry() is None
        assert daemon.poll() is None
    finally:
        assert let_go(writer) == 0
    assert daemon.wait(20) == ExitCode.OK
    assert (remote / "new").stat().st_size == 4096


# --- otherwise ----------------------------------------------------------------------------------


def test_an_abort_leaves_the_mount_dead(work: Workspace, server: Sshd, remote: Path) -> None:
    log = work.directory / "log"
    daemon = work.foreground(server.source(remote), *server.options(), log=log)
    work.abort()
    assert daemon.wait(20) == ExitCode.ABORTED
    assert "aborted" in one_line(log.read_text())
    assert work.entry() is not None
    failed = work.run(["ls", str(work.mountpoint)])
    assert failed.returncode != 0 and "not connected" in failed.stderr
    dead = work.ctl("status", str(work.mountpoint))
    assert dead.returncode == CtlCode.NOT_ANSWERING and "dead" in dead.stdout
    assert work.ctl("umount", str(work.mountpoint)).returncode == 0
    assert work.entry() is None


def test_without_reconnect_the_mount_ends_with_the_server(
    work: Workspace, own_server: Sshd, remote: Path
) -> None:
    log = work.directory / "log"
    options = [*own_server.options(), "no_reconnect"]
    daemon = work.foreground(own_server.source(remote), *options, log=log)
    own_server.kill()
    assert daemon.wait(20) == ExitCode.CONNECTION_LOST
    assert "is lost: unmounting" in log.read_text()
    assert work.entry() is None


def test_the_mount_outlives_the_server(work: Workspace, own_server: Sshd, remote: Path) -> None:
    daemon = work.foreground(own_server.source(remote), *own_server.options())
    own_server.restart()
    shown = work.run(["cat", str(work.mountpoint / "file")], check=True).stdout
    assert shown == "content"
    assert work.status()["reconnects"] >= 1
    daemon.terminate()
    assert daemon.wait(20) == ExitCode.OK


def test_a_connection_gone_silent_is_noticed(
    work: Workspace, own_server: Sshd, remote: Path
) -> None:
    daemon = work.foreground(
        own_server.source(remote), *own_server.options(),
        "ServerAliveInterval=1", "ServerAliveCountMax=1", "no_reconnect",
    )  # fmt: skip
    for pid in own_server.session_pids():
        os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    assert daemon.wait(20) == ExitCode.CONNECTION_LOST
    assert time.monotonic() - started < 10
    assert work.entry() is None


def test_a_silent_connection_is_probed_unless_told_otherwise() -> None:
    from pysshfs.remote import route

    # The defaults notice within a minute, not within a coffee break.
    assert 0 < route._KEEPALIVE_SECONDS * (route._KEEPALIVE_MISSED + 1) <= 60


def test_a_killed_daemon_in_the_background(work: Workspace, server: Sshd, remote: Path) -> None:
    daemon = work.mounted(server.source(remote), *server.options())
    os.kill(daemon, signal.SIGKILL)
    wait_ended(daemon)
    shown = work.ctl("status", "--json", str(work.mountpoint))
    (state,) = json.loads(shown.stdout)
    assert state["answers"] is False and "dead" in state["reason"]
    assert work.ctl("umount", str(work.mountpoint)).returncode == 0
    assert work.entry() is None


# --- logs ---------------------------------------------------------------------------------------


def test_the_log_goes_to_the_file(work: Workspace, server: Sshd, remote: Path) -> None:
    log = work.directory / "log"
    log.write_text("before\n")
    options = [*server.options(), f"log_file={log}", "log_level=info"]
    daemon = work.mount(server.source(remote), *options)
    assert daemon.returncode == 0, daemon.stderr
    pid = work.daemon()
    os.kill(pid, signal.SIGTERM)
    wait_ended(pid)
    lines = log.read_text().splitlines()
    assert lines[0] == "before" and any("SIGTERM: unmounting" in line for line in lines)
    assert all(re.match(r"\d{4}-\d\d-\d\d .* INFO ", line) for line in lines[1:])
    assert str(server.client_key) not in log.read_text()


def test_a_relative_log_file_is_the_callers(work: Workspace, server: Sshd, remote: Path) -> None:
    argv = work.argv(server.source(remote), *server.options(), "log_file=the-log")
    work.run(["sh", "-c", 'cd "$0" && exec "$@"', str(work.directory), *argv], check=True)
    work.daemon()
    assert (work.directory / "the-log").is_file()


def test_a_log_file_that_cannot_be_written(work: Workspace, server: Sshd) -> None:
    options = [*server.options(), "log_file=/nonexistent/log"]
    refused(work.mount(server.source("/"), *options), ExitCode.USAGE, "/nonexistent/log")


def test_without_syslog_nothing_is_logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(logs, "_SYSLOG", tmp_path / "absent")
    handler = logs.syslog_handler()
    assert type(handler).__name__ == "NullHandler"


# --- pysshfsctl ---------------------------------------------------------------------------------


def test_status_in_words_and_in_json(work: Workspace, server: Sshd, remote: Path) -> None:
    source = server.source(remote)
    daemon = work.mounted(source, *server.options())
    shown = work.ctl("status", f"{work.mountpoint}/")
    assert shown.returncode == 0, shown.stderr
    first, *rest = shown.stdout.splitlines()
    assert first == f"{source} on {work.mountpoint}"
    words = "\n".join(rest)
    assert f"pid {daemon}" in words and "up" in words and "OpenSSH" in words
    (state,) = json.loads(work.ctl("status", str(work.mountpoint), "--json").stdout)
    assert state["pid"] == daemon and state["source"] == source and state["answers"] is True
    assert state["state"] == "up" and state["cipher"]
    everything = json.loads(work.ctl("status", "--json").stdout)
    assert str(work.mountpoint) in [each["mountpoint"] for each in everything]


def test_status_of_a_stopped_daemon_is_prompt(work: Workspace, server: Sshd, remote: Path) -> None:
    daemon = work.mounted(server.source(remote), *server.options())
    os.kill(daemon, signal.SIGSTOP)
    try:
        times = []
        for _ in range(3):
            started = time.monotonic()
            plain = work.run([sys.executable, "-c", "import json, socket, subprocess, select"])
            between = time.monotonic()
            shown = work.ctl("status", "--json", str(work.mountpoint))
            times.append(time.monotonic() - between - (between - started))
            assert plain.returncode == 0 and shown.returncode == CtlCode.NOT_ANSWERING
        (state,) = json.loads(shown.stdout)
        assert state["answers"] is False and "does not answer" in state["reason"]
        # Two hundred milliseconds after its start, and what loading the rest takes.
        assert min(times) < 0.300
    finally:
        os.kill(daemon, signal.SIGCONT)


@pytest.mark.parametrize("command", ["status", "umount"])
def test_what_is_no_mount_of_ours(work: Workspace, command: str) -> None:
    for place in (str(work.mountpoint), "/proc", "/nonexistent/place"):
        refused(work.ctl(command, place), CtlCode.NO_MOUNT, "no pysshfs mount")


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["umount"], ["status", "--other"], ["status", "a", "b"]], ids=str
)
def test_a_wrong_command_line(work: Workspace, words: list[str]) -> None:
    result = work.ctl(*words)
    assert result.returncode == CtlCode.USAGE
    assert result.stdout == "" and result.stderr.startswith("usage: ")


def test_umount_delivers_and_waits_for_the_daemon(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    daemon = work.mounted(server.source(remote), *server.options())
    work.run(["dd", "if=/dev/zero", f"of={work.mountpoint}/new", "bs=1M", "count=8"], check=True)
    result = work.ctl("umount", str(work.mountpoint))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert work.entry() is None
    assert not procs.is_alive(daemon)
    assert (remote / "new").stat().st_size == 8 << 20


@pytest.mark.parametrize("patience", [10, 0.1])
def test_umount_waits_for_the_daemon_and_says_when_it_does_not_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], patience: float
) -> None:
    """A daemon that takes its time, which a real one does not do at will."""
    (entry,) = mountinfo.parse_mountinfo(b"1 2 0:3 / /mnt rw - fuse.pysshfs x rw,user_id=0")
    process = subprocess.Popen(["sleep", "0.6"])
    try:
        monkeypatch.setattr(ctl_umount, "mount_of", lambda _: entry)
        monkeypatch.setattr(ctl_umount, "unmount", lambda *_, **__: None)
        monkeypatch.setattr(ctl_umount, "deliver", lambda *_: {})
        monkeypatch.setattr(ctl_umount, "_daemon", lambda _: os.pidfd_open(process.pid))
        monkeypatch.setattr(ctl_umount, "FLUSH_SECONDS", patience)
        monkeypatch.setattr(os, "chdir", lambda _: None)
        code = ctl.main(["umount", "/mnt"])
        if patience > 1:
            assert code == CtlCode.OK and process.poll() is not None
        else:
            assert code == CtlCode.FAILURE and process.poll() is None
            assert "does not end" in one_line(capsys.readouterr().err)
    finally:
        process.kill()
        process.wait(10)


def test_umount_does_not_wait_for_a_silent_server_with_nothing_to_deliver(
    work: Workspace, own_server: Sshd, remote: Path
) -> None:
    daemon = work.foreground(own_server.source(remote), *own_server.options())
    sessions = own_server.session_pids()
    try:
        for pid in sessions:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        assert work.ctl("umount", str(work.mountpoint)).returncode == ExitCode.OK
        assert time.monotonic() - began < 10
        assert work.entry() is None
    finally:
        for pid in sessions:
            os.kill(pid, signal.SIGCONT)
    assert daemon.wait(10) == ExitCode.OK


def test_a_mount_is_found_through_a_link_to_it(work: Workspace, server: Sshd, remote: Path) -> None:
    link = work.directory / "link"
    link.symlink_to(work.mountpoint)
    daemon = work.foreground(server.source(remote), *server.options())
    (state,) = json.loads(work.ctl("status", str(link), "--json").stdout)
    assert state["pid"] == daemon.pid
    assert work.ctl("umount", str(link)).returncode == ExitCode.OK
    assert daemon.wait(10) == ExitCode.OK


def test_the_end_of_a_mount_leaves_the_one_on_top_alone(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    below = work.foreground(server.source(remote), *server.options())
    first = work.entry()
    # pysshfs itself does not mount over a mount.
    command = test_inherited.argv(work, server.source(remote), *server.options())
    assert test_inherited.hand_down(work, command).returncode == 0
    above = work.daemon()

    def is_covered() -> bool:
        entry = work.entry()
        return entry is not None and first is not None and entry.minor != first.minor

    assert is_covered()
    below.terminate()
    assert below.wait(20) == ExitCode.OK
    assert is_covered()
    (state,) = json.loads(work.ctl("status", str(work.mountpoint), "--json").stdout)
    assert state["pid"] == above
    assert work.run(["ls", str(work.mountpoint)]).returncode == 0
    work.unmount()
    assert mountpoint.unmount(str(work.mountpoint), lazy=True) is None  # the dead one below


def test_a_mount_of_another_subtype_is_known_by_its_daemon(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    daemon = work.foreground(server.source(remote), *server.options(), "subtype=other")
    entry = work.entry()
    assert entry is not None
    assert entry.fstype == "fuse.other"
    (state,) = json.loads(work.ctl("status", str(work.mountpoint), "--json").stdout)
    assert state["pid"] == daemon.pid
    assert work.ctl("umount", str(work.mountpoint)).returncode == ExitCode.OK
    assert daemon.wait(10) == ExitCode.OK


def test_umount_of_a_busy_mount_is_refused(work: Workspace, server: Sshd, remote: Path) -> None:
    daemon = work.mounted(server.source(remote), *server.options())
    writer = hold_open(work, "new", 4096)
    try:
        result = work.ctl("umount", str(work.mountpoint))
        refused(result, CtlCode.BUSY, str(work.mountpoint), "busy")
        assert work.entry() is not None and procs.is_alive(daemon)
        # What was written has been delivered all the same.
        assert (remote / "new").stat().st_size == 4096
    finally:
        assert let_go(writer) == 0


def test_another_users_mount_is_not_to_be_touched(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    work.directory.chmod(0o755)
    options = [*server.options(), "allow_other,default_permissions"]
    daemon = work.mounted(server.source(remote), *options)
    for command in ("status", "watch", "trace", "flush", "abort", "drop-caches", "umount"):
        result = work.ctl(command, str(work.mountpoint), prefix=as_ordinary_user())
        refused(result, CtlCode.NOT_PERMITTED, str(work.mountpoint), "another user's mount (uid 0)")
    everything = work.ctl("status", prefix=as_ordinary_user())
    assert str(work.mountpoint) not in everything.stdout
    entry = work.entry()
    assert entry is not None
    for name in ("waiting", "abort"):  # nor by hand
        file = f"{mountinfo.CONNECTIONS}/{entry.minor}/{name}"
        argv = ["sh", "-c", 'echo 1 > "$0"' if name == "abort" else 'cat "$0"', file]
        without_rights = as_ordinary_user()[:4]
        assert "denied" in work.run([*without_rights, *argv]).stderr
    assert work.listing() == ["file"] and procs.is_alive(daemon)


def test_the_control_socket_is_private_and_goes_with_the_daemon(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    daemon = work.mounted(server.source(remote), *server.options())
    entry = work.entry()
    assert entry is not None
    socket = Path(f"/run/pysshfs/{entry.minor}.sock")
    assert socket.stat().st_mode & 0o777 == 0o600
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    work.unmount()
    wait_ended(daemon)
    assert not socket.exists()


# --- an ordinary user ---------------------------------------------------------------------------


def test_an_ordinary_user_mounts_and_unmounts(
    work: Workspace, server: Sshd, remote: Path, user: list[str]
) -> None:
    argv = [*user, *work.argv(server.source(remote), *user_options(server), "suid=no")]
    argv = argv[:-2]
    result = work.run(argv)
    assert (result.returncode, result.stderr) == (0, "")
    daemon = work.daemon()
    entry = work.entry()
    assert entry is not None
    assert {"nosuid", "nodev"} <= set(entry.options.split(","))
    assert f"user_id={ORDINARY}" in entry.super_options.split(",")
    assert os.stat(f"/proc/{daemon}").st_uid == ORDINARY
    listing = work.run([*user, "ls", str(work.mountpoint)], check=True).stdout
    assert listing == "file\n"
    shown = work.ctl("status", str(work.mountpoint), prefix=user)
    assert f"pid {daemon}" in shown.stdout
    gone = work.ctl("umount", str(work.mountpoint), prefix=user)
    assert (gone.returncode, gone.stderr) == (0, "")
    assert work.entry() is None and not procs.is_alive(daemon)


def test_others_and_root_are_kept_out_of_a_users_mount(
    work: Workspace, server: Sshd, remote: Path, user: list[str]
) -> None:
    work.run([*user, *work.argv(server.source(remote), *user_options(server))], check=True)
    work.daemon()
    other = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"]
    for prefix in ([], other):
        failed = work.run([*prefix, "ls", str(work.mountpoint)])
        assert failed.returncode != 0 and "Permission denied" in failed.stderr, prefix


def test_a_user_may_not_let_others_in_unless_the_system_allows_it(
    work: Workspace, server: Sshd, user: list[str]
) -> None:
    config = Path("/etc/fuse.conf")
    allowed = config.exists() and re.search(r"(?m)^user_allow_other", config.read_text())
    argv = work.argv(server.source("/"), *user_options(server), "allow_other")
    result = work.run([*user, *argv])
    if allowed:
        assert result.returncode == 0
    else:
        refused(result, ExitCode.USAGE, "user_allow_other")


@pytest.mark.parametrize(
    ("owner", "mode", "said"),
    [
        (0, 0o755, "no write access"),
        (ORDINARY, 0o555, "no write access"),
        # As /tmp is: whoever may write there may not mount over it.
        (0, 0o1777, "not owned by user"),
    ],
)
def test_a_users_mountpoint_has_to_be_the_users(
    work: Workspace, server: Sshd, user: list[str], owner: int, mode: int, said: str
) -> None:
    os.chown(work.mountpoint, owner, owner)
    work.mountpoint.chmod(mode)
    result = work.run([*user, *work.argv(server.source("/"), *user_options(server))])
    refused(result, ExitCode.MOUNTPOINT, str(work.mountpoint), said)
    assert work.entry() is None


@pytest.mark.parametrize("name", ["with,comma", "back\\slash", "both\\,", "a blank"])
def test_a_users_source_may_have_any_name(
    work: Workspace, server: Sshd, tmp_path: Path, user: list[str], name: str
) -> None:
    directory = tmp_path / name
    directory.mkdir()
    source = server.source(directory)
    work.run([*user, *work.argv(source, *user_options(server))], check=True)
    work.daemon()
    entry = work.entry()
    assert entry is not None and os.fsdecode(entry.source) == source


def test_a_users_dead_mount_is_cleaned_up(
    work: Workspace, server: Sshd, remote: Path, user: list[str]
) -> None:
    argv = [*user, *work.argv(server.source(remote), *user_options(server))]
    work.run(argv, check=True)
    daemon = work.daemon()
    os.kill(daemon, signal.SIGKILL)
    wait_ended(daemon)
    result = work.run(argv)
    assert result.returncode == 0, result.stderr
    assert "dead mount" in one_line(result.stderr)
    assert work.daemon() != daemon
    mounts = [each for each in mountinfo.mounts() if each == work.entry()]
    assert len(mounts) == 1


def test_without_the_device_for_everybody_it_is_said(
    work: Workspace, server: Sshd, user: list[str]
) -> None:
    """As fusermount3 itself could not open it either, the check is right to refuse."""
    device = Path("/dev/fuse")
    device.chmod(0o600)
    result = work.run([*user, *work.argv(server.source("/"), *user_options(server))])
    refused(result, ExitCode.FUSE_UNAVAILABLE, "/dev/fuse", "Permission denied")


def test_waiting_for_the_mount_does_not_leave_one_behind(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    """A command interrupted by kill, not from a terminal, takes its child with it."""
    process = subprocess.Popen(
        work.argv(server.source(remote), *server.options()),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=work.env, cwd="/", start_new_session=True,
    )  # fmt: skip
    wait_until("the fork", lambda: procs.descendants(process.pid) or process.poll() is not None)
    (child, *_) = procs.descendants(process.pid) or [0]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == ExitCode.INTERRUPTED
    assert one_line(said.decode()) == "interrupted"
    assert not procs.is_alive(child) and work.entry() is None
