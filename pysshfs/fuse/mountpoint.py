"""The place to mount on: checked before anything is connected, cleared of a dead mount.

Synchronous; used before the mount and after it, never while it serves.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import shutil
import stat
import subprocess
from typing import Final

from pysshfs.errors import FuseUnavailableError, MountpointError
from pysshfs.fuse import mountinfo

log = logging.getLogger(__name__)

_MNT_DETACH: Final = 2
_MOST_DEAD_MOUNTS: Final = 64  # on top of each other


def check_fuse() -> None:
    """Raises `FuseUnavailableError` when this machine, or this user, cannot mount at all."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise FuseUnavailableError("no /dev/fuse: is the fuse module loaded?") from None
    except OSError as error:
        raise FuseUnavailableError(f"/dev/fuse: {os.strerror(error.errno or 0)}") from None
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise FuseUnavailableError("fusermount3 is not installed: install the package fuse3")


def prepare(mountpoint: str) -> str:
    """Check the mountpoint and return its absolute path.

    A dead mount on it is unmounted. A directory with files in it is mounted over, with a warning.
    Raises `MountpointError`.
    """
    path = os.path.realpath(mountpoint)
    for _ in range(_MOST_DEAD_MOUNTS):
        try:
            if not stat.S_ISDIR(os.stat(path).st_mode):
                raise MountpointError(f"{mountpoint}: not a directory")
            # Of a mount that has just died the kernel still knows the attributes.
            if os.listdir(path):
                log.warning("%s is not empty: its files are hidden while mounted", mountpoint)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise MountpointError(f"{mountpoint}: {os.strerror(error.errno or 0)}") from None
            _clean_up_dead_mount(path)
        else:
            return path
    raise MountpointError(f"{mountpoint}: too many dead mounts lie there")


def _clean_up_dead_mount(path: str) -> None:
    entry = mountinfo.mount_at(os.fsencode(path))
    if entry is None or not entry.fstype.startswith("fuse"):
        raise MountpointError(f"{path}: a dead mount that is not ours lies there or above")
    log.warning("%s: cleaning up the dead mount of %s", path, os.fsdecode(entry.source))
    if not detach(path):
        raise MountpointError(f"{path}: the dead mount there cannot be unmounted")


def detach(path: str) -> bool:
    """Lazy unmount, directly as root and through fusermount3 otherwise. Tells whether it worked."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.umount2(os.fsencode(path), _MNT_DETACH) == 0)
    helper = shutil.which("fusermount3")
    if helper is None:
        return False
    done = subprocess.run(
        [helper, "-u", "-q", "-z", "--", path], stdin=subprocess.DEVNULL, capture_output=True
    )
    return done.returncode == 0
