"""The files the workloads work on, the same for every run, and how two trees are compared.

Owns nothing: writes below the directory it is given.  Trees are only ever read and written in
the server's own directories here, never through a mount.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.procs import run_limited

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 20260701
#: In the full tree: directories for each file, and the mean size of a file in bytes.
_DIRECTORY_RATIO = 95 / 1024
_MEAN_SIZE = 14_000_000 / 1024
#: Every file is this old, so that git's index is never younger than what it describes.
_MTIME = 1_700_000_000

NEEDLE = "quicksilver"
_WORDS = (
    "account", "border", "copper", "delta", "engine", "factor", "garden", "handle", "island",
    "journey", "kernel", "ladder", "margin", "network", "object", "packet", "quarter", "record",
    "signal", "temper", "update", "vector", "window", "yellow", "zone",
)  # fmt: skip


def make_tree(root: Path, files: int) -> None:
    """Write `files` text files, of widely varying sizes, in directories up to four deep."""
    chance = random.Random(SEED)
    text = _text(chance, 1 << 20)
    directories = _directories(chance, root, max(1, round(files * _DIRECTORY_RATIO)))
    sizes = _sizes(chance, files)
    for number, size in enumerate(sizes):
        start = chance.randrange(len(text) - size)
        content = text[start : start + size]
        if number % 8 == 0:
            content += f"\n{NEEDLE} {number}\n".encode()
        path = directories[number % len(directories)] / f"file-{number:04d}.txt"
        path.write_bytes(content)
    for path in [root, *root.rglob("*")]:
        os.utime(path, (_MTIME, _MTIME))


def _text(chance: random.Random, size: int) -> bytes:
    lines = []
    left = size
    while left > 0:
        lines.append(" ".join(chance.choices(_WORDS, k=chance.randint(4, 14))))
        left -= len(lines[-1]) + 1
    return "\n".join(lines).encode()[:size]


def _directories(chance: random.Random, root: Path, count: int) -> list[Path]:
    """`count` directories below `root`, which is not one of them."""
    root.mkdir(parents=True)
    made: list[Path] = []
    near: list[Path] = []
    deepest = len(root.parts) + 4
    for number in range(count):
        parent = chance.choice(near) if near and chance.random() < 0.8 else root
        made.append(parent / f"dir-{number:03d}")
        made[-1].mkdir()
        if len(made[-1].parts) < deepest:
            near.append(made[-1])
    return made


def _sizes(chance: random.Random, files: int) -> list[int]:
    """Many small and a few large sizes, in bytes, that add up to `files` times the mean."""
    weights = [min(chance.lognormvariate(0, 1.4), 30.0) for _ in range(files)]
    unit = _MEAN_SIZE * files / sum(weights)
    return [min(int(weight * unit), 900_000) for weight in weights]


def make_repository(root: Path, source: Path) -> None:
    """A git repository with the files of `source`, packed, committed and unchanged."""
    shutil.copytree(source, root)
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for arguments in (
        ["init", "-q"],
        # Inode numbers and change times differ from one mount to the next.
        ["config", "core.checkStat", "minimal"],
        ["config", "core.trustctime", "false"],
        ["add", "."],
        [*identity, "commit", "-q", "-m", "tree"],
        ["gc", "-q"],
        ["status", "--porcelain"],
    ):
        run_limited(["git", "-C", str(root), *arguments], timeout=120)


def make_data(path: Path, size: int) -> None:
    """A file of `size` incompressible bytes."""
    chance = random.Random(SEED + size)
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(chance.randbytes(min(1 << 20, size - start)))


def make_entries(root: Path, count: int) -> None:
    """A directory of `count` empty files."""
    root.mkdir(parents=True)
    for number in range(count):
        os.mknod(root / f"entry-{number:07d}", 0o644 | stat.S_IFREG)


def make_bare_tree(root: Path, files: int) -> None:
    """Like `make_tree`, but all files are empty."""
    chance = random.Random(SEED)
    directories = _directories(chance, root, max(1, round(files * _DIRECTORY_RATIO)))
    for number in range(files):
        path = directories[number % len(directories)] / f"file-{number:06d}"
        os.mknod(path, 0o644 | stat.S_IFREG)


def difference(one: Path, other: Path, *, attributes: bool = False) -> str | None:
    """The first difference in names, kinds, sizes or contents, in words; None if there is none.

    With `attributes` also in permissions and modification times, to the second.
    """
    for left, right in zip_longest(_entries(one), _entries(other)):
        if left is None or right is None or left[0] != right[0]:
            return f"{left and left[0]} is not {right and right[0]}"
        if left[1:] != right[1:]:
            return f"{left[0]}: sizes {left[1]} and {right[1]}"
        here, there = one / left[0], other / left[0]
        if left[1] is not None and here.read_bytes() != there.read_bytes():
            return f"{left[0]}: contents differ"
        if attributes and _mode_and_time(here) != _mode_and_time(there):
            return f"{left[0]}: {_mode_and_time(here)} and {_mode_and_time(there)}"
    return None


def _mode_and_time(path: Path) -> str:
    status = path.stat()
    return f"{stat.filemode(status.st_mode)} {int(status.st_mtime)}"


def _entries(root: Path) -> Iterator[tuple[str, int | None]]:
    """Names relative to `root` in a fixed order; the size of a file, None for a directory."""
    for directory, names, files in os.walk(root):
        names.sort()
        here = Path(directory)
        yield str(here.relative_to(root)), None
        for name in sorted(files):
            path = here / name
            yield str(path.relative_to(root)), path.stat().st_size
