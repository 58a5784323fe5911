"""/proc/PID/stat: in which state a process is, and when it started. Never waits for the process."""

from __future__ import annotations


def fields(pid: int | str) -> list[str]:
    """From the state on: the first is field 3 of proc_pid_stat(5). Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The name of the command is in brackets and may itself hold brackets and blanks.
        return file.read().rpartition(b")")[2].decode().split()


def state(pid: int) -> str:
    """The letter that proc_pid_stat(5) has for it; empty when there is no such process."""
    try:
        return fields(pid)[0]
    except (OSError, IndexError):
        return ""


def is_alive(pid: int) -> bool:
    """Whether the process is there and not merely waiting for its parent to take note."""
    return state(pid) not in ("", "Z", "X")
