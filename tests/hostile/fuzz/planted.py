"""Bugs that the fuzzer must find, each planted in a copy of the program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

_ROOT: Final = Path(__file__).resolve().parents[3]


class Bug(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    found: str  # in the fuzzer's words


BUGS: Final = (
    Bug(
        "a length is compared with the whole packet, not with what is left of it",
        "pysshfs/remote/wire.py",
        "if count > self._end - at:",
        "if count > self._end:",
        "struct.error|error: unpack_from",
    ),
    Bug(
        "a request is kept when it has its answer",
        "pysshfs/remote/session.py",
        "pending = self._pending.pop(request_id, None)",
        "pending = self._pending.get(request_id)",
        "requests are out",
    ),
    Bug(
        "a session that is lost tells the first request only",
        "pysshfs/remote/session.py",
        "        for request in pending.values():\n            request.reply.set_error(loss)",
        "        for request in list(pending.values())[:1]:\n"
        "            request.reply.set_error(loss)",
        "",
    ),
    Bug(
        "an end before the size is believed",
        "pysshfs/vfs/readahead.py",
        "if size is None or size <= end:",
        "if size is None or size >= end:",
        "and no error",
    ),
    Bug(
        "a link may climb once more than it is deep",
        "pysshfs/vfs/symlinks.py",
        "return climbed <= depth and",
        "return climbed <= depth + 1 and",
        "leads out",
    ),
)


def copy_with(bug: Bug, place: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("pysshfs", "tests"):
        shutil.copytree(_ROOT / name, place / name, ignore=ignored)
    file = place / bug.file
    text = file.read_text()
    assert text.count(bug.old) == 1, f"{text.count(bug.old)} places in {bug.file}: {bug.name}"
    file.write_text(text.replace(bug.old, bug.new))


def fuzzed(place: Path, count: int) -> subprocess.CompletedProcess[str]:
    """The fuzzer on a copy, for at most so many conversations."""
    argv = [sys.executable, "-m", "tests.hostile.fuzz", "--seed", "planted", "--count", str(count)]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    return subprocess.run(
        argv, cwd=place, env=environment, capture_output=True, text=True, timeout=300
    )
