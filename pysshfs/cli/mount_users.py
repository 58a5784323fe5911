"""Which processes use a mount, found out without asking the mount anything.

A process keeps a mount busy by its working directory, its root, what it has open and what it has
mapped. /proc tells of each by the number of the mount (`mnt_id` of fdinfo, proc_pid_fdinfo(5)), or
of the device (maps). A magic link below /proc/PID is opened with O_PATH or read; neither looks at
what it leads to (open(2)), so that a mount that does not answer keeps nobody waiting here.

/proc/PID/maps waits for a process that is changing its mappings, as one may that is stuck: so it is
read in a thread that is not waited for longer than a moment.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.fuse import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pysshfs.fuse.mountinfo import MountEntry

_MOMENT: Final = 0.5  # seconds


class User(NamedTuple):
    """A process that uses the mount."""

    pid: int
    uid: int
    program: str
    how: tuple[str, ...]  # "working directory", "root", "open file", "mapped file"


def users_of(entry: MountEntry) -> list[User]:
    """All that this user may know of but this process, by number. The daemon is none of them: it
    opens nothing there."""
    ids: dict[int, set[int]] = {}  # by the namespace of mounts
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            user = _looked_at(int(name), entry, ids)
            if user is not None:
                found.append(user)
    return sorted(found)


def _looked_at(pid: int, entry: MountEntry, ids: dict[int, set[int]]) -> User | None:
    try:
        mounts = _mounts_for(pid, entry, ids)
        how = tuple(dict.fromkeys(_uses(pid, entry, mounts)))
        if not how:
            return None
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="surrogateescape") as file:
            program = file.read().rstrip("\n")
        return User(pid, os.stat(f"/proc/{pid}").st_uid, program, how)
    except OSError:
        return None  # it has ended, or is not ours to look at


def _mounts_for(pid: int, entry: MountEntry, ids: dict[int, set[int]]) -> set[int]:
    """The numbers that the mount has where the process lives: another namespace has others."""
    namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
    if namespace not in ids:
        with open(f"/proc/{pid}/mountinfo", "rb") as file:
            entries = mountinfo.parse_mountinfo(file.read())
        ids[namespace] = {
            each.mount_id
            for each in entries
            if (each.major, each.minor) == (entry.major, entry.minor)
        }
    return ids[namespace]


def _uses(pid: int, entry: MountEntry, mounts: set[int]) -> Iterator[str]:
    for name, words in (("cwd", "working directory"), ("root", "root")):
        if _mount_of_link(f"/proc/{pid}/{name}") in mounts:
            yield words
    for number in os.listdir(f"/proc/{pid}/fdinfo"):
        with contextlib.suppress(OSError):
            if mountinfo.mount_id_of(f"/proc/{pid}/fdinfo/{number}") in mounts:
                yield "open file"
                break
    if _maps(pid, entry):
        yield "mapped file"


def _mount_of_link(link: str) -> int | None:
    try:
        fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return mountinfo.mount_id_of(f"/proc/self/fdinfo/{fd}")
    finally:
        os.close(fd)


def _maps(pid: int, entry: MountEntry) -> bool:
    """Whether it has a file of the mount mapped; not, when it does not say in time."""
    device = f" {entry.major:02x}:{entry.minor:02x} ".encode()
    found = False

    def read() -> None:
        nonlocal found
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", "rb") as file:
            found = any(device in line for line in file)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(_MOMENT)
    return found
