"""Which mount is meant, whose it is, and where its daemon listens. Never touches a mount.

What is mounted comes from /proc/self/mountinfo. Imports little: `pysshfsctl status` has 200 ms.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from pysshfs.cli import procstat
from pysshfs.cli.control_client import Answer, ask_all, is_listened_at, question, socket_path
from pysshfs.cli.ctl_codes import CtlCode, CtlError
from pysshfs.fuse import mountinfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysshfs.fuse.mountinfo import MountEntry

#: What makes the control filesystem available.
MOUNT_CONTROL: Final = f"mount -t fusectl fusectl {mountinfo.CONNECTIONS}"


class Silent(CtlError):
    """The daemon does not answer."""

    def __init__(self, message: str, code: CtlCode = CtlCode.NOT_ANSWERING) -> None:
        super().__init__(message, code)


class ImpostorError(OSError):
    """It is not the daemon that listens."""


def socket_of(entry: MountEntry) -> str:
    """Where its daemon listens: in the directory of the mount's owner, or in ours if that is where
    there is one: whoever mounted and handed the mount down may be another user."""
    path = socket_path(entry.minor, mountinfo.owner(entry))
    ours = socket_path(entry.minor, os.geteuid())
    return ours if ours != path and is_listened_at(ours) else path


def is_ours(entry: MountEntry) -> bool:
    """By its type, or, when -o subtype= gave it another, by the socket of its daemon."""
    if mountinfo.is_pysshfs(entry):
        return True
    return mountinfo.is_fuse(entry) and is_listened_at(socket_of(entry))


def is_permitted(entry: MountEntry) -> bool:
    """Whether this user may ask its daemon."""
    mine = os.geteuid()
    if mine in (0, mountinfo.owner(entry)):
        return True
    return socket_of(entry) == socket_path(entry.minor, mine)


def all_mounts() -> list[MountEntry]:
    """Those of this user; for root all."""
    return [entry for entry in mountinfo.mounts() if is_ours(entry) and is_permitted(entry)]


def mount_of(place: str) -> MountEntry:
    """The mount at this place. Raises CtlError where there is none, or another user's."""
    entry = mountinfo.mount_at(mountinfo.absolute(place))
    if entry is None or not is_ours(entry):
        raise CtlError(f"{place}: no pysshfs mount", CtlCode.NO_MOUNT)
    if not is_permitted(entry):
        uid = mountinfo.owner(entry)
        raise CtlError(f"{place}: another user's mount (uid {uid})", CtlCode.NOT_PERMITTED)
    return entry


def only_mount() -> str:
    """Where the one mount of this user is. Raises CtlError unless there is exactly one."""
    found = all_mounts()
    if len(found) == 1:
        return os.fsdecode(found[0].mountpoint)
    how_many = f"there are {len(found)}: say which" if found else "there is none"
    raise CtlError(f"no mountpoint given, and of pysshfs mounts {how_many}", CtlCode.NO_MOUNT)


# --- daemons that do not answer -----------------------------------------------------------------


def is_stopped(pid: int) -> bool:
    return procstat.state(pid) == "T"


def is_busy(pid: int) -> bool:
    """It runs, or would if it were let: on a loaded machine, or under strace, an answer takes its
    time."""
    return procstat.state(pid) in ("R", "D", "t")


def ask_daemons(
    entries: Sequence[MountEntry], command: str, seconds: float, *, longer_if_busy: bool = False
) -> list[Answer]:
    """Ask the daemons of these mounts, all at once; one that is stopped is not waited for."""
    answers = ask_all(
        [socket_of(entry) for entry in entries],
        question(command, {}),
        seconds,
        is_stopped,
        is_busy if longer_if_busy else lambda _: False,
    )
    return [_of_its_daemon(*each) for each in zip(entries, answers, strict=True)]


def _of_its_daemon(entry: MountEntry, answer: Answer) -> Answer:
    """/tmp is everybody's: whoever was there before the mount's owner may listen in his place."""
    if answer.uid in (None, 0, os.geteuid(), mountinfo.owner(entry)):
        return answer
    return Answer(None, ImpostorError(f"another user (uid {answer.uid}) listens in its place"))


def silence(error: Exception | None, pid: int | None) -> Silent:
    """Why there was no answer, as far as that can be told from outside."""
    if isinstance(error, ImpostorError):
        return Silent(f"the daemon does not answer: {error}")
    if isinstance(error, PermissionError):
        return Silent("another user's mount", CtlCode.NOT_PERMITTED)
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return Silent("no daemon: the mount is dead")
    if pid is None:
        return Silent("the daemon does not answer")
    state = procstat.state(pid)
    if state in ("T", "t"):
        how = "is stopped" if state == "T" else "is stopped by a debugger"
        return Silent(f"the daemon does not answer: process {pid} {how} (kill -CONT {pid})")
    if state in ("", "Z", "X"):
        return Silent("no daemon: the mount is dead")
    if state == "D":
        return Silent(f"the daemon does not answer: process {pid} waits in the kernel")
    return Silent(f"the daemon (process {pid}) does not answer")


def told(place: str, answer: Answer) -> dict[str, object]:
    """The answer. Raises `Silent` when there is none."""
    if answer.told is None:
        why = silence(answer.error, answer.pid)
        raise Silent(f"{place}: {why}", why.code)
    return answer.told
