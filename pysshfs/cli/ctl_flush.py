"""`pysshfsctl flush`: have the daemon deliver what is buffered; on a terminal, show how far it is.

`deliver` is what `umount` does first, too. When the server does not take everything in time it
fails with one line that says how much it is. The mount then stays as it is: the daemon goes on
trying.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from pysshfs.cli.control_client import ask, parsed, question
from pysshfs.cli.ctl_codes import CtlCode, CtlError
from pysshfs.cli.ctl_mounts import ask_daemons, mount_of, socket_of, told
from pysshfs.cli.status_text import owed_text, undelivered_text
from pysshfs.cli.usage import printable

if TYPE_CHECKING:
    from pysshfs.cli.ctl_parser import Arguments
    from pysshfs.fuse.mountinfo import MountEntry

FLUSH_SECONDS: Final = 60.0
_STATUS_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.2  # between two looks at how far it is
_KINDS: Final = ("unacknowledged_bytes", "unanswered_operations", "unreported_failures")


def run(arguments: Arguments) -> CtlCode:
    place = arguments.place or ""
    deliver(place, mount_of(place))
    return CtlCode.OK


def deliver(place: str, entry: MountEntry) -> dict[str, Any]:
    """Have the daemon deliver what is buffered. Returns its state before that.

    Raises `Silent` when the daemon does not answer at all, `CtlError` when something is left.
    """
    path = socket_of(entry)
    (answer,) = ask_daemons([entry], "status", _STATUS_SECONDS)
    before: dict[str, Any] = told(place, answer)
    if "error" in before:
        raise CtlError(f"{place}: {before['error']}")
    if not any(before.get(kind) for kind in _KINDS):
        return before
    code, words = CtlCode.UNDELIVERED, ""
    progress = Progress(path, before)
    try:
        result = _flush(path, progress)
        if result.get("ok"):
            return before
        words = f"{result.get('error')}: "
    except KeyboardInterrupt:
        code, words = CtlCode.INTERRUPTED, "interrupted: "
    except (OSError, ValueError):
        pass
    finally:
        progress.end()
    raise CtlError(f"{place}: {words}{_left(path, before)}", code)


def _flush(path: str, progress: Progress) -> dict[str, Any]:
    """Ask for it, and look again and again how far it is. Raises OSError when time is over."""
    deadline = time.monotonic() + FLUSH_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_STATUS_SECONDS)
        connection.connect(path)
        connection.sendall(question("flush", {}))
        received = b""
        while not received.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("not delivered in time")
            connection.settimeout(min(left, _LOOK_SECONDS) if progress.is_shown else left)
            try:
                part = connection.recv(65536)
            except TimeoutError:
                progress.look()
                continue
            if not part:
                raise ValueError("no whole answer")
            received += part
    return parsed(received)


def _left(path: str, before: dict[str, Any]) -> str:
    """What is not delivered now, or was not when the daemon answered last."""
    try:
        return undelivered_text(ask(path, "status", _STATUS_SECONDS), time.time())
    except (OSError, ValueError, KeyError):
        return f"{undelivered_text(before, time.time())}; now the daemon does not answer"


class Progress:
    """A line on the terminal of what is still to be sent, drawn over and over."""

    def __init__(self, path: str, state: dict[str, Any]) -> None:
        self.is_shown = sys.stderr.isatty()
        self._path = path
        self._seen = time.monotonic(), int(state["unacknowledged_bytes"])
        self._draw(undelivered_text(state, time.time()))

    def look(self) -> None:
        """Draw what there is to deliver now, and how fast it goes."""
        if not self.is_shown:
            return
        try:
            state = ask(self._path, "status", _STATUS_SECONDS)
            now, left = time.monotonic(), int(state["unacknowledged_bytes"])
        except (OSError, ValueError, KeyError):
            return
        then, before = self._seen
        speed = (before - left) / max(now - then, 0.001)
        self._seen = now, left
        if state["state"] != "up":
            self._draw(undelivered_text(state, time.time()))
        else:
            self._draw(f"{owed_text(state)} to deliver, {max(speed, 0) / 1e6:.1f} MB/s")

    def _draw(self, text: str) -> None:
        if self.is_shown:
            # Not past the edge: a line that is broken cannot be drawn over.
            width = max(_width() - 1, 20)
            line = printable(f"pysshfsctl: {text}")[:width]
            sys.stderr.write(f"\r{line}\x1b[K")
            sys.stderr.flush()

    def end(self) -> None:
        """Nothing of it stays."""
        if self.is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
