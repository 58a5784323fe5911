"""The place to mount on: checked before anything is connected, cleared of a dead mount.

Synchronous; used before the mount and after it, never while it serves.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import select
import shutil
import signal
import stat
import subprocess
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.errors import (
    AlreadyMountedError,
    FuseUnavailableError,
    MountpointError,
    StartupError,
)
from pysshfs.fuse import inherited, mountinfo

if TYPE_CHECKING:
    from pysshfs.fuse.mountinfo import MountEntry

log = logging.getLogger(__name__)

# umount2(2)
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_MTAB: Final = "/etc/mtab"
BUSY: Final = "it is busy: programs still use it (pysshfsctl umount --kill lists them)"
_MOST_DEAD_MOUNTS: Final = 64  # on top of each other
_AUTOFS: Final = "autofs"
# How long a mount may take to answer when another is to take its place (seconds).
_ANSWER_SECONDS: Final = 5.0


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


class Wanted(NamedTuple):
    """What is to be mounted, as mountinfo will show it."""

    source: bytes
    fstype: str
    if_not_mounted: bool = False  # being there already is good enough


def prepare(mountpoint: str, wanted: Wanted) -> Place:
    """Check whether this machine can mount, and the mountpoint.

    A dead mount on it is unmounted. A directory with files in it is mounted over, with a warning;
    another mount is not. Raises `FuseUnavailableError`, `MountpointError` and
    `AlreadyMountedError`.
    """
    device = inherited.descriptor(mountpoint)
    if device is None:
        check_fuse()
        return Place(cleared(mountpoint, wanted))
    inherited.check(device)
    entry = inherited.mount_of(device)
    return Place(mountpoint if entry is None else os.fsdecode(entry.mountpoint), device, entry)


def cleared(mountpoint: str, wanted: Wanted) -> str:
    """The absolute path of a directory that can be mounted on. Raises as `prepare` does."""
    for _ in range(_MOST_DEAD_MOUNTS):
        path = absolute(mountpoint)
        below = mountinfo.mount_at(os.fsencode(path))
        if below is not None and below.fstype == _AUTOFS:
            return path  # whoever looks into it waits for what is to be mounted here
        if below is None:
            number = _look(path, mountpoint)
        elif mountinfo.is_fuse(below):
            number = _state(path, below)
        else:
            number = 0
        if number == errno.ENOTCONN:
            _clean_up_dead_mount(path)
        elif number:
            raise MountpointError(f"mountpoint {mountpoint}: {_unusable(below, number)}")
        elif below is None:
            return path
        else:
            raise _occupied(mountpoint, below, wanted)
    raise MountpointError(f"{mountpoint}: too many dead mounts lie there")


def absolute(mountpoint: str) -> str:
    """As mountinfo will have it. A FUSE mount on it is not looked at: it might not answer."""
    try:
        path = os.fsdecode(mountinfo.absolute(mountpoint))
        if mountinfo.mount_at(os.fsencode(path)) is None:
            path = os.path.realpath(mountpoint)  # through FUSE, too, where it lies below such
    except OSError as error:  # there is no working directory
        raise MountpointError(f"mountpoint {mountpoint}: {error.strerror}") from None
    return path


def _look(path: str, mountpoint: str) -> int:
    """Whether this is a directory that is not empty; an errno when it cannot be found out."""
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise MountpointError(f"mountpoint {mountpoint}: not a directory")
        if os.listdir(path):
            log.warning("%s is not empty: its files are hidden while mounted", mountpoint)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _state(path: str, entry: MountEntry) -> int:
    """0 for a FUSE mount that answers, ENOTCONN for a dead one, ETIMEDOUT, or another errno.

    Another process looks: it may be kept waiting beyond any signal. Root's looks as the mount's
    owner, for the kernel lets nobody else in without allow_other.
    """
    child = os.fork()
    if child == 0:
        number = errno.EIO
        try:
            number = _look_as_owner(path, entry)
        finally:
            os._exit(number if number < 256 else errno.EIO)
    pidfd = os.pidfd_open(child)
    try:
        if not select.select([pidfd], [], [], _ANSWER_SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
            return errno.ETIMEDOUT
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _look_as_owner(path: str, entry: MountEntry) -> int:
    try:
        above = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
        uid, gid = mountinfo.owner(entry), mountinfo.group(entry)
        if os.geteuid() == 0 and uid != 0:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        # A mount that has just died still has its attributes in the kernel, but no listing.
        how = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        os.close(os.open(os.path.basename(path), how, dir_fd=above))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _unusable(entry: MountEntry | None, number: int) -> str:
    reason = os.strerror(number)
    if entry is None:
        return reason
    if number == errno.ETIMEDOUT:
        reason = "it does not answer"
    return f"{os.fsdecode(entry.source)} is mounted there already: {reason}"


def _occupied(mountpoint: str, entry: MountEntry, wanted: Wanted) -> StartupError:
    """What is there answers. By its name and type it is the wanted one, or it is another."""
    source = os.fsdecode(entry.source)
    if (entry.source, entry.fstype) != (wanted.source, wanted.fstype):
        return MountpointError(
            f"mountpoint {mountpoint}: {source} ({entry.fstype}) is mounted there already"
        )
    if wanted.if_not_mounted:
        return AlreadyMountedError(f"{source} is mounted on {mountpoint} already")
    return MountpointError(
        f"mountpoint {mountpoint}: {source} is mounted there already"
        " (with --if-not-mounted, or -o if_not_mounted, that is no error)"
    )


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
            return BUSY
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
    return BUSY if any("busy" in line for line in said) else said[-1]
