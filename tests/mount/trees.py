"""Trees of files to work on, and what there is to know of one, for comparison."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from pathlib import Path
from typing import TypeAlias

#: By path: type and permissions, size, seconds of the mtime, digest or target.
Snapshot: TypeAlias = dict[str, list[object]]


def make(top: Path, seed: int = 1) -> None:
    """Some 150 files of all kinds of sizes, modes and times, directories and symlinks."""
    choice = random.Random(seed)
    directories = [top, *(top / name for name in ("a", "a/b", "a/b/c", "empty", "sp ace", "ö"))]
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
    for number in range(150):
        path = choice.choice(directories) / f"{choice.choice(('f', 'ü', ' ', '-', '.'))}{number}"
        size = choice.choice((0, 1, 100, 4095, 4096, 4097, 30_000, 150_000))
        path.write_bytes(choice.randbytes(size))
        path.chmod(choice.choice((0o644, 0o600, 0o755, 0o444, 0o640)))
        os.utime(path, (choice.randrange(1 << 30), choice.randrange(1 << 30)))
    for number, target in enumerate(("a/b", "../nowhere", "f0/no/directory", "f0")):
        (top / "a" / f"link{number}").symlink_to(target)
    (top / "a/b").chmod(0o750)
    for directory in reversed(directories):
        os.utime(directory, (1_200_000_000, 1_200_000_000))


def snapshot(top: str, times: bool = True) -> Snapshot:
    """All that a copy must keep; `times` includes the mtimes (not of symlinks)."""
    found: Snapshot = {}
    for directory, subdirectories, files in os.walk(top):
        for name in [*subdirectories, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            what: object = None
            size = None
            if stat.S_ISREG(status.st_mode):
                size = status.st_size
                what = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                what = os.readlink(path)
            keeps_time = times and not stat.S_ISLNK(status.st_mode)
            mtime = int(status.st_mtime) if keeps_time else None
            found[os.path.relpath(path, top)] = [oct(status.st_mode), size, mtime, what]
    return found
