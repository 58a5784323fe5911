"""A mount that another process has made: `/dev/fd/N` in place of the mountpoint.

mount.fuse3 opens /dev/fuse and mounts, gives up its privileges and hands the descriptor to the
filesystem's program (its `drop_privileges`). Such a mount is served like any other, but it has the
options of whoever made it, and unmounting is for them, too. Where it is, mountinfo says, by the
number of its connection; one that is not there (in another mount namespace) goes by the name
`/dev/fd/N`.

Synchronous; used before the mount. Nothing here opens or looks at the mountpoint.
"""

from __future__ import annotations

import os
import re
import select
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pysshfs.errors import MountpointError
from pysshfs.fuse import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pysshfs.fuse.mountinfo import MountEntry

PREFIX: Final = "/dev/fd/"
_DEVICE: Final = os.makedev(10, 229)  # /dev/fuse (Documentation/admin-guide/devices.txt)
_CONNECTION: Final = re.compile(r"^fuse_connection:\s*(\d+)$", re.MULTILINE)


def descriptor(mountpoint: str) -> int | None:
    """The N of /dev/fd/N; None for any other mountpoint. Raises `MountpointError`."""
    if not mountpoint.startswith(PREFIX):
        return None
    text = mountpoint.removeprefix(PREFIX)
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise MountpointError(f"mountpoint {mountpoint}: not the number of a descriptor")
    return int(text)


def check(fd: int) -> None:
    """Raises `MountpointError` unless this is a mount that waits for its filesystem."""
    try:
        found = os.fstat(fd)
    except OSError:
        raise MountpointError(f"mountpoint {PREFIX}{fd}: no such descriptor is open") from None
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _DEVICE:
        raise MountpointError(f"mountpoint {PREFIX}{fd}: it is not /dev/fuse")
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    events = dict(poller.poll(0)).get(fd, 0)
    if events & select.POLLERR:
        raise MountpointError(f"mountpoint {PREFIX}{fd}: it is not mounted, or not any more")
    if not events & select.POLLIN:  # the kernel's first request is in it from the mount on
        raise MountpointError(f"mountpoint {PREFIX}{fd}: another process serves it already")
    os.set_inheritable(fd, False)


def mount_of(fd: int) -> MountEntry | None:
    """What is mounted through this descriptor; None if that cannot be found out."""
    found = _CONNECTION.search(Path(f"/proc/self/fdinfo/{fd}").read_text())
    if found is not None:
        return mountinfo.mount_of(int(found[1]))
    return likely(mountinfo.mounts(), os.getuid())


def likely(entries: Iterable[MountEntry], uid: int) -> MountEntry | None:
    """For kernels whose fdinfo has no number (before 6.17 or so): a mount of this user that waits
    for one answer, as one does that nobody serves yet; None if there are several."""
    waiting = [
        entry
        for entry in entries
        if entry.fstype.partition(".")[0] == "fuse"
        and mountinfo.owner(entry) == uid
        and mountinfo.waiting_requests(entry) in (1, None)
    ]
    return waiting[0] if len(waiting) == 1 else None
