"""Recognising a server that waits for itself, and only that."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from pysshfs.fuse.deadlock import Deadlock, is_sftp_server, is_sftp_server_name
from pysshfs.remote.link import _may_lead_here

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", [b"sftp-server\n", b"internal-sftp\n", b"sshd\n", b"sshd-session"])
def test_servers(name: bytes) -> None:
    assert is_sftp_server_name(name)


@pytest.mark.parametrize("name", [b"bash\n", b"ssh\n", b"sftp\n", b"python3\n", b"my-sshd\n", b""])
def test_others(name: bytes) -> None:
    assert not is_sftp_server_name(name)


@pytest.fixture
def server(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A process that goes by the name of one, with a shell as its child."""
    script = tmp_path / "sshd"
    script.symlink_to("/bin/sh")
    code = "sh -c 'echo $$; exec sleep 60' & wait"
    return subprocess.Popen([script, "-c", code], stdout=subprocess.PIPE)


def test_what_a_server_started_is_none(
    server: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    assert server.stdout is not None
    child = int(server.stdout.readline())
    here, elsewhere = Deadlock(lambda: True), Deadlock(lambda: False)
    try:
        assert is_sftp_server(server.pid) and not is_sftp_server(child)
        assert not here.is_expected(server.pid, "opendir")
        with caplog.at_level(logging.WARNING):
            assert here.includes(server.pid, "lookup") and not here.includes(child, "lookup")
            assert here.includes(server.pid, "lookup")
            assert not elsewhere.includes(server.pid, "lookup")
        assert len(caplog.records) == 1 and str(server.pid) in caplog.text
        assert here.is_expected(server.pid, "opendir") and not here.is_expected(child, "opendir")
        assert not here.is_expected(server.pid, "getattr")
        assert not elsewhere.is_expected(server.pid, "opendir")
    finally:
        os.kill(child, 9)
        server.kill()
        server.communicate(timeout=10)
    assert not is_sftp_server(server.pid) and not is_sftp_server(0)


class _Socket:
    def __init__(self, ours: str, theirs: str, family: int = socket.AF_INET) -> None:
        self._ours, self._theirs, self.family = ours, theirs, family

    def getsockname(self) -> tuple[str, int]:
        return self._ours, 40000

    def getpeername(self) -> tuple[str, int]:
        return self._theirs, 22


@pytest.mark.parametrize(
    ("sock", "may"),
    [
        (_Socket("127.0.0.1", "127.0.1.1"), True),
        (_Socket("192.0.2.1", "192.0.2.1"), True),
        (_Socket("fe80::1%eth0", "fe80::1%eth0", socket.AF_INET6), True),
        (_Socket("192.0.2.1", "192.0.2.2"), False),
        (_Socket("fe80::1%eth0", "fe80::2%eth0", socket.AF_INET6), False),
        (_Socket("", "", socket.AF_UNIX), True),
        (None, True),
    ],
)
def test_where_a_connection_may_lead(sock: object, may: bool) -> None:
    assert _may_lead_here(sock) is may  # type: ignore[arg-type]  # as much of a socket as it takes
