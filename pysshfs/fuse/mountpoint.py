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
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.errors import FuseUnavailableError, MountpointError
from pysshfs.fuse import inherited, mountinfo

if TYPE_CHECKING:
    from pysshfs.fuse.mountinfo import MountEntry

log = logging.getLogger(__name__)

# umount2(2)
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_MTAB: Final = "/etc/mtab"
_BUSY: Final = "it is busy: programs still use it (fuser -vm shows which)"
_MOST_DEAD_MOUNTS: Final = 64  # on top of each other


class Place(NamedTuple):
    """Where to mount; or what is mounted already, by another process."""

    path: str  # absolute
    device: int | None = None  # the descriptor that was handed down
    entry: MountEntry | None = None  # of that, as far as it is known

    @property
    def argument(self) -> str:
        """As libfuse is told."""
        return self.path if self.device is None else f"/dev/fd/{self.device}"

    @property
    def obeys_set_id_bits(self) -> bool:
        """Whether it was mounted so by another: our own mounts obey them if root asks for it."""
        if self.device is None:
            return False
        return self.entry is None or "nosuid" not in self.entry.options.split(",")


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


def prepare(mountpoint: str) -> Place:
    """Check whether this machine can mount, and the mountpoint.

    A dead mount on it is unmounted. A directory with files in it is mounted over, with a warning.
    Raises `FuseUnavailableError` and `MountpointError`.
    """
    device = inherited.descriptor(mountpoint)
    if device is None:
        check_fuse()
        return Place(_cleared(mountpoint))
    inherited.check(device)
    entry = inherited.mount_of(device)
    return Place(mountpoint if entry is None else os.fsdecode(entry.mountpoint), device, entry)


def _cleared(mountpoint: str) -> str:
    """The absolute path of a directory that can be mounted on."""
    path = os.path.realpath(mountpoint)
    for _ in range(_MOST_DEAD_MOUNTS):
        try:
            if not stat.S_ISDIR(os.stat(path).st_mode):
                raise MountpointError(f"mountpoint {mountpoint}: not a directory")
            # Of a mount that has just died the kernel still knows the attributes.
            if os.listdir(path):
                log.warning("%s is not empty: its files are hidden while mounted", mountpoint)
            below = mountinfo.mount_at(os.fsencode(path))
            if below is not None:
                source = os.fsdecode(below.source)
                log.warning("%s is a mountpoint already, of %s: mounting over it", path, source)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                reason = os.strerror(error.errno or 0)
                raise MountpointError(f"mountpoint {mountpoint}: {reason}") from None
            _clean_up_dead_mount(path)
        else:
            return path
    raise MountpointError(f"{mountpoint}: too many dead mounts lie there")


def _clean_up_dead_mount(path: str) -> None:
    entry = mountinfo.mount_at(os.fsencode(path))
    if entry is None or not entry.fstype.startswith("fuse"):
        raise MountpointError(f"{path}: a dead mount that is not ours lies there or above")
    log.warning("%s: cleaning up the dead mount of %s", path, os.fsdecode(entry.source))
    reason = unmount(path, lazy=True)
    if reason is not None:
        raise MountpointError(f"{path}: the dead mount there cannot be unmounted: {reason}")


def libfuse_runs_umount() -> bool:
    """Whether libfuse, run by root, has umount(8) unmount: it does where /etc/mtab is a file that
    has to be kept up to date, and no link to /proc/mounts (mtab_needs_update in mount_util.c)."""
    return os.path.isfile(_MTAB) and not os.path.islink(_MTAB)


def unmount(path: str, lazy: bool = False) -> str | None:
    """Unmount, directly as root and through fusermount3 otherwise; the reason if that fails.

    umount(8) is not asked: it looks at the mount first, and a mount on a silent server keeps it
    waiting. What is not mounted any more counts as unmounted.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        if libc.umount2(os.fsencode(path), flags) == 0:
            return None
        number = ctypes.get_errno()
        if number == errno.EBUSY:
            return _BUSY
        return None if number == errno.EINVAL else os.strerror(number)
    helper = shutil.which("fusermount3")
    if helper is None:
        return "fusermount3 is not installed"
    options = ["-u", "-z"] if lazy else ["-u"]
    done = subprocess.run(
        [helper, *options, "--", path], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    said = done.stderr.strip().splitlines() or ["it cannot be unmounted"]
    if done.returncode == 0:
        return None
    return _BUSY if any("busy" in line for line in said) else said[-1]
