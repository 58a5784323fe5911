"""The other end of `inherited.py`: make a mount first, for a process with fewer rights to serve.

Used by the helper of mount(8) for `drop_privileges` and for another mount namespace (`-N`).
`hand_down` opens /dev/fuse here and mounts, in that namespace if one is given; `take_back`
unmounts there. Needs CAP_SYS_ADMIN. Only fork(2) is relied on: to be used before any thread.

What mount(2) takes for FUSE: the kernel's Documentation/filesystems/fuse, "Mount options".
"""

from __future__ import annotations

import ctypes
import os
import pickle
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pysshfs.errors import MountpointError, StartupError
from pysshfs.fuse import mountinfo
from pysshfs.fuse.mountpoint import Place, Wanted, check_fuse, cleared, unmount

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CLONE_NEWNS: Final = 0x20000  # linux/sched.h
# Of mount(2), by the options that pysshfs has for the kernel; their opposites are the default.
_FLAGS: Final = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
}
_DEFAULTS: Final = {"rw", "suid", "dev", "exec", "atime"}

_T = TypeVar("_T")

_libc = ctypes.CDLL(None, use_errno=True)


class User(NamedTuple):
    """Whose mount it is."""

    uid: int
    gid: int


def hand_down(
    mountpoint: str, wanted: Wanted, options: Sequence[str], user: User, namespace: str | None
) -> Place:
    """Mount; the descriptor in the result is inherited by children of this process.

    `namespace` is a file such as /proc/PID/ns/mnt. Raises `StartupError`s.
    """
    flags, data = _arguments(options)
    check_fuse()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)

    def make() -> Place:
        path = cleared(mountpoint, wanted)
        text = f"fd={device},rootmode=40000,user_id={user.uid},group_id={user.gid}{data}"
        arguments = [wanted.source, os.fsencode(path), os.fsencode(wanted.fstype)]
        if _libc.mount(*arguments, ctypes.c_ulong(flags), text.encode()) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise MountpointError(f"cannot mount on {mountpoint}: {reason}")
        return Place(path, device, mountinfo.mount_at(os.fsencode(path)))

    try:
        return _within(namespace, make)
    except BaseException:
        os.close(device)
        raise


def take_back(place: Place, namespace: str | None) -> None:
    """Unmount what was handed down in vain."""

    if place.device is not None:
        os.close(place.device)
    _within(namespace, lambda: unmount(place.path, lazy=True))


def _arguments(options: Sequence[str]) -> tuple[int, str]:
    """The flags and the rest of the data for mount(2)."""
    flags, data = 0, ""
    for option in options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option == "auto_unmount":
            raise StartupError(
                "auto_unmount needs fusermount3, which does not make a mount that is handed down"
            )
        elif option == "allow_root":  # for the kernel that is allow_other; libfuse then looks
            data += ",allow_other"
        elif option not in _DEFAULTS:
            data += f",{option}"
    return flags, data


def _within(namespace: str | None, work: Callable[[], _T]) -> _T:
    """What `work` returns, done by a child in that mount namespace; `StartupError`s come back."""
    if namespace is None:
        return work()
    try:
        target = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StartupError(f"namespace {namespace}: {error.strerror}") from None
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write_end, pickle.dumps(_outcome(target, namespace, work)))
        finally:
            os._exit(0)
    os.close(write_end)
    os.close(target)
    with os.fdopen(read_end, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer:
        raise StartupError(f"namespace {namespace}: the process that went there has died")
    result: _T | StartupError = pickle.loads(answer)
    if isinstance(result, StartupError):
        raise result
    return result


def _outcome(target: int, namespace: str, work: Callable[[], _T]) -> _T | StartupError:
    if _libc.setns(target, _CLONE_NEWNS) != 0:
        return StartupError(f"namespace {namespace}: {os.strerror(ctypes.get_errno())}")
    try:
        return work()
    except StartupError as error:
        return error
