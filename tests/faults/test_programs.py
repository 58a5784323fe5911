"""The server is killed in the middle of ordinary programs, and they end well all the same.

Killed means SIGKILL to sshd and all its children; it comes back on the same port a moment later.
"In the middle" is when the program has got so far, as seen on the server's side or in its output;
that it had not ended by then is part of each test, and so is that the mount connected anew.
"""

from __future__ import annotations

import filecmp
import functools
import os
import random
import shutil
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults import transactions
from tests.mount import trees
from tests.mount.places import Place, own_mount, read_a_line, status, wait_until
from tests.support import procs

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.support.sshd import Sshd

#: Seconds that the server is away.
OUTAGE = 0.3

#: Seconds in which a program must get to its next interruption, and to its end.
LIMIT = 60.0

MIB = 1 << 20


@pytest.fixture
def place(server: Sshd) -> Iterator[Place]:
    """A directory on a mount of its own. On leaving, nothing may be held on either side."""
    with own_mount(server) as made:
        yield made


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 MiB that are nowhere alike."""
    path = tmp_path_factory.mktemp("big") / "file"
    with path.open("wb") as file:
        choice = random.Random(5)
        for _ in range(25):
            file.write(choice.randbytes(8 * MIB))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 300 files in directories, with symlinks, modes and times."""
    top = tmp_path_factory.mktemp("files") / "tree"
    for seed in (1, 2):
        trees.make(top / f"part{seed}", seed)
    return top


def reconnects(place: Place) -> int:
    assert place.mount.status is None, f"the daemon ended; its log:\n{place.mount.log()}"
    count: int = status(place.mount)["reconnects"]
    return count


def kill_server(server: Sshd) -> None:
    """SIGKILL to all of it, and a new one a moment later."""
    server.kill()
    time.sleep(OUTAGE)  # this is the outage, not a wait for something
    server.start()


def kill_when(
    what: str,
    reached: Callable[[], bool],
    program: subprocess.Popen[bytes],
    place: Place,
    server: Sshd,
) -> None:
    """Kill the server once the program has got so far; returns when the mount has reconnected."""
    wait_until(what, lambda: reached() or program.poll() is not None, LIMIT)
    assert program.poll() is None, f"ended before it was disturbed: {program.communicate()}"
    before = reconnects(place)
    kill_server(server)
    wait_until("the reconnect", lambda: reconnects(place) > before, LIMIT)


def kill_at(
    marks: Sequence[int],
    progress: Callable[[], int],
    program: subprocess.Popen[bytes],
    place: Place,
    server: Sshd,
) -> None:
    """Kill the server each time the progress has passed the next mark."""
    for mark in marks:
        passed = functools.partial(_has_passed, progress, mark)
        kill_when(f"progress is {mark}", passed, program, place, server)


def _has_passed(progress: Callable[[], int], mark: int) -> bool:
    return progress() > mark


def finish(program: subprocess.Popen[bytes]) -> None:
    """It must end well, and without a word of complaint."""
    _, complaints = program.communicate(timeout=LIMIT)
    assert (program.returncode, complaints) == (0, b"")


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def files_below(path: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(path))


def locally(argv: list[str], cwd: Path) -> str:
    argv = ["/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(cwd), *argv]
    return procs.run_limited(argv, timeout=LIMIT, env=_git_environment()).stdout


def _git_environment() -> dict[str, str]:
    return {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }


def test_copying_in(place: Place, server: Sshd, big_file: Path) -> None:
    copy = place.server / "copy"
    program = place.start(["cp", str(big_file), "copy"])
    kill_at([20 * MIB, 80 * MIB, 140 * MIB], lambda: size(copy), program, place, server)
    finish(program)
    assert filecmp.cmp(copy, big_file, shallow=False)


def test_copying_out(place: Place, server: Sshd, big_file: Path, tmp_path: Path) -> None:
    shutil.copyfile(big_file, place.server / "original")
    copy = tmp_path / "copy"
    program = place.start(["cp", "original", str(copy)])
    kill_at([20 * MIB, 80 * MIB, 140 * MIB], lambda: size(copy), program, place, server)
    finish(program)
    assert filecmp.cmp(copy, big_file, shallow=False)


def test_cloning(place: Place, server: Sshd, files: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    locally(["cp", "-a", str(files), str(work)], tmp_path)
    (work / "large").write_bytes(random.Random(6).randbytes(24 * MIB))
    for argv in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        locally(["git", *argv], work)
    locally(["git", "clone", "-q", "--bare", str(work), "bare.git"], tmp_path)
    locally(["git", "clone", "-q", "bare.git", "reference"], tmp_path)

    clone = place.server / "clone"
    source = f"file://{tmp_path}/bare.git"
    program = place.start(["env", *_settings(), "git", "clone", "-q", source, "clone"])

    def fetched() -> bool:
        return any(size(pack) > 8 * MIB for pack in (clone / ".git/objects/pack").glob("tmp_*"))

    def checked_out() -> bool:
        return files_below(clone / "part1") > 50  # of 150, and there are 150 more

    kill_when("8 MiB of the pack", fetched, program, place, server)
    kill_when("50 files", checked_out, program, place, server)
    finish(program)
    assert locally(["git", "-c", "safe.directory=*", "fsck", "--strict"], clone) == ""
    assert locally(["git", "-c", "safe.directory=*", "status", "--porcelain"], clone) == ""
    assert _work_tree(clone) == _work_tree(tmp_path / "reference")


def _settings() -> list[str]:
    return ["GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null"]


def _work_tree(top: Path) -> trees.Snapshot:
    found = trees.snapshot(str(top), times=False)
    return {path: what for path, what in found.items() if not path.startswith(".git")}


def test_unpacking(place: Place, server: Sshd, files: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    locally(["tar", "cf", str(archive), "."], files)
    program = place.start(["tar", "xpf", str(archive)])
    kill_at([60, 200], lambda: files_below(place.server), program, place, server)
    finish(program)
    assert trees.snapshot(str(place.server)) == trees.snapshot(str(files))


def test_synchronising(place: Place, server: Sshd, files: Path) -> None:
    program = place.start(["rsync", "-a", f"{files}/", "copy"])
    copy = place.server / "copy"
    kill_at([60, 200], lambda: files_below(copy), program, place, server)
    finish(program)
    assert trees.snapshot(str(copy)) == trees.snapshot(str(files))


def test_transactions(place: Place, server: Sshd) -> None:
    count = 100
    argv = [sys.executable, "-I", "-S", transactions.__file__, "base", str(count)]
    program = place.start(argv)
    for number in range(count):
        assert read_a_line(program, LIMIT) == b"%d\n" % number
        if number in (10, 50, 80):
            kill_when("a transaction", lambda: True, program, place, server)
    finish(program)
    assert transactions.examine(str(place.server / "base"), count) == ""
    assert [path.name for path in place.server.iterdir()] == ["base"]
