"""What systemd and a service tell each other: readiness, status, the watchdog.

The only module that knows of `NOTIFY_SOCKET` (sd_notify(3)) and `WATCHDOG_USEC`
(sd_watchdog_enabled(3)). Without systemd all of it does nothing.

A `Manager` is made once, before the mount: its socket is connected from then on, since a path may
mean something else later. It is told things from any task, synchronously; nothing here waits for
systemd but `ready`. Programs that are started do not inherit the variables: they are not the
service.

The protocol is one datagram of `NAME=value` lines to a unix socket, and stable; the libraries for
it are bindings of libsystemd, which need its headers to be built, or as short as this.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Final

import trio

from pysshfs.cli.usage import printable

if TYPE_CHECKING:
    from collections.abc import MutableMapping

log = logging.getLogger(__name__)

_LONGEST_STATUS: Final = 512  # characters; a status is a line to be read
# The connection, by the values of `remote/connection.py: State`.
_STATES: Final = {
    "up": "connected",
    "lost": "connection lost",
    "connecting": "connecting again",
    "waiting": "not connected, trying again",
    "failed": "not connected, and not trying",
}


class Manager:
    """The service manager that started this process; or none, and then nothing happens."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Takes its variables out of the environment."""
        address = environ.pop("NOTIFY_SOCKET", "")
        interval, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        self._socket = _connected(address) if address else None
        #: Seconds within which the manager wants to hear of us; 0 if it does not care.
        self.watchdog = 0.0
        if self._socket is not None and interval.isdigit() and pid in ("", str(os.getpid())):
            self.watchdog = int(interval) / 1_000_000

    def tell(self, *assignments: str) -> bool:
        """Send assignments, now or never; whether they were sent."""
        if self._socket is None:
            return True
        try:
            self._socket.send("\n".join(assignments).encode())
        except BlockingIOError:
            return False
        except OSError as error:
            log.debug("the service manager cannot be told: %s", error)
        return True

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self.tell(_status(text))

    def connection(self, state: str, reason: str) -> None:
        """What becomes of the connection, as `remote/connection.py: State` has it."""
        if state != "closed":  # by us, who have said why
            self.status(connection_status(state, reason))

    async def ready(self, text: str) -> None:
        """The mount answers. This is not to get lost, so it is sent until there is room for it."""
        while self._socket is not None and not self.tell("READY=1", _status(text)):
            await trio.lowlevel.wait_writable(self._socket)

    def stopping(self, text: str) -> None:
        self.tell("STOPPING=1", _status(text))

    async def keep_alive(self) -> None:
        """Show that the loop turns, twice in each interval; runs until cancelled."""
        while self.watchdog > 0:
            self.tell("WATCHDOG=1")
            await trio.sleep(self.watchdog / 2)
        await trio.sleep_forever()


def connection_status(state: str, reason: str) -> str:
    words = _STATES.get(state, state)
    return f"{words}: {reason}" if reason else words


def _status(text: str) -> str:
    return f"STATUS={printable(text)[:_LONGEST_STATUS]}"


def _connected(address: str) -> socket.socket | None:
    """A datagram socket to a path, or to an abstract name, which is written with an @."""
    if address[0] not in "/@":
        return None  # a kind that this protocol has not got yet
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    try:
        made.connect("\0" + address[1:] if address[0] == "@" else address)
    except OSError as error:
        made.close()
        log.warning("no word to the service manager: %s", error)
        return None
    return made
