"""/proc/self/mountinfo and the control filesystem: what is mounted where, without touching it.

Pure reading and one write (`abort`). Nothing here opens or stats a mountpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Final, NamedTuple

FSTYPE: Final = "fuse.pysshfs"
CONNECTIONS: Final = "/sys/fs/fuse/connections"

_MOST_LINKS: Final = 40  # to follow in a path, as the kernel does
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class MountEntry(NamedTuple):
    """One line of mountinfo (proc_pid_mountinfo(5)); `minor` is a FUSE connection's number."""

    mount_id: int
    major: int
    minor: int
    mountpoint: bytes
    options: str
    fstype: str
    source: bytes
    super_options: str


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field)


def parse_mountinfo(text: bytes) -> list[MountEntry]:
    """In the order of the file: of two mounts on one place, the later is the visible one."""
    entries = []
    for line in text.split(b"\n"):  # not at a carriage return, which a name may hold
        before, _, after = line.partition(b" - ")
        first, last = before.split(b" "), after.split(b" ")
        if len(first) < 6 or len(last) < 3:
            continue
        major, _, minor = first[2].partition(b":")
        entries.append(
            MountEntry(
                int(first[0]),
                int(major),
                int(minor),
                _unescape(first[4]),
                first[5].decode(),
                os.fsdecode(last[0]),
                _unescape(last[1]),
                os.fsdecode(last[2]),
            )
        )
    return entries


def mounts() -> list[MountEntry]:
    with open("/proc/self/mountinfo", "rb") as file:
        return parse_mountinfo(file.read())


def is_pysshfs(entry: MountEntry) -> bool:
    return entry.fstype == FSTYPE


def is_fuse(entry: MountEntry) -> bool:
    return entry.fstype.partition(".")[0] in ("fuse", "fuseblk")


def absolute(place: str) -> bytes:
    """A path as mountinfo has it: its links are followed, but nothing that is mounted through FUSE,
    or lies below it, is looked at. It might not answer."""
    mounted = {entry.mountpoint for entry in mounts() if is_fuse(entry)}
    names = os.fsencode(os.path.abspath(place)).split(b"/")
    found, links = b"/", 0
    while names:
        name = names.pop(0)
        above, found = found, os.path.normpath(os.path.join(found, name))
        if found in mounted:
            return os.path.normpath(os.path.join(found, *names))
        if links < _MOST_LINKS:
            with contextlib.suppress(OSError):
                names = os.readlink(found).split(b"/") + names
                links += 1
                found = above if names[0] else b"/"
    return found


def mount_at(mountpoint: bytes) -> MountEntry | None:
    """The visible mount on exactly this place."""
    found = [entry for entry in mounts() if entry.mountpoint == mountpoint]
    return found[-1] if found else None


def mount_of(connection: int) -> MountEntry | None:
    """The mount of a FUSE connection, by its number; the first, if it was bound to more places."""
    for entry in mounts():
        if entry.minor == connection and is_fuse(entry):
            return entry
    return None


def mount_id_of(fdinfo: str) -> int | None:
    """In which mount a descriptor's file is, by its /proc/PID/fdinfo/FD (proc_pid_fdinfo(5)), which
    asks the kernel's table of descriptors and not the filesystem. Raises OSError."""
    with open(fdinfo, "rb") as table:
        for line in table:
            name, _, value = line.partition(b":")
            if name == b"mnt_id":
                return int(value)
    return None


def owner(entry: MountEntry) -> int:
    """The user whose mount it is (mount.fuse(8): user_id)."""
    return _number(entry, "user_id=")


def group(entry: MountEntry) -> int:
    """That user's group (mount.fuse(8): group_id)."""
    return _number(entry, "group_id=")


def _number(entry: MountEntry, name: str) -> int:
    for option in entry.super_options.split(","):
        if option.startswith(name):
            return int(option.removeprefix(name))
    return 0


def is_control_mounted() -> bool:
    """Whether the control filesystem is there."""
    place = os.fsencode(CONNECTIONS)
    return any(entry.mountpoint == place and entry.fstype == "fusectl" for entry in mounts())


def _control_file(entry: MountEntry, name: str) -> str:
    return os.path.join(CONNECTIONS, str(entry.minor), name)


def control_value(entry: MountEntry, name: str) -> int | None:
    """`waiting`, `max_background` or `congestion_threshold` of the mount's connection; None without
    access to the control filesystem, or without the connection."""
    try:
        with open(_control_file(entry, name), encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def waiting_requests(entry: MountEntry) -> int | None:
    """How many requests wait for an answer; None without access to the control filesystem."""
    return control_value(entry, "waiting")


def abort(entry: MountEntry) -> None:
    """End the connection at once; every request, waiting and new, fails. Raises OSError."""
    with open(_control_file(entry, "abort"), "w", encoding="ascii") as file:
        file.write("1")
