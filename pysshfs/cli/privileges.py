"""What the daemon may do and show: less than whoever started it, and after the mount still less.

The only module that calls prctl(2), capset(2) and setrlimit(2). `keep_secrets` comes first of all;
`give_up` once, when the mount is made and everything is open. Capabilities and no_new_privs belong
to a thread: threads that are started later inherit them, earlier ones are to have ended
(`remote/bridge.py: Bridge.end_threads`).

What stays, and why (docs/security.md tells the user):

- CAP_SYS_ADMIN, where umount2(2) is ours to call. FUSE needs it, too, for a `max_background` above
  the system's limit for users; notifications need nothing.
- CAP_DAC_READ_SEARCH or CAP_DAC_OVERRIDE, where the way to the mountpoint or to the agent's socket
  leads through directories of another user, and only then.
- With a ProxyCommand, all that a program inherits when it is started: it is to have on a reconnect
  the rights that it had at first. And CAP_KILL, since it may run as another user (sudo).
- no_new_privs is not set where set-user-id programs are to be started later: fusermount3 -u for an
  ordinary user, a ProxyCommand for anybody.

Linux only; numbers from linux/prctl.h and linux/capability.h. ctypes, since this is nine calls,
once, and the libraries that there are (libcap-ng's and prctl's bindings) are not on PyPI in a
maintained form.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

_SET_DUMPABLE: Final = 4
_CAPBSET_READ: Final = 23
_CAPBSET_DROP: Final = 24
_SET_NO_NEW_PRIVS: Final = 38
_CAP_AMBIENT: Final = 47
_CAP_AMBIENT_CLEAR_ALL: Final = 4
_VERSION_3: Final = 0x20080522

DAC_OVERRIDE: Final = 1 << 1
DAC_READ_SEARCH: Final = 1 << 2
KILL: Final = 1 << 5
SYS_ADMIN: Final = 1 << 21

_libc = ctypes.CDLL(None, use_errno=True)


class Capabilities(NamedTuple):
    """The sets of a thread, as bits (capabilities(7))."""

    effective: int
    permitted: int
    inheritable: int


class Needs(NamedTuple):
    """What the daemon has yet to do."""

    unmounts: str | None  # the mountpoint, where it is for the daemon to unmount
    sockets: tuple[str, ...]  # to connect to on a reconnect: the agent's
    starts_programs: bool  # with all rights: a ProxyCommand on a reconnect


def keep_secrets() -> None:
    """No core file, and no other process of the same user may look into this one.

    Much of /proc/PID then belongs to root: see proc(5), and PR_SET_DUMPABLE in prctl(2). A program
    that is started is as it always is.
    """
    _prctl(_SET_DUMPABLE, 0)
    # Whatever takes cores by a pipe goes by the former; the latter is for files. The hard limit
    # stays, for the sake of a ProxyCommand.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def give_up(needs: Needs) -> None:
    """Give up all that is not needed any more. What the system does not let us do is logged."""
    try:
        _give_up(needs)
    except OSError as error:
        log.warning("privileges that are not needed cannot be given up: %s", error.strerror)


def _give_up(needs: Needs) -> None:
    had = capabilities()
    sockets = [path for path in needs.sockets if os.path.exists(path)]
    is_root = os.geteuid() == 0
    keep = SYS_ADMIN if is_root and needs.unmounts is not None else 0
    if is_root and needs.starts_programs:
        keep |= KILL
    # First without them, but so that they can be had back: is everything within reach?
    _set(Capabilities(keep & had.permitted, had.permitted, had.inheritable))
    keep |= _for_access(needs.unmounts, sockets)
    if needs.starts_programs:
        # Ambient ones go when they are not permitted any more, and programs get what is ambient.
        _set(Capabilities(keep & had.permitted, (keep | had.inheritable) & had.permitted,
                          had.inheritable))  # fmt: skip
        return
    if had.effective & 1 << 8:  # CAP_SETPCAP
        _set(had)
        _empty_bounding_set()
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    _set(Capabilities(keep & had.permitted, keep & had.permitted, 0))
    if is_root or needs.unmounts is None:
        _prctl(_SET_NO_NEW_PRIVS, 1)


def give_up_everything(become: Callable[[], None]) -> None:
    """No capability, now or ever again, in this thread and all that it starts; `become` changes the
    user, which takes some, meanwhile. Raises OSError."""
    _empty_bounding_set()
    become()
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    _set(Capabilities(0, 0, 0))
    _prctl(_SET_NO_NEW_PRIVS, 1)


def _for_access(mountpoint: str | None, sockets: Iterable[str]) -> int:
    """What it takes to reach the mountpoint's name and the sockets."""
    if not all(_may(path, os.W_OK) for path in sockets):
        return DAC_OVERRIDE
    if mountpoint is not None and not _may(os.path.dirname(mountpoint), os.X_OK):
        return DAC_READ_SEARCH
    return 0


def _may(path: str, how: int) -> bool:
    """As access(2), for the effective ids and capabilities."""
    return os.access(path, how, effective_ids=True)


def _empty_bounding_set() -> None:
    number = 0
    while (there := _libc.prctl(*map(ctypes.c_ulong, (_CAPBSET_READ, number, 0, 0, 0)))) >= 0:
        if there:
            _prctl(_CAPBSET_DROP, number)
        number += 1


# --- the calls ----------------------------------------------------------------------------------


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Half(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def capabilities() -> Capabilities:
    """Those of this thread. Raises OSError."""
    header, halves = _Header(_VERSION_3, 0), (_Half * 2)()
    if _libc.capget(ctypes.byref(header), halves) != 0:
        raise _error()
    low, high = halves
    return Capabilities(
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def _set(wanted: Capabilities) -> None:
    header, halves = _Header(_VERSION_3, 0), (_Half * 2)()
    for half, shift in zip(halves, (0, 32), strict=True):
        half.effective, half.permitted, half.inheritable = (
            bits >> shift & 0xFFFFFFFF for bits in wanted
        )
    if _libc.capset(ctypes.byref(header), halves) != 0:
        raise _error()


def _prctl(*arguments: int) -> None:
    padded: Iterable[int] = (*arguments, *(0,) * (5 - len(arguments)))
    if _libc.prctl(*map(ctypes.c_ulong, padded)) != 0:
        raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
