"""Which signal interrupted a thread: read from /proc/TID/status.

FUSE turns every handled signal into an INTERRUPT and can answer with EINTR only, which few
programs expect from stat or open. So the daemon looks at what is pending for the caller: only a
signal that ends the process, or one that asks a program to stop, abandons the call.
"""

from __future__ import annotations

import signal
from typing import Final


def _bit(number: int) -> int:
    return 1 << (number - 1)


_KILL: Final = _bit(signal.SIGKILL)
_STOPS: Final = (
    _bit(signal.SIGINT) | _bit(signal.SIGTERM) | _bit(signal.SIGHUP) | _bit(signal.SIGQUIT)
)
# Without a handler these do nothing, or stop the process until it is continued (signal(7)); all
# others end it.
_HARMLESS: Final = (
    _bit(signal.SIGCHLD) | _bit(signal.SIGURG) | _bit(signal.SIGWINCH) | _bit(signal.SIGCONT)
    | _bit(signal.SIGSTOP) | _bit(signal.SIGTSTP) | _bit(signal.SIGTTIN) | _bit(signal.SIGTTOU)
)  # fmt: skip
_FIELDS: Final = (b"SigPnd:", b"ShdPnd:", b"SigBlk:", b"SigIgn:", b"SigCgt:")


def wants_to_stop(status: bytes) -> bool:
    """Whether /proc/TID/status shows a signal that the call should be abandoned for.

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
    if (own | shared) & _KILL:
        return True
    pending = (own | shared) & ~blocked & ~ignored
    return bool(pending & caught & _STOPS or pending & ~caught & ~_HARMLESS)


def thread_wants_to_stop(tid: int) -> bool:
    """As `wants_to_stop`; a thread that is gone, or not ours to see, wants to stop, too."""
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            return wants_to_stop(file.read())
    except OSError:
        return True
