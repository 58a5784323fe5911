"""The `pysshfsctl` command: `status` and `umount`. It never touches a mount itself.

What is mounted comes from /proc/self/mountinfo, how it fares from the daemon's control socket, and
when that does not answer, from the control filesystem.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from pysshfs.cli.control_client import ask, socket_path
from pysshfs.cli.exitcodes import ExitCode
from pysshfs.fuse import mountinfo
from pysshfs.fuse.mountpoint import unmount

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pysshfs.fuse.mountinfo import MountEntry

_USAGE: Final = """usage: pysshfsctl status [MOUNTPOINT] [--json]
       pysshfsctl umount MOUNTPOINT
"""
_ANSWER_SECONDS: Final = 0.15  # status answers within 200 ms, whatever the daemon does
_FLUSH_SECONDS: Final = 60


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code; see `ExitCode`."""
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough; the interpreter's own flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except KeyboardInterrupt:
        return _fail("interrupted", ExitCode.INTERRUPTED)
    return code


def _run(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    match words:
        case ["-h" | "--help"]:
            sys.stdout.write(_USAGE)
            return ExitCode.OK
        case ["status"]:
            return _status(None, as_json)
        case ["status", place] if not place.startswith("-"):
            return _status(place, as_json)
        case ["umount" | "unmount", place] if not (place.startswith("-") or as_json):
            return _umount(place)
    sys.stderr.write(_USAGE)
    return ExitCode.USAGE


def _fail(message: str, code: ExitCode = ExitCode.FAILURE) -> ExitCode:
    print(f"pysshfsctl: {message}", file=sys.stderr)
    return code


def _absolute(place: str) -> bytes:
    """The mountpoint as mountinfo has it, found without a stat of the mount itself: only what
    lies above it is resolved."""
    above, name = os.path.split(os.path.abspath(place))
    found = os.fsencode(os.path.join(os.path.realpath(above), name))
    # Nothing is mounted on it: then it may be looked at, and may be a link to a mountpoint.
    return found if mountinfo.mount_at(found) else os.fsencode(os.path.realpath(place))


def _owner(entry: MountEntry) -> int:
    for option in entry.super_options.split(","):
        if option.startswith("user_id="):
            return int(option.removeprefix("user_id="))
    return 0


def _is_ours(entry: MountEntry) -> bool:
    """By its type, or, when -o subtype= gave it another, by the socket of its daemon."""
    if mountinfo.is_pysshfs(entry):
        return True
    return entry.fstype.startswith("fuse") and socket_path(entry.minor, _owner(entry)).exists()


def _mount_of(place: str) -> MountEntry | None:
    entry = mountinfo.mount_at(_absolute(place))
    return entry if entry is not None and _is_ours(entry) else None


# --- status -------------------------------------------------------------------------------------


def _status(place: str | None, as_json: bool) -> ExitCode:
    if place is None:
        mine = os.geteuid()
        entries = [e for e in mountinfo.mounts() if _is_ours(e) and mine in (0, _owner(e))]
    else:
        entry = _mount_of(place)
        if entry is None:
            return _fail(f"{place}: no pysshfs mount", ExitCode.MOUNTPOINT)
        entries = [entry]
    states = [_state(entry) for entry in entries]
    if as_json:
        print(json.dumps(states, indent=2))
    elif not states:
        print("no pysshfs mounts")
    else:
        print("\n\n".join(_rendered(state) for state in states))
    return ExitCode.OK


def _state(entry: MountEntry) -> dict[str, Any]:
    state: dict[str, Any] = {
        "source": os.fsdecode(entry.source),
        "mountpoint": os.fsdecode(entry.mountpoint),
        "connection": entry.minor,
        "options": entry.options,
        "waiting": mountinfo.waiting_requests(entry),
    }
    try:
        state |= ask(socket_path(entry.minor, _owner(entry)), "status", _ANSWER_SECONDS)
        state["answers"] = True
    except (OSError, ValueError) as error:
        state["answers"] = False
        state["reason"] = _why_silent(error)
    return state


def _why_silent(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "another user's mount"
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return "no daemon: the mount is dead"
    return "the daemon does not answer"


def _rendered(state: dict[str, Any]) -> str:
    lines = [f"{state['source']} on {state['mountpoint']}"]
    if state["answers"]:
        seconds = int(time.time() - state["mounted_at"])
        lines += [
            f"  state        {state['state']}, mounted for {seconds} s, pid {state['pid']}",
            f"  server       {state['server'] or 'unknown'}, cipher {state['cipher']}",
            f"  traffic      {state['bytes_received']:,} bytes in, {state['bytes_sent']:,} out, "
            f"{state['sftp_requests']:,} SFTP requests, {state['sftp_in_flight']} in flight",
            f"  kernel       {state['requests_served']:,} requests, {len(state['requests'])} being"
            f" served, {state['interrupts_honoured']} interrupted",
            f"  buffered     {state['unacknowledged_bytes']:,} bytes not acknowledged",
            f"  tables       {state['inodes']:,} inodes, {state['open_files']} open files",
        ]
    else:
        lines.append(f"  state        {state['reason']}")
    waiting = state["waiting"]
    if waiting is None:
        lines.append(
            "  waiting      unknown: mount -t fusectl none /sys/fs/fuse/connections (as root)"
        )
    else:
        lines.append(f"  waiting      {waiting} requests")
    return "\n".join(lines)


# --- umount -------------------------------------------------------------------------------------


def _umount(place: str) -> ExitCode:
    entry = _mount_of(place)
    if entry is None:
        return _fail(f"{place}: no pysshfs mount", ExitCode.MOUNTPOINT)
    path = socket_path(entry.minor, _owner(entry))
    daemon = _daemon(path)
    _flush(path)
    refused = unmount(os.fsdecode(entry.mountpoint))
    if refused is not None:
        return _fail(f"{place}: {refused}")
    if daemon is not None:
        # What the last close left is delivered before the daemon ends.
        with daemon:
            if not select.select([daemon], [], [], _FLUSH_SECONDS)[0]:
                return _fail(f"{place}: unmounted, but its daemon does not end")
    return ExitCode.OK


def _flush(path: Path) -> None:
    """Have the daemon deliver what is buffered; say so if there is something to wait for."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        waiting = int(ask(path, "status", 1.0)["unacknowledged_bytes"])
        if waiting:
            if sys.stderr.isatty():
                print(f"pysshfsctl: delivering {waiting:,} bytes", file=sys.stderr)
            ask(path, "flush", _FLUSH_SECONDS)


class _Process:
    """A process to wait for, by a descriptor that no other process can take over."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def fileno(self) -> int:
        return self._fd

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _daemon(path: Path) -> _Process | None:
    try:
        return _Process(int(ask(path, "status", 1.0)["pid"]))
    except (OSError, ValueError, KeyError):
        return None
