"""What a process may do, read from /proc."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Rights(NamedTuple):
    """The sets as bits (capabilities(7)), and whether set-user-id programs are just programs."""

    effective: int
    permitted: int
    inheritable: int
    ambient: int
    bounding: int
    no_new_privs: bool


def rights(pid: int, task: int | None = None) -> Rights:
    """Those of a process's first thread, or of another of its threads."""
    status = Path(f"/proc/{pid}/task/{task or pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return Rights(
        effective=int(fields["CapEff"], 16),
        permitted=int(fields["CapPrm"], 16),
        inheritable=int(fields["CapInh"], 16),
        ambient=int(fields["CapAmb"], 16),
        bounding=int(fields["CapBnd"], 16),
        no_new_privs=fields["NoNewPrivs"] == "1",
    )


def rights_of_all(pid: int) -> set[Rights]:
    """Of all its threads: capabilities belong to a thread, not to the process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {rights(pid, int(task.name)) for task in tasks}
