"""Pairs of changes of which the first, carried out once more, undoes the second.

Run as a file on the mount, with the name of a pair: it prepares, says "ready", waits for a line,
and makes both changes. Standard library only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 20_000

_open: list[int] = []  # descriptors of "file", for what is to be done without opening it


def _write(name: str, byte: bytes, flags: int = 0) -> None:
    fd = os.open(name, os.O_WRONLY | flags, 0o644)
    os.write(fd, byte * SIZE)
    os.fsync(fd)
    os.close(fd)


def _rewrite(byte: bytes) -> None:
    os.pwrite(_open[0], byte * SIZE, 0)
    os.fsync(_open[0])


def _create(name: str, byte: bytes) -> None:
    _write(name, byte, os.O_CREAT | os.O_EXCL)


def _content(name: str) -> bytes:
    """The byte that a file is full of; anything else is shown as it is."""
    data = Path(name).read_bytes()
    return data[:1] if data and data == data[:1] * SIZE else data[:100]


class Pair(NamedTuple):
    first: Callable[[], object]
    second: Callable[[], object]
    found: Callable[[], object]  # what is there afterwards, when called in the directory
    wanted: object


PAIRS = {
    "write": Pair(
        lambda: _rewrite(b"1"),
        lambda: _rewrite(b"2"),
        lambda: _content("file"),
        b"2",
    ),
    "truncate": Pair(
        lambda: os.truncate("file", 10),
        lambda: _write("file", b"2"),
        lambda: _content("file"),
        b"2",
    ),
    "open-truncating": Pair(
        lambda: os.close(os.open("file", os.O_WRONLY | os.O_TRUNC)),
        lambda: _write("file", b"2"),
        lambda: _content("file"),
        b"2",
    ),
    "unlink": Pair(
        lambda: os.unlink("file"),
        lambda: _create("file", b"2"),
        lambda: _content("file"),
        b"2",
    ),
    "rename": Pair(
        lambda: os.rename("file", "other"),
        lambda: _create("file", b"2"),
        lambda: (_content("file"), _content("other")),
        (b"2", b"0"),
    ),
    "rmdir": Pair(
        lambda: os.rmdir("dir"),
        lambda: os.mkdir("dir"),
        lambda: os.path.isdir("dir"),
        True,
    ),
    "chmod": Pair(
        lambda: os.chmod("file", 0o600),
        lambda: os.chmod("file", 0o640),
        lambda: os.stat("file").st_mode & 0o7777,
        0o640,
    ),
    "utime": Pair(
        lambda: os.utime("file", (1_000, 1_000)),
        lambda: os.utime("file", (2_000, 2_000)),
        lambda: os.stat("file").st_mtime,
        2_000,
    ),
}


def main(name: str) -> None:
    pair = PAIRS[name]
    _create("file", b"0")
    _create("other", b"0")
    os.mkdir("dir")
    _open.append(os.open("file", os.O_RDWR))
    for path in (".", "file", "other", "dir"):
        os.stat(path)
    print("ready", flush=True)
    sys.stdin.readline()
    pair.first()
    pair.second()
    found = pair.found()
    if found != pair.wanted:
        sys.exit(f"{name}: {found!r} instead of {pair.wanted!r}")


if __name__ == "__main__":
    main(sys.argv[1])
