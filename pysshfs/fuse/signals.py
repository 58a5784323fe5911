"""What a thread was sent, and whether it is exiting: read from /proc/TID/status and /proc/TID/stat.

FUSE turns every handled signal into an INTERRUPT and can answer with EINTR only, which few
programs expect from stat or open. So the daemon looks at what is pending for the caller: a signal
that ends the process, one that asks a program to stop, or any other.
"""

from __future__ import annotations

import enum
import os
import signal
from typing import Final


class Pending(enum.Enum):
    """The weightiest signal that waits for a thread."""

    FATAL = enum.auto()  # ends the process: nobody is going to repeat the call
    STOP = enum.auto()  # asks a program that handles it to stop
    HANDLED = enum.auto()  # any other: a handler is to run, or the process is to be halted (Ctrl-Z)
    NONE = enum.auto()
    UNKNOWN = enum.auto()  # not ours to see


def _bit(number: int) -> int:
    return 1 << (number - 1)


_KILL: Final = _bit(signal.SIGKILL)
_STOPS: Final = (
    _bit(signal.SIGINT) | _bit(signal.SIGTERM) | _bit(signal.SIGHUP) | _bit(signal.SIGQUIT)
)
# What signals without a handler do (signal(7)): these halt the process until it is continued, the
# next ones do nothing, all others end it.
_HALTS: Final = (
    _bit(signal.SIGSTOP) | _bit(signal.SIGTSTP) | _bit(signal.SIGTTIN) | _bit(signal.SIGTTOU)
)
_NOTHING: Final = (
    _bit(signal.SIGCHLD) | _bit(signal.SIGURG) | _bit(signal.SIGWINCH) | _bit(signal.SIGCONT)
)
_FIELDS: Final = (b"SigPnd:", b"ShdPnd:", b"SigBlk:", b"SigIgn:", b"SigCgt:")
_EXITING: Final = 0x4  # PF_EXITING (linux/sched.h)
_PART: Final = 8192  # bytes; a status is longer only for members of hundreds of groups


def pending_in(status: bytes) -> Pending:
    """What /proc/TID/status shows.

    A signal with the default, fatal action shows as SIGKILL's bit in the thread's own set, but not
    always: not if it dumps core, and no longer when the process is exiting because of it. Then its
    own bit is still pending.
    """
    masks = dict.fromkeys(_FIELDS, 0)
    for line in status.splitlines():
        name, _, value = line.partition(b"\t")
        if name in masks:
            masks[name] = int(value, 16)
    own, shared, blocked, ignored, caught = (masks[field] for field in _FIELDS)
    waiting = (own | shared) & ~blocked & ~ignored
    if (own | shared) & _KILL or waiting & ~caught & ~_HALTS & ~_NOTHING:
        return Pending.FATAL
    if waiting & caught & _STOPS:
        return Pending.STOP
    return Pending.HANDLED if waiting & (caught | _HALTS) else Pending.NONE


def pending(tid: int) -> Pending:
    """What waits for this thread; for one that is gone, its end."""
    try:
        return pending_in(_read(f"/proc/{tid}/status"))
    except OSError:
        return Pending.FATAL if _is_gone(tid) else Pending.UNKNOWN


def is_exiting_in(stat: bytes) -> bool:
    """What /proc/TID/stat shows: the flags are the seventh field behind the command's name, which
    may itself hold blanks and brackets."""
    fields = stat.rpartition(b")")[2].split()
    return len(fields) > 6 and bool(int(fields[6]) & _EXITING)


def is_exiting(tid: int) -> bool:
    """Whether this thread is on its way out, beyond the reach of every signal, or gone."""
    try:
        return is_exiting_in(_read(f"/proc/{tid}/stat"))
    except OSError:
        return _is_gone(tid)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while part := os.read(fd, _PART):
            content += part
        return content
    finally:
        os.close(fd)


def _is_gone(tid: int) -> bool:
    """As opposed to hidden from us: in another process namespace (0), or by /proc's hidepid."""
    if tid <= 0:
        return False
    try:
        os.kill(tid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
