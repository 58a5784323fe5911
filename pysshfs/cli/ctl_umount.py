"""`pysshfsctl umount`: flush, unmount, wait for the daemon's end.

- `--lazy` detaches the mount; whoever uses it goes on, and the daemon ends after the last.
- `--force` does not wait for the server: the connection is aborted, then the mount goes, busy or
  not. What was not delivered the daemon saves.
- `--kill` ends the processes that use it first, once the user agrees.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from pysshfs.cli.control_client import remove_stale, runtime_directory
from pysshfs.cli.ctl_codes import CtlCode, CtlError
from pysshfs.cli.ctl_commands import abort
from pysshfs.cli.ctl_flush import FLUSH_SECONDS, deliver
from pysshfs.cli.ctl_mounts import Silent, ask_daemons, is_stopped, mount_of
from pysshfs.cli.usage import printable
from pysshfs.fuse.mountpoint import BUSY, unmount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pysshfs.cli.ctl_parser import Arguments
    from pysshfs.cli.mount_users import User
    from pysshfs.fuse.mountinfo import MountEntry

_ABORTED_SECONDS: Final = 10.0  # that the daemon may take to end, once it is aborted
_TERM_SECONDS: Final = 3.0  # before SIGTERM is followed by SIGKILL
_KILL_SECONDS: Final = 3.0  # after that


def run(arguments: Arguments) -> CtlCode:
    place = arguments.place or ""
    entry = mount_of(place)
    with contextlib.suppress(OSError):
        os.chdir("/")  # this process is not to keep it busy itself
    is_forced = arguments.has("--force")
    if arguments.has("--kill"):
        _end_users(place, entry, is_agreed=arguments.has("--yes"), is_forced=is_forced)
    daemon = _daemon(entry)
    try:
        if is_forced:
            _abort(place, entry, daemon)
        elif not arguments.has("--lazy"):
            # A daemon that does not answer, or is gone, is no reason to keep its mount.
            with contextlib.suppress(Silent):
                deliver(place, entry)
        _unmount(place, entry, is_forced, arguments.has("--lazy"))
        if daemon is not None and not (is_forced or arguments.has("--lazy")):
            _await_end(place, daemon)
    finally:
        if daemon is not None:
            os.close(daemon)
    with contextlib.suppress(OSError):
        remove_stale(runtime_directory(os.geteuid()))
    return CtlCode.OK


def _abort(place: str, entry: MountEntry, daemon: int | None) -> None:
    """And give the daemon the time to save what was not delivered. Raises CtlError when it cannot
    be aborted, and there is a daemon that would wait for the server."""
    try:
        abort(place, entry)
    except CtlError as error:
        if daemon is not None and error.code is CtlCode.NO_CONTROL:
            raise
    if daemon is not None:
        select.select([daemon], [], [], _ABORTED_SECONDS)


def _unmount(place: str, entry: MountEntry, is_forced: bool, is_lazy: bool) -> None:
    mountpoint = os.fsdecode(entry.mountpoint)
    refused = unmount(mountpoint, lazy=is_lazy)
    if refused == BUSY and is_forced:
        refused = unmount(mountpoint, lazy=True)
    if refused == BUSY:
        raise CtlError(f"{place}: {refused}", CtlCode.BUSY)
    if refused is not None:
        raise CtlError(f"{place}: {refused}")


def _daemon(entry: MountEntry) -> int | None:
    """A pidfd of who listens there: no other process can take it over."""
    (answer,) = ask_daemons([entry], "status", 1.0)
    pid = answer.pid
    if answer.told is not None and isinstance(answer.told.get("pid"), int):
        pid = answer.told["pid"]
    if pid is None or is_stopped(pid):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _await_end(place: str, daemon: int) -> None:
    """What the last close left is delivered before the daemon ends."""
    try:
        ended = select.select([daemon], [], [], FLUSH_SECONDS)[0]
    except KeyboardInterrupt:
        raise CtlError(
            f"{place}: interrupted: unmounted, but its daemon has not ended yet",
            CtlCode.INTERRUPTED,
        ) from None
    if not ended:
        raise CtlError(f"{place}: unmounted, but its daemon does not end")


# --- the processes that use it ------------------------------------------------------------------


def _end_users(place: str, entry: MountEntry, *, is_agreed: bool, is_forced: bool) -> None:
    """List them, and end them once the user agrees. Raises CtlError when some stay."""
    from pysshfs.cli.mount_users import users_of

    handles: dict[int, User] = {}
    for user in users_of(entry):
        with contextlib.suppress(ProcessLookupError):  # held before the question: numbers return
            handles[os.pidfd_open(user.pid)] = user
    if not handles:
        return
    try:
        for user in handles.values():
            print(printable(described(user)), flush=True)
        if not is_agreed and not _agrees(len(handles)):
            raise CtlError(f"{place}: nothing was killed; agree with --yes", CtlCode.BUSY)
        if is_forced:
            with contextlib.suppress(CtlError):  # else they might wait for the server
                abort(place, entry)
        left = _end(handles)
    finally:
        for handle in handles:
            os.close(handle)
    if left:
        numbers = ", ".join(str(user.pid) for user in left)
        raise CtlError(
            f"{place}: processes that do not end: {numbers}; --force frees those that wait for"
            " the server", CtlCode.BUSY,
        )  # fmt: skip


def described(user: User) -> str:
    return f"{user.pid:>8}  uid {user.uid:<6} {user.program:<16} {', '.join(user.how)}"


def _agrees(count: int) -> bool:
    if not sys.stdin.isatty():
        return False
    those = "this process" if count == 1 else f"these {count} processes"
    print(f"End {those} (yes/no)? ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _end(handles: Mapping[int, User]) -> list[User]:
    """SIGTERM to the processes of these pidfds, then SIGKILL; those that are left."""
    waiting = dict(handles)
    for which, seconds in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
        for handle in waiting:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(handle, which)
        _await_all(waiting, seconds)
    return list(waiting.values())


def _await_all(waiting: dict[int, User], seconds: float) -> None:
    """Take those out that end in time."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    for handle in waiting:
        poll.register(handle, select.POLLIN)
    while waiting:
        ready = poll.poll(max(deadline - time.monotonic(), 0) * 1000)
        if not ready:
            return
        for handle, _ in ready:
            poll.unregister(handle)
            del waiting[handle]
