"""A link on which each answer takes 20 ms: what programs wait for is asked ahead of them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.mount.trouble import status
from tests.support.mounts import Mount
from tests.support.procs import run_limited
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.sshd import Sshd

_RTT_MS: Final = 20.0
_GIT: Final = {"GIT_CONFIG_GLOBAL": "/dev/null", "LC_ALL": "C"}


@pytest.fixture
def far(server: Sshd) -> Iterator[int]:
    """The port of a server that is that far away."""
    with Proxy(server.port, _RTT_MS) as proxy:
        server.trust(proxy.port)
        yield proxy.port


def test_a_directory_is_opened_with_its_lookup(server: Sshd, far: int, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory/file").write_text("content")
    with Mount(server.source(tmp_path), *server.options(far)) as mount:
        assert mount.run(["ls", "directory"]).stdout == "file\n"
        told = status(mount)
        assert (told["directories_opened_ahead"], told["directories_opened_in_vain"]) == (1, 0)
        assert mount.run(["cat", "directory/file"]).stdout == "content"
        mount.run(["rm", "-r", "directory"])
    assert list(tmp_path.iterdir()) == []


def test_git_finds_its_absent_names_asked_for(server: Sshd, far: int, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for number in range(60):
        below = repository / f"{number:02}/below"
        below.mkdir(parents=True)
        (below / "file").write_text(f"{number}\n")
    _git(repository, "init", "-q")
    _git(repository, "add", ".")
    # Listings are soon too old to answer for what they do not have.
    with Mount(
        server.source(tmp_path), *server.options(far), "negative_timeout=0.3", "debug"
    ) as mount:
        argv = ["git", "status", "--porcelain", "--untracked-files=all"]
        changes = mount.run(argv, cwd="repository", env=_GIT, timeout=60).stdout
        assert changes == _git(repository, *argv[1:])
        asked = len(re.findall(r"read lookup .*\.gitignore'", mount.log()))
        assert status(mount)["names_asked_ahead"] > asked / 2 > 30
        # What another client makes is found when that time is over.
        (repository / "20/.gitignore").write_text("*.tmp\n")
        (repository / "20/x.tmp").touch()
        mount.run(["sleep", "0.3"])
        found = mount.run(argv, cwd="repository", env=_GIT, timeout=60).stdout
    assert found == _git(repository, *argv[1:])


def _git(repository: Path, *arguments: str) -> str:
    argv = ["git", "-C", str(repository), *arguments]
    return run_limited(argv, timeout=60, env={**os.environ, **_GIT}).stdout
