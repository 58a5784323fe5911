"""Small files on a real mount: what the kernel need not ask for, and what is answered at once."""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from tests.mount.trouble import go, python, status
from tests.support.mounts import Mount

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.sshd import Sshd

_FILES: Final = 60

# Reads the files in order and says what they hold; looks at each again afterwards, as tar does.
_READ: Final = """
import hashlib, os
for name in sorted(os.listdir("files")):
    fd = os.open("files/" + name, os.O_RDONLY)
    data = os.read(fd, 1 << 20)
    assert os.fstat(fd).st_size == len(data)
    os.close(fd)
    print(name, hashlib.sha256(data).hexdigest())
"""
# Keeps the files open and read to the middle, until it is told to read on.
_HOLD: Final = """
import os, sys
held = [os.open(f"files/{name}", os.O_RDONLY) for name in sorted(os.listdir("files"))]
halves = [os.pread(fd, 100, 0) for fd in held]
print("ready", flush=True)
sys.stdin.readline()
for fd, half in zip(held, halves):
    assert os.pread(fd, 100, 0) == half
print("read", flush=True)
"""


@pytest.fixture
def served(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    files.mkdir()
    for i in range(_FILES):
        (files / f"{i:03}").write_bytes(b"%d " % i * (i * i + 100))
    return tmp_path


def _expected(served: Path) -> str:
    return "".join(
        f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in sorted((served / "files").iterdir())
    )


def test_the_kernel_asks_for_hardly_anything_of_small_files(server: Sshd, served: Path) -> None:
    with Mount(server.source(served), *server.options(), "debug") as mount:
        assert mount.run([sys.executable, "-I", "-c", _READ]).stdout == _expected(served)
        asked = Counter(re.findall(r"trace: \d+ answered (\w+) ", mount.log()))
    assert asked["open"] == _FILES
    assert asked["read"] <= 5  # before the pattern was seen
    assert asked["getattr"] <= 10


def test_most_is_answered_at_once(server: Sshd, served: Path) -> None:
    with Mount(server.source(served), *server.options()) as mount:
        assert mount.run([sys.executable, "-I", "-c", _READ]).stdout == _expected(served)
        known = status(mount)
        assert known["requests_answered_at_once"] >= 1.5 * _FILES  # most OPENs, every RELEASE
        assert known["requests_answered_at_once"] < known["requests_served"]
        assert known["open_files"] <= _FILES


def test_files_that_somebody_has_open_are_read_by_others(server: Sshd, served: Path) -> None:
    """What is put into the kernel's cache must never wait for a page that somebody reads."""
    with Mount(server.source(served), *server.options()) as mount:
        programs = [python(mount, _HOLD) for _ in range(3)]
        assert mount.run([sys.executable, "-I", "-c", _READ]).stdout == _expected(served)
        for program in programs:
            go(program)
            out, err = program.communicate(timeout=30)
            assert (out, program.returncode) == (b"read\n", 0), err


def test_what_is_changed_on_the_server_is_seen_by_the_next_open(server: Sshd, served: Path) -> None:
    with Mount(server.source(served), *server.options(), "prefetch_ttl=0.2") as mount:
        mount.run([sys.executable, "-I", "-c", _READ])
        for path in (served / "files").iterdir():
            path.write_bytes(b"changed " + path.name.encode())
        mount.run(["sleep", "2"])
        assert mount.run([sys.executable, "-I", "-c", _READ]).stdout == _expected(served)
