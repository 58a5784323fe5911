"""Large transfers on sessions of their own, on real servers: what arrives is right."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.mount.places import wait_until
from tests.mount.trouble import status
from tests.support import procs
from tests.support.login_server import PASSWORD, LoginServer
from tests.support.mounts import Mount
from tests.support.proxy import Proxy
from tests.support.sshd import Sshd

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.support.commands import Workspace

_MIB: Final = 1 << 20
_SIZE: Final = 24 * _MIB
#: Milliseconds: several sessions are worth while.
_FAR: Final = 25
_CONTENT: Final = random.Random(4).randbytes(_SIZE)

#: Copies one file to another, in pieces; says how it ended.
_COPY: Final = """
import os, sys
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY)
while data := os.read(source, 1 << 20):
    os.write(target, data)
os.fsync(target)
os.close(target)
print("copied", flush=True)
"""


class Far:
    """A server far away, a directory on it with `large` and `other/`, and one of ours."""

    def __init__(self, directory: Path, sshd: Sshd, proxy: Proxy) -> None:
        self.served = directory / "served"
        self.ours = directory / "ours"
        self.sshd = sshd
        self._proxy = proxy
        (self.served / "other").mkdir(parents=True)
        (self.served / "other" / "name").write_text("content")
        self.ours.mkdir()
        for place in (self.served, self.ours):
            (place / "large").write_bytes(_CONTENT)

    def mount(self, *options: str) -> Mount:
        source = self.sshd.source(self.served)
        return Mount(source, *self.sshd.options(self._proxy.port), *options)

    def sftp_servers(self) -> list[int]:
        """Their processes, the oldest first."""
        return sorted(
            pid
            for pid in self.sshd.session_pids()
            if b"internal-sftp" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )

    def connections(self) -> int:
        return self.sshd.log().count("Accepted publickey")


@contextlib.contextmanager
def _far(directory: Path, max_sessions: int = 1000) -> Iterator[Far]:
    with Sshd(max_sessions=max_sessions) as sshd, Proxy(sshd.port, _FAR) as proxy:
        sshd.trust(proxy.port)
        yield Far(directory, sshd, proxy)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    with _far(tmp_path) as made:
        yield made


def _copy_in(far: Far, mount: Mount) -> subprocess.Popen[bytes]:
    return mount.start([sys.executable, "-I", "-c", _COPY, str(far.ours / "large"), "written"])


def _copy_out(far: Far, mount: Mount) -> subprocess.Popen[bytes]:
    return mount.start([sys.executable, "-I", "-c", _COPY, "large", str(far.ours / "read")])


def _ended_well(program: subprocess.Popen[bytes]) -> None:
    out, err = program.communicate(timeout=60)
    assert (out, program.returncode) == (b"copied\n", 0), err


def _arrived(path: Path, share: float) -> None:
    """Wait until some of the file is there."""
    wait_until(f"{share} of {path.name}", lambda: _size(path) > share * _SIZE, 20)


def _size(path: Path) -> int:
    return path.stat().st_blocks * 512 if path.exists() else 0


def test_copies_in_and_out_are_equal_and_leave_nothing_open(far: Far) -> None:
    with far.mount() as mount:
        copies = [_copy_in(far, mount), _copy_out(far, mount)]
        for copy in copies:
            _ended_well(copy)
        assert (far.served / "written").read_bytes() == _CONTENT
        assert (far.ours / "read").read_bytes() == _CONTENT
        servers = far.sftp_servers()
        assert status(mount)["sftp_sessions"] == len(servers) >= 4
        assert far.connections() == 1

        wait_until("all files are closed", lambda: not _opened(far, servers), 5)


def _opened(far: Far, pids: list[int]) -> list[str]:
    """The served files that these servers have open."""
    return [
        os.readlink(link)
        for pid in pids
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if os.readlink(link).startswith(str(far.served))
    ]


@pytest.mark.parametrize("which", ["in", "out"])
def test_names_are_answered_while_a_copy_stands_still(far: Far, which: str) -> None:
    """All servers but the first are stopped: whatever waits for one of them would wait for ever."""
    content = 4 * _CONTENT
    for place in (far.served, far.ours):
        (place / "large").write_bytes(content)
    with far.mount(f"readahead={4 * _MIB}") as mount:  # or all would be here already
        copy = (_copy_in if which == "in" else _copy_out)(far, mount)
        wait_until("a lane is used", lambda: bool(_opened(far, far.sftp_servers()[1:])), 20)
        os.kill(copy.pid, signal.SIGSTOP)  # so that there is something left to wait for
        lanes = far.sftp_servers()[1:]
        for pid in lanes:
            os.kill(pid, signal.SIGSTOP)
        os.kill(copy.pid, signal.SIGCONT)
        try:
            assert mount.run(["ls", "-l", "other"]).stdout.endswith("name\n")
            assert mount.run(["cat", "other/name"]).stdout == "content"
            mount.run(["mkdir", "made"])
            assert (far.served / "made").is_dir()
            assert copy.poll() is None
        finally:
            for pid in lanes:
                os.kill(pid, signal.SIGCONT)
        _ended_well(copy)
        target = far.served / "written" if which == "in" else far.ours / "read"
        assert target.read_bytes() == content


def test_a_server_that_allows_one_session_only(tmp_path: Path) -> None:
    with _far(tmp_path, max_sessions=1) as far, far.mount() as mount:
        for copy in (_copy_in(far, mount), _copy_out(far, mount)):
            _ended_well(copy)
        assert (far.served / "written").read_bytes() == _CONTENT
        assert (far.ours / "read").read_bytes() == _CONTENT
        known = status(mount)
        assert (known["sftp_sessions"], known["reconnects"]) == (1, 0)


@pytest.mark.parametrize("which", ["in", "out"])
def test_a_lanes_server_that_is_killed(far: Far, which: str) -> None:
    with far.mount() as mount:
        copy = (_copy_in if which == "in" else _copy_out)(far, mount)
        target = far.served / "written" if which == "in" else far.ours / "read"
        _arrived(target, 0.5)
        for pid in far.sftp_servers()[1:]:
            os.kill(pid, signal.SIGKILL)
        _ended_well(copy)
        assert target.read_bytes() == _CONTENT
        assert status(mount)["reconnects"] == 0


@pytest.mark.parametrize("options", [(), ("max_conns=3",)], ids=["one", "three"])
def test_a_server_that_is_killed_in_a_striped_write(far: Far, options: tuple[str, ...]) -> None:
    with far.mount(*options) as mount:
        copies = [_copy_in(far, mount), _copy_out(far, mount)]
        for share in (0.3, 0.7):
            _arrived(far.served / "written", share)
            far.sshd.kill_sessions()
        for copy in copies:
            _ended_well(copy)
        assert (far.served / "written").read_bytes() == _CONTENT
        assert (far.ours / "read").read_bytes() == _CONTENT


def test_further_connections_are_made_when_they_are_wanted(far: Far) -> None:
    with far.mount("max_conns=3") as mount:
        mount.run(["cat", "other/name"])
        assert far.connections() == 1
        for _ in range(5):  # how many sessions a copy still gets depends on how long it takes
            _ended_well(_copy_in(far, mount))
            assert (far.served / "written").read_bytes() == _CONTENT
            carriers = [_parent(pid) for pid in far.sftp_servers()]
            fewest = min((carriers.count(pid) for pid in carriers[1:]), default=0)
            if fewest >= 2:
                break
        assert far.connections() == 3
        assert carriers.count(carriers[0]) == 1  # nothing but the first session
        assert fewest >= 2
        # A further one that is lost takes nothing with it.
        copy = _copy_in(far, mount)
        _arrived(far.served / "written", 0.5)
        os.kill(carriers[1], signal.SIGKILL)
        _ended_well(copy)
        assert (far.served / "written").read_bytes() == _CONTENT
        assert status(mount)["reconnects"] == 0


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize(("method", "logins"), [("password", 2), ("questions", 1)])
def test_an_answer_that_may_be_a_one_time_code_is_not_given_again(
    work: Workspace, tmp_path: Path, method: str, logins: int
) -> None:
    (tmp_path / "large").write_bytes(_CONTENT)
    with LoginServer(method) as server:
        options = (*server.options(), "password_stdin", "max_conns=2")
        work.mounted(server.source(str(tmp_path)), *options, stdin=PASSWORD)
        there = str(work.mountpoint)
        procs.run_limited(["cp", f"{there}/large", f"{there}/copied"], timeout=60)
        assert (tmp_path / "copied").read_bytes() == _CONTENT
        assert len(server.attempts) == logins
        work.unmount()
