"""A server that waits for its own client: this machine's tree, mounted within itself.

OpenSSH's SFTP server does one thing after the other. When it serves a directory that contains this
very mount and walks into it, its call waits for the daemon, which waits for the server. Nothing
looks lost: the SSH server goes on answering keepalives. So while no answer comes, the calls that
SFTP servers make here fail with EDEADLK, and the server can answer again. Such a walk makes many
calls, so for a while those of the same process fail much sooner.

Only the calling process itself counts, not what started it: whoever is logged in by ssh has sshd
for an ancestor, too. And only a server that may be this very machine: one that shares a mount of
another server with its own clients must wait for it like any other program.

State: the threads that were recognised. Synchronous; used by `fuse/requests.py` only.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

# Names as /proc/TID/comm has them. internal-sftp runs within sshd, from 9.8 on in sshd-session.
_SERVERS: Final = (b"sshd", b"sftp-server", b"internal-sftp")
# How long a call of a server that was recognised may take, and how long it stays so (seconds).
PATIENCE: Final = 0.1
_REMEMBERED: Final = 10.0


def is_sftp_server_name(comm: bytes) -> bool:
    return comm.startswith(_SERVERS)


def is_sftp_server(tid: int) -> bool:
    """Whether this thread is one of an SSH server's own; False for one that cannot be seen."""
    if tid <= 0:
        return False
    try:
        fd = os.open(f"/proc/{tid}/comm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return is_sftp_server_name(os.read(fd, 64))
    except OSError:  # it has just ended
        return False
    finally:
        os.close(fd)


class Deadlock:
    """Recognises the calls of a server that waits for itself."""

    def __init__(self, may_be_here: Callable[[], bool]) -> None:
        self._may_be_here = may_be_here  # whether the server may be this machine
        self._recognised: dict[int, float] = {}  # thread to when it last made a call
        self._was_logged = False

    def is_expected(self, tid: int, operation: str) -> bool:
        """Whether a call that this thread begins now will wait for itself, unless the answer is
        known here: it has `PATIENCE` seconds.

        The mountpoint's own attributes are always known, after a second: without them the server
        would leave it out of its listings.
        """
        if not self._recognised or operation == "getattr":
            return False
        now = time.monotonic()
        self._recognised = {
            each: at for each, at in self._recognised.items() if at > now - _REMEMBERED
        }
        if tid not in self._recognised:
            return False
        self._recognised[tid] = now
        return True

    def includes(self, tid: int, operation: str) -> bool:
        """Whether the call of this thread, made while the server is silent, is to fail."""
        if not (self._may_be_here() and is_sftp_server(tid)):
            return False
        self._recognised[tid] = time.monotonic()
        if not self._was_logged:
            self._was_logged = True
            log.warning(
                "the SFTP server does not answer, and process %d, an SFTP server itself, waits"
                " here for its answer (%s): it has walked into this mount, which lies within the"
                " directory that it serves; its calls fail with EDEADLK as long as that is so",
                tid, operation,
            )  # fmt: skip
        return True
