"""The `pysshfsctl` command: `status`, `flush`, `reconnect`, `umount`. It never touches a mount.

What is mounted comes from /proc/self/mountinfo, how it fares from the daemon's control socket, and
when that does not answer, from the control filesystem.

Whatever waits is bounded and ends at Ctrl-C. `flush`, and `umount` before it unmounts, wait for the
server to take what is buffered; when it does not, they fail with one line that says how much it is.
The mount then stays as it is: the daemon goes on trying.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pysshfs.cli.control_client import ask, socket_path
from pysshfs.cli.exitcodes import ExitCode
from pysshfs.cli.status_text import rendered, undelivered_text
from pysshfs.cli.usage import printable
from pysshfs.fuse import mountinfo
from pysshfs.fuse.mountpoint import unmount

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysshfs.fuse.mountinfo import MountEntry

_USAGE: Final = """usage: pysshfsctl status [MOUNTPOINT] [--json]
       pysshfsctl flush MOUNTPOINT
       pysshfsctl reconnect MOUNTPOINT
       pysshfsctl umount [--lazy] MOUNTPOINT
       pysshfsctl install-helpers [--remove] [DIRECTORY]
"""
_ANSWER_SECONDS: Final = 0.15  # status answers within 200 ms, whatever the daemon does
_COMMAND_SECONDS: Final = 5.0
_FLUSH_SECONDS: Final = 60.0


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
        case ["umount" | "unmount", "--lazy", place] if not place.startswith("-"):
            return _lazily(place)
        case ["install-helpers", *rest] if not as_json:
            return _install_helpers(rest)
        case [command, place] if not (place.startswith("-") or as_json):
            if command in _COMMANDS:
                return _command(command, place)
    sys.stderr.write(_USAGE)
    return ExitCode.USAGE


def _fail(message: str, code: ExitCode = ExitCode.FAILURE) -> ExitCode:
    print(f"pysshfsctl: {printable(message)}", file=sys.stderr)
    return code


def _socket(entry: MountEntry) -> Path:
    """Where its daemon listens."""
    return socket_path(entry.minor, mountinfo.owner(entry))


def _is_ours(entry: MountEntry) -> bool:
    """By its type, or, when -o subtype= gave it another, by the socket of its daemon."""
    if mountinfo.is_pysshfs(entry):
        return True
    return entry.fstype.startswith("fuse") and os.path.exists(_socket(entry))


def _mount_of(place: str) -> MountEntry | None:
    entry = mountinfo.mount_at(mountinfo.absolute(place))
    return entry if entry is not None and _is_ours(entry) else None


def _install_helpers(words: list[str]) -> ExitCode:
    from pysshfs.cli import installing

    work = installing.install
    if words[:1] == ["--remove"]:
        work = installing.remove
        words = words[1:]
    if len(words) > 1 or any(word.startswith("-") for word in words):
        sys.stderr.write(_USAGE)
        return ExitCode.USAGE
    try:
        links = work(*map(Path, words))
    except installing.InstallationError as error:
        return _fail(str(error))
    for link in links:
        print(f"{'installed' if work is installing.install else 'removed'}: {link}")
    return ExitCode.OK


# --- status -------------------------------------------------------------------------------------


def _status(place: str | None, as_json: bool) -> ExitCode:
    if place is None:
        mine = os.geteuid()
        entries = [e for e in mountinfo.mounts() if _is_ours(e) and mine in (0, mountinfo.owner(e))]
    else:
        entry = _mount_of(place)
        if entry is None:
            return _fail(f"{place}: no pysshfs mount", ExitCode.MOUNTPOINT)
        entries = [entry]
    states = _states(entries)
    if as_json:
        print(json.dumps(states, indent=2))
    elif not states:
        print("no pysshfs mounts")
    else:
        print("\n\n".join(rendered(state, time.time()) for state in states))
    return ExitCode.OK


def _states(entries: Sequence[MountEntry]) -> list[dict[str, Any]]:
    """All at once: the daemons that do not answer are not waited for one after the other."""
    states = [_known(entry) for entry in entries]
    threads = [
        threading.Thread(target=_ask_daemon, args=(entry, state), daemon=True)
        for entry, state in zip(entries, states, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return states


def _known(entry: MountEntry) -> dict[str, Any]:
    """What can be told without the daemon."""
    return {
        "source": os.fsdecode(entry.source),
        "mountpoint": os.fsdecode(entry.mountpoint),
        "connection": entry.minor,
        "options": entry.options,
        "waiting": mountinfo.waiting_requests(entry),
    }


def _ask_daemon(entry: MountEntry, state: dict[str, Any]) -> None:
    try:
        state |= ask(_socket(entry), "status", _ANSWER_SECONDS)
        state["answers"] = True
    except (OSError, ValueError) as error:
        state["answers"] = False
        state["reason"] = _why_silent(error)


def _why_silent(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "another user's mount"
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return "no daemon: the mount is dead"
    return "the daemon does not answer"


# --- what is done to one mount ------------------------------------------------------------------


def _command(command: str, place: str) -> ExitCode:
    entry = _mount_of(place)
    if entry is None:
        return _fail(f"{place}: no pysshfs mount", ExitCode.MOUNTPOINT)
    try:
        return _COMMANDS[command](place, entry, _socket(entry))
    except _NotDeliveredError as error:
        return _fail(f"{place}: {error}", error.code)


def _reconnect(place: str, _: MountEntry, path: Path) -> ExitCode:
    try:
        answer = ask(path, "reconnect", _COMMAND_SECONDS)
    except (OSError, ValueError) as error:
        return _fail(f"{place}: {_why_silent(error)}")
    return ExitCode.OK if answer.get("ok") else _fail(f"{place}: {answer.get('error')}")


def _flush(place: str, _: MountEntry, path: Path) -> ExitCode:
    try:
        _deliver(path)
    except (OSError, ValueError) as error:
        return _fail(f"{place}: {_why_silent(error)}")
    return ExitCode.OK


def _umount(place: str, entry: MountEntry, path: Path) -> ExitCode:
    daemon = _daemon(path)
    # A daemon that does not answer, or is gone, is no reason to keep its mount.
    with contextlib.suppress(OSError, ValueError):
        _deliver(path)
    refused = unmount(os.fsdecode(entry.mountpoint))
    if refused is not None:
        return _fail(f"{place}: {refused}")
    if daemon is not None:
        # What the last close left is delivered before the daemon ends.
        with daemon:
            try:
                ended = select.select([daemon], [], [], _FLUSH_SECONDS)[0]
            except KeyboardInterrupt:
                return _fail(
                    f"{place}: interrupted: unmounted, but its daemon has not ended yet",
                    ExitCode.INTERRUPTED,
                )
            if not ended:
                return _fail(f"{place}: unmounted, but its daemon does not end")
    return ExitCode.OK


def _lazily(place: str) -> ExitCode:
    """Out of sight at once, whoever uses it. For a dead mount that is all there is to do."""
    entry = _mount_of(place)
    if entry is None:
        return _fail(f"{place}: no pysshfs mount", ExitCode.MOUNTPOINT)
    refused = unmount(os.fsdecode(entry.mountpoint), lazy=True)
    return ExitCode.OK if refused is None else _fail(f"{place}: {refused}")


_COMMANDS: Final[dict[str, Callable[[str, MountEntry, Path], ExitCode]]] = {
    "flush": _flush,
    "reconnect": _reconnect,
    "umount": _umount,
    "unmount": _umount,
}


class _NotDeliveredError(Exception):
    """The server has not taken everything; the message says how much it has not."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


def _deliver(path: Path) -> None:
    """Have the daemon deliver what is buffered; say so if there is something to wait for.

    Raises `_NotDeliveredError`, and OSError or ValueError when the daemon does not answer at all.
    """
    before = ask(path, "status", 1.0)
    kinds = "unacknowledged_bytes", "unanswered_operations", "unreported_failures"
    if not any(before.get(kind) for kind in kinds):
        return
    code, words = ExitCode.FAILURE, ""
    try:
        if sys.stderr.isatty():
            print(
                f"pysshfsctl: {printable(undelivered_text(before, time.time()))}", file=sys.stderr
            )
        answer = ask(path, "flush", _FLUSH_SECONDS)
        if answer.get("ok"):
            return
        words = f"{answer.get('error')}: "
    except KeyboardInterrupt:
        code, words = ExitCode.INTERRUPTED, "interrupted: "
    except (OSError, ValueError):
        pass
    raise _NotDeliveredError(words + _left(path, before), code)


def _left(path: Path, before: dict[str, Any]) -> str:
    """What is not delivered now, or was not when the daemon answered last."""
    try:
        now = ask(path, "status", 1.0)
        return undelivered_text(now, time.time())
    except (OSError, ValueError, KeyError):
        return f"{undelivered_text(before, time.time())}; now the daemon does not answer"


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
