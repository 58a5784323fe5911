"""Servers, mounts and places on them for the tests of this package."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mount.places import Place, ServerUnderTest, SharedMount, sharing
from tests.support.commands import ORDINARY, Workspace, as_ordinary_user, fuse_for_everybody
from tests.support.sshd import SFTP_SERVER, Sshd

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_OUTCOME = pytest.StashKey[pytest.TestReport]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the outcome of a test's own part where fixtures find it."""
    report = yield
    if report.when == "call":
        item.stash[_OUTCOME] = report
    return report


@pytest.fixture(scope="session")
def openssh() -> Iterator[Sshd]:
    """OpenSSH's server with its sftp-server as a program of its own."""
    with Sshd(sftp=SFTP_SERVER) as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    """OpenSSH's server for the tests of the command; the module's own, as it may be disturbed."""
    with Sshd() as running:
        yield running


@pytest.fixture
def work() -> Iterator[Workspace]:
    """Where a user works: a home, a mountpoint, and what was started there, ended afterwards."""
    with Workspace() as made:
        yield made


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A directory on the server with one file in it."""
    (tmp_path / "file").write_text("content")
    return tmp_path


@pytest.fixture(scope="module")
def shared_mount(request: pytest.FixtureRequest, openssh: Sshd) -> Iterator[SharedMount]:
    """A mount on OpenSSH, or on the server that the test's parameter names."""
    with sharing(ServerUnderTest(getattr(request, "param", "openssh"), openssh)) as shared:
        yield shared


@pytest.fixture
def place(shared_mount: SharedMount, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A fresh directory on the mount. The test fails if it left a handle, on either side."""
    made = Place(shared_mount)
    try:
        yield made
        report = request.node.stash.get(_OUTCOME, None)
        if report is not None and report.failed:
            # Whatever the state is, the next test gets a mount that works.
            failure = AssertionError("the test failed")
            shared_mount.break_down(failure)
            print("\n".join(failure.__notes__))
        else:
            try:
                made.close()
            except BaseException as error:
                shared_mount.break_down(error)
                raise
    finally:
        made.remove()


@pytest.fixture
def user(work: Workspace, server: Sshd) -> Iterator[list[str]]:
    """What to put before a command for it to run as an ordinary user whose workspace this is."""
    key = work.ssh / "id_ed25519"
    shutil.copy(server.client_key, key)
    work.directory.chmod(0o755)
    for path in (work.home, work.ssh, key, work.mountpoint):
        os.chown(path, ORDINARY, ORDINARY)
    key.chmod(0o600)
    server.directory.chmod(0o755)  # for known_hosts
    with fuse_for_everybody():
        yield as_ordinary_user()
    with contextlib.suppress(OSError):  # another run of the tests may have sockets there
        Path(f"/tmp/pysshfs-{ORDINARY}").rmdir()
