"""Where log lines go: stderr while there is a terminal, a file or syslog in the background.

Lines are for operators and carry no secrets. Whatever names of files and words of a server are in
a message, it is made one line of printable text here, and not where it is logged. asyncssh's own
log is kept at warnings: its debug lines cost time even when nobody reads them.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
from pathlib import Path

from pysshfs.cli.usage import printable

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_TERMINAL_FORMAT = "pysshfs: %(message)s"
_DEBUG_FORMAT = "pysshfs: %(relativeCreated)d ms %(levelname)s %(name)s: %(message)s"
_SYSLOG = Path("/dev/log")


class _Formatter(logging.Formatter):
    """What is logged must neither forge a line nor steer a terminal. (A traceback has lines.)"""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


def level_of(name: str) -> int:
    level: int = getattr(logging, name.upper())
    return level


def to_stderr(level: int) -> None:
    """For the foreground, and for the command until it detaches."""
    handler = logging.StreamHandler()
    form = _DEBUG_FORMAT if level <= logging.DEBUG else _TERMINAL_FORMAT
    handler.setFormatter(_Formatter(form))
    switch_to(handler, level)


def open_log_file(path: str) -> logging.Handler:
    """The handler for -o log_file; opened before the mount. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    stream = os.fdopen(fd, "a", encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(_FORMAT))
    return handler


def syslog_handler() -> logging.Handler:
    """For the background without a log file; nowhere when there is no syslog."""
    if not _SYSLOG.exists():
        return logging.NullHandler()
    handler = logging.handlers.SysLogHandler(str(_SYSLOG))
    handler.ident = f"pysshfs[{os.getpid()}]: "
    handler.setFormatter(_Formatter("%(message)s"))
    return handler


def switch_to(handler: logging.Handler, level: int) -> None:
    """From now on, all lines of this level and above go there and nowhere else."""
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    # Its warnings tell of programs that end after the loop, as a failed ProxyCommand does.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
