"""The support code checks itself: servers come back and leave nothing, stuck mounts are freed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import procs
from tests.support.mounts import Mount, MountError, mounted_at, parse_mountinfo
from tests.support.sshd import SFTP_SERVER, Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd() as running:
        yield running


def a_mount(server: Sshd, directory: Path, *options: str) -> Mount:
    return Mount(server.source(directory), *server.options(), *options)


def test_mountinfo_is_unescaped() -> None:
    line = rb"36 35 0:61 / /tmp/a\040b\134\303\251 rw,nosuid shared:7 - fuse.pysshfs u@h:\040 rw"
    (entry,) = parse_mountinfo(line)
    assert entry == (61, "/tmp/a b\\é".encode(), "fuse.pysshfs")


def test_a_command_past_its_limit_is_killed_with_its_children() -> None:
    started = time.monotonic()
    with pytest.raises(procs.CommandStuck) as stuck:
        procs.run_limited(["sh", "-c", "echo begun; sleep 60 & sleep 60"], timeout=0.3)
    assert stuck.value.stdout == "begun\n"
    assert time.monotonic() - started < 5


def test_a_tree_is_ended_with_those_who_left_its_session() -> None:
    parent = subprocess.Popen(
        ["sh", "-c", "setsid sleep 60 & echo; wait"], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    below = procs.descendants(parent.pid)
    procs.end_tree(parent.pid, signal.SIGTERM)
    parent.wait(5)
    parent.stdout.close()
    assert below and not any(map(procs.is_alive, below))


@pytest.mark.parametrize("sftp", ["internal-sftp", SFTP_SERVER])
def test_sshd_serves_restarts_on_its_port_and_ends_its_sessions(sftp: str) -> None:
    with Sshd(sftp=sftp) as server:
        ssh = server.ssh()
        assert procs.run_limited([*ssh, "echo here"], timeout=20).stdout == "here\n"
        port = server.port
        with subprocess.Popen(
            [*ssh, "-s", "sftp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as session:
            assert session.stdin is not None and session.stdout is not None
            session.stdin.write(bytes.fromhex("00000005 01 00000003"))
            session.stdin.flush()
            assert session.stdout.read(5)[4] == 2  # SSH_FXP_VERSION
            pids = server.session_pids()
            server.restart()
            assert session.wait(10) == 255
        assert pids and not any(map(procs.is_alive, pids))
        assert server.port == port
        assert procs.run_limited([*ssh, "echo again"], timeout=20).stdout == "again\n"
        assert "Accepted publickey" in server.log()
    assert not server.directory.exists()


def test_a_mount_is_used_and_leaves_nothing(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    with a_mount(server, tmp_path) as mount:
        assert os.fsencode(mount.run(["cat", "file"]).stdout) == b"\xff\xfe"
        mount.python("import sys; open(sys.argv[1], 'w').write('x')", "made")
        mount.run(["mkdir", "-p", "sub"])
        mount.run(["tee", "there"], cwd="sub", input="abc")
        deadline = time.monotonic() + 5
        while mount.waiting():  # the last RELEASE is sent when its program has ended
            assert time.monotonic() < deadline
            time.sleep(0.005)
        with pytest.raises(procs.CommandFailed, match="No such file"):
            mount.run(["cat", "missing"])
    assert (tmp_path / "made").read_text() == "x"
    assert (tmp_path / "sub/there").read_text() == "abc"
    assert mount.status == 0 and mounted_at(mount.mountpoint) is None


def test_a_stuck_mount_is_freed(server: Sshd, tmp_path: Path) -> None:
    started = time.monotonic()
    with (
        pytest.raises(procs.CommandStuck),
        a_mount(server, tmp_path) as mount,
    ):
        os.kill(mount.pid, signal.SIGSTOP)
        mount.run(["ls"], timeout=0.5)
    assert mounted_at(mount.mountpoint) is None and mount.status is not None
    assert time.monotonic() - started < 10


def test_a_busy_mount_fails_the_test_that_left_it(server: Sshd, tmp_path: Path) -> None:
    with (
        pytest.raises(MountError, match="busy"),
        a_mount(server, tmp_path) as mount,
    ):
        left = mount.start(["sh", "-c", "echo; sleep 60"])
        assert left.stdout is not None
        left.stdout.readline()
    assert mounted_at(mount.mountpoint) is None


def test_a_daemon_that_cannot_mount_is_reported_with_its_log(server: Sshd, tmp_path: Path) -> None:
    with (
        pytest.raises(MountError, match="No such file or directory"),
        a_mount(server, tmp_path / "missing"),
    ):
        pass
