"""Processes of the demo: which program a command is, who runs with a path, who has ended."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pysshfs.cli.procstat import is_alive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def script(name: str) -> str:
    """Where the console script of this very installation is, or would be."""
    return str(Path(sys.executable).parent / name)


def resolved(program: str) -> list[str]:
    """What to start for the name of a command as a user types it."""
    modules = {"pysshfs": "pysshfs.cli.main", "pysshfsctl": "pysshfs.cli.ctl"}
    if program not in modules:
        return [program]
    if os.access(script(program), os.X_OK):
        return [script(program)]
    code = f"from {modules[program]} import main; raise SystemExit(main())"
    return [sys.executable, "-c", code]


def processes_naming(path: Path) -> list[int]:
    """The processes that have this path among their arguments: a daemon keeps its command's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if os.fsencode(path) in arguments:
                    found.append(int(entry.name))
    return found


def all_ended(pids: Iterable[int], deadline: float) -> bool:
    """Wait until none of the processes runs; False when that takes longer than to `deadline`."""
    while any(map(is_alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)
